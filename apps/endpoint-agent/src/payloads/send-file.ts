/**
 * A large payload file onto its request: one piece is read while the one before it is written, in two buffers that are
 * used over and over. Fresh ones for each piece would make the collector walk the whole heap for every 100 MB.
 */

import { open } from "node:fs/promises";
import type { ClientRequest } from "node:http";

const PIECE_BYTES = 512 * 1024;

/** Writes `sizeBytes` of the file and ends the request. Rejects where the file is shorter, or nobody takes them. */
export async function sendFile(request: ClientRequest, path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, "r");
  const pieces = [Buffer.allocUnsafeSlow(PIECE_BYTES), Buffer.allocUnsafeSlow(PIECE_BYTES)];
  const read = async (turn: number, at: number): Promise<Buffer> => {
    const piece = pieces[turn % 2]!.subarray(0, Math.min(PIECE_BYTES, sizeBytes - at));
    for (let filled = 0; filled < piece.length; ) {
      const { bytesRead } = await file.read(piece, filled, piece.length - filled, at + filled);
      if (bytesRead === 0) throw new Error(`${path} is shorter than ${sizeBytes} bytes`);
      filled += bytesRead;
    }
    return piece;
  };
  let next: Promise<Buffer> | undefined;
  try {
    let piece = await read(0, 0);
    for (let turn = 1, at = piece.length; ; turn++) {
      next = at < sizeBytes ? read(turn, at) : undefined;
      next?.catch(() => undefined);
      await written(request, piece);
      if (next === undefined) break;
      piece = await next;
      at += piece.length;
    }
    request.end();
  } finally {
    await next?.catch(() => undefined);
    await file.close();
  }
}

/** Resolves when the bytes are the kernel's, or the request is over: then its answer or its error says why. */
function written(request: ClientRequest, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    if (request.destroyed) return reject(new Error("the request is over"));
    const onClose = (): void => reject(new Error("the request is over"));
    request.once("close", onClose);
    request.write(bytes, (error) => {
      request.off("close", onClose);
      if (error) reject(error);
      else resolve();
    });
  });
}
