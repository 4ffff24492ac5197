/**
 * Counts tries of an account or from an address, in windows: guessing meets 429 with the time to wait. Counts are kept by each replica for itself, so that many replicas allow as many times more.
 */
import { FarloomError } from "@farloom/protocol";
import { LruMap } from "../support/lru-map.js";

/** Counted at once; beyond, the one unseen longest is forgotten. */
const MAX_KEYS = 20_000;

export class Attempts {
  readonly #counts = new LruMap<string, { tries: number; endsAtMs: number }>(MAX_KEYS);
  readonly #max: number;
  readonly #windowMs: number;

  constructor(max: number, windowMs: number) {
    this.#max = max;
    this.#windowMs = windowMs;
  }

  /** @throws FarloomError RATE_LIMITED where the key has had its tries. */
  require(key: string): void {
    const nowMs = performance.now();
    const count = this.#counts.peek(key);
    if (count === undefined || count.endsAtMs <= nowMs || count.tries < this.#max) return;
    const retryAfterMs = Math.ceil(count.endsAtMs - nowMs);
    throw new FarloomError("RATE_LIMITED", { seconds: Math.ceil(retryAfterMs / 1000) }, { retryAfterMs });
  }

  count(key: string): void {
    const nowMs = performance.now();
    const count = this.#counts.get(key);
    if (count && nowMs < count.endsAtMs) count.tries++;
    else this.#counts.set(key, { tries: 1, endsAtMs: nowMs + this.#windowMs });
  }

  /** What went well counts no more. */
  forget(key: string): void {
    this.#counts.delete(key);
  }
}
