import { describe, expect, it } from "vitest";
import { rangeOf } from "./range.js";

describe("rangeOf", () => {
  it.each([
    ["bytes=0-0", 10, { start: 0, end: 0 }],
    ["bytes=2-", 10, { start: 2, end: 9 }],
    ["bytes=-3", 10, { start: 7, end: 9 }],
    ["bytes=-30", 10, { start: 0, end: 9 }],
    ["bytes=5-99999999999999999999", 10, { start: 5, end: 9 }],
  ])("reads %j of %i bytes", (header, sizeBytes, range) => {
    expect(rangeOf(header, sizeBytes)).toEqual(range);
  });

  it.each(["bytes=10-", "bytes=4-2", "bytes=-0", "bytes=99999999999999999999-"])(
    "refuses %j of 10",
    (header) => {
      expect(rangeOf(header, 10)).toBe("invalid");
    },
  );

  it("refuses every range of nothing", () => {
    expect(rangeOf("bytes=0-", 0)).toBe("invalid");
    expect(rangeOf("bytes=-1", 0)).toBe("invalid");
  });

  it.each([undefined, "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes 1-2", "bytes=1-2-3", "bytes=a-b"])(
    "takes %j for no range at all",
    (header) => {
      expect(rangeOf(header, 10)).toBeUndefined();
    },
  );
});
