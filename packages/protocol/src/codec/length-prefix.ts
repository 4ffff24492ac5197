/**
 * Frames on a byte stream (Unix sockets, TLS to a node): a u32 big-endian length, then the frame. Bytes are copied only
 * where a frame spans chunks.
 */
import { MAX_FRAME_BYTES } from "../limits.js";

/** The frame with its length in front. */
export function withLength(frame: Buffer): Buffer {
  const out = Buffer.allocUnsafe(4 + frame.length);
  out.writeUInt32BE(frame.length, 0);
  frame.copy(out, 4);
  return out;
}

/** Cuts a byte stream into frames. */
export class LengthPrefixReader {
  #chunks: Buffer[] = [];
  #buffered = 0;
  /** Lower for a peer that nobody knows yet. */
  maxFrameBytes = MAX_FRAME_BYTES;

  /** The frames that `chunk` completes, or the reason why the stream is not to be trusted any more. */
  push(chunk: Buffer): Buffer[] | { readonly bad: string } {
    let data = chunk;
    if (this.#buffered > 0) {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      if (this.#buffered < this.#needed()) return [];
      data = Buffer.concat(this.#chunks, this.#buffered);
      this.#chunks = [];
      this.#buffered = 0;
    }
    const frames: Buffer[] = [];
    let at = 0;
    while (data.length - at >= 4) {
      const size = data.readUInt32BE(at);
      if (size > this.maxFrameBytes)
        return { bad: `a frame of ${size} bytes, at most ${this.maxFrameBytes}` };
      if (data.length - at - 4 < size) break;
      frames.push(data.subarray(at + 4, at + 4 + size));
      at += 4 + size;
    }
    if (at < data.length) {
      this.#chunks = [data.subarray(at)];
      this.#buffered = data.length - at;
    }
    return frames;
  }

  /** Bytes that complete the frame at the front, as far as is known. */
  #needed(): number {
    const first = this.#chunks[0]!;
    if (first.length >= 4) return 4 + first.readUInt32BE(0);
    return this.#buffered >= 4 ? 4 + Buffer.concat(this.#chunks, 4).readUInt32BE(0) : 4;
  }
}
