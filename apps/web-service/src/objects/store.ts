/**
 * Objects: named bytes of one owner, kept until somebody deletes them.
 *
 *     put ─► incoming (counted, hashed) ─► backend (a blob, durable) ─► row     read ◄─ backend ◄─ row
 *
 *   1. The row comes after the blob and goes before it: whoever finds a row finds its bytes. What is left between the
 *      two by a crash is a blob that nobody sees, and the sweep removes it.
 *   2. A write replaces an object whole and at once; a read under way goes on with the bytes that it began with.
 *   3. A blob is removed here only where its row is known not to be there. A commit of unknown outcome leaves it to
 *      the sweep.
 *
 * Bound: `maxUploads` of the backend, half of them for one owner; more are told to come again.
 */
import { randomUUID } from "node:crypto";
import { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import type { Logger } from "pino";
import type { ByteRange } from "../http/range.js";
import type { BlobBackend } from "./backend.js";
import { type ConditionHeaders, failedPrecondition } from "./conditions.js";
import { Incoming, tooLarge } from "./incoming.js";
import { type ObjectName, shown } from "./names.js";
import type { ListOptions, ListPage, ObjectRow, ObjectRows } from "./rows.js";

/** Writers of one object at once that are put in an order; each try means that another one has succeeded. */
const MAX_TRIES = 100;
const RETRY_UPLOAD_MS = 1_000;
/** Blobs removed at once. */
const REMOVALS = 16;

export interface Upload {
  readonly stream: Readable;
  readonly sizeBytes: number | undefined;
  /** SHA-256 that the bytes must have, hexadecimal. */
  readonly digest: string | undefined;
  readonly contentType: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly conditions: ConditionHeaders;
}

export class ObjectStore {
  readonly rows: ObjectRows;
  readonly backend: BlobBackend;
  readonly #log: Logger;
  /** Uploads under way, of each owner. */
  readonly #uploads = new Map<string, number>();
  #uploadCount = 0;

  constructor(rows: ObjectRows, backend: BlobBackend, log: Logger) {
    this.rows = rows;
    this.backend = backend;
    this.#log = log;
  }

  /** @throws FarloomError OBJECT_TOO_LARGE, OBJECT_MISMATCH, PRECONDITION_FAILED, OVERLOADED, STORAGE_*, REQUEST_INVALID */
  async put(
    ownerId: string,
    name: ObjectName,
    upload: Upload,
  ): Promise<{ row: ObjectRow; created: boolean }> {
    if (upload.sizeBytes !== undefined && upload.sizeBytes > limits.MAX_OBJECT_BYTES) throw tooLarge();
    // Told before five gigabytes have come; what counts is the check at the commit.
    check(upload.conditions, name, await this.rows.find(ownerId, name));
    const leave = this.#enter(ownerId);
    try {
      const blobId = randomUUID();
      const incoming = new Incoming(upload.stream);
      await this.backend.write(blobId, incoming);
      const digest = incoming.digest.toString("hex");
      if (upload.digest !== undefined && upload.digest !== digest) {
        await this.#discard([blobId]);
        throw new FarloomError("OBJECT_MISMATCH", { actual: digest, digest: upload.digest });
      }
      const { contentType, metadata, conditions } = upload;
      const { sizeBytes } = incoming;
      return await this.#commit(
        ownerId,
        name,
        { blobId, sizeBytes, digest, contentType, metadata },
        conditions,
      );
    } finally {
      leave();
    }
  }

  /**
   * Makes one object of others of the owner, in their order: how a large file comes in parts, each of which is sent
   * again alone where its connection breaks. The sources are removed if they are still what was read.
   * @throws FarloomError OBJECT_NOT_FOUND (a source), and as `put`
   */
  async compose(
    ownerId: string,
    name: ObjectName,
    sources: readonly ObjectName[],
    options: Omit<Upload, "stream" | "sizeBytes"> & { readonly removeSources: boolean },
  ): Promise<{ row: ObjectRow; created: boolean }> {
    const parts: { source: ObjectName; row: ObjectRow }[] = [];
    for (const source of sources) parts.push({ source, row: await this.find(ownerId, source) });
    const sizeBytes = parts.reduce((sum, { row }) => sum + row.sizeBytes, 0);
    const stream = Readable.from(this.#joined(parts), { objectMode: false });
    const stored = await this.put(ownerId, name, { ...options, stream, sizeBytes }).finally(() =>
      stream.destroy(),
    );
    if (options.removeSources) {
      for (const { source, row } of parts)
        if (row.blobId !== stored.row.blobId && (await this.rows.remove(ownerId, source, row)))
          await this.#discard([row.blobId]);
    }
    return stored;
  }

  /** @throws FarloomError OBJECT_NOT_FOUND */
  async find(ownerId: string, name: ObjectName): Promise<ObjectRow> {
    const row = await this.rows.find(ownerId, name);
    if (!row) throw new FarloomError("OBJECT_NOT_FOUND", { name: shown(name) });
    return row;
  }

  /** The bytes; undefined where the object was replaced or deleted since its row was read. */
  async read(row: ObjectRow, range: ByteRange | undefined): Promise<Readable | undefined> {
    return this.backend.read(row.blobId, range);
  }

  /** Idempotent: false where there was none. @throws FarloomError PRECONDITION_FAILED */
  async remove(ownerId: string, name: ObjectName, conditions: ConditionHeaders): Promise<boolean> {
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const row = await this.rows.find(ownerId, name);
      check(conditions, name, row);
      if (!row) return false;
      if (!(await this.rows.remove(ownerId, name, row))) continue;
      await this.#discard([row.blobId]);
      return true;
    }
    throw contended(name);
  }

  /** How many there were. */
  async removeAll(ownerId: string, bucket: string, keys: readonly Buffer[]): Promise<number> {
    const blobIds = await this.rows.removeAll(ownerId, bucket, keys);
    await this.#discard(blobIds);
    return blobIds.length;
  }

  list(ownerId: string, bucket: string, options: ListOptions): Promise<ListPage> {
    return this.rows.list(ownerId, bucket, options);
  }

  async *#joined(parts: readonly { source: ObjectName; row: ObjectRow }[]): AsyncGenerator<Buffer> {
    for (const { source, row } of parts) {
      if (row.sizeBytes === 0) continue;
      const bytes = await this.read(row, undefined);
      if (bytes === undefined) throw new FarloomError("OBJECT_NOT_FOUND", { name: shown(source) });
      yield* bytes;
    }
  }

  async #commit(
    ownerId: string,
    name: ObjectName,
    object: Parameters<ObjectRows["put"]>[2],
    conditions: ConditionHeaders,
  ): Promise<{ row: ObjectRow; created: boolean }> {
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const before = await this.rows.find(ownerId, name);
      const failed = failedPrecondition(conditions, before);
      if (failed !== undefined) {
        await this.#discard([object.blobId]);
        throw preconditionFailed(failed, name);
      }
      const row = await this.rows.put(ownerId, name, object, before);
      if (row === undefined) continue;
      if (before) await this.#discard([before.blobId]);
      return { row, created: before === undefined };
    }
    await this.#discard([object.blobId]);
    throw contended(name);
  }

  /** Removes blobs that no row has (3). What fails is left to the sweep. */
  async #discard(blobIds: readonly string[]): Promise<void> {
    for (let at = 0; at < blobIds.length; at += REMOVALS) {
      const removals = blobIds
        .slice(at, at + REMOVALS)
        .map((id) =>
          this.backend
            .remove(id)
            .catch((err) => this.#log.warn({ err, blob: id }, "a blob could not be removed; the sweep will")),
        );
      await Promise.all(removals);
    }
  }

  #enter(ownerId: string): () => void {
    const { maxUploads } = this.backend;
    const own = this.#uploads.get(ownerId) ?? 0;
    if (this.#uploadCount >= maxUploads || own >= maxUploads / 2) {
      const detail = `${own} uploads of yours are under way`;
      throw new FarloomError("OVERLOADED", { detail }, { retryAfterMs: RETRY_UPLOAD_MS });
    }
    this.#uploadCount++;
    this.#uploads.set(ownerId, own + 1);
    return () => {
      this.#uploadCount--;
      const left = this.#uploads.get(ownerId)! - 1;
      if (left === 0) this.#uploads.delete(ownerId);
      else this.#uploads.set(ownerId, left);
    };
  }
}

export function preconditionFailed(header: string, name: ObjectName): FarloomError {
  const text = header.replace(/(^|-)([a-z])/g, (part) => part.toUpperCase());
  return new FarloomError("PRECONDITION_FAILED", { name: shown(name), header: text });
}

function check(conditions: ConditionHeaders, name: ObjectName, row: ObjectRow | undefined): void {
  const failed = failedPrecondition(conditions, row);
  if (failed !== undefined) throw preconditionFailed(failed, name);
}

function contended(name: ObjectName): FarloomError {
  return new FarloomError("OVERLOADED", { detail: `too many write ${shown(name)} at once` });
}
