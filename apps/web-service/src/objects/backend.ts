/**
 * Where the bytes of objects lie: blobs under random ids that are written once. Rows say which blob an object is;
 * a backend knows of no names and no owners.
 */
import type { Readable } from "node:stream";
import type { ByteRange } from "../http/range.js";

export interface BlobEntry {
  readonly id: string;
  /** When it was stored, in wall-clock milliseconds of the storage; undefined where it is gone. */
  storedAtMs(): Promise<number | undefined>;
}

export interface BlobBackend {
  /** Uploads at once: each costs the memory that the backend's file names. */
  readonly maxUploads: number;
  /**
   * Stores all that `chunks` gives under a new id. Resolved: it survives the death of the machine. Rejected: nothing is
   * left, or only what `sweepUnfinished` finds.
   * @throws FarloomError STORAGE_FULL, STORAGE_UNAVAILABLE; whatever `chunks` throws
   */
  write(id: string, chunks: AsyncIterable<Buffer>): Promise<void>;
  /** The bytes, or those of the range; undefined where there is no such blob. Must be read or destroyed. */
  read(id: string, range: ByteRange | undefined): Promise<Readable | undefined>;
  /** A missing one is no error. */
  remove(id: string): Promise<void>;
  /** All blobs, in pages. */
  list(): AsyncIterable<readonly BlobEntry[]>;
  /** Removes what interrupted uploads left, if it was last touched before then; how many. */
  sweepUnfinished(beforeMs: number): Promise<number>;
  close(): Promise<void>;
}
