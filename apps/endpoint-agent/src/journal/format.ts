/**
 * The journal's bytes. A segment is a header and records; both carry a CRC32, so that a torn or flipped end is
 * seen and cut off.
 *
 *     header, 128 bytes  "FARLOOMJ" │ u16 version │ u16 flags │ 36 boot id │ 16 custody id │ u64 place │ zeros │ u32 crc (at 108)
 *                        │ u64 committed length (at 112) │ u32 crc of it │ zeros
 *     record             u32 length of payload │ u32 crc of type and payload │ u8 type │ payload
 *
 * All integers little-endian. The place is the inode of the folder that the segment was written in (0: unknown): a
 * copied or restored journal is another one's, or of another time. The committed length is written again behind every commit: a file whose good records
 * end before it has lost some of them, which the records alone cannot tell. A change that an older agent cannot read
 * raises the version; every later version keeps the first 112 bytes as they are, so that it can be told by name.
 *
 * Version 2 (still read) has no records of the type `placed`.
 *
 * Version 1 (still read) has a header of 64 bytes, the CRC at 60, and neither custody id nor committed length: there
 * a tail that is cut counts as damage.
 */
import { crc32 } from "node:zlib";

export const JOURNAL_VERSION = 3;
export const HEADER_BYTES = 128;
export const RECORD_HEADER_BYTES = 9;
/** Where the committed length lies, and how many bytes it has with its CRC. */
export const LENGTH_AT = 112;
export const LENGTH_BYTES = 12;
/** The segment begins with everything that was live: what came before it is superseded. */
export const FLAG_SNAPSHOT = 1;
/** Longer than any record that is written; a length above it is garbage. */
export const MAX_RECORD_BYTES = 64 * 1024 * 1024;

const MAGIC = Buffer.from("FARLOOMJ");

/**
 * accepted   a `tasks` frame as it came
 * started    ids (16·n): handed to the local node, so from here on they may have started
 * result     a `results` frame as it goes up; its tasks are finished
 * acked      ids: the service has the results for good, forget them
 * returned   ids: not started and given back to the service, forget them
 * unstarted  ids: a node gave them back; they are in the line again
 * kept       ids: results of submissions that were never committed (P14)
 * placed     u8 length of the node's name, the name, ids: as started, at a node of a block
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
  placed: 9,
} as const;
export type RecordType = (typeof RECORD)[keyof typeof RECORD];

const RECORD_TYPES = new Set<number>(Object.values(RECORD));

/** One record, decoded. */
export interface JournalRecord {
  readonly type: RecordType;
  readonly payload: Buffer;
}

/** What a header says beside boot and flags. */
export interface HeaderOrigin {
  /** A UUID. */
  readonly custodyId?: string;
  /** Inode of the folder. */
  readonly place?: bigint;
}

/** The header of a new segment. */
export function encodeHeader(bootId: string, flags: number, origin: HeaderOrigin = {}): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header, 0);
  header.writeUInt16LE(JOURNAL_VERSION, 8);
  header.writeUInt16LE(flags, 10);
  header.write(bootId.slice(0, 36).padEnd(36), 12, "latin1");
  if (origin.custodyId !== undefined) header.write(origin.custodyId.replaceAll("-", ""), 48, 16, "hex");
  header.writeBigUInt64LE(origin.place ?? 0n, 64);
  header.writeUInt32LE(crc32(header.subarray(0, 108)), 108);
  encodeLength(HEADER_BYTES).copy(header, LENGTH_AT);
  return header;
}

/** The committed length with its CRC. */
export function encodeLength(sizeBytes: number): Buffer {
  const out = Buffer.allocUnsafe(LENGTH_BYTES);
  out.writeBigUInt64LE(BigInt(sizeBytes), 0);
  out.writeUInt32LE(crc32(out.subarray(0, 8)), 8);
  return out;
}

export type HeaderRead =
  | {
      readonly ok: true;
      readonly version: number;
      readonly headerBytes: number;
      readonly bootId: string;
      readonly flags: number;
      /** Undefined in version 1. */
      readonly custodyId: string | undefined;
      /** 0: unknown. */
      readonly place: bigint;
      /** How long the file was at its last commit; undefined in version 1, and where it is damaged. */
      readonly committedBytes: number | undefined;
    }
  /** `torn`: not completely written, or damaged; `foreign`: another format, of this version where we know it. */
  | { readonly ok: false; readonly why: "torn" | "foreign"; readonly version: number | undefined };

export function decodeHeader(bytes: Buffer): HeaderRead {
  if (bytes.length < V1_HEADER_BYTES) return { ok: false, why: "torn", version: undefined };
  const isV1 = bytes.readUInt32LE(60) === headerCrc(bytes, 60);
  const isLater = bytes.length >= HEADER_BYTES && bytes.readUInt32LE(108) === headerCrc(bytes, 108);
  const hasMagic = bytes.subarray(0, 8).equals(MAGIC);
  if (!isV1 && !isLater) return { ok: false, why: hasMagic ? "torn" : "foreign", version: undefined };
  // The CRC is that of a header of ours, whose first bytes were changed.
  if (!hasMagic) return { ok: false, why: "torn", version: undefined };
  const version = bytes.readUInt16LE(8);
  const flags = bytes.readUInt16LE(10);
  const bootId = bytes.toString("latin1", 12, 48).trim();
  if (isV1 && version === 1) {
    return {
      ok: true,
      version,
      headerBytes: V1_HEADER_BYTES,
      bootId,
      flags,
      custodyId: undefined,
      place: 0n,
      committedBytes: undefined,
    };
  }
  if (!isLater || version < 2 || version > JOURNAL_VERSION) return { ok: false, why: "foreign", version };
  const length = bytes.subarray(LENGTH_AT, LENGTH_AT + LENGTH_BYTES);
  const isLengthGood = length.readUInt32LE(8) === crc32(length.subarray(0, 8));
  const hex = bytes.toString("hex", 48, 64);
  return {
    ok: true,
    version,
    headerBytes: HEADER_BYTES,
    bootId,
    flags,
    custodyId: hex === NO_CUSTODY ? undefined : hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"),
    place: bytes.readBigUInt64LE(64),
    committedBytes: isLengthGood ? Number(length.readBigUInt64LE(0)) : undefined,
  };
}

const V1_HEADER_BYTES = 64;
const NO_CUSTODY = "0".repeat(32);

/** The CRC of a header up to `end`, as if it began with the magic. */
function headerCrc(bytes: Buffer, end: number): number {
  return crc32(bytes.subarray(8, end), MAGIC_CRC);
}
const MAGIC_CRC = crc32(MAGIC);

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
