/** Large arguments and results: files named by their SHA-256 in the agent's payload folder. */
import { createHash } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CODEC_REFERENCE, decodeReference, encodeReference, limits } from "@farloom/protocol";
import { corrupt, Failure } from "./failure.js";

let temporaries = 0;

/** The bytes that a reference stands for. */
export function readPayload(reference: Buffer, path: string | undefined): Buffer {
  try {
    if (path === undefined) throw new Error("no path came with the reference");
    const bytes = readFileSync(path);
    const wanted = decodeReference(reference);
    if (bytes.length !== wanted?.sizeBytes) throw new Error("it has the wrong size");
    if (!createHash("sha256").update(bytes).digest().equals(wanted.digest)) {
      // Another try fetches it anew. In a sandbox the node manager sees to that.
      try {
        rmSync(path);
      } catch {}
      throw corrupt();
    }
    return bytes;
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure(
      "payload_missing",
      "PayloadMissing",
      `the arguments' payload file: ${(error as Error).message}`,
    );
  }
}

/** A large result becomes a file, and its reference travels. */
export function spill(
  codec: number,
  bytes: Buffer,
  folder: string,
  worker: string,
): { codec: number; data: Buffer } {
  if (bytes.length <= limits.MAX_INLINE_BYTES) return { codec, data: bytes };
  if (bytes.length > limits.MAX_PAYLOAD_BYTES) {
    throw new Failure(
      "result_too_large",
      "ResultTooLarge",
      `the result has ${bytes.length} bytes, at most ${limits.MAX_PAYLOAD_BYTES}. Split it, or write it to a file and return its path`,
    );
  }
  const digest = createHash("sha256").update(bytes).digest();
  const temporary = join(folder, `tmp-${worker}-${process.pid}-${++temporaries}`);
  try {
    writeFileSync(temporary, bytes, { mode: 0o600 });
    renameSync(temporary, join(folder, digest.toString("hex")));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new Failure(
      "environment",
      "StorageError",
      `the result cannot be stored: ${(error as Error).message}`,
    );
  }
  return { codec: codec | CODEC_REFERENCE, data: encodeReference(digest, bytes.length) };
}
