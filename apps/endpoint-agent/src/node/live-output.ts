/**
 * What a worker's running task has written since the last look, read from the files that its output goes to.
 *
 *   1  A piece is given only where the worker says, after it was read, that it still runs that task: it empties its files
 *      before it begins the next, so no byte is ever taken for another task's.
 *   2  Positions count every byte of the stream, those too that were cut away as a flood (OutputWatch), but for what was
 *      written in the very instant of a cut.
 *   3  Nothing is given twice. What is far behind is left out: positions jump, and the newest is told.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { limits, OUTPUT_STREAMS, type OutputPiece } from "@farloom/protocol";
import type { NodeTask } from "./node-task.js";
import { type OutputWatch, readRunning } from "./worker-files.js";

/** Further behind than this, the rest would be cut as a flood before it is told. */
const FAR_BEHIND_BYTES = 512 * 1024;

const STREAMS = ["stdout", "stderr"] as const;

export class LiveOutput {
  readonly #dir: string;
  readonly #watch: OutputWatch;
  #task: NodeTask | undefined;
  #next = { stdout: 0, stderr: 0 };

  constructor(dir: string, watch: OutputWatch) {
    this.#dir = dir;
    this.#watch = watch;
  }

  /** At most `mostBytes` of what the task has written and was not told of. */
  look(task: NodeTask, mostBytes: number): OutputPiece[] {
    if (task !== this.#task) {
      this.#task = task;
      this.#next = { stdout: 0, stderr: 0 };
    }
    const pieces: OutputPiece[] = [];
    const next = { ...this.#next };
    let room = mostBytes;
    for (const name of STREAMS) {
      const path = join(this.#dir, name);
      const base = this.#watch.cutBytes(name); // 2
      const most = Math.min(room, limits.MAX_OUTPUT_PIECE_BYTES);
      const range = rangeOf(next[name], base, base + sizeOf(path), most);
      if (range === undefined) continue;
      const data = read(path, range.from - base, range.bytes);
      if (data.length === 0) continue;
      pieces.push({
        key: task.key,
        attempt: task.attempt,
        stream: OUTPUT_STREAMS[name],
        at: range.from,
        data,
      });
      next[name] = range.from + data.length;
      room -= data.length;
    }
    if (pieces.length === 0 || readRunning(this.#dir) !== task.key) return []; // 1
    this.#next = next;
    return pieces;
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

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

function read(path: string, position: number, bytes: number): Buffer {
  try {
    const fd = openSync(path, "r");
    try {
      const data = Buffer.allocUnsafe(bytes);
      return data.subarray(0, readSync(fd, data, 0, bytes, position));
    } finally {
      closeSync(fd);
    }
  } catch {
    return Buffer.alloc(0);
  }
}
