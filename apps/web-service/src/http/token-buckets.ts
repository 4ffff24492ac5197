/**
 * Token buckets, one for each key: a minute's worth may come at once, and then as many as flow in. What is above the rate is told
 * exactly when to come again, instead of at the end of a window.
 *
 * Bound: `maxKeys`; beyond, the bucket unused longest is forgotten, and is full when its key comes again.
 */
import { LruMap } from "../support/lru-map.js";

const MINUTE_MS = 60_000;

interface Bucket {
  tokens: number;
  atMs: number;
}

export class TokenBuckets {
  readonly #buckets: LruMap<string, Bucket>;
  readonly #size: number;

  constructor(perMinute: number, maxKeys: number) {
    this.#size = perMinute;
    this.#buckets = new LruMap(maxKeys);
  }

  /** Takes one token: 0, or the milliseconds until there is one. */
  take(key: string, nowMs = performance.now()): number {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) {
      this.#buckets.set(key, { tokens: this.#size - 1, atMs: nowMs });
      return 0;
    }
    bucket.tokens = Math.min(this.#size, bucket.tokens + ((nowMs - bucket.atMs) * this.#size) / MINUTE_MS);
    bucket.atMs = nowMs;
    if (bucket.tokens < 1) return Math.ceil(((1 - bucket.tokens) * MINUTE_MS) / this.#size);
    bucket.tokens--;
    return 0;
  }
}
