/**
 * Where a batch begins in its stream (P10a). Marks count what came, so a batch that came twice, out of order or not at
 * all would let a sender forget what nobody has: a receiver that counts otherwise ends the session.
 */

/** Why a batch cannot be the next one, or undefined where it is; a peer that says nothing is believed. */
export function misplaced(first: number | undefined, received: number): string | undefined {
  if (first === undefined || first === received + 1) return undefined;
  return `a batch from position ${first} on, after ${received}`;
}

const FIXMAP = 0x80;
const MAP16 = 0xde;
const KEY = Buffer.from([0xa5, ...Buffer.from("first")]);
const U32 = 0xce;
const F64 = 0xcb;
const MAX_U32 = 0xffff_ffff;

/** A frame's bytes with its position: batches are encoded when they are journaled, and placed when they are sent. */
export function withPosition(bytes: Buffer, first: number): Buffer {
  const isShort = bytes[0]! !== MAP16;
  const entries = isShort ? bytes[0]! & 0x0f : bytes.readUInt16BE(1);
  const headBytes = isShort ? 1 : 3;
  const head = entries < 15 ? Buffer.from([FIXMAP | (entries + 1)]) : Buffer.alloc(3, MAP16);
  if (head.length === 3) head.writeUInt16BE(entries + 1, 1);
  const number = Buffer.alloc(first <= MAX_U32 ? 5 : 9, first <= MAX_U32 ? U32 : F64);
  if (first <= MAX_U32) number.writeUInt32BE(first, 1);
  else number.writeDoubleBE(first, 1);
  return Buffer.concat([head, bytes.subarray(headBytes), KEY, number]);
}
