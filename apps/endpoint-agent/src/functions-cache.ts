/**
 * Function definitions on disk, by digest. A definition is written before the first task of it is accepted, so
 * that a restarted agent can run what it holds without the service. In memory there is only what is known to
 * be there: code may have a megabyte.
 *
 * Bound: at most 2,000 definitions (of at most 1 MiB of code each) outlive a start; the longest unused go first.
 */
import { readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  checkDefinition,
  decodeBounded,
  encodeValue,
  type FunctionDefinition,
  limits,
  type Runtime,
} from "@farloom/protocol";

const MAX_KEPT = 2000;
/** Names kept of one definition: the same code may be registered under several. */
const MAX_REFS = 16;
const MAX_REF_CHARS = 300;
/** A service tells at most 16 envelopes of 4 KiB; what is more is not read back. */
const MAX_SIGNATURE_BYTES = 1024 * 1024;

/** A digest as a map key. */
export type FunctionKey = string;

export function functionKey(digest: Buffer): FunctionKey {
  return digest.toString("latin1");
}

export class FunctionsCache {
  readonly #dir: string;
  readonly #known = new Set<FunctionKey>();
  /** Signatures by definition, as the service told them last, and runtimes; as far as somebody has asked. */
  readonly #signatures = new Map<FunctionKey, readonly string[]>();
  readonly #runtimes = new Map<FunctionKey, Runtime>();
  /** Names by definition, as far as somebody has asked or told. */
  readonly #refs = new Map<FunctionKey, readonly string[]>();

  constructor(dir: string) {
    this.#dir = dir;
    const found: { name: string; usedAtMs: number }[] = [];
    for (const name of readdirSync(dir)) {
      if (/^[0-9a-f]{64}$/.test(name)) found.push({ name, usedAtMs: statSync(join(dir, name)).mtimeMs });
      else if (!/^[0-9a-f]{64}\.signatures$/.test(name)) rmSync(join(dir, name), { force: true });
    }
    found.sort((a, b) => b.usedAtMs - a.usedAtMs);
    for (const [i, { name }] of found.entries()) {
      if (i < MAX_KEPT) this.#known.add(Buffer.from(name, "hex").toString("latin1"));
      else {
        rmSync(join(dir, name), { force: true });
        rmSync(join(dir, `${name}.signatures`), { force: true });
      }
    }
  }

  has(key: FunctionKey): boolean {
    return this.#known.has(key);
  }

  /** Writes a definition, and what it is called; returns whether it is new here. */
  put(def: FunctionDefinition, ref?: string): boolean {
    const key = functionKey(def.digest);
    const isNew = !this.#known.has(key);
    const refs = isNew ? [] : ref === undefined ? undefined : this.refsOf(key);
    const isNamed = ref === undefined || ref.length > MAX_REF_CHARS || refs?.includes(ref) === true;
    if (!isNew && isNamed) return false;
    const all = isNamed ? [] : [ref, ...(refs ?? [])].slice(0, MAX_REFS);
    const path = this.#path(key);
    writeFileSync(`${path}.new`, encodeValue(all.length === 0 ? def : { ...def, refs: all }), {
      mode: 0o600,
    });
    renameSync(`${path}.new`, path);
    this.#known.add(key);
    this.#refs.set(key, all);
    return isNew;
  }

  /** Keeps what the service says of who signed it, beside the definition. Where nothing is new, nothing is written. */
  putSignatures(key: FunctionKey, signatures: readonly string[]): void {
    const known = this.signaturesOf(key);
    if (known.length === signatures.length && known.every((text, i) => text === signatures[i])) return;
    this.#signatures.set(key, signatures);
    if (!this.#known.has(key)) return;
    writeFileSync(`${this.#path(key)}.new`, encodeValue(signatures), { mode: 0o600 });
    renameSync(`${this.#path(key)}.new`, `${this.#path(key)}.signatures`);
  }

  /** The envelopes that came with a definition; whoever reads them judges them. */
  signaturesOf(key: FunctionKey): readonly string[] {
    const known = this.#signatures.get(key);
    if (known) return known;
    if (this.#signatures.size >= 2 * MAX_KEPT) this.#signatures.clear();
    let read: readonly string[] = [];
    try {
      const bytes = readFileSync(`${this.#path(key)}.signatures`);
      const bounds = { maxBytes: MAX_SIGNATURE_BYTES, maxDepth: 2, maxElements: 256 };
      const decoded = decodeBounded(bytes, bounds);
      if (decoded.ok && Array.isArray(decoded.value))
        read = decoded.value.filter((text): text is string => typeof text === "string");
    } catch {
      // Not there: nobody has told any.
    }
    this.#signatures.set(key, read);
    return read;
  }

  /** The definition's runtime; undefined where it is not here. */
  runtimeOf(key: FunctionKey): Runtime | undefined {
    const known = this.#runtimes.get(key);
    if (known) return known;
    const runtime = this.get(key)?.runtime;
    if (this.#runtimes.size >= 2 * MAX_KEPT) this.#runtimes.clear();
    if (runtime !== undefined) this.#runtimes.set(key, runtime);
    return runtime;
  }

  /** What the definition is called, as far as the service has told. */
  refsOf(key: FunctionKey): readonly string[] {
    const known = this.#refs.get(key);
    if (known) return known;
    const { refs } = (this.get(key) ?? {}) as { refs?: unknown };
    const read = Array.isArray(refs) ? refs.filter((ref): ref is string => typeof ref === "string") : [];
    // What is not here yet is told with its definition.
    if (this.#known.has(key)) this.#refs.set(key, read);
    return read;
  }

  /** Reads a definition. Undefined where it is not here, or was damaged; then it must be asked for again. */
  get(key: FunctionKey): FunctionDefinition | undefined {
    if (!this.#known.has(key)) return undefined;
    const path = this.#path(key);
    try {
      const decoded = decodeBounded(readFileSync(path), {
        maxBytes: limits.MAX_FRAME_BYTES,
        maxDepth: limits.MAX_FRAME_DEPTH,
        maxElements: limits.MAX_FRAME_ELEMENTS,
      });
      if (decoded.ok && checkDefinition(decoded.value) === undefined) {
        const now = new Date();
        utimesSync(path, now, now);
        return decoded.value as FunctionDefinition;
      }
    } catch {
      // Unreadable is the same as not there.
    }
    this.#known.delete(key);
    rmSync(path, { force: true });
    return undefined;
  }

  #path(key: FunctionKey): string {
    return join(this.#dir, Buffer.from(key, "latin1").toString("hex"));
  }
}
