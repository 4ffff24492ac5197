import { TaskIdAllocator } from "@farloom/protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EndedLately } from "./ended-lately.js";

const ids = new TaskIdAllocator();

describe("what ended lately", () => {
  it("is remembered back to where it says, and at least fifteen seconds", () => {
    const step = fc.nat({ max: 9_000 });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let now = 1_000;
        const lately = new EndedLately(() => now);
        const ended: { key: string; atMs: number }[] = [];
        for (const ms of steps) {
          now += ms;
          const key = ids.next();
          lately.add(key);
          ended.push({ key, atMs: now });
          for (const { key, atMs } of ended) if (atMs >= lately.sinceMs) expect(lately.has(key)).toBe(true);
          expect(lately.sinceMs).toBeLessThanOrEqual(Math.max(1_000, now - 15_000));
        }
      }),
    );
  });

  it("is bounded, and says that it reaches back less far", () => {
    let now = 0;
    const lately = new EndedLately(() => now);
    const first = ids.next();
    lately.add(first);
    for (let i = 0; i < 600_000; i++) {
      now += 0.001;
      lately.add(`${i}`);
    }
    expect(lately.has(first)).toBe(false);
    expect(lately.sinceMs).toBeGreaterThan(200);
    expect(lately.has("599999")).toBe(true);
  });
});
