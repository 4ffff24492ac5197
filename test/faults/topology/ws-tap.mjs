/**
 * Garbles WebSocket messages on their way: whole ones twice, out of order, cut short, too large, or with other
 * bytes. What it makes are valid WebSocket frames, so it is Farloom's own protocol that has to notice.
 *
 * The HTTP part before the upgrade passes untouched; a connection that is already open when the tap comes is read
 * from the next chunk that begins with a frame's first byte, which holds for the small frames of a quiet link.
 */
const HEAD_END = Buffer.from("\r\n\r\n");
const BINARY = 0x82;
const OVERSIZE_BYTES = 9 * 1024 * 1024;

/** @typedef {"duplicate" | "reorder" | "truncate" | "malform" | "oversize" | "drop"} Garbling */

/**
 * @param {Garbling} how
 * @param {{every?: number, direction?: "up" | "down", random: {int(a: number, b: number): number}, onDone?: () => void}} options
 */
export function garble(how, { every = 5, direction: wanted, random, onDone = () => {} }) {
  return (direction) => {
    if (wanted !== undefined && direction !== wanted) return undefined;
    let rest = Buffer.alloc(0);
    let upgraded = false;
    let kept;
    let seen = 0;
    return (chunk) => {
      let bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
      const out = [];
      if (!upgraded) {
        const end = bytes.indexOf(HEAD_END);
        if (bytes[0] === BINARY) upgraded = true;
        else if (end < 0 || !isUpgrade(bytes, direction)) {
          rest = Buffer.alloc(0);
          return bytes;
        } else {
          upgraded = true;
          out.push(bytes.subarray(0, end + 4));
          bytes = bytes.subarray(end + 4);
        }
      }
      let frame = frameAt(bytes);
      while (frame !== undefined) {
        bytes = bytes.subarray(frame.length);
        if (frame[0] !== BINARY || ++seen % every !== 0) {
          out.push(frame);
          if (kept !== undefined) {
            out.push(kept);
            kept = undefined;
          }
        } else {
          onDone();
          if (how === "reorder") kept = frame;
          else out.push(...garbled(how, frame, random));
        }
        frame = frameAt(bytes);
      }
      rest = bytes;
      return out.length === 0 ? undefined : Buffer.concat(out);
    };
  };
}

function isUpgrade(bytes, direction) {
  const head = bytes.toString("latin1", 0, Math.min(bytes.length, 4_096));
  return direction === "up" ? /^GET .*\r\nupgrade: websocket/is.test(head) : head.startsWith("HTTP/1.1 101");
}

/** The first whole frame of the bytes, mask and all. */
function frameAt(bytes) {
  if (bytes.length < 2) return undefined;
  const { headBytes, bodyBytes } = layout(bytes);
  if (headBytes === undefined || bytes.length < headBytes + bodyBytes) return undefined;
  return bytes.subarray(0, headBytes + bodyBytes);
}

function layout(frame) {
  const short = frame[1] & 0x7f;
  const extra = short === 126 ? 2 : short === 127 ? 8 : 0;
  if (frame.length < 2 + extra) return {};
  const bodyBytes =
    extra === 0 ? short : extra === 2 ? frame.readUInt16BE(2) : Number(frame.readBigUInt64BE(2));
  const maskBytes = frame[1] & 0x80 ? 4 : 0;
  return { headBytes: 2 + extra + maskBytes, bodyBytes, maskAt: maskBytes > 0 ? 2 + extra : undefined };
}

function garbled(how, frame, random) {
  if (how === "duplicate") return [frame, frame];
  if (how === "drop") return [];
  const { headBytes, bodyBytes, maskAt } = layout(frame);
  const mask = maskAt === undefined ? Buffer.alloc(4) : frame.subarray(maskAt, maskAt + 4);
  const body = Buffer.from(frame.subarray(headBytes));
  for (let i = 0; i < body.length; i++) body[i] ^= mask[i & 3];
  if (how === "truncate")
    return [framed(body.subarray(0, random.int(0, Math.max(0, bodyBytes - 1))), mask, maskAt)];
  if (how === "oversize") return [framed(Buffer.alloc(OVERSIZE_BYTES, 0xc0), mask, maskAt)];
  // The kind of frame and its structure, not the opaque bytes behind: those are the seals' affair.
  for (let i = 0; i < 3 && body.length > 0; i++)
    body[random.int(0, Math.min(body.length, 24) - 1)] = random.int(0, 255);
  return [framed(body, mask, maskAt)];
}

function framed(body, mask, maskAt) {
  const head = Buffer.alloc(10);
  head[0] = BINARY;
  head[1] = 127 | (maskAt === undefined ? 0 : 0x80);
  head.writeBigUInt64BE(BigInt(body.length), 2);
  if (maskAt === undefined) return Buffer.concat([head, body]);
  const masked = Buffer.from(body);
  for (let i = 0; i < masked.length; i++) masked[i] ^= mask[i & 3];
  return Buffer.concat([head, mask, masked]);
}
