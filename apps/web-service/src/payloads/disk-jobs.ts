/** What the service asks of its disk thread, and what it answers: one list of jobs, one list of replies, in order. */

export type DiskJob =
  /** Verify the bytes in shared memory and make them the file at `path`, on disk when answered. */
  | {
      readonly kind: "write";
      readonly offset: number;
      readonly sizeBytes: number;
      readonly hex: string;
      readonly path: string;
    }
  /** A temporary file, verified and on disk, becomes the one at `path`. */
  | { readonly kind: "settle"; readonly temp: string; readonly path: string }
  /** Read the file at `path`, of that size, into shared memory. */
  | { readonly kind: "read"; readonly offset: number; readonly sizeBytes: number; readonly path: string };

export interface DiskReply {
  /** For `write`: the digest that the bytes have, where it is another; nothing was kept then. */
  readonly actualHex?: string;
  /** The disk's own refusal, e.g. ENOSPC. */
  readonly error?: Error;
}

export interface DiskThreadData {
  /** The payloads' folder; temporary files lie in `tmp` in it. */
  readonly root: string;
  readonly shared: SharedArrayBuffer;
}

/** Where files grow before they have their name. */
export const TEMP_FOLDER = "tmp";
