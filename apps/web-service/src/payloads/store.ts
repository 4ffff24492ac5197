/**
 * Content-addressed files for what is too large for a row: `<stateDir>/payloads/<owner>/<aa>/<hex>`. Small ones
 * pass through staging memory and the disk thread; large ones are streamed.
 *
 *     upload ─► staging ─► disk thread ─► rows          (≤ MAX_STAGED_BYTES)
 *     upload ─► temporary file ─► disk thread ─► rows   (larger, or of unknown length)
 *
 *   1. A file under its final name is whole, has that digest, and is on disk.
 *   2. The row comes after the file. A file without a row does not exist for anybody; a row whose file was lost is
 *      no payload either, and the next upload mends it.
 *   3. Everything is looked up within one owner.
 *   4. One payload is stored or removed by one call at a time.
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { type FileHandle, mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import { crashPoint } from "@farloom/protocol/testing";
import type pg from "pg";
import type { Logger } from "pino";
import type { TenantPool } from "../store/tenant-pool.js";
import { Disk } from "./disk.js";
import { TEMP_FOLDER } from "./disk-jobs.js";
import { PayloadRows, payloadKey } from "./rows.js";
import { MAX_STAGED_BYTES, type Slot, Staging } from "./staging.js";
import { drain, gather, tooLarge, writeAll, writeHashed } from "./upload.js";

/** One piece of a large file on its way to the socket: few trips to the thread pool. */
const READ_BYTES = 1024 * 1024;

/** The connections for rows: everybody's, and one person's. */
export interface PayloadDatabase {
  readonly pool: pg.Pool;
  readonly tenants: TenantPool;
}

export interface PayloadRef {
  readonly digest: Buffer;
  readonly sizeBytes: number;
}

export interface Stored {
  readonly sizeBytes: number;
  /** False where it was here already. */
  readonly created: boolean;
}

export interface OpenPayload {
  readonly sizeBytes: number;
  /** The bytes, or those from `start` to `end` inclusive. Must be read or destroyed. */
  stream(range?: { readonly start: number; readonly end: number }): Readable;
  /** All of it in memory, where it is small and there is room. `bytes` is good until `release`, which must be called. */
  whole(): Promise<{ readonly bytes: Buffer; release(): void } | undefined>;
}

export class PayloadStore {
  readonly #root: string;
  readonly #rows: PayloadRows;
  readonly #staging = new Staging();
  readonly #disk: Disk;
  /** The last call in line for each payload that is being stored or removed (4). */
  readonly #lines = new Map<string, Promise<unknown>>();
  #tempFolder: Promise<unknown> | undefined;

  constructor(db: PayloadDatabase, stateDir: string, log: Logger) {
    this.#root = join(stateDir, "payloads");
    this.#rows = new PayloadRows(db.pool, db.tenants, log);
    this.#disk = new Disk({ root: this.#root, shared: this.#staging.shared });
  }

  /**
   * Takes the stream's bytes in, `sizeBytes` of them where that is known. Where they were here already, the stream is
   * read to its end and dropped.
   * @throws FarloomError PAYLOAD_MISMATCH, PAYLOAD_TOO_LARGE, REQUEST_INVALID (stream cut off)
   */
  async put(ownerId: string, digest: Buffer, stream: Readable, sizeBytes?: number): Promise<Stored> {
    if (sizeBytes !== undefined && sizeBytes > limits.MAX_PAYLOAD_BYTES) throw tooLarge();
    const isSmall = sizeBytes !== undefined && sizeBytes <= MAX_STAGED_BYTES;
    // For a small one the row itself is the question: asking first would cost as much as writing again.
    const known = isSmall ? this.#recent(ownerId, digest) : await this.touch(ownerId, digest);
    if (known !== undefined) {
      await drain(stream);
      return { sizeBytes: known, created: false };
    }
    const slot = isSmall ? this.#staging.take(sizeBytes) : undefined;
    if (slot === undefined) return this.#putStream(ownerId, digest, stream);
    try {
      await gather(stream, slot.memory.subarray(0, sizeBytes));
      return await this.#putSlot(ownerId, digest, slot);
    } finally {
      this.#staging.release(slot);
    }
  }

  /** Keeps bytes that are in memory already, e.g. large arguments of a REST call. */
  async putBytes(ownerId: string, bytes: Buffer): Promise<PayloadRef> {
    const digest = createHash("sha256").update(bytes).digest();
    const ref = { digest, sizeBytes: bytes.length };
    const slot = bytes.length <= MAX_STAGED_BYTES ? this.#staging.take(bytes.length) : undefined;
    if (slot === undefined) {
      await this.#putFile(ownerId, digest, async (file) => {
        await writeAll(file, bytes);
        return ref;
      });
      return ref;
    }
    try {
      bytes.copy(slot.memory);
      await this.#putSlot(ownerId, digest, slot);
      return ref;
    } finally {
      this.#staging.release(slot);
    }
  }

  /** @throws FarloomError PAYLOAD_NOT_FOUND */
  async open(ownerId: string, digest: Buffer): Promise<OpenPayload> {
    const sizeBytes = await this.#rows.has(ownerId, digest);
    const path = this.#path(ownerId, digest);
    if (sizeBytes === undefined || !isThere(path, sizeBytes)) {
      this.#rows.forget(ownerId, digest);
      throw notFound(digest);
    }
    // Opened only when it is read: a HEAD or a refused range costs no descriptor.
    return {
      sizeBytes,
      stream: (range) => createReadStream(path, { highWaterMark: READ_BYTES, ...range }),
      whole: () => this.#whole(path, digest.toString("hex"), sizeBytes),
    };
  }

  /** Its size, or undefined where the owner has no such payload. Keeps it from being swept for most of a day. */
  async touch(ownerId: string, digest: Buffer): Promise<number | undefined> {
    const sizeBytes = await this.#rows.touch(ownerId, digest);
    if (sizeBytes === undefined || isThere(this.#path(ownerId, digest), sizeBytes)) return sizeBytes;
    this.#rows.forget(ownerId, digest);
    return undefined;
  }

  /** Row first, then the file, as nobody may find a row without one. True where there was something. */
  remove(ownerId: string, digest: Buffer): Promise<boolean> {
    return this.#inLine(ownerId, digest, async () => {
      const removed = await this.#rows.remove(ownerId, digest);
      await rm(this.#path(ownerId, digest), { force: true });
      return removed;
    });
  }

  /** From now on a row that PostgreSQL does not take fails its upload, which would wait for it otherwise. */
  endRetries(): void {
    this.#rows.close();
  }

  /** Ends the disk thread. What is not stored by then fails. */
  async close(): Promise<void> {
    this.endRetries();
    await this.#disk.close();
  }

  #recent(ownerId: string, digest: Buffer): number | undefined {
    const sizeBytes = this.#rows.recent(ownerId, digest);
    return sizeBytes !== undefined && isThere(this.#path(ownerId, digest), sizeBytes) ? sizeBytes : undefined;
  }

  async #putSlot(ownerId: string, digest: Buffer, slot: Slot): Promise<Stored> {
    const hex = digest.toString("hex");
    const { offset, sizeBytes } = slot;
    return this.#inLine(ownerId, digest, async () => {
      if (this.#recent(ownerId, digest) === sizeBytes) return { sizeBytes, created: false };
      const path = this.#path(ownerId, digest);
      const actualHex = await this.#disk.run({ kind: "write", offset, sizeBytes, hex, path });
      if (actualHex !== undefined) throw mismatch(digest, actualHex);
      crashPoint("service.payload.after-sync");
      const created = await this.#rows.add(ownerId, digest, sizeBytes);
      crashPoint("service.payload.after-row");
      this.#staging.label(slot, hex);
      return { sizeBytes, created };
    });
  }

  #putStream(ownerId: string, digest: Buffer, stream: Readable): Promise<Stored> {
    return this.#putFile(ownerId, digest, (file) => writeHashed(file, stream));
  }

  async #putFile(
    ownerId: string,
    digest: Buffer,
    write: (file: FileHandle) => Promise<PayloadRef>,
  ): Promise<Stored> {
    const folder = join(this.#root, TEMP_FOLDER);
    this.#tempFolder ??= mkdir(folder, { recursive: true, mode: 0o700 });
    await this.#tempFolder;
    const temp = join(folder, randomBytes(12).toString("hex"));
    const file = await open(temp, "wx", 0o600);
    try {
      const got = await write(file);
      if (!got.digest.equals(digest)) throw mismatch(digest, got.digest.toString("hex"));
      await file.datasync();
      await file.close();
      const path = this.#path(ownerId, digest);
      return await this.#inLine(ownerId, digest, async () => {
        await this.#disk.run({ kind: "settle", temp, path });
        return {
          sizeBytes: got.sizeBytes,
          created: await this.#rows.add(ownerId, digest, got.sizeBytes),
        };
      });
    } catch (error) {
      await file.close().catch(() => {});
      await rm(temp, { force: true }).catch(() => {});
      throw error;
    }
  }

  async #whole(
    path: string,
    hex: string,
    sizeBytes: number,
  ): Promise<{ bytes: Buffer; release(): void } | undefined> {
    if (sizeBytes > MAX_STAGED_BYTES) return undefined;
    let slot = this.#staging.find(hex);
    if (slot === undefined) {
      slot = this.#staging.take(sizeBytes);
      if (slot === undefined) return undefined;
      try {
        await this.#disk.run({ kind: "read", offset: slot.offset, sizeBytes, path });
      } catch (error) {
        this.#staging.release(slot);
        throw isThere(path, sizeBytes) ? error : notFound(Buffer.from(hex, "hex"));
      }
      this.#staging.label(slot, hex);
    }
    const held = slot;
    return { bytes: held.memory.subarray(0, sizeBytes), release: () => this.#staging.release(held) };
  }

  /** Runs `work` once every earlier one for the same payload has ended (4). */
  async #inLine<T>(ownerId: string, digest: Buffer, work: () => Promise<T>): Promise<T> {
    const key = payloadKey(ownerId, digest);
    const before = this.#lines.get(key);
    const run = before === undefined ? work() : before.then(work, work);
    this.#lines.set(key, run);
    try {
      return await run;
    } finally {
      if (this.#lines.get(key) === run) this.#lines.delete(key);
    }
  }

  #path(ownerId: string, digest: Buffer): string {
    const hex = digest.toString("hex");
    return join(this.#root, ownerId, hex.slice(0, 2), hex);
  }
}

/** Some microseconds: the names of files in use are in memory, and a trip to the thread pool is dearer. */
function isThere(path: string, sizeBytes: number): boolean {
  return statSync(path, { throwIfNoEntry: false })?.size === sizeBytes;
}

function mismatch(digest: Buffer, actual: string): FarloomError {
  return new FarloomError("PAYLOAD_MISMATCH", { actual, digest: digest.toString("hex") });
}

function notFound(digest: Buffer): FarloomError {
  return new FarloomError("PAYLOAD_NOT_FOUND", { digest: digest.toString("hex") });
}
