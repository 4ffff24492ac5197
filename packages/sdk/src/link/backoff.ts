/** Waiting before the next try: short for some seconds, then doubled each time; jittered, and reset only after proven uptime. */

/** The first wait. A restarting service is back within a second or two. */
const FIRST_MS = 100;
/** A service that restarts is met within this time: the wait of the first QUICK_TRIES, some five seconds together. */
const QUICK_MS = 500;
const QUICK_TRIES = 14;
/** The longest wait. Beyond it a client would notice a returned service late for no gain to the service. */
const LONGEST_MS = 15_000;
/** A connection that lived this long, or moved a mark, counts as good. */
const PROVEN_MS = 10_000;

export class Backoff {
  #tries = 0;

  /** The next wait. Full jitter above half, so that many clients do not come back together. */
  nextMs(): number {
    return jittered(ceilingMs(this.#tries++));
  }

  /** A connection has ended after `uptimeMs`. */
  ended(uptimeMs: number, movedMarks: boolean): void {
    if (movedMarks || uptimeMs >= PROVEN_MS) this.#tries = 0;
  }
}

function ceilingMs(tries: number): number {
  if (tries < QUICK_TRIES) return Math.min(QUICK_MS, FIRST_MS * 2 ** tries);
  return Math.min(LONGEST_MS, QUICK_MS * 2 ** (tries - QUICK_TRIES + 1));
}

const jittered = (ms: number): number => ms / 2 + Math.random() * (ms / 2);

/** The wait before try number `tries` (from 0) of a single request. */
export function backoffMs(tries: number): number {
  return jittered(Math.min(LONGEST_MS, FIRST_MS * 2 ** tries));
}

/** Waits; wakes at once, with the signal's reason thrown, when the signal is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
