import { buildResults, CODECS } from "@farloom/protocol";
import { expect, it } from "vitest";
import type { HeldTask } from "../scheduler/held-task.js";
import { KeptResults } from "./kept-results.js";

const task = (key: string, sizeBytes = 0): HeldTask => {
  const source = Buffer.alloc(sizeBytes);
  const times = { queueUs: 0, runUs: 0, cpuUs: 0, peakKb: 0 };
  const item = {
    key,
    codec: CODECS.json,
    attempt: 1,
    state: 1,
    reason: 0,
    detail: undefined,
    source,
    start: 0,
  };
  const frame = buildResults([{ ...item, ...times, end: sizeBytes }], 0, 1);
  return { key, sizeBytes: 0, result: { frame, index: 0 } } as unknown as HeldTask;
};
const keys = (tasks: readonly HeldTask[]) => tasks.map((t) => t.key);

it("kept results go when their time is over, the oldest first", () => {
  const kept = new KeptResults({ most: 10, mostBytes: 1e6, keepMs: 100 });
  kept.add(task("a"), 0);
  kept.add(task("b"), 50);
  expect(kept.nextExpiryMs).toBe(100);
  expect(keys(kept.expire(100))).toEqual(["a"]);
  expect(kept.nextExpiryMs).toBe(150);
  expect(kept.take("b")?.key).toBe("b");
  expect(kept.nextExpiryMs).toBeUndefined();
});

it("kept results are bounded in number and in bytes", () => {
  const many = new KeptResults({ most: 2, mostBytes: 1e6, keepMs: 100 });
  for (const key of ["a", "b", "c"]) many.add(task(key), 0);
  expect(keys(many.expire(0))).toEqual(["a"]);
  const large = new KeptResults({ most: 10, mostBytes: 3000, keepMs: 100 });
  for (const key of ["a", "b", "c"]) large.add(task(key, 1000), 0);
  expect(keys(large.expire(0))).toEqual(["a"]);
});
