/**
 * The thread that writes small payloads: everything that waits for the disk, with plain calls in a row, and for
 * many payloads each time it is woken. A call of fs/promises costs two wake-ups; ten of them for each file would cost
 * more than the file.
 *
 *   D1  A file under its final name is whole, has that digest, and is on disk: it is written under another name,
 *       synced and renamed; its folder is synced before the reply.
 *   D2  Files of one list share the syncs of their folders, and mostly one commit of the file system's journal.
 *   D3  One job's failure is its own.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fdatasyncSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { type DiskJob, type DiskReply, type DiskThreadData, TEMP_FOLDER } from "./disk-jobs.js";
import { wholePages } from "./staging.js";

/** Below this the page cache is no dearer than going around it. */
const DIRECT_MIN_BYTES = 32 * 1024;
/** A temporary file that nobody wrote to for so long was left by a process that was killed. */
const ABANDONED_MS = 60 * 60_000;
const MAX_KNOWN_FOLDERS = 100_000;

const { root, shared } = workerData as DiskThreadData;
const tempFolder = join(root, TEMP_FOLDER);
/** Folders that are on disk. */
const folders = new Set<string>();
/** Written around the page cache: filling new pages of it costs more than the disk does. Not every file system can. */
let direct = (constants.O_DIRECT as number | undefined) ?? 0;

interface Written {
  readonly at: number;
  readonly temp: string;
  readonly path: string;
  fd: number | undefined;
}

function run(jobs: readonly DiskJob[]): DiskReply[] {
  const replies: DiskReply[] = jobs.map(() => ({}));
  const attempt = (at: number, work: () => void): boolean => {
    try {
      work();
      return true;
    } catch (error) {
      replies[at] = { error: error as Error };
      return false;
    }
  };
  let files: Written[] = [];
  jobs.forEach((job, at) => {
    attempt(at, () => {
      if (job.kind === "read") return read(job);
      if (job.kind === "settle")
        return void files.push({ at, temp: job.temp, path: job.path, fd: undefined });
      const bytes = Buffer.from(shared, job.offset, job.sizeBytes);
      const actualHex = createHash("sha256").update(bytes).digest("hex");
      if (actualHex !== job.hex) replies[at] = { actualHex };
      else files.push({ at, path: job.path, ...write(job) });
    });
  });
  files = files.filter((file) => attempt(file.at, () => name(file)) || drop(file));
  const synced = new Map<string, Error | undefined>();
  for (const { at, path } of files) {
    const folder = dirname(path);
    if (!synced.has(folder)) synced.set(folder, syncFolder(folder));
    const error = synced.get(folder);
    if (error) replies[at] = { error };
  }
  return replies;
}

function read({ offset, sizeBytes, path }: DiskJob & { kind: "read" }): void {
  const fd = openSync(path, "r");
  try {
    const bytes = Buffer.from(shared, offset, sizeBytes);
    for (let done = 0; done < sizeBytes; ) {
      const n = readSync(fd, bytes, done, sizeBytes - done, done);
      if (n === 0) throw new Error(`${path} is shorter than ${sizeBytes} bytes`);
      done += n;
    }
  } finally {
    closeSync(fd);
  }
}

/** The bytes in a new temporary file, not yet synced. */
function write({ offset, sizeBytes }: DiskJob & { kind: "write" }): { temp: string; fd: number } {
  const temp = join(tempFolder, randomBytes(12).toString("hex"));
  const { O_WRONLY, O_CREAT, O_EXCL } = constants;
  const flags = O_WRONLY | O_CREAT | O_EXCL;
  const goDirect = direct !== 0 && sizeBytes >= DIRECT_MIN_BYTES;
  let fd: number | undefined;
  try {
    if (goDirect) {
      try {
        fd = openSync(temp, flags | direct, 0o600);
        const pages = wholePages(sizeBytes);
        // The rest of the last page belongs to nobody: not even for a moment is another payload's end on disk.
        Buffer.from(shared, offset + sizeBytes, pages - sizeBytes).fill(0);
        writeAll(fd, offset, pages);
        ftruncateSync(fd, sizeBytes);
        return { temp, fd };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EINVAL") throw error;
        direct = 0;
        if (fd !== undefined) closeSync(fd);
        fd = undefined;
        rmSync(temp, { force: true });
      }
    }
    fd = openSync(temp, flags, 0o600);
    writeAll(fd, offset, sizeBytes);
    return { temp, fd };
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    rmSync(temp, { force: true });
    throw error;
  }
}

/** A short write happens when the disk is nearly full; the rest then fails with the reason. */
function writeAll(fd: number, offset: number, sizeBytes: number): void {
  const bytes = Buffer.from(shared, offset, sizeBytes);
  for (let at = 0; at < sizeBytes; ) at += writeSync(fd, bytes, at, sizeBytes - at);
}

/** Synced, and only then under its final name (D1). */
function name(file: Written): void {
  if (file.fd !== undefined) {
    fdatasyncSync(file.fd);
    closeSync(file.fd);
    file.fd = undefined;
  }
  const folder = dirname(file.path);
  if (!folders.has(folder)) makeFolder(folder);
  try {
    renameSync(file.temp, file.path);
  } catch (error) {
    folders.delete(folder);
    throw error;
  }
}

function drop(file: Written): false {
  if (file.fd !== undefined) closeSync(file.fd);
  rmSync(file.temp, { force: true });
  return false;
}

/** Makes a folder that survives a crash together with the files in it. */
function makeFolder(path: string): void {
  const first = mkdirSync(path, { recursive: true, mode: 0o700 });
  if (first !== undefined) {
    for (let at = path; at.length >= first.length; at = dirname(at)) {
      const error = syncFolder(dirname(at));
      if (error) throw error;
    }
  }
  if (folders.size >= MAX_KNOWN_FOLDERS) folders.clear();
  folders.add(path);
}

function syncFolder(path: string): Error | undefined {
  try {
    const fd = openSync(path, "r");
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

/** What a killed process left half-written. Another replica may be writing here now: its files are young. */
function sweepAbandoned(): void {
  for (const entry of readdirSync(tempFolder)) {
    const path = join(tempFolder, entry);
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat && Date.now() - stat.mtimeMs > ABANDONED_MS) rmSync(path, { force: true });
  }
}

makeFolder(tempFolder);
sweepAbandoned();
parentPort!.on("message", (jobs: DiskJob[]) => parentPort!.postMessage(run(jobs)));
