import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CreditWindow } from "./credit-window.js";

describe("the credit window", () => {
  it("grants the whole window at first, and then only when an eighth is free (W2)", () => {
    const w = new CreditWindow(64, 6400);
    expect(w.next(0, 0)).toEqual({ tasks: 64, bytes: 6400 });
    w.received(64, 64, 1);
    expect(w.next(57, 57)).toBeUndefined();
    expect(w.next(56, 56)).toMatchObject({ tasks: 72 });
  });

  it("never shrinks, and never lets more be held than the window (W1)", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 40 }),
        fc.array(fc.tuple(fc.nat(9), fc.nat(9))),
        (size, steps) => {
          const w = new CreditWindow(size, size * 10);
          let granted = 0;
          let received = 0;
          let held = 0;
          for (const [come, go] of steps) {
            const grant = w.next(held, held * 10);
            if (grant) {
              expect(grant.tasks).toBeGreaterThanOrEqual(granted);
              granted = grant.tasks;
            }
            const n = Math.min(come, granted - received);
            received += n;
            held += n;
            expect(w.received(n, n * 10, 10)).toBe(true);
            expect(held).toBeLessThanOrEqual(size);
            expect(held + granted - received).toBeLessThanOrEqual(size);
            held -= Math.min(held, go);
          }
          // One at a time, it never stalls.
          held = 0;
          granted = w.next(held, 0)?.tasks ?? granted;
          expect(granted - received).toBeGreaterThan(0);
        },
      ),
    );
  });

  it("sees when more came than was granted", () => {
    const w = new CreditWindow(4, 100);
    w.next(0, 0);
    expect(w.received(4, 100, 50)).toBe(true);
    expect(w.received(1, 1, 1)).toBe(false);
  });

  it("lets one task overdraw the bytes (P9)", () => {
    const w = new CreditWindow(10, 100);
    w.next(0, 0);
    expect(w.received(2, 150, 90)).toBe(true);
    w.restart();
    w.next(0, 0);
    expect(w.received(3, 250, 90)).toBe(false);
  });
});
