/**
 * Task ids: 16 bytes, a version 8 UUID made by the client (PROTOCOL.md section 1).
 *
 *     48 bits milliseconds │ 4 version (8) │ 12 random │ 2 variant │ 42 random │ 20 index in the batch
 *
 * The leading time keeps the primary key's B-tree growing at its right edge; the index makes one random
 * draw serve a million tasks; and because the client draws it, a resubmission is the same task.
 *
 * In memory an id is a *key*: its 16 bytes as a latin1 string, the cheapest map key V8 has for them.
 */
import { randomFillSync } from "node:crypto";
import { MAX_BATCH_INDEX } from "./limits.js";

/** 16 bytes as a latin1 string of length 16. */
export type IdKey = string;

/** Reads the key of the id at `offset`. */
export function keyAt(bytes: Buffer, offset = 0): IdKey {
  return bytes.toString("latin1", offset, offset + 16);
}

/** Writes the 16 bytes of `key` at `offset`. */
export function writeKey(target: Buffer, key: IdKey, offset: number): void {
  target.write(key, offset, 16, "latin1");
}

/** The 16 bytes of a key. */
export function keyToBytes(key: IdKey): Buffer {
  return Buffer.from(key, "latin1");
}

/** All ids of a list as one column. */
export function keysToColumn(keys: Iterable<IdKey> & { readonly length: number }): Buffer {
  const column = Buffer.allocUnsafe(16 * keys.length);
  let offset = 0;
  for (const key of keys) {
    writeKey(column, key, offset);
    offset += 16;
  }
  return column;
}

/** The keys of an id column. */
export function columnToKeys(column: Buffer): IdKey[] {
  const keys: IdKey[] = new Array(column.length >>> 4);
  for (let i = 0; i < keys.length; i++) keys[i] = keyAt(column, i << 4);
  return keys;
}

/** `8-4-4-4-12` lower case hexadecimal, as people and REST see an id. */
export function keyToUuid(key: IdKey): string {
  const hex = Buffer.from(key, "latin1").toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Whether `text` has the form of a UUID, of any version. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/** The key of a UUID's text, or undefined where it is not one. */
export function uuidToKey(text: string): IdKey | undefined {
  return isUuid(text) ? Buffer.from(text.replaceAll("-", ""), "hex").toString("latin1") : undefined;
}

/** A batch id: a task id whose index is 0. Random bits from `random` (10 bytes) if given, so that it can be derived. */
export function newBatchId(nowMs = Date.now(), random?: Uint8Array): Buffer {
  const id = Buffer.allocUnsafe(16);
  if (random) Buffer.from(random).copy(id, 6, 0, 10);
  else randomTail(id);
  id.writeUIntBE(nowMs, 0, 6);
  id[6] = (id[6]! & 0x0f) | 0x80;
  id[8] = (id[8]! & 0x3f) | 0x80;
  id[13]! &= 0xf0;
  id[14] = 0;
  id[15] = 0;
  return id;
}

/** Random bytes drawn in bulk: one call of the system's generator costs as much for 10 bytes as for 4,000. */
const pool = Buffer.allocUnsafeSlow(4_000);
let poolAt = pool.length;

function randomTail(id: Buffer): void {
  if (poolAt === pool.length) {
    randomFillSync(pool);
    poolAt = 0;
  }
  pool.copy(id, 6, poolAt, poolAt + 10);
  poolAt += 10;
}

/** Writes task `index` of the batch at `offset`. */
export function writeTaskId(target: Buffer, batchId: Buffer, index: number, offset: number): void {
  batchId.copy(target, offset, 0, 13);
  target[offset + 13] = (batchId[13]! & 0xf0) | (index >>> 16);
  target[offset + 14] = (index >>> 8) & 0xff;
  target[offset + 15] = index & 0xff;
}

/** Hands out task ids, a new batch id for every 2^20 of them. */
export class TaskIdAllocator {
  #prefix = "";
  #nibble = 0;
  #next = MAX_BATCH_INDEX;

  /** The next task id, as a key. Put together as a string: a Buffer for each id costs three times as much. */
  next(): IdKey {
    if (this.#next === MAX_BATCH_INDEX) {
      const batchId = newBatchId();
      this.#prefix = batchId.toString("latin1", 0, 13);
      this.#nibble = batchId[13]! & 0xf0;
      this.#next = 0;
    }
    const index = this.#next++;
    return (
      this.#prefix + String.fromCharCode(this.#nibble | (index >>> 16), (index >>> 8) & 0xff, index & 0xff)
    );
  }
}
