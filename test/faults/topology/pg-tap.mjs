/**
 * Looks into what PostgreSQL answers, to lose exactly the reply that says a statement is committed: the worst moment
 * for a connection to break, as the one side knows and the other does not.
 *
 * The stream from the server is `type byte, length, rest` throughout; the one byte that answers a request for TLS
 * never comes, as nobody asks for it here.
 */
const COMMAND_COMPLETE = 0x43;

/** `count` replies are lost, the first at the `after`-th that fits; each ends its connection. */
export function loseCommits({ after = 1, count = 1, onLost = () => {} } = {}) {
  let seen = 0;
  let left = count;
  return (direction, pair) => {
    if (direction === "up") return undefined;
    // A connection that is in the middle of a message when the tap comes cannot be read: its first chunk decides.
    let rest = Buffer.alloc(0);
    let isLost = false;
    return (chunk) => {
      if (isLost) return undefined;
      const bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
      let at = 0;
      while (at + 5 <= bytes.length) {
        const length = bytes.readUInt32BE(at + 1);
        if (at + 1 + length > bytes.length) break;
        const tag = bytes.toString("latin1", at + 5, Math.min(at + 25, at + length));
        if (
          bytes[at] === COMMAND_COMPLETE &&
          /^(COMMIT|INSERT|UPDATE)/.test(tag) &&
          left > 0 &&
          ++seen >= after
        ) {
          left--;
          isLost = true;
          onLost(tag.replace(/\0.*/s, ""));
          pair.end(false);
          return undefined;
        }
        at += 1 + length;
      }
      rest = bytes.subarray(at);
      return chunk;
    };
  };
}
