/** Bytes between Prisma, which speaks Uint8Array, and the rest of us, who speak Buffer. Nothing is copied. */

/** What Prisma read, as a Buffer on the same memory. */
export function toBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A Buffer for Prisma. Our buffers are never backed by shared memory, which is all that the types doubt. */
export function fromBuffer(buffer: Buffer): Uint8Array<ArrayBuffer> {
  return buffer as unknown as Uint8Array<ArrayBuffer>;
}
