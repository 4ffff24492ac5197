/** Takes an upload's bytes off its request: into memory of the announced size, or through a file, hashed on the way. */
import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";

/** Silence in an upload after which it is given up. */
const IDLE_MS = 60_000;
/** Bytes gathered for one write: few trips to the thread pool, little memory for each upload, which has two of these. */
const WRITE_BYTES = 512 * 1024;
/** So much is handed to the disk while more comes in: the sync at the end then waits for the rest alone. */
const SYNC_AHEAD_BYTES = 16 * 1024 * 1024;

/** Fills `into` with exactly its length. @throws FarloomError REQUEST_INVALID */
export function gather(stream: Readable, into: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    let filled = 0;
    let isSettled = false;
    const idle = setTimeout(() => stream.destroy(silent()), IDLE_MS);
    const done = (error?: Error): void => {
      isSettled = true;
      clearTimeout(idle);
      if (error) reject(error);
      else resolve();
    };
    const ended = (): void =>
      done(filled === into.length ? undefined : cutOff(new Error(`${filled} of ${into.length} bytes came`)));
    if (stream.readableEnded) return ended();
    stream.on("data", (chunk: Buffer) => {
      idle.refresh();
      if (filled + chunk.length > into.length) {
        stream.destroy(new Error("more bytes came than were announced"));
        return;
      }
      chunk.copy(into, filled);
      filled += chunk.length;
    });
    stream.once("end", ended);
    stream.once("error", (error) => done(cutOff(error)));
    stream.once("close", () => {
      if (!isSettled) done(cutOff(new Error("the connection ended")));
    });
  });
}

/**
 * Writes the whole stream: one piece is hashed and gathered while the one before it is written, and what was written is
 * synced meanwhile. The caller syncs what is left. @throws FarloomError PAYLOAD_TOO_LARGE, REQUEST_INVALID */
export async function writeHashed(
  file: FileHandle,
  stream: Readable,
): Promise<{ digest: Buffer; sizeBytes: number }> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  // Chunks are copied together, so that they die young: kept for a while they would make the collector walk the
  // whole heap for every few uploads.
  let buffer = takeBuffer();
  let spare = takeBuffer();
  let filled = 0;
  let writing: Promise<void> = Promise.resolve();
  let syncing: Promise<void> | undefined;
  let syncAt = SYNC_AHEAD_BYTES;
  const write = async (): Promise<void> => {
    await writing;
    const full = buffer.subarray(0, filled);
    [buffer, spare] = [spare, buffer];
    filled = 0;
    writing = writeAll(file, full);
    // It is awaited before the next one; until then its failure is nobody's.
    writing.catch(() => undefined);
    if (sizeBytes < syncAt || syncing !== undefined) return;
    syncAt = sizeBytes + SYNC_AHEAD_BYTES;
    // A failure of it comes again at the end.
    syncing = file
      .datasync()
      .catch(() => undefined)
      .finally(() => {
        syncing = undefined;
      });
  };
  const idle = setTimeout(() => stream.destroy(silent()), IDLE_MS);
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
        if (filled === WRITE_BYTES) await write();
      }
    }
    if (filled > 0) await write();
    await writing;
  } catch (error) {
    if (error instanceof FarloomError || isDiskError(error)) throw error;
    throw cutOff(error as Error);
  } finally {
    clearTimeout(idle);
    // The file is closed next, and the buffers are another's: nothing may be under way.
    await writing.catch(() => undefined);
    await syncing;
    for (const free of [buffer, spare]) if (freeBuffers.length < MAX_FREE_BUFFERS) freeBuffers.push(free);
  }
  return { digest: hash.digest(), sizeBytes };
}

/** Reads to the end what is here already. */
export async function drain(stream: Readable): Promise<void> {
  for await (const _ of stream) {
    // Dropped.
  }
}

/** A short write happens when the disk is nearly full; the rest then fails with the reason. */
export async function writeAll(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at);
    at += bytesWritten;
  }
}

export function tooLarge(): FarloomError {
  return new FarloomError("PAYLOAD_TOO_LARGE", { limit: limits.MAX_PAYLOAD_BYTES });
}

/** Buffers of uploads that have ended, for the next ones. */
const freeBuffers: Buffer[] = [];
const MAX_FREE_BUFFERS = 16;

function takeBuffer(): Buffer {
  return freeBuffers.pop() ?? Buffer.allocUnsafeSlow(WRITE_BYTES);
}

/** A full or broken disk is our trouble, not the caller's. */
function isDiskError(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).syscall === "write";
}

function cutOff(cause: Error): FarloomError {
  return new FarloomError(
    "REQUEST_INVALID",
    { detail: `the upload was cut off (${cause.message})` },
    { cause },
  );
}

function silent(): Error {
  return new Error("no bytes came for a minute");
}
