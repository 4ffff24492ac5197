/**
 * Buffers for small transfers, used again: new memory costs a page fault for every 4 KiB of it, which is more
 * than the transfer itself.
 *
 * Bound: KEPT_BYTES when nothing is transferred.
 */

const KEPT_BYTES = 16 * 1024 * 1024;
const SMALLEST_BYTES = 128 * 1024;

export class BufferPool {
  readonly #free: Buffer[] = [];
  #freeBytes = 0;

  /** A buffer of at least this size, with anything in it. */
  take(sizeBytes: number): Buffer {
    for (let i = this.#free.length - 1; i >= 0; i--) {
      const buffer = this.#free[i]!;
      if (buffer.length < sizeBytes) continue;
      this.#free.splice(i, 1);
      this.#freeBytes -= buffer.length;
      return buffer;
    }
    let length = SMALLEST_BYTES;
    // Steps of an eighth: a megabyte with some JSON around it does not take two.
    while (length < sizeBytes) length += Math.max(SMALLEST_BYTES, length >>> 3);
    return Buffer.allocUnsafeSlow(length);
  }

  /** Nobody reads or writes it any more. */
  give(buffer: Buffer): void {
    if (this.#freeBytes + buffer.length > KEPT_BYTES) return;
    this.#free.push(buffer);
    this.#freeBytes += buffer.length;
  }
}
