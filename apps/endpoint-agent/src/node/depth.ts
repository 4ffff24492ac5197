/**
 * How much work goes ahead to a worker, and how much the node manager asks for. Pure numbers.
 *
 * A worker must never wait for the next task while the node manager hears of the last one: it has some
 * milliseconds of work ahead, hundreds of no-ops, and where one task is longer than that, one more behind the one
 * that runs. Only behind a task of more than a tenth of a second nothing waits: the round trip is nothing
 * against it. What is behind a task that turns out long is asked back (`cancel` on the control connection).
 */
import type { FunctionRecord } from "./node-task.js";

/** Work ahead of a worker. A scheduling hiccup of Linux or a garbage collection is shorter. */
export const AHEAD_US = 8_000;
/** Tasks held by one worker, at most: bounds its memory and what goes back when it dies. */
export const MAX_HELD = 512;
/** Argument bytes held by one worker, at most (one task may overdraw). */
export const MAX_HELD_BYTES = 4 * 1024 * 1024;
/** Behind a task that is planned to take longer, nothing goes ahead. */
const ONE_BEHIND_US = 100_000;
/** A head that has run this long, and twice as long as planned, holds up what is behind it. */
const OVERDUE_MS = 20;
/** What the link itself costs for a task: no call is planned shorter. */
const FLOOR_US = 4;
/** Credit before anything was measured. */
const FIRST_WINDOW_PER_WORKER = 32;

/** What one more call of a function is planned to take. A function never seen is taken for one that fills the time ahead. */
export function plannedUs(fn: FunctionRecord): number {
  return fn.costUs ?? AHEAD_US;
}

/** Whether a worker that holds `held` tasks of `aheadUs` may be sent one more, of `moreUs`. */
export function mayGoAhead(held: number, aheadUs: number, moreUs: number): boolean {
  if (held === 0) return true;
  return aheadUs + moreUs <= AHEAD_US || (held === 1 && aheadUs <= ONE_BEHIND_US);
}

/** How long a head may run before it is taken for one that holds up what is behind it. */
export function overdueMs(head: FunctionRecord | undefined): number {
  return Math.max(OVERDUE_MS, (2 * (head?.costUs ?? 0)) / 1000);
}

/** Learns from one call: rises fast and falls slowly, as underestimating puts tasks behind a long one. */
export function learn(fn: FunctionRecord, runUs: number): void {
  const cost = Math.max(FLOOR_US, runUs + FLOOR_US);
  if (fn.costUs === undefined) fn.costUs = cost;
  else fn.costUs += (cost - fn.costUs) / (cost > fn.costUs ? 2 : 8);
}

/**
 * How many tasks the node manager wants to have, for all workers together: twice what goes ahead, and a few. With a
 * `prefetch`, which the nodes of blocks have, no more than that many beyond the workers where tasks are long or nobody
 * knows how long: what waits at one node is out of reach for all others.
 */
export function windowFor(workers: number, typicalUs: number | undefined, prefetch?: number): number {
  if (prefetch !== undefined && (typicalUs === undefined || typicalUs > ONE_BEHIND_US))
    return workers + prefetch;
  if (typicalUs === undefined) return workers * FIRST_WINDOW_PER_WORKER;
  const ahead = Math.max(1, Math.min(MAX_HELD, Math.floor(AHEAD_US / typicalUs)));
  return workers * (2 * ahead) + 2;
}
