/**
 * Seals and fences: what holds a task to its bytes, and a result to the lease it was made under (P25, P26).
 *
 * A seal is SHA-256(task id ‖ bytes), over the bytes as they travel: of a reference, its 40 bytes, whose digest covers
 * the file. The task's id in it makes the bytes of another task fail the check, and not only damaged ones. Seals lie in
 * columns, and are named by column and offset: an object for each would cost more than moving it. 32 zero bytes stand
 * for no seal.
 *
 * A fence is the endpoint's epoch and the task's attempt in one number that never falls over the life of a task.
 */
import { hash } from "node:crypto";
import { type IdKey, writeKey } from "../ids.js";

export const SEAL_BYTES = 32;

/** Where a seal lies: `seals[sealAt, sealAt + 32)`; without `seals` there is none. */
export interface SealPlace {
  readonly seals?: Buffer | undefined;
  readonly sealAt?: number | undefined;
}

/** Room for the id and for bytes of the usual size; what is larger is put together for itself. */
const scratch = Buffer.allocUnsafeSlow(1024);
/** Its first n bytes, by n: making a view costs a fifth of a digest. */
const views: (Buffer | undefined)[] = new Array(scratch.length + 1).fill(undefined);

/** As a latin1 string: an output that costs half of what a Buffer does. */
function digestOf(key: IdKey, source: Buffer, start: number, end: number): string {
  const n = 16 + end - start;
  let input: Buffer;
  if (n > scratch.length) input = Buffer.allocUnsafe(n);
  else {
    views[n] ??= scratch.subarray(0, n);
    input = views[n];
  }
  writeKey(input, key, 0);
  source.copy(input, 16, start, end);
  return hash("sha256", input, "binary");
}

/** Writes the seal of task `key` over `source[start, end)` at `at`. */
export function writeSeal(
  target: Buffer,
  at: number,
  key: IdKey,
  source: Buffer,
  start = 0,
  end = source.length,
): void {
  target.write(digestOf(key, source, start, end), at, SEAL_BYTES, "latin1");
}

/** Whether there is a seal at `at`. */
export function hasSeal(seals: Buffer | undefined, at = 0): seals is Buffer {
  if (seals === undefined || at + SEAL_BYTES > seals.length) return false;
  for (let i = at; i < at + SEAL_BYTES; i++) if (seals[i] !== 0) return true;
  return false;
}

/** Whether the seal at `at` is that of task `key` over `source[start, end)`, or there is none to check. */
export function sealHolds(
  seals: Buffer | undefined,
  at: number,
  key: IdKey,
  source: Buffer,
  start = 0,
  end = source.length,
): boolean {
  if (!hasSeal(seals, at)) return true;
  return digestOf(key, source, start, end) === seals.toString("latin1", at, at + SEAL_BYTES);
}

const ATTEMPTS = 65_536;

/** The fence of an attempt that is leased under `epoch`. Attempts beyond 65,535 share the last number. */
export function fenceFor(epoch: number, attempt: number): number {
  return epoch * ATTEMPTS + Math.min(attempt, ATTEMPTS - 1);
}

/** The epoch under which a fence was given. */
export function epochOfFence(fence: number): number {
  return Math.floor(fence / ATTEMPTS);
}

/** Entry i of a column of fences, which may be one number for all; 0 where there is none. */
export function fenceOf(column: number | Buffer | undefined, i: number): number {
  if (column === undefined) return 0;
  if (typeof column === "number") return column;
  return column.readUInt32LE(8 * i) + column.readUInt32LE(8 * i + 4) * 0x1_0000_0000;
}

/** Writes entry i of a column of fences. */
export function writeFence(column: Buffer, i: number, fence: number): void {
  column.writeUInt32LE(fence % 0x1_0000_0000, 8 * i);
  column.writeUInt32LE(Math.floor(fence / 0x1_0000_0000), 8 * i + 4);
}
