// Frames that nobody means: by a grammar (real frames whose fields are taken away, exchanged or made of what a field is
// least expected to be) and by turned, cut and joined bytes. Seeded: the same frames in every run.
import { encodeFrame, encodeValue, type Frame } from "@farloom/protocol";

const DEFAULT_SEED = 20_261_123;

/** FARLOOM_FUZZ_SEED, or always the same one; it is printed. */
export function fuzzSeed(what: string): number {
  const seed = Number(process.env.FARLOOM_FUZZ_SEED ?? DEFAULT_SEED);
  process.stdout.write(`fuzzing ${what} with FARLOOM_FUZZ_SEED=${seed}\n`);
  return seed;
}

export class FrameFuzzer {
  readonly #random: () => number;
  readonly #templates: readonly Record<string, unknown>[];

  constructor(seed: number, templates: readonly object[]) {
    this.#random = mulberry32(seed);
    this.#templates = templates as Record<string, unknown>[];
  }

  /** One frame, or what is none. */
  next(): Buffer {
    const made = this.#random() < 0.1 ? encodeValue(this.#anything()) : this.#grammatical();
    return this.#random() < 0.5 ? made : this.#mutated(made);
  }

  /** A frame of a kind that there is, some of whose fields are not what they should be. */
  #grammatical(): Buffer {
    const frame: Record<string, unknown> = { ...this.#pick(this.#templates) };
    for (let n = this.#below(4); n > 0; n--) {
      const field = this.#pick(Object.keys(frame));
      const kind = this.#random();
      if (kind < 0.2) delete frame[field];
      else if (kind < 0.7) frame[field] = this.#anything();
      else if (kind < 0.9) frame[this.#pick(FIELDS)] = this.#anything();
      else frame[field] = this.#pick(this.#templates)[field] ?? null;
    }
    return encodeValue(frame);
  }

  #anything(): unknown {
    const kind = this.#below(8);
    if (kind < 2) return this.#pick(NUMBERS);
    if (kind < 4) return Buffer.alloc(this.#pick(LENGTHS), this.#below(256));
    if (kind === 4) return this.#pick(TEXTS);
    if (kind === 5) return Array.from({ length: this.#below(5) }, () => this.#anything());
    if (kind === 6)
      return Object.fromEntries(
        Array.from({ length: this.#below(4) }, () => [this.#pick([...FIELDS, ...TEXTS]), this.#anything()]),
      );
    return this.#pick([null, true, false, nested(this.#below(40))]);
  }

  #mutated(made: Buffer): Buffer {
    const bytes = Buffer.from(made);
    for (let n = this.#below(4); n >= 0 && bytes.length > 0; n--) {
      const at = this.#below(bytes.length);
      const kind = this.#random();
      if (kind < 0.5) bytes[at]! ^= 1 << this.#below(8);
      else if (kind < 0.7) bytes[at] = this.#below(256);
      else if (kind < 0.8) return bytes.subarray(0, at);
      else if (kind < 0.9)
        return Buffer.concat([
          bytes.subarray(0, at),
          encodeFrame(this.#pick(this.#templates) as never as Frame),
        ]);
      else bytes.fill(this.#pick([0, 0xff, 0xc0, 0xdf, 0xc6, 0xdd]), at, Math.min(bytes.length, at + 8));
    }
    return bytes;
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n);
  }
  #pick<T>(of: readonly T[]): T {
    return of[this.#below(of.length)]!;
  }
}

const NUMBERS = [
  0,
  1,
  2,
  5,
  255,
  256,
  65_535,
  2 ** 31 - 1,
  2 ** 32 - 1,
  2 ** 53 - 1,
  2 ** 60,
  -1,
  1.5,
  Number.NaN,
];
const LENGTHS = [0, 1, 4, 8, 15, 16, 17, 32, 33, 64, 1_000];
const TEXTS = [
  "",
  "a",
  "x".repeat(300),
  "\0",
  "__proto__",
  "constructor",
  "../../etc/passwd",
  "\u{1f980}",
  "\ud800",
];
const FIELDS = [
  "t",
  "n",
  "ids",
  "ends",
  "args",
  "data",
  "first",
  "group",
  "endpoint",
  "opts",
  "fns",
  "held",
  "caps",
];

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value };
  return value;
}

/** A small seeded generator. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
