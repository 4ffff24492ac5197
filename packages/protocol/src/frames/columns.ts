/**
 * Builds and reads the two batches. A builder gathers items and gives one frame; the readers answer by
 * arithmetic on the columns, so that a batch of a thousand costs its hop a handful of objects.
 */
import { type IdKey, writeKey } from "../ids.js";
import { MAX_BATCH_ITEMS, TARGET_BATCH_BYTES } from "../limits.js";
import type { OutcomeDetail } from "../task/outcome.js";
import { SEAL_BYTES, type SealPlace, writeFence } from "../task/seal.js";
import type { ResultsFrame, TaskOptions, TasksFrame } from "./frames.js";

/** Bytes as they lie in a larger buffer: [start, end) of `source`. Spares a view object for each item. */
export interface Slice {
  readonly source: Buffer;
  readonly start: number;
  readonly end: number;
}

/** What a task and a result of it have in common. */
export interface BatchItem extends Slice, SealPlace {
  readonly key: IdKey;
  readonly codec: number;
  readonly attempt: number;
  /** 0, or absent: none. */
  readonly fence?: number | undefined;
}

/** One task for a batch. */
export interface TaskItem extends BatchItem {
  readonly options: TaskOptions | undefined;
}

/** One result for a batch. Times in microseconds, memory in KiB. */
export interface ResultItem extends BatchItem {
  readonly state: number;
  readonly reason: number;
  readonly queueUs: number;
  readonly runUs: number;
  readonly cpuUs: number;
  readonly peakKb: number;
  readonly detail: OutcomeDetail | undefined;
}

/** Where item i's bytes begin. */
export function startOf(ends: Buffer, i: number): number {
  return i === 0 ? 0 : ends.readUInt32LE(4 * (i - 1));
}

/** Where item i's bytes end. */
export function endOf(ends: Buffer, i: number): number {
  return ends.readUInt32LE(4 * i);
}

/** Entry i of a column that may be one number for all. */
export function byteOf(column: number | Buffer | undefined, i: number): number {
  return column === undefined ? 0 : typeof column === "number" ? column : column[i]!;
}

/** Entry i of a u32 column, or `absent` where there is none. */
export function u32Of(column: Buffer | undefined, i: number, absent = 0): number {
  return column === undefined ? absent : column.readUInt32LE(4 * i);
}

const MILLISECONDS_FLAG = 0x80000000;

/** Microseconds as the wire has them (P5): below 2^31 as they are, above as milliseconds with bit 31 set. */
export function durationToWire(us: number): number {
  if (us < MILLISECONDS_FLAG) return us;
  return (MILLISECONDS_FLAG | Math.min(Math.round(us / 1000), 0x7fffffff)) >>> 0;
}

/** Microseconds of entry i of a duration column; 0 where there is none. */
export function durationUsOf(column: Buffer | undefined, i: number): number {
  const wire = column === undefined ? 0 : column.readUInt32LE(4 * i);
  return wire < MILLISECONDS_FLAG ? wire : (wire - MILLISECONDS_FLAG) * 1000;
}

/** Task i's function: an index into `fns`. */
export function functionIndexOf(frame: TasksFrame, i: number): number {
  return frame.fn === undefined ? 0 : frame.fn.readUInt16LE(2 * i);
}

/** How many items of `sizes` fit one frame, from `from`: at least one, bounded by count and bytes. */
export function batchLength(count: number, from: number, sizeOf: (i: number) => number): number {
  let bytes = 0;
  let i = from;
  const last = Math.min(count, from + MAX_BATCH_ITEMS);
  while (i < last) {
    bytes += sizeOf(i);
    if (bytes > TARGET_BATCH_BYTES && i > from) break;
    i++;
  }
  return i - from;
}

/**
 * The tasks [from, from+n) of `items` as one frame. `functionOf` gives each item's digest; it is called
 * once for an item, and equal digests must be the same Buffer object or have the same `digestKey`.
 */
export function buildTasks<T extends TaskItem>(
  items: readonly T[],
  from: number,
  n: number,
  functionOf: (item: T) => Buffer,
): TasksFrame {
  const { ids, ends, codecs, attempts, fences, seals, bytes: args } = packItems(items, from, n);
  const fns: Buffer[] = [];
  let lastFn: Buffer | undefined;
  let lastIndex = -1;
  let fn: Buffer | undefined;
  let opts: Record<number, TaskOptions> | undefined;
  for (let i = 0; i < n; i++) {
    const item = items[from + i]!;
    const digest = functionOf(item);
    if (digest !== lastFn) {
      lastFn = digest;
      lastIndex = fns.findIndex((d) => d === digest || d.equals(digest));
      if (lastIndex < 0) lastIndex = fns.push(digest) - 1;
      if (fns.length === 2 && fn === undefined) fn = Buffer.alloc(2 * n);
    }
    fn?.writeUInt16LE(lastIndex, 2 * i);
    if (item.options) {
      opts ??= {};
      opts[i] = item.options;
    }
  }
  const frame: TasksFrame = { t: "tasks", n, ids, fns, codecs, ends, args };
  if (fn) frame.fn = fn;
  if (attempts) frame.attempts = attempts;
  if (fences !== 0) frame.fences = fences;
  if (seals) frame.seals = seals;
  if (opts) frame.opts = opts;
  return frame;
}

/** The results [from, from+n) of `items` as one frame. */
export function buildResults(items: readonly ResultItem[], from: number, n: number): ResultsFrame {
  const { ids, ends, codecs, attempts, fences, seals, bytes: data } = packItems(items, from, n);
  let states: number | Buffer = items[from]!.state;
  let reasons: Buffer | undefined;
  let detail: Record<number, OutcomeDetail> | undefined;
  const times = Buffer.allocUnsafe(16 * n);
  const queueUs = times.subarray(0, 4 * n);
  const runUs = times.subarray(4 * n, 8 * n);
  const cpuUs = times.subarray(8 * n, 12 * n);
  const peakKb = times.subarray(12 * n);
  for (let i = 0; i < n; i++) {
    const item = items[from + i]!;
    if (typeof states === "number" && item.state !== states) states = Buffer.alloc(n, states);
    if (typeof states !== "number") states[i] = item.state;
    if (item.reason !== 0) reasons ??= Buffer.alloc(n);
    if (reasons) reasons[i] = item.reason;
    queueUs.writeUInt32LE(durationToWire(item.queueUs), 4 * i);
    runUs.writeUInt32LE(durationToWire(item.runUs), 4 * i);
    cpuUs.writeUInt32LE(durationToWire(item.cpuUs), 4 * i);
    peakKb.writeUInt32LE(Math.min(item.peakKb, 0xffffffff), 4 * i);
    if (item.detail) {
      detail ??= {};
      detail[i] = item.detail;
    }
  }
  const frame: ResultsFrame = {
    t: "results",
    n,
    ids,
    codecs,
    ends,
    data,
    states,
    queueUs,
    runUs,
    cpuUs,
    peakKb,
  };
  if (attempts) frame.attempts = attempts;
  if (fences !== 0) frame.fences = fences;
  if (seals) frame.seals = seals;
  if (reasons) frame.reasons = reasons;
  if (detail) frame.detail = detail;
  return frame;
}

interface Packed {
  readonly ids: Buffer;
  readonly ends: Buffer;
  readonly codecs: number | Buffer;
  readonly attempts: Buffer | undefined;
  readonly fences: number | Buffer;
  readonly seals: Buffer | undefined;
  readonly bytes: Buffer;
}

/** The columns that tasks and results share. */
function packItems(items: readonly BatchItem[], from: number, n: number): Packed {
  const ids = Buffer.allocUnsafe(16 * n);
  const ends = Buffer.allocUnsafe(4 * n);
  let codecs: number | Buffer = items[from]!.codec;
  let attempts: Buffer | undefined;
  let fences: number | Buffer = items[from]!.fence ?? 0;
  let sealed = false;
  let at = 0;
  for (let i = 0; i < n; i++) {
    const item = items[from + i]!;
    writeKey(ids, item.key, 16 * i);
    at += item.end - item.start;
    ends.writeUInt32LE(at, 4 * i);
    if (typeof codecs === "number" && item.codec !== codecs) codecs = Buffer.alloc(n, codecs);
    if (typeof codecs !== "number") codecs[i] = item.codec;
    if (item.attempt !== 1) attempts ??= ones(n);
    attempts?.writeUInt32LE(item.attempt, 4 * i);
    const fence = item.fence ?? 0;
    if (typeof fences === "number" && fence !== fences) fences = fencesOf(items, from, n);
    if (item.seals !== undefined) sealed = true;
  }
  const seals = sealed ? joinSeals(items, from, n) : undefined;
  return { ids, ends, codecs, attempts, fences, seals, bytes: joinSlices(items, from, n, at) };
}

/** The slices one after the other; what lies side by side in one buffer is copied in one piece. */
function joinSlices(items: readonly Slice[], from: number, n: number, sizeBytes: number): Buffer {
  const out = Buffer.allocUnsafe(sizeBytes);
  let copied = 0;
  for (let i = 0; i < n; ) {
    const { source, start } = items[from + i]!;
    let end = start;
    while (i < n && items[from + i]!.source === source && items[from + i]!.start === end)
      end = items[from + i++]!.end;
    copied += source.copy(out, copied, start, end);
  }
  return out;
}

/** The seals one after the other, in one piece where they lie so; zeroes where there is none. */
function joinSeals(items: readonly BatchItem[], from: number, n: number): Buffer {
  const out = Buffer.alloc(SEAL_BYTES * n);
  for (let i = 0; i < n; ) {
    const { seals, sealAt = 0 } = items[from + i]!;
    const first = i++;
    if (seals === undefined) continue;
    let end = sealAt + SEAL_BYTES;
    while (i < n && items[from + i]!.seals === seals && items[from + i]!.sealAt === end) {
      end += SEAL_BYTES;
      i++;
    }
    seals.copy(out, SEAL_BYTES * first, sealAt, end);
  }
  return out;
}

function fencesOf(items: readonly BatchItem[], from: number, n: number): Buffer {
  const column = Buffer.allocUnsafe(8 * n);
  for (let i = 0; i < n; i++) writeFence(column, i, items[from + i]!.fence ?? 0);
  return column;
}

function ones(n: number): Buffer {
  const column = Buffer.allocUnsafe(4 * n);
  for (let i = 0; i < n; i++) column.writeUInt32LE(1, 4 * i);
  return column;
}
