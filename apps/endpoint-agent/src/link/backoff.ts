/**
 * How long to wait before the next try: short for some seconds, then doubling, with full jitter in its upper half so that a thousand agents
 * do not come back in the same instant after the service restarts.
 */

/** The first wait: short, as most breaks are a service that restarts. */
const FIRST_MS = 200;
/** A service that restarts is met within this time: the wait of the first QUICK_TRIES, some five seconds together. */
const QUICK_MS = 800;
const QUICK_TRIES = 10;
/** The longest wait: an agent is back within this time after the service is. */
const MOST_MS = 15_000;

export class Backoff {
  #tries = 0;
  readonly #random: () => number;

  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  /** The wait before the next try, in milliseconds. At least `leastMs`, where the other side asked for it. */
  next(leastMs = 0): number {
    const most =
      this.#tries < QUICK_TRIES
        ? Math.min(QUICK_MS, FIRST_MS * 2 ** this.#tries)
        : Math.min(MOST_MS, QUICK_MS * 2 ** (this.#tries - QUICK_TRIES + 1));
    this.#tries = Math.min(this.#tries + 1, 30);
    return Math.max(leastMs, 0) + most / 2 + (this.#random() * most) / 2;
  }

  /** Things have proven to work. */
  reset(): void {
    this.#tries = 0;
  }
}
