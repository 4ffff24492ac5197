/**
 * Content-addressed files for what is too large for a row: `<stateDir>/payloads/<owner>/<aa>/<hex>`.
 *
 *   1. A file under its final name is whole, has that digest, and is on disk: it is hashed while it streams
 *      into a temporary file, synced, and only then renamed; the folder is synced after that.
 *   2. The row comes after the file. A file without a row does not exist for anybody.
 *   3. Everything is looked up within one owner.
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import type pg from "pg";
import { LruMap } from "../support/lru-map.js";

/** Bytes gathered for one write: few trips to the thread pool, little memory for each upload. */
const WRITE_BYTES = 256 * 1024;
/** Silence in an upload after which it is given up. */
const UPLOAD_IDLE_MS = 60_000;
const READ_BYTES = 256 * 1024;

export interface PayloadRef {
  readonly digest: Buffer;
  readonly sizeBytes: number;
}

export interface OpenPayload {
  readonly sizeBytes: number;
  /** The bytes, or those from `start` to `end` inclusive. Must be read or destroyed. */
  stream(range?: { readonly start: number; readonly end: number }): Readable;
}

export class PayloadStore {
  readonly #pool: pg.Pool;
  readonly #root: string;
  /** Folders known to exist and to be on disk. */
  readonly #folders = new LruMap<string, Promise<void>>(10_000);

  constructor(pool: pg.Pool, stateDir: string) {
    this.#pool = pool;
    this.#root = join(stateDir, "payloads");
  }

  /**
   * Takes the stream's bytes in. `created` is false where they were here already; the stream is then read to
   * its end and dropped.
   * @throws FarloomError PAYLOAD_MISMATCH, PAYLOAD_TOO_LARGE, REQUEST_INVALID (stream cut off)
   */
  async put(
    ownerId: string,
    digest: Buffer,
    stream: Readable,
    sizeBytes?: number,
  ): Promise<{ sizeBytes: number; created: boolean }> {
    if (sizeBytes !== undefined && sizeBytes > limits.MAX_PAYLOAD_BYTES) throw tooLarge();
    // A stream handed over is paused and complete: nothing is lost while the row is looked up.
    const known = await this.touch(ownerId, digest);
    if (known !== undefined) {
      await drain(stream);
      return { sizeBytes: known, created: false };
    }
    const temp = await this.#temp();
    try {
      const got = await writeHashed(temp.file, stream);
      if (!got.digest.equals(digest)) {
        throw new FarloomError("PAYLOAD_MISMATCH", {
          actual: got.digest.toString("hex"),
          digest: digest.toString("hex"),
        });
      }
      await this.#settle(ownerId, temp, got);
      return { sizeBytes: got.sizeBytes, created: true };
    } catch (error) {
      await discard(temp);
      throw error;
    }
  }

  /** Keeps bytes that are in memory already, e.g. large arguments of a REST call. */
  async putBytes(ownerId: string, bytes: Buffer): Promise<PayloadRef> {
    const digest = createHash("sha256").update(bytes).digest();
    const ref = { digest, sizeBytes: bytes.length };
    if ((await this.touch(ownerId, digest)) !== undefined) return ref;
    const temp = await this.#temp();
    try {
      await writeAll(temp.file, bytes);
      await this.#settle(ownerId, temp, ref);
      return ref;
    } catch (error) {
      await discard(temp);
      throw error;
    }
  }

  /** @throws FarloomError PAYLOAD_NOT_FOUND */
  async open(ownerId: string, digest: Buffer): Promise<OpenPayload> {
    const sizeBytes = await this.has(ownerId, digest);
    if (sizeBytes === undefined) throw notFound(digest);
    const path = this.#path(ownerId, digest);
    // Opened only when it is read: a HEAD or a refused range costs no descriptor.
    const onDisk = await stat(path).catch(() => undefined);
    if (onDisk?.size !== sizeBytes) throw notFound(digest);
    return { sizeBytes, stream: (range) => createReadStream(path, { highWaterMark: READ_BYTES, ...range }) };
  }

  /** Its size, or undefined where the owner has no such payload. */
  async has(ownerId: string, digest: Buffer): Promise<number | undefined> {
    const { rows } = await this.#pool.query<{ size: string }>({
      name: "payload-has",
      text: "SELECT size_bytes AS size FROM payload WHERE owner_id = $1 AND digest = $2",
      values: [ownerId, digest],
    });
    return rows[0] && Number(rows[0].size);
  }

  /** As `has`, and keeps the payload from being swept for another 24 hours. */
  async touch(ownerId: string, digest: Buffer): Promise<number | undefined> {
    const { rows } = await this.#pool.query<{ size: string }>({
      name: "payload-touch",
      text: "UPDATE payload SET last_used_at = now() WHERE owner_id = $1 AND digest = $2 RETURNING size_bytes AS size",
      values: [ownerId, digest],
    });
    return rows[0] && Number(rows[0].size);
  }

  /** Row first, then the file, as nobody may find a row without one. True where there was something. */
  async remove(ownerId: string, digest: Buffer): Promise<boolean> {
    const { rowCount } = await this.#pool.query({
      name: "payload-remove",
      text: "DELETE FROM payload WHERE owner_id = $1 AND digest = $2",
      values: [ownerId, digest],
    });
    await rm(this.#path(ownerId, digest), { force: true });
    return rowCount === 1;
  }

  #path(ownerId: string, digest: Buffer): string {
    const hex = digest.toString("hex");
    return join(this.#root, ownerId, hex.slice(0, 2), hex);
  }

  async #temp(): Promise<Temp> {
    const folder = join(this.#root, "tmp");
    await this.#folder(folder);
    const path = join(folder, randomBytes(12).toString("hex"));
    return { path, file: await open(path, "wx", 0o600) };
  }

  /** File, folder, row, in that order (1, 2). */
  async #settle(ownerId: string, temp: Temp, ref: PayloadRef): Promise<void> {
    await temp.file.datasync();
    await temp.file.close();
    const path = this.#path(ownerId, ref.digest);
    const folder = join(path, "..");
    await this.#folder(folder);
    await rename(temp.path, path);
    await syncFolder(folder);
    await this.#pool.query({
      name: "payload-put",
      text: `INSERT INTO payload (owner_id, digest, size_bytes) VALUES ($1, $2, $3)
             ON CONFLICT (owner_id, digest) DO UPDATE SET last_used_at = now()`,
      values: [ownerId, ref.digest, ref.sizeBytes],
    });
  }

  /** Makes a folder that survives a crash together with the files in it. */
  #folder(path: string): Promise<void> {
    const known = this.#folders.get(path);
    if (known) return known;
    const made = (async () => {
      const first = await mkdir(path, { recursive: true, mode: 0o700 });
      if (first === undefined) return;
      for (let at = path; at.length >= first.length; at = join(at, "..")) await syncFolder(join(at, ".."));
    })();
    this.#folders.set(path, made);
    made.catch(() => this.#folders.delete(path));
    return made;
  }
}

interface Temp {
  readonly path: string;
  readonly file: FileHandle;
}

async function writeHashed(file: FileHandle, stream: Readable): Promise<PayloadRef> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  // Chunks are copied together, so that they die young: kept for a while they would make the collector walk the
  // whole heap for every few uploads.
  const buffer = freeBuffers.pop() ?? Buffer.allocUnsafeSlow(WRITE_BYTES);
  let filled = 0;
  const idle = setTimeout(() => stream.destroy(new Error("no bytes came for a minute")), UPLOAD_IDLE_MS);
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      idle.refresh();
      sizeBytes += chunk.length;
      if (sizeBytes > limits.MAX_PAYLOAD_BYTES) throw tooLarge();
      hash.update(chunk);
      for (let at = 0; at < chunk.length; ) {
        const n = chunk.copy(buffer, filled, at);
        at += n;
        filled += n;
        if (filled < WRITE_BYTES) continue;
        await writeAll(file, buffer);
        filled = 0;
      }
    }
    if (filled > 0) await writeAll(file, buffer.subarray(0, filled));
  } catch (error) {
    if (error instanceof FarloomError || isDiskError(error)) throw error;
    throw new FarloomError(
      "REQUEST_INVALID",
      { detail: `the upload was cut off (${(error as Error).message})` },
      { cause: error },
    );
  } finally {
    clearTimeout(idle);
    if (freeBuffers.length < MAX_FREE_BUFFERS) freeBuffers.push(buffer);
  }
  return { digest: hash.digest(), sizeBytes };
}

/** Buffers of uploads that have ended, for the next ones. */
const freeBuffers: Buffer[] = [];
const MAX_FREE_BUFFERS = 16;

/** A full or broken disk is our trouble, not the caller's. */
function isDiskError(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).syscall === "write";
}

/** A short write happens when the disk is nearly full; the rest then fails with the reason. */
async function writeAll(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at);
    at += bytesWritten;
  }
}

async function drain(stream: Readable): Promise<void> {
  for await (const _ of stream) {
    // The bytes are here already.
  }
}

async function discard(temp: Temp): Promise<void> {
  await temp.file.close().catch(() => {});
  await rm(temp.path, { force: true }).catch(() => {});
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function tooLarge(): FarloomError {
  return new FarloomError("PAYLOAD_TOO_LARGE", { limit: limits.MAX_PAYLOAD_BYTES });
}

function notFound(digest: Buffer): FarloomError {
  return new FarloomError("PAYLOAD_NOT_FOUND", { digest: digest.toString("hex") });
}
