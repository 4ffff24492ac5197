/** The rules of what goes ahead to a worker. */
import { describe, expect, it } from "vitest";
import { AHEAD_US, learn, mayGoAhead, overdueMs, plannedUs } from "./depth.js";
import type { FunctionRecord } from "./node-task.js";

function record(): FunctionRecord {
  const digest = Buffer.alloc(32);
  return { digest, digestKey: "", definition: {} as never, laneName: "python:default", costUs: undefined };
}

/** How many tasks of one function a worker is sent before it answers. */
function depthOf(fn: FunctionRecord): number {
  let held = 0;
  while (held < 10_000 && mayGoAhead(held, held * plannedUs(fn), plannedUs(fn))) held++;
  return held;
}

describe("work ahead of a worker", () => {
  it("is two tasks of a function never seen, and of one that takes ten milliseconds", () => {
    const fn = record();
    expect(depthOf(fn)).toBe(2);
    learn(fn, 10_100);
    expect(depthOf(fn)).toBe(2);
  });

  it("is one task where a task takes more than a tenth of a second", () => {
    const fn = record();
    learn(fn, 150_000);
    expect(depthOf(fn)).toBe(1);
  });

  it("fills the time ahead with short tasks", () => {
    const fn = record();
    learn(fn, 96);
    expect(depthOf(fn)).toBe(AHEAD_US / 100);
  });

  it("is asked back from behind a head that has run twice as long as planned", () => {
    const fn = record();
    expect(overdueMs(fn)).toBe(20);
    learn(fn, 50_000);
    expect(Math.round(overdueMs(fn))).toBe(100);
  });
});
