import { describe, expect, it } from "vitest";
import { decodeFrame, encodeFrame } from "../codec/codec.js";
import { TaskIdAllocator } from "../ids.js";
import { ByteBudget } from "../link/byte-budget.js";
import type { OutputFrame } from "./frames.js";
import { buildOutput, checkOutput, type OutputPiece, piecesOf } from "./output.js";

const ids = new TaskIdAllocator();
const pieces: OutputPiece[] = [
  { key: ids.next(), attempt: 1, stream: 1, at: 0, data: Buffer.from("\u001b[1mfett\u001b[0m\n") },
  { key: ids.next(), attempt: 70_000, stream: 2, at: 2 ** 40 + 3, data: Buffer.from([0, 255, 128]) },
];

describe("the frame of live output", () => {
  it("gives back the pieces that it was built of, over the wire", () => {
    const decoded = decodeFrame(encodeFrame(buildOutput(pieces)), new Set(["output"] as const));
    if (!decoded.ok) throw new Error(decoded.reason);
    expect(piecesOf(decoded.frame)).toEqual(pieces);
  });

  const bad: readonly [string, (frame: OutputFrame) => Partial<OutputFrame>][] = [
    ["no piece", () => ({ n: 0 })],
    ["a short column", ({ at }) => ({ at: at.subarray(8) })],
    ["an empty piece", () => ({ ends: Buffer.from([0, 0, 0, 0, 1, 0, 0, 0]) })],
    ["an end beyond the bytes", ({ data }) => ({ data: data.subarray(1) })],
    ["a stream that there is not", () => ({ streams: Buffer.from([1, 3]) })],
    ["attempt 0", () => ({ attempts: Buffer.alloc(8) })],
    ["a position that is not exact", () => ({ at: Buffer.alloc(16, 255) })],
  ];
  it.each(bad)("with %s is refused", (_what, change) => {
    const frame = buildOutput(pieces);
    expect(checkOutput(frame)).toBeUndefined();
    expect(checkOutput({ ...frame, ...change(frame) })).toBeTypeOf("string");
  });
});

describe("a budget of bytes", () => {
  it("gives a second's worth at once, and fills again with time, never above that", () => {
    let now = 0;
    const budget = new ByteBudget(1_000, () => now);
    expect([budget.take(600), budget.take(600), budget.take(400), budget.take(1)]).toEqual([
      true,
      false,
      true,
      false,
    ]);
    now = 500;
    expect([budget.take(501), budget.take(500)]).toEqual([false, true]);
    now = 1_000_000;
    expect([budget.take(1_000), budget.take(1)]).toEqual([true, false]);
  });
});
