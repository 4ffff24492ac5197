import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isDeeperThan } from "./json-depth.js";

/** The slow way, for comparison. */
function depthOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
}

describe("isDeeperThan", () => {
  it("agrees with what JSON.parse builds, for any value", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 8 }), (value) => {
        const text = Buffer.from(JSON.stringify(value));
        const depth = depthOf(JSON.parse(text.toString()));
        expect(isDeeperThan(text, depth)).toBe(false);
        if (depth > 0) expect(isDeeperThan(text, depth - 1)).toBe(true);
      }),
    );
  });

  it("does not count what stands in strings", () => {
    for (const text of ['"[[[["', '["\\"[[[["]', '["\\\\","[[["]', '{"[[[[":"{{{{"}', '["\\\\\\"[[["]']) {
      expect(isDeeperThan(Buffer.from(text), 1), text).toBe(false);
    }
  });

  it("ends on any bytes", () => {
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void isDeeperThan(Buffer.from(bytes), 4)));
    expect(isDeeperThan(Buffer.from('["never closed'), 0)).toBe(true);
    expect(isDeeperThan(Buffer.from('"never closed [[['), 0)).toBe(false);
  });
});
