/**
 * The journal's bytes. A segment is a header and records; both carry a CRC32, so that a torn or flipped end is
 * seen and cut off.
 *
 *     header, 64 bytes   "FARLOOMJ" │ u16 version │ u16 flags │ 36 boot id │ zeros │ u32 crc
 *     record             u32 length of payload │ u32 crc of type and payload │ u8 type │ payload
 *
 * All integers little-endian. A change that an older agent cannot read raises the version.
 */
import { crc32 } from "node:zlib";

export const JOURNAL_VERSION = 1;
export const HEADER_BYTES = 64;
export const RECORD_HEADER_BYTES = 9;
/** The segment begins with everything that was live: what came before it is superseded. */
export const FLAG_SNAPSHOT = 1;
/** Longer than any record that is written; a length above it is garbage. */
export const MAX_RECORD_BYTES = 64 * 1024 * 1024;

const MAGIC = Buffer.from("FARLOOMJ");

/**
 * accepted   a `tasks` frame as it came
 * started    ids (16·n): handed to a node, so from here on they may have started
 * result     a `results` frame as it goes up; its tasks are finished
 * acked      ids: the service has the results for good, forget them
 * returned   ids: not started and given back to the service, forget them
 * unstarted  ids: a node gave them back; they are in the line again
 * kept       ids: results of submissions that were never committed (P14)
 * snapshotEnd  closes the live part of a snapshot; a snapshot without it is incomplete
 */
export const RECORD = {
  accepted: 1,
  started: 2,
  result: 3,
  acked: 4,
  returned: 5,
  unstarted: 6,
  kept: 7,
  snapshotEnd: 8,
} as const;
export type RecordType = (typeof RECORD)[keyof typeof RECORD];

const RECORD_TYPES = new Set<number>(Object.values(RECORD));

/** One record, decoded. */
export interface JournalRecord {
  readonly type: RecordType;
  readonly payload: Buffer;
}

export function encodeHeader(bootId: string, flags: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header, 0);
  header.writeUInt16LE(JOURNAL_VERSION, 8);
  header.writeUInt16LE(flags, 10);
  header.write(bootId.slice(0, 36).padEnd(36), 12, "latin1");
  header.writeUInt32LE(crc32(header.subarray(0, 60)), 60);
  return header;
}

export type HeaderRead =
  | { readonly ok: true; readonly bootId: string; readonly flags: number }
  /** `torn`: the header itself was not completely written; `foreign`: another format. */
  | { readonly ok: false; readonly why: "torn" | "foreign"; readonly version: number | undefined };

export function decodeHeader(bytes: Buffer): HeaderRead {
  if (bytes.length < HEADER_BYTES) return { ok: false, why: "torn", version: undefined };
  if (!bytes.subarray(0, 8).equals(MAGIC)) return { ok: false, why: "foreign", version: undefined };
  const version = bytes.readUInt16LE(8);
  if (bytes.readUInt32LE(60) !== crc32(bytes.subarray(0, 60)))
    return { ok: false, why: "torn", version: undefined };
  if (version !== JOURNAL_VERSION) return { ok: false, why: "foreign", version };
  return { ok: true, bootId: bytes.toString("latin1", 12, 48).trim(), flags: bytes.readUInt16LE(10) };
}

const TYPE_CRC = Array.from({ length: 256 }, (_, type) => crc32(Buffer.from([type])));

/** The header of a record; the payload is written behind it as it is. */
export function encodeRecordHeader(type: RecordType, payload: Buffer): Buffer {
  const header = Buffer.allocUnsafe(RECORD_HEADER_BYTES);
  header.writeUInt32LE(payload.length, 0);
  header.writeUInt32LE(crc32(payload, TYPE_CRC[type]), 4);
  header[8] = type;
  return header;
}

/** The good records of a segment from `from` on, and where they end. */
export function* decodeRecords(bytes: Buffer, from: number): Generator<JournalRecord, number> {
  let at = from;
  while (at + RECORD_HEADER_BYTES <= bytes.length) {
    const size = bytes.readUInt32LE(at);
    const end = at + RECORD_HEADER_BYTES + size;
    if (size > MAX_RECORD_BYTES || end > bytes.length) break;
    const type = bytes[at + 8]!;
    const payload = bytes.subarray(at + RECORD_HEADER_BYTES, end);
    if (!RECORD_TYPES.has(type) || crc32(payload, TYPE_CRC[type]) !== bytes.readUInt32LE(at + 4)) break;
    yield { type: type as RecordType, payload };
    at = end;
  }
  return at;
}
