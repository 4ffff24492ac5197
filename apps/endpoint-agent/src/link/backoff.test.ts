import { expect, it } from "vitest";
import { Backoff } from "./backoff.js";

it("doubles to a limit, jittered in its upper half, and begins anew only after reset", () => {
  const least = new Backoff(() => 0);
  const most = new Backoff(() => 1);
  expect([least.next(), least.next(), least.next()]).toEqual([100, 200, 400]);
  for (let i = 0; i < 40; i++) most.next();
  expect(most.next()).toBe(15_000);
  most.reset();
  expect(most.next()).toBe(200);
});

it("waits at least as long as the service asked for", () => {
  expect(new Backoff(() => 0).next(3000)).toBe(3100);
});
