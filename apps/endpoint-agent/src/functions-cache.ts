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
} from "@farloom/protocol";

const MAX_KEPT = 2000;

/** A digest as a map key. */
export type FunctionKey = string;

export function functionKey(digest: Buffer): FunctionKey {
  return digest.toString("latin1");
}

export class FunctionsCache {
  readonly #dir: string;
  readonly #known = new Set<FunctionKey>();

  constructor(dir: string) {
    this.#dir = dir;
    const found: { name: string; usedAtMs: number }[] = [];
    for (const name of readdirSync(dir)) {
      if (/^[0-9a-f]{64}$/.test(name)) found.push({ name, usedAtMs: statSync(join(dir, name)).mtimeMs });
      else rmSync(join(dir, name), { force: true });
    }
    found.sort((a, b) => b.usedAtMs - a.usedAtMs);
    for (const [i, { name }] of found.entries()) {
      if (i < MAX_KEPT) this.#known.add(Buffer.from(name, "hex").toString("latin1"));
      else rmSync(join(dir, name), { force: true });
    }
  }

  has(key: FunctionKey): boolean {
    return this.#known.has(key);
  }

  /** Writes a definition; returns whether it is new here. */
  put(def: FunctionDefinition): boolean {
    const key = functionKey(def.digest);
    if (this.#known.has(key)) return false;
    const path = this.#path(key);
    writeFileSync(`${path}.new`, encodeValue(def), { mode: 0o600 });
    renameSync(`${path}.new`, path);
    this.#known.add(key);
    return true;
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
