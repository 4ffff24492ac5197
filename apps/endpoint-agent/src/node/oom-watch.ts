/**
 * Whether the kernel ended a process for lack of memory in the last moments: its counter of such kills, looked at
 * while tasks run. The counter is that of the agent's own cgroup where there is one, else the whole machine's; so a
 * kill of somebody else's process in the same second would be taken for ours, and nothing finer is to be had.
 *
 * The kill comes some milliseconds before its process is seen to be gone, so the comparison is with a look that is
 * at least LOOK_EVERY_MS old.
 */
import { oomKills } from "./proc.js";

const LOOK_EVERY_MS = 1_000;

export class OomWatch {
  readonly #count: () => number | undefined;
  #before: number | undefined;
  #last: number | undefined;
  #lookedAtMs: number;

  constructor(count: () => number | undefined = oomKills) {
    this.#count = count;
    this.#before = this.#last = count();
    this.#lookedAtMs = performance.now();
  }

  /** Whether this machine tells at all. */
  get isKnown(): boolean {
    return this.#last !== undefined;
  }

  /** Called while tasks run, as often as one likes. */
  look(nowMs = performance.now()): void {
    if (nowMs - this.#lookedAtMs < LOOK_EVERY_MS) return;
    this.#lookedAtMs = nowMs;
    this.#before = this.#last;
    this.#last = this.#count();
  }

  /** Whether the counter rose since the look before the last. What is told once is not told again. */
  rose(): boolean {
    const now = this.#count();
    const before = this.#before;
    this.#before = this.#last = now;
    this.#lookedAtMs = performance.now();
    return now !== undefined && before !== undefined && now > before;
  }
}
