/**
 * Names of objects. A key is text, never a path: the bytes lie under a random id. What is refused would be read as
 * another name on its way (a proxy folds `a/../b`), or cannot be written down (control characters).
 */
import { FarloomError, limits } from "@farloom/protocol";

export interface ObjectName {
  readonly bucket: string;
  readonly key: string;
  /** The key in UTF-8, by which it is kept and sorted. */
  readonly keyBytes: Buffer;
}

export const BUCKET_PATTERN = "^[a-z0-9][a-z0-9._-]{0,62}$";
const BUCKET = new RegExp(BUCKET_PATTERN);
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const CONTROL = /[\u0000-\u001f\u007f]/;

/** @throws FarloomError OBJECT_NAME_INVALID */
export function objectName(bucket: string, key: string): ObjectName {
  checkBucket(bucket);
  if (key === "") throw invalid("the key is empty");
  return { bucket, key, keyBytes: keyBytesOf(key) };
}

/** @throws FarloomError OBJECT_NAME_INVALID */
export function checkBucket(bucket: string): void {
  if (!BUCKET.test(bucket))
    throw invalid(
      "a bucket has 1 to 63 lower-case letters, digits and . _ -, and begins with one of the first two",
    );
}

/** A key, or the beginning of keys, in UTF-8. @throws FarloomError OBJECT_NAME_INVALID */
export function keyBytesOf(key: string): Buffer {
  const bytes = Buffer.from(key, "utf8");
  if (bytes.length > limits.MAX_OBJECT_KEY_BYTES)
    throw invalid(`the key has ${bytes.length} bytes in UTF-8, at most ${limits.MAX_OBJECT_KEY_BYTES}`);
  if (!key.isWellFormed()) throw invalid("the key is no Unicode text");
  if (CONTROL.test(key)) throw invalid("the key has a control character");
  if (key.split("/").some((part) => part === "." || part === ".."))
    throw invalid("a part of the key is . or .., which proxies fold away");
  return bytes;
}

/** The first byte string behind all that begin with `prefix`; undefined where there is none: the empty prefix. */
export function afterPrefix(prefix: Buffer): Buffer | undefined {
  // The last byte of UTF-8 is never 255.
  if (prefix.length === 0) return undefined;
  const after = Buffer.from(prefix);
  after[after.length - 1]! += 1;
  return after;
}

/** For messages: long keys are cut. */
export function shown({ bucket, key }: { bucket: string; key: string }): string {
  return `${bucket}/${key.length > 200 ? `${key.slice(0, 199)}…` : key}`;
}

function invalid(detail: string): FarloomError {
  return new FarloomError("OBJECT_NAME_INVALID", { detail });
}
