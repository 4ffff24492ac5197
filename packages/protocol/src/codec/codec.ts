/**
 * Frames to bytes and back. `decodeFrame` never throws: what is wrong with the bytes comes back as a value
 * (P2, P3), because malformed input is an expected event at an open port and not a bug.
 */
import { Packr, Unpackr } from "msgpackr";
import type { ErrorCode } from "../errors/catalogue.js";
import type { Frame, FrameKind } from "../frames/frames.js";
import { checkFrame } from "../frames/validate.js";
import { MAX_FRAME_BYTES, MAX_FRAME_DEPTH, MAX_FRAME_ELEMENTS } from "../limits.js";
import { guardMessagePack } from "./guard.js";

const packr = new Packr({ useRecords: false, variableMapSize: true, encodeUndefinedAsNil: true });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: "number" });

export type DecodeFailure = {
  readonly ok: false;
  /** FRAME_UNKNOWN is answered and ignored; the others end the connection. */
  readonly code: Extract<ErrorCode, "FRAME_INVALID" | "FRAME_UNKNOWN" | "FRAME_TOO_LARGE">;
  readonly reason: string;
};
export type Decoded<F extends Frame = Frame> = { readonly ok: true; readonly frame: F } | DecodeFailure;

/** One frame as MessagePack. The frame is ours, so it is trusted to be well-formed. */
export function encodeFrame(frame: Frame): Buffer {
  return packr.encode(frame);
}

/**
 * One frame from bytes, if it is one of `kinds`. Byte strings of the result are views of `bytes`: the
 * caller must not reuse the buffer.
 */
export function decodeFrame<K extends FrameKind>(
  bytes: Buffer,
  kinds: ReadonlySet<K>,
): Decoded<Extract<Frame, { t: K }>> {
  const value = decodeBounded(bytes, {
    maxBytes: MAX_FRAME_BYTES,
    maxDepth: MAX_FRAME_DEPTH,
    maxElements: MAX_FRAME_ELEMENTS,
  });
  if (!value.ok)
    return { ok: false, code: value.tooLarge ? "FRAME_TOO_LARGE" : "FRAME_INVALID", reason: value.reason };
  return checkFrame(value.value, kinds);
}

export interface BoundedLimits {
  readonly maxBytes: number;
  readonly maxDepth: number;
  readonly maxElements: number;
}

/** Any MessagePack value within bounds, for REST bodies in MessagePack. */
export function decodeBounded(
  bytes: Buffer,
  limits: BoundedLimits,
): { ok: true; value: unknown } | { ok: false; tooLarge: boolean; reason: string } {
  if (bytes.length > limits.maxBytes) {
    return { ok: false, tooLarge: true, reason: `${bytes.length} bytes, at most ${limits.maxBytes}` };
  }
  const bad = guardMessagePack(bytes, limits);
  if (bad !== undefined) return { ok: false, tooLarge: false, reason: `not one MessagePack value: ${bad}` };
  try {
    return { ok: true, value: unpackr.decode(bytes) };
  } catch (error) {
    return { ok: false, tooLarge: false, reason: `not MessagePack: ${(error as Error).message}` };
  }
}

/** Any value as MessagePack. */
export function encodeValue(value: unknown): Buffer {
  return packr.encode(value);
}
