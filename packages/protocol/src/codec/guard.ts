/**
 * Walks MessagePack bytes without building anything, and says whether they are one well-formed value within
 * the bounds of P2. Decoding comes after, so a decoder never meets deep nesting, a huge announced length,
 * an extension type or trailing bytes.
 */
export interface GuardLimits {
  readonly maxDepth: number;
  readonly maxElements: number;
}

/** Returns undefined where the bytes are good, or else the reason. */
export function guardMessagePack(bytes: Uint8Array, limits: GuardLimits): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length;
  // Elements still to read at each open level; a stack of our own, so depth costs no recursion.
  const open: number[] = [1];
  let at = 0;
  let elements = 0;

  while (open.length > 0) {
    if (open[open.length - 1] === 0) {
      open.pop();
      continue;
    }
    open[open.length - 1]!--;
    if (at >= size) return "truncated";
    const tag = bytes[at++]!;
    let skip = 0;
    let children = -1;

    if (tag <= 0x7f || tag >= 0xe0) skip = 0;
    else if (tag <= 0x8f) children = (tag & 0x0f) * 2;
    else if (tag <= 0x9f) children = tag & 0x0f;
    else if (tag <= 0xbf) skip = tag & 0x1f;
    else {
      const width = LENGTH_WIDTH[tag - 0xc0]!;
      if (width < 0) return "an extension or reserved type";
      if (at + width > size) return "truncated";
      const length =
        width === 0 ? 0 : width === 1 ? bytes[at]! : width === 2 ? view.getUint16(at) : view.getUint32(at);
      const kind = tag - 0xc0;
      if (kind >= 0x04 && kind <= 0x06)
        skip = width + length; // bin
      else if (kind >= 0x19 && kind <= 0x1b)
        skip = width + length; // str
      else if (kind === 0x1c || kind === 0x1d)
        children = length; // array
      else if (kind === 0x1e || kind === 0x1f)
        children = length * 2; // map
      else skip = FIXED_SIZE[kind]!;
      if (children >= 0) at += width;
    }

    if (children >= 0) {
      elements += children;
      if (elements > limits.maxElements) return `more than ${limits.maxElements} elements`;
      if (open.length > limits.maxDepth) return `nested more than ${limits.maxDepth} deep`;
      open.push(children);
    } else {
      at += skip;
      if (at > size) return "truncated";
    }
  }
  return at === size ? undefined : "bytes after the end";
}

// Tags 0xc0–0xdf: how many bytes hold the length; -1 refuses (0xc1, ext 8/16/32, fixext).
const LENGTH_WIDTH = [
  0, -1, 0, 0, 1, 2, 4, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, 1, 2, 4, 2, 4, 2, 4,
];
// Tags 0xca–0xd3 (floats and integers) and nil, false, true: bytes that follow.
const FIXED_SIZE: Record<number, number> = {
  0: 0,
  2: 0,
  3: 0,
  10: 4,
  11: 8,
  12: 1,
  13: 2,
  14: 4,
  15: 8,
  16: 1,
  17: 2,
  18: 4,
  19: 8,
}; // prettier-ignore
