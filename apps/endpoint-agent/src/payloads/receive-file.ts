/**
 * A large payload file off its response: hashed and gathered in pieces, one of them written while the next comes in.
 * Bound: two pieces of memory.
 */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import type { Readable } from "node:stream";

const PIECE_BYTES = 512 * 1024;

/** Writes at most `sizeBytes` and one chunk more to `path`; the digest of what came. It is not synced. */
export async function receiveFile(response: Readable, path: string, sizeBytes: number): Promise<string> {
  const hash = createHash("sha256");
  const file = await open(path, "w", 0o600);
  let received = 0;
  let filled = 0;
  let piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
  let spare = Buffer.allocUnsafeSlow(PIECE_BYTES);
  let writing: Promise<void> = Promise.resolve();
  const write = async (): Promise<void> => {
    await writing;
    const full = piece.subarray(0, filled);
    [piece, spare] = [spare, piece];
    filled = 0;
    writing = writeAll(file, full);
    // It is awaited before the next one; until then its failure is nobody's.
    writing.catch(() => undefined);
  };
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      received += chunk.length;
      hash.update(chunk);
      // Too much of it is not what was asked for, whatever comes after.
      if (received > sizeBytes) break;
      for (let at = 0; at < chunk.length; ) {
        const n = chunk.copy(piece, filled, at);
        at += n;
        filled += n;
        if (filled === PIECE_BYTES) await write();
      }
    }
    if (filled > 0) await write();
    await writing;
    return hash.digest("hex");
  } finally {
    await writing.catch(() => undefined);
    await file.close();
  }
}

async function writeAll(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at);
    at += bytesWritten;
  }
}
