import { expect, it } from "vitest";
import { SharedLook } from "./shared-look.js";

/** A look that ends when it is let go, and counts. */
function counted(options: { maxAgeMs: number; minGapMs: number }) {
  const waiting: (() => void)[] = [];
  let count = 0;
  const shared = new SharedLook({
    ...options,
    look: () => {
      const n = ++count;
      return new Promise<number>((resolve) => waiting.push(() => resolve(n)));
    },
  });
  const letGo = async () => {
    await expect.poll(() => waiting.length).toBeGreaterThan(0);
    waiting.shift()!();
  };
  return { shared, letGo, count: () => count };
}

it("whoever asks while a look is under way, or within its age, gets that one", async () => {
  const { shared, letGo, count } = counted({ maxAgeMs: 60_000, minGapMs: 0 });
  const asked = Promise.all([shared.get(), shared.get(), shared.get()]);
  await letGo();
  expect(await asked).toEqual([1, 1, 1]);
  expect(await shared.get()).toBe(1);
  expect(count()).toBe(1);
});

it("what is asked for fresh began after the asking; many who ask share it", async () => {
  const { shared, letGo, count } = counted({ maxAgeMs: 60_000, minGapMs: 0 });
  const first = shared.get();
  const fresh = Promise.all([shared.get(true), shared.get(true)]);
  await letGo();
  expect(await first).toBe(1);
  await letGo();
  expect(await fresh).toEqual([2, 2]);
  const later = shared.get(true);
  await letGo();
  expect(await later).toBe(3);
  expect(count()).toBe(3);
});

it("what was looked at before something changed is told to nobody, and looks keep their distance", async () => {
  const { shared, letGo, count } = counted({ maxAgeMs: 60_000, minGapMs: 300 });
  const first = shared.get();
  shared.forget();
  const second = shared.get();
  await letGo();
  expect(await first).toBe(1);
  const endedAtMs = performance.now();
  await letGo();
  expect(await second).toBe(2);
  expect(performance.now() - endedAtMs).toBeGreaterThan(290);
  expect(await shared.get()).toBe(2);
  expect(count()).toBe(2);
});
