/**
 * Time limits that the agent keeps itself: one timer for each task that has the limit. The time is what remained when
 * the task came; a restart of the agent grants it anew, as no clock is trusted (the service keeps the deadline of the
 * whole life as well).
 *
 * Bound: held tasks.
 */
import type { HeldTask } from "./held-task.js";

/** The longest that setTimeout takes: what is left after it is waited for again. */
const MOST_MS = 2 ** 31 - 1;

export class TaskTimers {
  readonly #timers = new Map<HeldTask, NodeJS.Timeout>();
  readonly #limitMsOf: (task: HeldTask) => number | undefined;
  readonly #onExpired: (task: HeldTask) => void;

  /** `limitMsOf`: the limit of a task; 0 and undefined stand for none. */
  constructor(limitMsOf: (task: HeldTask) => number | undefined, onExpired: (task: HeldTask) => void) {
    this.#limitMsOf = limitMsOf;
    this.#onExpired = onExpired;
  }

  arm(task: HeldTask): void {
    const limitMs = this.#limitMsOf(task);
    if (limitMs === undefined || limitMs === 0 || this.#timers.has(task)) return;
    this.#wait(task, limitMs);
  }

  disarm(tasks: readonly HeldTask[]): void {
    if (this.#timers.size === 0) return;
    for (const task of tasks) {
      clearTimeout(this.#timers.get(task));
      this.#timers.delete(task);
    }
  }

  clear(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #wait(task: HeldTask, leftMs: number): void {
    const timer = setTimeout(
      () => {
        if (leftMs > MOST_MS) {
          this.#wait(task, leftMs - MOST_MS);
          return;
        }
        this.#timers.delete(task);
        this.#onExpired(task);
      },
      Math.min(leftMs, MOST_MS),
    );
    this.#timers.set(task, timer);
  }
}
