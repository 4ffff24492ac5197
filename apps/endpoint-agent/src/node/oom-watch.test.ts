import { describe, expect, it } from "vitest";
import { OomWatch } from "./oom-watch.js";

describe("the watch for kills by the kernel for lack of memory", () => {
  it("tells a rise since a look that is at least a second old, and tells it once", () => {
    let count = 5;
    const watch = new OomWatch(() => count);
    const now = performance.now();
    count = 6;
    // The look comes between the kill and the news of the death.
    watch.look(now + 1_500);
    expect(watch.rose()).toBe(true);
    expect(watch.rose()).toBe(false);
  });

  it("does not take a kill of long ago for one of now", () => {
    let count = 5;
    const watch = new OomWatch(() => count);
    const now = performance.now();
    count = 6;
    for (let i = 2; i < 5; i++) watch.look(now + i * 1_000);
    expect(watch.rose()).toBe(false);
  });

  it("claims nothing where the machine does not tell", () => {
    const watch = new OomWatch(() => undefined);
    expect(watch.isKnown).toBe(false);
    expect(watch.rose()).toBe(false);
  });
});
