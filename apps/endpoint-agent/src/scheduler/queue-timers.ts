/**
 * Time limits on waiting: one timer for each task that has `queueTimeoutMs` and has not been handed out. The
 * time is what remained when the task came; a restart of the agent grants it anew, as no clock is trusted.
 *
 * Bound: held tasks.
 */
import { type HeldTask, optionsOf } from "./held-task.js";

/** The longest that setTimeout takes. */
const MOST_MS = 2 ** 31 - 1;

export class QueueTimers {
  readonly #timers = new Map<HeldTask, NodeJS.Timeout>();
  readonly #onExpired: (task: HeldTask) => void;

  constructor(onExpired: (task: HeldTask) => void) {
    this.#onExpired = onExpired;
  }

  arm(task: HeldTask): void {
    const limitMs = optionsOf(task)?.queueTimeoutMs;
    if (limitMs === undefined || limitMs === 0 || this.#timers.has(task)) return;
    const timer = setTimeout(
      () => {
        this.#timers.delete(task);
        this.#onExpired(task);
      },
      Math.min(limitMs, MOST_MS),
    );
    this.#timers.set(task, timer);
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
}
