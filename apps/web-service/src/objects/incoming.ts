/**
 * An upload's bytes on their way into a backend: counted, hashed and bounded, chunk by chunk, at the pace at which
 * the backend takes them. Nothing is gathered here.
 */
import { createHash } from "node:crypto";
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";

/** Silence in an upload after which it is given up. */
const IDLE_MS = 60_000;

export class Incoming implements AsyncIterable<Buffer> {
  sizeBytes = 0;
  readonly #stream: Readable;
  readonly #hash = createHash("sha256");
  #digest: Buffer | undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
  }

  /** The SHA-256 of all of it, once it has been read to its end. */
  get digest(): Buffer {
    this.#digest ??= this.#hash.digest();
    return this.#digest;
  }

  /** @throws FarloomError OBJECT_TOO_LARGE, REQUEST_INVALID (cut off) */
  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    const stream = this.#stream;
    const silence = () => stream.destroy(new Error("no bytes came for a minute"));
    let idle = setTimeout(silence, IDLE_MS);
    try {
      // After its end an iterator of the stream would wait for ever.
      if (stream.readableEnded) return;
      // The stream outlives a failure: its request still has to be answered.
      for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        clearTimeout(idle);
        this.sizeBytes += chunk.length;
        if (this.sizeBytes > limits.MAX_OBJECT_BYTES) throw tooLarge();
        this.#hash.update(chunk);
        // The time that the backend takes is not the sender's.
        yield chunk;
        idle = setTimeout(silence, IDLE_MS);
      }
    } catch (error) {
      if (error instanceof FarloomError) throw error;
      const detail = `the upload was cut off (${(error as Error).message})`;
      throw new FarloomError("REQUEST_INVALID", { detail }, { cause: error });
    } finally {
      clearTimeout(idle);
    }
  }
}

/** How long the rest of a refused upload is read, so that its sender gets to the answer. */
const LET_GO_MS = 10_000;

/** Reads and drops what still comes of an upload that is answered with an error; for a while, then it is cut. */
export function letGo(stream: Readable): void {
  if (stream.readableEnded || stream.destroyed) return;
  const cut = setTimeout(() => stream.destroy(), LET_GO_MS);
  stream.once("close", () => clearTimeout(cut));
  stream.on("error", () => {});
  stream.resume();
}

export function tooLarge(): FarloomError {
  return new FarloomError("OBJECT_TOO_LARGE", { limit: limits.MAX_OBJECT_BYTES });
}
