/**
 * A worker's folder, seen from outside: its output files, its results file, its record.
 *
 *   stdout, stderr   opened O_APPEND by the worker; what the running task has written so far
 *   results          shared memory of the worker: the task that runs, and results that no mark covers. It
 *                    outlives the worker, so its death loses nothing that was finished (layout: ResultsFile in
 *                    farloom_worker.py)
 *   kept             results that a worker still had when it gave up waiting for an agent: frames, each behind its
 *                    length, as they would have gone through the socket
 *   cuts             how much was cut off the running task's output, for the agent that comes later
 *   scratch/         the working directory of tasks that name none
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  decodeBounded,
  decodeFrame,
  durationUsOf,
  fenceOf,
  type IdKey,
  keyAt,
  LengthPrefixReader,
  limits,
  type OutcomeDetail,
  type ResultItem,
  type ResultsFrame,
  SEAL_BYTES,
} from "@farloom/protocol";
import { roomOf } from "../state/disk-room.js";

/** A running task's output above this is cut to its tail, so that a flood fills no disk. */
export const FLOOD_BYTES = 1024 * 1024;

/** What a dead worker left behind. */
export interface Leftover {
  /** The task that ran, if one did. */
  readonly running: IdKey | undefined;
  /** That task was given secrets (P40). */
  readonly isGuarded?: boolean;
  /** Finished results; some may have arrived through the socket as well. */
  readonly results: readonly ResultItem[];
}

const HEAD_BYTES = 32;
const RECORD_BYTES = 48;
/** Where the file says at which byte the first record begins that no mark covers. */
const FIRST_AT = 24;
/** Where the file says whether the task that runs was given secrets. */
const GUARDED_AT = 6;
/** Fence (u64) and seal behind a record's detail, where the file says (at 5) that its worker writes them. */
const CUSTODY_BYTES = 8 + SEAL_BYTES;

/** Reads the results file. A file that is missing or torn tells only what can be trusted of it. */
export function readLeftover(dir: string): Leftover {
  const bytes = readPlain(join(dir, "results")) ?? NOTHING;
  if (bytes.length < HEAD_BYTES) return { running: undefined, results: [] };
  const running = bytes[4] === 1 ? keyAt(bytes, 8) : undefined;
  const custodyBytes = bytes[5] === 1 ? CUSTODY_BYTES : 0;
  const end = Math.min(bytes.length, HEAD_BYTES + bytes.readUInt32LE(0));
  const results: ResultItem[] = [];
  // A worker that forgets what was sent writes nothing here, and its records begin behind the head.
  let at = Math.max(HEAD_BYTES, bytes.readUInt32LE(FIRST_AT));
  while (at + RECORD_BYTES <= end) {
    const dataBytes = bytes.readUInt32LE(at + 40);
    const detailBytes = bytes.readUInt32LE(at + 44);
    const start = at + RECORD_BYTES;
    const next = start + dataBytes + detailBytes;
    if (next > end || detailBytes < custodyBytes) break;
    const custodyAt = next - custodyBytes;
    let detail: OutcomeDetail | undefined;
    if (detailBytes > custodyBytes) {
      const decoded = decodeBounded(bytes.subarray(next - detailBytes, custodyAt), {
        maxBytes: limits.MAX_FRAME_BYTES,
        maxDepth: limits.MAX_FRAME_DEPTH,
        maxElements: limits.MAX_FRAME_ELEMENTS,
      });
      if (decoded.ok) detail = decoded.value as OutcomeDetail;
    }
    results.push({
      key: keyAt(bytes, at),
      codec: bytes[at + 16]!,
      state: bytes[at + 17]!,
      reason: bytes[at + 18]!,
      attempt: bytes.readUInt32LE(at + 20),
      fence: custodyBytes > 0 ? fenceOf(bytes.subarray(custodyAt, custodyAt + 8), 0) : 0,
      seals: custodyBytes > 0 ? bytes : undefined,
      sealAt: custodyAt + 8,
      queueUs: durationUsOf(bytes.subarray(at + 24, at + 28), 0),
      runUs: durationUsOf(bytes.subarray(at + 28, at + 32), 0),
      cpuUs: durationUsOf(bytes.subarray(at + 32, at + 36), 0),
      peakKb: bytes.readUInt32LE(at + 36),
      source: bytes,
      start,
      end: start + dataBytes,
      detail,
    });
    at = next;
  }
  return { running, results, ...(bytes[GUARDED_AT] === 1 && { isGuarded: true }) };
}

/** The task that a worker runs, as it says itself, and whether it has secrets; undefined where it runs none. */
export function readRunning(dir: string): { readonly key: IdKey; readonly isGuarded: boolean } | undefined {
  const head = Buffer.alloc(HEAD_BYTES);
  const fd = openPlain(join(dir, "results"));
  if (fd === undefined) return undefined;
  try {
    if (readSync(fd, head, 0, HEAD_BYTES, 0) < HEAD_BYTES) return undefined;
  } catch {
    return undefined;
  } finally {
    closeSync(fd);
  }
  return head[4] === 1 ? { key: keyAt(head, 8), isGuarded: head[GUARDED_AT] === 1 } : undefined;
}

/** Results that the worker could hand to nobody while it lived. */
export function readKept(dir: string): ResultsFrame[] {
  const bytes = readPlain(join(dir, "kept"));
  if (bytes === undefined) return [];
  const frames: ResultsFrame[] = [];
  const chunks = new LengthPrefixReader().push(bytes);
  if ("bad" in chunks) return [];
  for (const chunk of chunks) {
    const decoded = decodeFrame(chunk, RESULTS);
    if (decoded.ok) frames.push(decoded.frame);
  }
  return frames;
}

const RESULTS = new Set(["results"] as const);
const NOTHING = Buffer.alloc(0);
/** Results without a mark, of 64 KiB at most each, are bounded by credit; a sparse file of a task's making is not. */
const MAX_LEFT_BYTES = 512 * 1024 * 1024;
const MAX_CUTS_BYTES = 1_024;

/**
 * Opens a file in a worker's folder as a stranger's: a link that a task put in its place would show, or cut, a file of
 * the agent's, and a FIFO would hang it. Undefined where there is no plain file.
 */
export function openPlain(path: string, flags = constants.O_RDONLY): number | undefined {
  try {
    const fd = openSync(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (fstatSync(fd).isFile()) return fd;
    closeSync(fd);
  } catch {
    // Not there, or a link.
  }
  return undefined;
}

function readPlain(path: string, mostBytes = MAX_LEFT_BYTES): Buffer | undefined {
  const fd = openPlain(path);
  if (fd === undefined) return undefined;
  try {
    return fstatSync(fd).size > mostBytes ? undefined : readFileSync(fd);
  } catch {
    return undefined;
  } finally {
    closeSync(fd);
  }
}

/** Less free space than a worker needs to start counts as none. */
const LEAST_FREE_BYTES = 4 * 1024 * 1024;

/** Whether the disk below `dir` has no room for another worker. */
export function isDiskFull(dir: string): boolean {
  return roomOf(dir) < LEAST_FREE_BYTES;
}

/** What was cut off one stream of a running task. */
interface Cut {
  bytes: number;
  tail: Buffer;
}

const STREAMS = ["stdout", "stderr"] as const;

/** Watches the output of one worker while a long task runs. */
export class OutputWatch {
  readonly #dir: string;
  readonly #cuts: Record<(typeof STREAMS)[number], Cut | undefined> = {
    stdout: undefined,
    stderr: undefined,
  };
  #cut = false;

  constructor(dir: string) {
    this.#dir = dir;
    this.#restore();
  }

  /** Bytes of the running task's stream that are not in its file any more. */
  cutBytes(name: (typeof STREAMS)[number]): number {
    return this.#cuts[name]?.bytes ?? 0;
  }

  /** Cuts floods to their tails. Returns whether there was one: then look again soon. */
  check(): boolean {
    let flooded = false;
    for (const name of STREAMS) {
      const path = join(this.#dir, name);
      const fd = openPlain(path, constants.O_RDWR);
      if (fd === undefined) continue;
      let tail: ReturnType<typeof tailOf>;
      let sizeBytes: number;
      try {
        if (fstatSync(fd).size <= FLOOD_BYTES) continue;
        flooded = true;
        tail = tailOf(fd);
        if (tail === undefined) continue;
        // Once more: what was written while the tail was read goes too, and is to be counted.
        sizeBytes = fstatSync(fd).size;
        ftruncateSync(fd, 0);
      } catch {
        continue;
      } finally {
        closeSync(fd);
      }
      const before = this.#cuts[name]?.bytes ?? 0;
      this.#cuts[name] = { bytes: before + sizeBytes, tail: tail.bytes };
      this.#cut = true;
      this.#record();
    }
    return flooded;
  }

  /** What an agent before this one cut; without it, positions in the stream would begin anew. */
  #restore(): void {
    let kept: Partial<Record<string, unknown>> | null;
    try {
      const text = readPlain(join(this.#dir, "cuts"), MAX_CUTS_BYTES) ?? NOTHING;
      kept = JSON.parse(text.toString()) as typeof kept;
    } catch {
      return;
    }
    for (const name of STREAMS) {
      const bytes = kept?.[name];
      if (typeof bytes !== "number" || !Number.isSafeInteger(bytes) || bytes <= 0) continue;
      this.#cuts[name] = { bytes, tail: Buffer.alloc(0) };
      this.#cut = true;
    }
  }

  #record(): void {
    const { stdout, stderr } = this.#cuts;
    const text = JSON.stringify({ stdout: stdout?.bytes, stderr: stderr?.bytes });
    this.#forgetRecord();
    try {
      // As a new file alone: a link that a task put in its place would lead to a file of the agent's.
      writeFileSync(join(this.#dir, "cuts"), text, { flag: "wx", mode: 0o600 });
    } catch {
      // A full disk, or a task's doing: the next agent counts from what it finds.
    }
  }

  #forgetRecord(): void {
    try {
      rmSync(join(this.#dir, "cuts"), { force: true });
    } catch {
      // A folder that a task has put there.
    }
  }

  /** Adds to a task's report what was cut before; forgets it. */
  merge(detail: OutcomeDetail | undefined): OutcomeDetail | undefined {
    if (!this.#cut) return detail;
    const merged: OutcomeDetail = { ...detail };
    for (const name of STREAMS) {
      const cut = this.#cuts[name];
      if (!cut) continue;
      this.#cuts[name] = undefined;
      const rest = Buffer.from(merged[name] ?? "", "utf8");
      const both = Buffer.concat([cut.tail, rest]);
      merged[name] = textTail(both);
      merged[`${name}Bytes`] = cut.bytes + (merged[`${name}Bytes`] ?? 0);
    }
    this.#cut = false;
    this.#forgetRecord();
    return merged;
  }

  /** What a dead worker's task had written. */
  last(): OutcomeDetail {
    const detail: OutcomeDetail = {};
    for (const name of STREAMS) {
      const tail = readTail(join(this.#dir, name));
      if (!tail || tail.sizeBytes === 0) continue;
      detail[name] = textTail(tail.bytes);
      detail[`${name}Bytes`] = tail.sizeBytes;
    }
    return this.merge(detail) ?? detail;
  }
}

function readTail(path: string): { bytes: Buffer; sizeBytes: number } | undefined {
  const fd = openPlain(path);
  if (fd === undefined) return undefined;
  try {
    return tailOf(fd);
  } finally {
    closeSync(fd);
  }
}

function tailOf(fd: number): { bytes: Buffer; sizeBytes: number } | undefined {
  try {
    const sizeBytes = fstatSync(fd).size;
    const start = Math.max(0, sizeBytes - limits.MAX_OUTPUT_TAIL_BYTES);
    const bytes = Buffer.alloc(sizeBytes - start);
    const read = readSync(fd, bytes, 0, bytes.length, start);
    return { bytes: bytes.subarray(0, read), sizeBytes };
  } catch {
    return undefined;
  }
}

function textTail(bytes: Buffer): string {
  return bytes.subarray(Math.max(0, bytes.length - limits.MAX_OUTPUT_TAIL_BYTES)).toString("utf8");
}
