/**
 * How much work goes ahead to a worker, and how much the node manager asks for. Pure numbers.
 *
 * A worker must never wait for the next task while the node manager hears of the last one, so it gets some
 * milliseconds of work ahead: hundreds of no-ops, or one long task and nothing behind it. What is behind a
 * task that turns out long is asked back (`cancel` on the control connection).
 */
import type { FunctionRecord } from "./node-task.js";

/** Work ahead of a worker. A scheduling hiccup of Linux or a garbage collection is shorter. */
export const AHEAD_US = 8_000;
/** Tasks held by one worker, at most: bounds its memory and what goes back when it dies. */
export const MAX_HELD = 512;
/** Argument bytes held by one worker, at most (one task may overdraw). */
export const MAX_HELD_BYTES = 4 * 1024 * 1024;
/** What the link itself costs for a task: no call is planned shorter. */
const FLOOR_US = 4;
/** Credit before anything was measured. */
const FIRST_WINDOW_PER_WORKER = 32;

/** What one more call of a function is planned to take. A function never seen takes a worker for itself. */
export function plannedUs(fn: FunctionRecord): number {
  return fn.costUs ?? AHEAD_US;
}

/** Learns from one call: rises fast and falls slowly, as underestimating puts tasks behind a long one. */
export function learn(fn: FunctionRecord, runUs: number): void {
  const cost = Math.max(FLOOR_US, runUs + FLOOR_US);
  if (fn.costUs === undefined) fn.costUs = cost;
  else fn.costUs += (cost - fn.costUs) / (cost > fn.costUs ? 2 : 8);
}

/** How many tasks the node manager wants to have, for all workers together: twice what goes ahead, and a few. */
export function windowFor(workers: number, typicalUs: number | undefined): number {
  if (typicalUs === undefined) return workers * FIRST_WINDOW_PER_WORKER;
  const ahead = Math.max(1, Math.min(MAX_HELD, Math.floor(AHEAD_US / typicalUs)));
  return workers * (2 * ahead) + 2;
}
