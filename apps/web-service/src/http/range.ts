/** One range of RFC 9110, as a request's Range header asks for it of a body of `sizeBytes`. */

/** Both ends inclusive. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** Undefined where the whole is to be sent: several ranges and other units are ignored, as the standard allows. */
export function rangeOf(header: string | undefined, sizeBytes: number): ByteRange | "invalid" | undefined {
  const match = header === undefined ? null : /^bytes=(\d*)-(\d*)$/.exec(header);
  if (!match || (match[1] === "" && match[2] === "")) return undefined;
  const [first, last] = [match[1]!, match[2]!];
  if (first === "") {
    const length = Math.min(Number(last), sizeBytes);
    return length === 0 ? "invalid" : { start: sizeBytes - length, end: sizeBytes - 1 };
  }
  const start = Number(first);
  const end = last === "" ? sizeBytes - 1 : Math.min(Number(last), sizeBytes - 1);
  return start > end ? "invalid" : { start, end };
}
