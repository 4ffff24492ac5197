/** How deep JSON text nests, read from its bytes before anything is built from them. */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Whether the text nests more than `maxDepth` arrays and objects. Never throws; the text need not be valid. */
export function isDeeperThan(text: Buffer, maxDepth: number): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const byte = text[i]!;
    if (byte === QUOTE) {
      i = endOfString(text, i + 1);
      if (i < 0) return false;
    } else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > maxDepth) return true;
    } else if (byte === 0x5d || byte === 0x7d) depth--;
  }
  return false;
}

/** Index of the quote that ends the string whose text begins at `from`; -1 where there is none. */
function endOfString(text: Buffer, from: number): number {
  let end = text.indexOf(QUOTE, from);
  while (end >= 0) {
    let backslashes = 0;
    while (end - backslashes > from && text[end - backslashes - 1] === BACKSLASH) backslashes++;
    if (backslashes % 2 === 0) return end;
    end = text.indexOf(QUOTE, end + 1);
  }
  return -1;
}
