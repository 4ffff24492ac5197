/**
 * Finds secrets in what a function writes, and puts stars in their place: one for each byte, so that the positions of live
 * output stay true (P33). Found are a value itself, each line of one that has several, and the forms in which programs show
 * values: base64 (at each of its three offsets), percent-encoded, as in JSON. Against accidents: a function that wants to
 * tell a secret can.
 *
 *   M1  What is found is found wherever a stream is cut: the end of a piece that may be the beginning of a secret is held
 *       back, and nothing more than that.
 *   M2  Where bytes before, or behind, are missing, what may be the rest of a secret at that edge is masked too.
 *
 * Bounds: MAX_LINES lines of a value; a stream holds back less than the longest form, 4/3 of a value.
 */
import { MIN_MASKED_BYTES, type OutcomeDetail } from "@farloom/protocol";

/** Lines of one value that are looked for by themselves: of a longer one, the whole alone. */
const MAX_LINES = 256;
/** Less of a secret than this, at an edge, is no hint. */
const MIN_PART_BYTES = 4;
const STAR = 0x2a;
/** A message of so many characters was cut at its end by its worker; a traceback of so many may have been at its start. */
const FULL_CHARS = 4_096;
const EMPTY = Buffer.alloc(0);

/** Which edges of some bytes may lie within a secret. */
export interface Edges {
  readonly start?: boolean;
  readonly end?: boolean;
}

export class Masks {
  readonly #forms: readonly Buffer[];
  /** The forms by their first six bytes, and whether any begins with these two. */
  readonly #byHead = new Map<number, Buffer[]>();
  readonly #begins = new Uint8Array(65_536);

  constructor(values: Iterable<string>) {
    const forms = new Map<string, Buffer>();
    for (const value of values)
      for (const form of formsOf(value))
        if (form.length >= MIN_MASKED_BYTES) forms.set(form.toString("latin1"), form);
    this.#forms = [...forms.values()];
    for (const form of this.#forms) {
      const head = form.readUIntBE(0, MIN_MASKED_BYTES);
      this.#byHead.set(head, [...(this.#byHead.get(head) ?? []), form]);
      this.#begins[form.readUInt16BE(0)] = 1;
    }
  }

  /** The bytes with stars where secrets are; the same buffer where there are none. */
  mask(bytes: Buffer, edges: Edges = {}): Buffer {
    const { masked } = this.#found(bytes);
    const first = edges.start ? this.#restAtStart(bytes) : 0;
    const last = edges.end ? this.beginningAtEnd(bytes) : 0;
    if (first > 0) masked().fill(STAR, 0, first);
    if (last >= MIN_PART_BYTES) masked().fill(STAR, bytes.length - last);
    return masked.used ?? bytes;
  }

  maskText(text: string, edges?: Edges): string {
    const bytes = Buffer.from(text, "utf8");
    const masked = this.mask(bytes, edges);
    return masked === bytes ? text : masked.toString("utf8");
  }

  /** What an outcome tells besides its result. */
  maskDetail(detail: OutcomeDetail): OutcomeDetail {
    const masked: OutcomeDetail = { ...detail };
    for (const [name, bytesOf] of [
      ["stdout", detail.stdoutBytes],
      ["stderr", detail.stderrBytes],
    ] as const) {
      const text = detail[name];
      if (text === undefined) continue;
      masked[name] = this.maskText(text, { start: Buffer.byteLength(text) < (bytesOf ?? 0), end: true });
    }
    if (detail.error) {
      const { error } = detail;
      const { message, traceback = "" } = error;
      masked.error = { ...error, message: this.maskText(message, { end: message.length >= FULL_CHARS }) };
      if (traceback !== "")
        masked.error.traceback = this.maskText(traceback, { start: traceback.length >= FULL_CHARS });
      const pickle = error.data === undefined ? EMPTY : Buffer.from(error.data, "base64");
      // The exception itself cannot be mended: its type and message are told.
      if (this.mask(pickle) !== pickle) delete masked.error.data;
    }
    return masked;
  }

  /** Stars, and up to where the last secret reaches that was found. */
  stars(bytes: Buffer, edges: Edges): { readonly masked: Buffer; readonly reach: number } {
    const { masked, reach } = this.#found(bytes);
    const first = edges.start ? this.#restAtStart(bytes) : 0;
    if (first > 0) masked().fill(STAR, 0, first);
    return { masked: masked.used ?? bytes, reach: Math.max(reach, first) };
  }

  /** How many bytes at the end may be the beginning of a secret. */
  beginningAtEnd(bytes: Buffer): number {
    let longest = 0;
    for (const form of this.#forms) {
      for (const size of endsIn(bytes, form)) {
        longest = Math.max(longest, size);
        break;
      }
    }
    return longest;
  }

  #found(bytes: Buffer): { readonly masked: Copy; readonly reach: number } {
    const masked = copyOf(bytes);
    let reach = 0;
    const end = bytes.length - MIN_MASKED_BYTES;
    for (let at = 0; at <= end; at++) {
      if (this.#begins[(bytes[at]! << 8) | bytes[at + 1]!] === 0) continue;
      for (const form of this.#byHead.get(bytes.readUIntBE(at, MIN_MASKED_BYTES)) ?? NONE) {
        const to = at + form.length;
        if (to > bytes.length || bytes.compare(form, 0, form.length, at, to) !== 0) continue;
        masked().fill(STAR, at, to);
        reach = Math.max(reach, to);
      }
    }
    return { masked, reach };
  }

  /** How many bytes at the start may be the rest of a secret (M2), or its middle. */
  #restAtStart(bytes: Buffer): number {
    if (bytes.length < MIN_PART_BYTES) return 0;
    const head = bytes.subarray(0, MIN_PART_BYTES);
    let longest = 0;
    for (const form of this.#forms) {
      for (let at = form.indexOf(head, 1); at > 0; at = form.indexOf(head, at + 1)) {
        const size = Math.min(form.length - at, bytes.length);
        if (form.compare(bytes, 0, size, at, at + size) === 0) longest = Math.max(longest, size);
      }
    }
    return longest;
  }
}

/** One stream of a task, as it is told piece by piece (M1). */
export class MaskedStream {
  readonly #masks: Masks;
  /** The end of what came, untold, and how much of it is a secret's that was found. */
  #held = EMPTY;
  #covered = 0;
  #next = 0;

  constructor(masks: Masks) {
    this.#masks = masks;
  }

  /** What can be told now, and where it begins in the stream. Where bytes are missing, what was held back is too. */
  push(at: number, data: Buffer): { readonly at: number; readonly data: Buffer } {
    const isGap = at !== this.#next;
    if (isGap) {
      this.#held = EMPTY;
      this.#covered = 0;
    }
    const all = this.#held.length === 0 ? data : Buffer.concat([this.#held, data]);
    const { masked, reach } = this.#masks.stars(all, { start: isGap });
    const told = all.length - this.#masks.beginningAtEnd(all);
    const out = this.#covered === 0 ? masked : Buffer.from(masked).fill(STAR, 0, this.#covered);
    const from = at - this.#held.length;
    this.#next = at + data.length;
    this.#covered = Math.max(0, Math.max(reach, this.#covered) - told);
    this.#held = Buffer.from(all.subarray(told));
    return { at: from, data: out.subarray(0, told) };
  }
}

/** A copy that is made once it is written to. */
interface Copy {
  (): Buffer;
  used?: Buffer;
}

function copyOf(bytes: Buffer): Copy {
  const copy: Copy = () => {
    copy.used ??= Buffer.from(bytes);
    return copy.used;
  };
  return copy;
}

/** The sizes, from the longest, of the form's beginnings that the bytes end in, short of the whole. */
function* endsIn(bytes: Buffer, form: Buffer): Generator<number> {
  const most = Math.min(bytes.length, form.length - 1);
  const first = form[0]!;
  for (let from = bytes.length - most; from < bytes.length; from++) {
    if (bytes[from] !== first) continue;
    const size = bytes.length - from;
    if (bytes.compare(form, 0, size, from) === 0) yield size;
  }
}

const NONE: readonly Buffer[] = [];

/** The value as programs show it. */
function formsOf(value: string): Buffer[] {
  const bytes = Buffer.from(value, "utf8");
  const texts = [JSON.stringify(value).slice(1, -1), encodeURIComponent(value)];
  const lines = value.split(/\r?\n/);
  if (lines.length > 1 && lines.length <= MAX_LINES) texts.push(...lines);
  const forms = [bytes, ...texts.map((text) => Buffer.from(text, "utf8"))];
  for (const offset of [0, 1, 2]) {
    const text = base64At(bytes, offset);
    forms.push(Buffer.from(text), Buffer.from(text.replaceAll("+", "-").replaceAll("/", "_")));
  }
  return forms;
}

/** The characters of base64 that the bytes alone decide, where so many others (modulo 3) stand before them. */
function base64At(bytes: Buffer, offset: number): string {
  const text = Buffer.concat([Buffer.alloc(offset), bytes])
    .toString("base64")
    .replace(/=+$/, "");
  const shared = (offset + bytes.length) % 3 === 0 ? 0 : 1;
  return text.slice(offset === 0 ? 0 : offset + 1, text.length - shared);
}
