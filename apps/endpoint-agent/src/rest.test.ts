/** The rule of rest: memory is given back when work has ended, and nothing ticks after that. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Rest } from "./rest.js";

describe("resting", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("waits until no work has come for a while, collects twice, and leaves no timer behind", () => {
    let collections = 0;
    const rest = new Rest(() => collections++);
    for (let second = 0; second < 20; second++) {
      rest.stir();
      vi.advanceTimersByTime(1_000);
    }
    expect(collections).toBe(0);
    vi.advanceTimersByTime(60_000);
    expect(collections).toBe(2);
    expect(vi.getTimerCount()).toBe(0);
    rest.stir();
    vi.advanceTimersByTime(60_000);
    expect(collections).toBe(4);
  });

  it("has no timer after close", () => {
    const rest = new Rest(() => undefined);
    rest.stir();
    rest.close();
    expect(vi.getTimerCount()).toBe(0);
  });
});
