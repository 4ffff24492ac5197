/**
 * Columns for PostgreSQL: arrays in its binary wire form, built in one buffer each. node-postgres sends a Buffer
 * parameter as binary, and with a cast (`$1::uuid[]`) the server reads it with array_recv. The usual way, a
 * JavaScript array, goes as escaped text and costs several times the CPU at both ends.
 *
 * Format: dimensions (1), has-null flag, element type, length, lower bound (1); then for each element its
 * byte length, or -1 for null, and its bytes. All integers big-endian.
 */
import { hasSeal, SEAL_BYTES, type SealPlace } from "@farloom/protocol";

const HEADER_BYTES = 20;
const OID = { bytea: 17, int8: 20, int2: 21, int4: 23, uuid: 2950, jsonb: 3802 } as const;

function header(target: Buffer, oid: number, n: number, hasNull: boolean): void {
  target.writeInt32BE(1, 0);
  target.writeInt32BE(hasNull ? 1 : 0, 4);
  target.writeInt32BE(oid, 8);
  target.writeInt32BE(n, 12);
  target.writeInt32BE(1, 16);
}

/** `uuid[]` from ids as latin1 keys. */
export function uuidColumn<T>(items: readonly T[], keyOf: (item: T) => string): Buffer {
  const n = items.length;
  const out = Buffer.allocUnsafe(HEADER_BYTES + 20 * n);
  header(out, OID.uuid, n, false);
  let at = HEADER_BYTES;
  for (let i = 0; i < n; i++) {
    out.writeInt32BE(16, at);
    out.write(keyOf(items[i]!), at + 4, 16, "latin1");
    at += 20;
  }
  return out;
}

/** `int4[]`. */
export function int4Column<T>(items: readonly T[], pick: (item: T) => number): Buffer {
  const n = items.length;
  const out = Buffer.allocUnsafe(HEADER_BYTES + 8 * n);
  header(out, OID.int4, n, false);
  let at = HEADER_BYTES;
  for (let i = 0; i < n; i++) {
    out.writeInt32BE(4, at);
    out.writeInt32BE(pick(items[i]!), at + 4);
    at += 8;
  }
  return out;
}

/** `int8[]` from non-negative safe integers. */
export function int8Column<T>(items: readonly T[], pick: (item: T) => number): Buffer {
  const n = items.length;
  const out = Buffer.allocUnsafe(HEADER_BYTES + 12 * n);
  header(out, OID.int8, n, false);
  let at = HEADER_BYTES;
  for (let i = 0; i < n; i++) {
    const value = pick(items[i]!);
    out.writeInt32BE(8, at);
    out.writeUInt32BE(Math.floor(value / 2 ** 32), at + 4);
    out.writeUInt32BE(value >>> 0, at + 8);
    at += 12;
  }
  return out;
}

/** `int2[]`. */
export function int2Column<T>(items: readonly T[], pick: (item: T) => number): Buffer {
  const n = items.length;
  const out = Buffer.allocUnsafe(HEADER_BYTES + 6 * n);
  header(out, OID.int2, n, false);
  let at = HEADER_BYTES;
  for (let i = 0; i < n; i++) {
    out.writeInt32BE(2, at);
    out.writeInt16BE(pick(items[i]!), at + 4);
    at += 6;
  }
  return out;
}

/** `bytea[]` from slices of larger buffers; each is copied once. */
export function byteaColumn<T extends { source: Buffer; start: number; end: number }>(
  items: readonly T[],
): Buffer {
  const n = items.length;
  let bytes = HEADER_BYTES + 4 * n;
  for (let i = 0; i < n; i++) bytes += items[i]!.end - items[i]!.start;
  const out = Buffer.allocUnsafe(bytes);
  header(out, OID.bytea, n, false);
  let at = HEADER_BYTES;
  for (let i = 0; i < n; i++) {
    const { source, start, end } = items[i]!;
    out.writeInt32BE(end - start, at);
    at += 4 + source.copy(out, at + 4, start, end);
  }
  return out;
}

/** `bytea[]` of seals, null where there is none. */
export function sealColumn(items: readonly SealPlace[]): Buffer {
  const n = items.length;
  const out = Buffer.allocUnsafe(HEADER_BYTES + (4 + SEAL_BYTES) * n);
  let at = HEADER_BYTES;
  let hasNull = false;
  for (let i = 0; i < n; i++) {
    const { seals, sealAt = 0 } = items[i]!;
    if (hasSeal(seals, sealAt)) {
      out.writeInt32BE(SEAL_BYTES, at);
      at += 4 + seals.copy(out, at + 4, sealAt, sealAt + SEAL_BYTES);
    } else {
      hasNull = true;
      at = out.writeInt32BE(-1, at);
    }
  }
  header(out, OID.bytea, n, hasNull);
  return out.subarray(0, at);
}

/** `jsonb[]`, null where `pick` gives undefined. */
export function jsonbColumn<T>(items: readonly T[], pick: (item: T) => unknown): Buffer {
  const texts: (Buffer | undefined)[] = new Array(items.length);
  let bytes = HEADER_BYTES + 4 * items.length;
  let hasNull = false;
  for (let i = 0; i < items.length; i++) {
    const value = pick(items[i]!);
    if (value === undefined) hasNull = true;
    else {
      const text = Buffer.from(jsonbText(value));
      texts[i] = text;
      bytes += 1 + text.length;
    }
  }
  const out = Buffer.allocUnsafe(bytes);
  header(out, OID.jsonb, items.length, hasNull);
  let at = HEADER_BYTES;
  for (const text of texts) {
    if (text === undefined) at = out.writeInt32BE(-1, at);
    else {
      at = out.writeInt32BE(1 + text.length, at);
      out[at] = 1; // jsonb's wire version
      at += 1 + text.copy(out, at + 1);
    }
  }
  return out;
}

/** JSON that jsonb takes: it refuses NUL and lone surrogates, which programs do print. */
export function jsonbText(value: unknown): string {
  return JSON.stringify(value, (_key, v) =>
    typeof v === "string" ? v.toWellFormed().replaceAll("\u0000", "\ufffd") : v,
  );
}
