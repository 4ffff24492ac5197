/**
 * Pieces of what running tasks write, as columns of one frame (P33). A piece says where it begins in its stream, so one
 * that comes twice is known by that, and one that is missing is a gap that everybody sees.
 */
import { type IdKey, keyAt, writeKey } from "../ids.js";
import { MAX_BATCH_ITEMS } from "../limits.js";
import type { OutputFrame } from "./frames.js";

/** As they travel and as they are stored. */
export const OUTPUT_STREAMS = { stdout: 1, stderr: 2 } as const;
export type OutputStream = keyof typeof OUTPUT_STREAMS;

/** Bytes that a task's attempt wrote to one of its streams, from byte `at` on. */
export interface OutputPiece {
  readonly key: IdKey;
  readonly attempt: number;
  readonly stream: number;
  readonly at: number;
  readonly data: Buffer;
}

/** One frame of at least one piece and at most MAX_BATCH_ITEMS. */
export function buildOutput(pieces: readonly OutputPiece[]): OutputFrame {
  const n = pieces.length;
  const ids = Buffer.allocUnsafe(16 * n);
  const attempts = Buffer.allocUnsafe(4 * n);
  const streams = Buffer.allocUnsafe(n);
  const at = Buffer.allocUnsafe(8 * n);
  const ends = Buffer.allocUnsafe(4 * n);
  let end = 0;
  for (let i = 0; i < n; i++) {
    const piece = pieces[i]!;
    writeKey(ids, piece.key, 16 * i);
    attempts.writeUInt32LE(piece.attempt, 4 * i);
    streams[i] = piece.stream;
    at.writeBigUInt64LE(BigInt(piece.at), 8 * i);
    end += piece.data.length;
    ends.writeUInt32LE(end, 4 * i);
  }
  return {
    t: "output",
    n,
    ids,
    attempts,
    streams,
    at,
    ends,
    data: Buffer.concat(pieces.map(({ data }) => data)),
  };
}

/** The pieces of a frame that was checked, as views of it. */
export function piecesOf(frame: OutputFrame): OutputPiece[] {
  const pieces: OutputPiece[] = [];
  let start = 0;
  for (let i = 0; i < frame.n; i++) {
    const end = frame.ends.readUInt32LE(4 * i);
    pieces.push({
      key: keyAt(frame.ids, 16 * i),
      attempt: frame.attempts.readUInt32LE(4 * i),
      stream: frame.streams[i]!,
      at: Number(frame.at.readBigUInt64LE(8 * i)),
      data: frame.data.subarray(start, end),
    });
    start = end;
  }
  return pieces;
}

/** Why the columns do not fit together, or undefined where they do. */
export function checkOutput(f: OutputFrame): string | undefined {
  const { n } = f;
  if (n < 1 || n > MAX_BATCH_ITEMS) return `n is ${n}, at least 1 and at most ${MAX_BATCH_ITEMS}`;
  for (const [name, width] of [
    ["ids", 16],
    ["attempts", 4],
    ["streams", 1],
    ["at", 8],
    ["ends", 4],
  ] as const) {
    if (f[name].length !== width * n) return `column ${name} does not have n entries`;
  }
  let before = 0;
  for (let i = 0; i < n; i++) {
    const end = f.ends.readUInt32LE(4 * i);
    if (end <= before) return "ends does not rise";
    before = end;
    if (f.streams[i] !== OUTPUT_STREAMS.stdout && f.streams[i] !== OUTPUT_STREAMS.stderr)
      return `no stream ${f.streams[i]}`;
    const attempt = f.attempts.readUInt32LE(4 * i);
    if (attempt < 1 || attempt > 0x7fff_ffff) return `no attempt ${attempt}`;
    // Above 2^53 a number is not exact.
    if (f.at.readUInt32LE(8 * i + 4) >= 0x20_0000) return "a position is too large";
  }
  return before === f.data.length ? undefined : "ends does not end where the bytes do";
}
