/** A batch's place in its stream: put into encoded frames, and held against what came. */
import { describe, expect, it } from "vitest";
import { decodeFrame, encodeFrame } from "../codec/codec.js";
import { FRAMES_UP, type ResultsFrame } from "./frames.js";
import { misplaced, withPosition } from "./position.js";

const SHORT: ResultsFrame = {
  t: "results",
  n: 1,
  ids: Buffer.alloc(16, 1),
  codecs: 1,
  ends: Buffer.alloc(4),
  data: Buffer.alloc(0),
  states: 1,
};
const LONG: ResultsFrame = {
  ...SHORT,
  attempts: Buffer.alloc(4, 1),
  fences: 65_537,
  seals: Buffer.alloc(32),
  reasons: Buffer.alloc(1),
  queueUs: Buffer.alloc(4),
  runUs: Buffer.alloc(4),
  cpuUs: Buffer.alloc(4),
  peakKb: Buffer.alloc(4),
  held: Buffer.alloc(1),
};

describe("the position of a batch", () => {
  it.each([SHORT, LONG, { ...LONG, held: undefined }])(
    "is added to an encoded frame, and nothing else changes",
    (frame) => {
      for (const first of [1, 4_096, 2 ** 32, 2 ** 40]) {
        const decoded = decodeFrame(withPosition(encodeFrame(frame), first), FRAMES_UP.agent);
        const said = Object.fromEntries(Object.entries(frame).filter(([, value]) => value !== undefined));
        expect(decoded).toEqual({ ok: true, frame: { ...said, first } });
      }
    },
  );

  it("is wrong for a batch that came twice, too early or too late", () => {
    expect(misplaced(11, 10)).toBeUndefined();
    expect(misplaced(undefined, 10)).toBeUndefined();
    for (const first of [1, 10, 12]) expect(misplaced(first, 10)).toBeTypeOf("string");
  });
});
