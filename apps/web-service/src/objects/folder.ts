/**
 * Blobs as files of one folder: `<root>/<aa>/<id>`, written in `<root>/tmp`.
 *
 *   1. A file under its final name is whole and on disk: it is synced, renamed, and its folder is synced.
 *   2. A failed write leaves nothing; one that was killed leaves a file in `tmp` that stops growing.
 *
 * An upload holds one buffer of 256 KiB, a download one of the same size.
 */
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { FarloomError } from "@farloom/protocol";
import type { ByteRange } from "../http/range.js";
import { writeAll } from "../payloads/upload.js";
import type { BlobBackend, BlobEntry } from "./backend.js";

const BUFFER_BYTES = 256 * 1024;
const PAGE_SIZE = 500;
const ID = /^[0-9a-f]{2}[0-9a-f-]{34}$/;

export class FolderBackend implements BlobBackend {
  readonly maxUploads = 64;
  readonly #root: string;
  readonly #temp: string;
  /** Folders that are on disk; 257 at most. */
  readonly #folders = new Map<string, Promise<void>>();

  constructor(root: string) {
    this.#root = root;
    this.#temp = join(root, "tmp");
  }

  async write(id: string, chunks: AsyncIterable<Buffer>): Promise<void> {
    const temp = join(this.#temp, id);
    let file: FileHandle | undefined;
    try {
      await this.#folder(this.#temp);
      file = await open(temp, "wx", 0o600);
      await fill(file, chunks);
      await file.datasync();
      await file.close();
      file = undefined;
      const folder = join(this.#root, id.slice(0, 2));
      await this.#folder(folder);
      await rename(temp, join(folder, id));
      await syncFolder(folder);
    } catch (error) {
      await file?.close().catch(() => {});
      await rm(temp, { force: true }).catch(() => {});
      await rm(this.#path(id), { force: true }).catch(() => {});
      throw told(error);
    }
  }

  async read(id: string, range: ByteRange | undefined): Promise<Readable | undefined> {
    try {
      // From here on the bytes can be read, whoever removes the file.
      const file = await open(this.#path(id), "r");
      return file.createReadStream({ highWaterMark: BUFFER_BYTES, ...range });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  async remove(id: string): Promise<void> {
    await rm(this.#path(id), { force: true });
  }

  async *list(): AsyncGenerator<readonly BlobEntry[]> {
    for (const folder of await names(this.#root)) {
      if (!/^[0-9a-f]{2}$/.test(folder)) continue;
      const ids = (await names(join(this.#root, folder))).filter((id) => ID.test(id));
      for (let at = 0; at < ids.length; at += PAGE_SIZE)
        yield ids
          .slice(at, at + PAGE_SIZE)
          .map((id) => ({ id, storedAtMs: () => touchedAtMs(this.#path(id)) }));
    }
  }

  async sweepUnfinished(beforeMs: number): Promise<number> {
    let removed = 0;
    for (const name of await names(this.#temp)) {
      const path = join(this.#temp, name);
      if (((await touchedAtMs(path)) ?? Number.POSITIVE_INFINITY) >= beforeMs) continue;
      await rm(path, { force: true });
      removed++;
    }
    return removed;
  }

  async close(): Promise<void> {}

  #path(id: string): string {
    return join(this.#root, id.slice(0, 2), id);
  }

  /** Makes a folder that survives a crash together with the files in it. */
  #folder(path: string): Promise<void> {
    let made = this.#folders.get(path);
    if (made === undefined) {
      made = (async () => {
        await mkdir(path, { recursive: true, mode: 0o700 });
        await syncFolder(this.#root);
      })();
      this.#folders.set(path, made);
      made.catch(() => this.#folders.delete(path));
    }
    return made;
  }
}

async function fill(file: FileHandle, chunks: AsyncIterable<Buffer>): Promise<void> {
  // Chunks of a socket are copied together: few trips to the thread pool.
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  let filled = 0;
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; ) {
      const n = chunk.copy(buffer, filled, at);
      at += n;
      filled += n;
      if (filled < BUFFER_BYTES) continue;
      await writeAll(file, buffer);
      filled = 0;
    }
  }
  if (filled > 0) await writeAll(file, buffer.subarray(0, filled));
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function names(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function touchedAtMs(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).mtimeMs;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function told(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOSPC" || code === "EDQUOT"
    ? new FarloomError("STORAGE_FULL", {}, { cause: error })
    : error;
}
