import { expect, it } from "vitest";
import { TokenBuckets } from "./token-buckets.js";

it("lets a minute's worth come at once, then as many as flow in, and says when the next may come", () => {
  const buckets = new TokenBuckets(60, 10);
  for (let i = 0; i < 60; i++) expect(buckets.take("a", 0)).toBe(0);
  expect(buckets.take("a", 0)).toBe(1_000);
  expect(buckets.take("a", 400)).toBe(600);
  expect(buckets.take("a", 1_000)).toBe(0);
  expect(buckets.take("a", 1_000)).toBe(1_000);
  // An hour's rest is worth a minute.
  for (let i = 0; i < 60; i++) expect(buckets.take("a", 3_600_000)).toBe(0);
  expect(buckets.take("a", 3_600_000)).toBe(1_000);
});

it("counts each key for itself, and no more keys than it may", () => {
  const buckets = new TokenBuckets(1, 2);
  for (const key of ["a", "b"]) expect(buckets.take(key, 0)).toBe(0);
  expect(buckets.take("a", 0)).toBeGreaterThan(0);
  expect(buckets.take("c", 0)).toBe(0);
  // b made room, as it was unused longest; a is remembered.
  expect(buckets.take("a", 0)).toBeGreaterThan(0);
  expect(buckets.take("b", 0)).toBe(0);
});

it("grants a rate of thousands in a second to the millisecond", () => {
  const buckets = new TokenBuckets(60_000, 10);
  let granted = 0;
  for (let ms = 0; ms < 120_000; ms++) for (let i = 0; i < 3; i++) if (buckets.take("a", ms) === 0) granted++;
  expect(granted).toBeGreaterThanOrEqual(179_999);
  expect(granted).toBeLessThanOrEqual(180_000);
});
