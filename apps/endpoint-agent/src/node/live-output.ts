/**
 * What a worker's running task has written since the last look, read from the files that its output goes to.
 *
 *   1  A piece is given only where the worker says, after it was read, that it still runs that task: it empties its files
 *      before it begins the next, so no byte is ever taken for another task's.
 *   2  Positions count every byte of the stream, those too that were cut away as a flood (OutputWatch), but for what was
 *      written in the very instant of a cut.
 *   3  Nothing is given twice. What is far behind is left out: positions jump, and the newest is told.
 *   4  Of a task that was given secrets nothing is told before these are known, and masked.
 *   5  What a task has put in the place of its file (a link, a pipe) is not read.
 */
import { closeSync, fstatSync, readSync } from "node:fs";
import { join } from "node:path";
import { limits, OUTPUT_STREAMS, type OutputPiece } from "@farloom/protocol";
import { MaskedStream, type Masks } from "../secrets/masks.js";
import type { NodeTask } from "./node-task.js";
import { type OutputWatch, openPlain, readRunning } from "./worker-files.js";

/** Further behind than this, the rest would be cut as a flood before it is told. */
const FAR_BEHIND_BYTES = 512 * 1024;

const STREAMS = ["stdout", "stderr"] as const;

export class LiveOutput {
  readonly #dir: string;
  readonly #watch: OutputWatch;
  #task: NodeTask | undefined;
  #next = { stdout: 0, stderr: 0 };
  #masked: { readonly by: Masks; readonly stdout: MaskedStream; readonly stderr: MaskedStream } | undefined;

  constructor(dir: string, watch: OutputWatch) {
    this.#dir = dir;
    this.#watch = watch;
  }

  /** At most `mostBytes` of what the task has written and was not told of. */
  look(task: NodeTask, mostBytes: number): OutputPiece[] {
    if (task !== this.#task) {
      this.#task = task;
      this.#next = { stdout: 0, stderr: 0 };
      this.#masked = undefined;
    }
    const pieces: OutputPiece[] = [];
    const next = { ...this.#next };
    let room = mostBytes;
    for (const name of STREAMS) {
      const path = join(this.#dir, name);
      const base = this.#watch.cutBytes(name); // 2
      const most = Math.min(room, limits.MAX_OUTPUT_PIECE_BYTES);
      const read = readRange(path, (sizeBytes) => rangeOf(next[name], base, base + sizeBytes, most), base);
      if (read === undefined) continue;
      const { at, data } = read;
      pieces.push({
        key: task.key,
        attempt: task.attempt,
        stream: OUTPUT_STREAMS[name],
        at,
        data,
      });
      next[name] = at + data.length;
      room -= data.length;
    }
    const running = pieces.length === 0 ? undefined : readRunning(this.#dir);
    if (running?.key !== task.key) return []; // 1
    const { masks } = task;
    if (running.isGuarded && masks === undefined) return []; // 4
    this.#next = next;
    return masks === undefined ? pieces : this.#mask(pieces, masks);
  }

  #mask(pieces: OutputPiece[], masks: Masks): OutputPiece[] {
    if (this.#masked?.by !== masks)
      this.#masked = { by: masks, stdout: new MaskedStream(masks), stderr: new MaskedStream(masks) };
    const { stdout, stderr } = this.#masked;
    return pieces
      .map((piece) => {
        const stream = piece.stream === OUTPUT_STREAMS.stdout ? stdout : stderr;
        return { ...piece, ...stream.push(piece.at, piece.data) };
      })
      .filter(({ data }) => data.length > 0);
  }
}

/** What is to be read of a stream that holds the bytes from `base` to `end`, where `next` was not told yet. */
export function rangeOf(
  next: number,
  base: number,
  end: number,
  mostBytes: number,
): { readonly from: number; readonly bytes: number } | undefined {
  let from = Math.max(next, base);
  if (end - from > FAR_BEHIND_BYTES) from = end - mostBytes; // 3
  const bytes = Math.min(end - from, mostBytes);
  return bytes > 0 ? { from, bytes } : undefined;
}

/** Undefined where there is nothing, or where the task has put something else than a plain file there. */
function readRange(
  path: string,
  rangeFor: (sizeBytes: number) => { readonly from: number; readonly bytes: number } | undefined,
  base: number,
): { readonly at: number; readonly data: Buffer } | undefined {
  const fd = openPlain(path);
  if (fd === undefined) return undefined;
  try {
    const range = rangeFor(fstatSync(fd).size);
    if (range === undefined) return undefined;
    const data = Buffer.allocUnsafe(range.bytes);
    const count = readSync(fd, data, 0, range.bytes, range.from - base);
    return count > 0 ? { at: range.from, data: data.subarray(0, count) } : undefined;
  } catch {
    return undefined;
  } finally {
    closeSync(fd);
  }
}
