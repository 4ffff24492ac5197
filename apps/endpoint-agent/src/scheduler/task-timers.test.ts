import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { HeldTask } from "./held-task.js";
import { TaskTimers } from "./task-timers.js";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const task = {} as HeldTask;
const DAY_MS = 24 * 3_600_000;

it("a limit of more days than one timer takes expires when it is over, and not before", () => {
  const expired: HeldTask[] = [];
  const timers = new TaskTimers(
    () => 30 * DAY_MS,
    (which) => expired.push(which),
  );
  timers.arm(task);
  vi.advanceTimersByTime(30 * DAY_MS - 1);
  expect(expired).toEqual([]);
  vi.advanceTimersByTime(1);
  expect(expired).toEqual([task]);
});

it("a task that has ended has no time limit any more, and 0 stands for none", () => {
  const expired: HeldTask[] = [];
  const timers = new TaskTimers(
    () => 1_000,
    (which) => expired.push(which),
  );
  timers.arm(task);
  timers.disarm([task]);
  const none = new TaskTimers(
    () => 0,
    (which) => expired.push(which),
  );
  none.arm(task);
  vi.advanceTimersByTime(DAY_MS);
  expect(expired).toEqual([]);
});
