/** Counts failed authentications of each address in windows of a minute, so that guessing meets a wall. */
import { LruMap } from "../support/lru-map.js";

const WINDOW_MS = 60_000;
/** Addresses counted at once; beyond, the one unseen longest is forgotten. */
const MAX_ADDRESSES = 10_000;

export class FailedAuthLimiter {
  readonly #counts = new LruMap<string, { failures: number; windowEndsAtMs: number }>(MAX_ADDRESSES);
  readonly #max: number;

  constructor(maxPerMinute: number) {
    this.#max = maxPerMinute;
  }

  isBlocked(address: string): boolean {
    const count = this.#counts.peek(address);
    return count !== undefined && count.failures >= this.#max && performance.now() < count.windowEndsAtMs;
  }

  failed(address: string): void {
    const nowMs = performance.now();
    const count = this.#counts.get(address);
    if (count && nowMs < count.windowEndsAtMs) count.failures++;
    else this.#counts.set(address, { failures: 1, windowEndsAtMs: nowMs + WINDOW_MS });
  }
}
