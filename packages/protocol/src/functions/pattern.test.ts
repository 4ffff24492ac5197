import { describe, expect, it } from "vitest";
import { checkFunctionPattern, functionMatcher } from "./pattern.js";

const id = "ab".repeat(32);
const fn = (ref: string | undefined, of = id) => ({ id: of, ref });

describe("a list of functions", () => {
  it("means an id and nothing else by an id", () => {
    const matches = functionMatcher([id]);
    expect(matches(fn("ann/simulate@1"))).toBe(true);
    expect(matches(fn(undefined))).toBe(true);
    expect(matches(fn("ann/simulate@1", "cd".repeat(32)))).toBe(false);
  });

  it("means every version by a name, and one by a name with a version", () => {
    expect(functionMatcher(["ann/simulate"])(fn("ann/simulate@7"))).toBe(true);
    expect(functionMatcher(["ann/simulate@7"])(fn("ann/simulate@7"))).toBe(true);
    expect(functionMatcher(["ann/simulate@7"])(fn("ann/simulate@70"))).toBe(false);
    expect(functionMatcher(["ann/simulate"])(fn("ann/simulate2@7"))).toBe(false);
    expect(functionMatcher(["ann/simulate"])(fn("bann/simulate@7"))).toBe(false);
  });

  it("reaches no other owner by a star, and takes a dot for a dot", () => {
    expect(functionMatcher(["ann/*"])(fn("ann/simulate@7"))).toBe(true);
    expect(functionMatcher(["ann*"])(fn("ann/simulate@7"))).toBe(false);
    expect(functionMatcher(["*/simulate"])(fn("bob/simulate@1"))).toBe(true);
    expect(functionMatcher(["ann/sim*"])(fn("ann/other@1"))).toBe(false);
    expect(functionMatcher(["ann/a.b"])(fn("ann/axb@1"))).toBe(false);
    expect(functionMatcher(["ann/a.b"])(fn("ann/a.b@1"))).toBe(true);
  });

  it("finds stars anywhere in a name, and many of them in no time", () => {
    expect(functionMatcher(["ann/a*c*e"])(fn("ann/abcde@1"))).toBe(true);
    expect(functionMatcher(["ann/a*c*c"])(fn("ann/abc@1"))).toBe(false);
    expect(functionMatcher(["ann/*ab"])(fn("ann/aab@1"))).toBe(true);
    const hostile = functionMatcher([`ann/${"a*".repeat(60)}b`]);
    const startedAt = performance.now();
    expect(hostile(fn(`ann/${"a".repeat(120)}@1`))).toBe(false);
    expect(performance.now() - startedAt).toBeLessThan(1_000);
  });

  it("means nothing where it is empty, or where nobody has told the function's name", () => {
    expect(functionMatcher([])(fn("ann/simulate@7"))).toBe(false);
    expect(functionMatcher(["*/*"])(fn(undefined))).toBe(false);
  });

  it("has entries that look like entries", () => {
    for (const good of [id, "ann/simulate", "ann/simulate@3", "*/*", "a.b-c/d_e*@*"]) {
      expect(checkFunctionPattern(good), good).toBeUndefined();
    }
    for (const bad of [
      "",
      "simulate",
      "a/b/c",
      "a/b@x",
      "a/b(c)",
      "a b/c",
      id.toUpperCase(),
      `${id}0`,
      "a/b@1@2",
    ]) {
      expect(checkFunctionPattern(bad), bad).toBeDefined();
    }
  });
});
