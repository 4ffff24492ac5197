import { describe, expect, it } from "vitest";
import { decideRead, failedPrecondition, rangeApplies } from "./conditions.js";

const current = { digest: "ab", modifiedAt: new Date("2026-01-02T03:04:05.678Z") };
const SAME_SECOND = "Fri, 02 Jan 2026 03:04:05 GMT";
const BEFORE = "Fri, 02 Jan 2026 03:04:04 GMT";

describe("a write", () => {
  it.each([
    [{}, undefined],
    [{ "if-match": '"ab"' }, undefined],
    [{ "if-match": '"x", "ab"' }, undefined],
    [{ "if-match": "*" }, undefined],
    [{ "if-match": '"x"' }, "if-match"],
    [{ "if-match": 'W/"ab"' }, "if-match"],
    [{ "if-match": "ab" }, "if-match"],
    [{ "if-none-match": "*" }, "if-none-match"],
    [{ "if-none-match": '"ab"' }, "if-none-match"],
    [{ "if-none-match": 'W/"ab"' }, "if-none-match"],
    [{ "if-none-match": '"x"' }, undefined],
    [{ "if-unmodified-since": SAME_SECOND }, undefined],
    [{ "if-unmodified-since": BEFORE }, "if-unmodified-since"],
    [{ "if-unmodified-since": "nonsense" }, "if-unmodified-since"],
    [{ "if-match": '"ab"', "if-unmodified-since": BEFORE }, undefined],
  ])("over what is there, with %j, fails by %j", (headers, failed) => {
    expect(failedPrecondition(headers, current)).toBe(failed);
  });

  it.each([
    [{}, undefined],
    [{ "if-match": "*" }, "if-match"],
    [{ "if-match": '"ab"' }, "if-match"],
    [{ "if-none-match": "*" }, undefined],
    [{ "if-unmodified-since": BEFORE }, undefined],
  ])("where nothing is, with %j, fails by %j", (headers, failed) => {
    expect(failedPrecondition(headers, undefined)).toBe(failed);
  });
});

describe("a read", () => {
  it.each([
    [{}, "proceed"],
    [{ "if-none-match": '"ab"' }, "not_modified"],
    [{ "if-none-match": '"x"' }, "proceed"],
    [{ "if-modified-since": SAME_SECOND }, "not_modified"],
    [{ "if-modified-since": BEFORE }, "proceed"],
    [{ "if-modified-since": "nonsense" }, "proceed"],
    [{ "if-none-match": '"x"', "if-modified-since": SAME_SECOND }, "proceed"],
    [{ "if-match": '"x"' }, { failed: "if-match" }],
    [{ "if-match": '"x"', "if-none-match": '"ab"' }, { failed: "if-match" }],
    [{ "if-unmodified-since": BEFORE }, { failed: "if-unmodified-since" }],
  ])("with %j is answered by %j", (headers, decision) => {
    expect(decideRead(headers, current)).toEqual(decision);
  });
});

describe("a range", () => {
  it.each([
    [{}, true],
    [{ "if-range": '"ab"' }, true],
    [{ "if-range": '"x"' }, false],
    [{ "if-range": 'W/"ab"' }, false],
    [{ "if-range": SAME_SECOND }, true],
    [{ "if-range": BEFORE }, false],
    [{ "if-range": "nonsense" }, false],
  ])("with %j applies: %j", (headers, applies) => {
    expect(rangeApplies(headers, current)).toBe(applies);
  });
});
