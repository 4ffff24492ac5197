/**
 * Who waits for more output of a task, here and on other replicas. News travels between replicas only for tasks that
 * somebody follows there: who follows says so, and again while it goes on. Both are hints: a follower also looks by
 * itself now and then.
 */
import type { IdKey } from "@farloom/protocol";
import { LruMap } from "../support/lru-map.js";

/** How long a word from a follower elsewhere holds, and after how long it is said again. */
const FOLLOWED_MS = 30_000;
const SAY_AGAIN_MS = 10_000;
const MAX_FOLLOWED = 10_000;

export interface OutputNewsDeps {
  /** Tells other replicas that these are followed here; and that there is more of these. */
  readonly follow: (keys: readonly IdKey[]) => void;
  readonly written: (keys: readonly IdKey[]) => void;
}

export class OutputNews {
  readonly #deps: OutputNewsDeps;
  readonly #waiters = new Map<IdKey, Set<() => void>>();
  /** Followed elsewhere, until when. */
  readonly #elsewhere = new LruMap<IdKey, number>(MAX_FOLLOWED);
  /** When it was said last that this is followed here. */
  readonly #said = new LruMap<IdKey, number>(MAX_FOLLOWED);

  constructor(deps: OutputNewsDeps) {
    this.#deps = deps;
  }

  /** Resolves when there is more of this task, or the signal says so. Ask before reading: nothing is missed then. */
  next(key: IdKey, signal: AbortSignal): Promise<void> {
    const now = performance.now();
    if (now - (this.#said.get(key) ?? Number.NEGATIVE_INFINITY) > SAY_AGAIN_MS) {
      this.#said.set(key, now);
      this.#deps.follow([key]);
    }
    return new Promise((resolve) => {
      const waiters = this.#waiters.get(key) ?? new Set();
      this.#waiters.set(key, waiters);
      const wake = (): void => {
        waiters.delete(wake);
        if (waiters.size === 0 && this.#waiters.get(key) === waiters) this.#waiters.delete(key);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      waiters.add(wake);
      if (signal.aborted) wake();
      else signal.addEventListener("abort", wake, { once: true });
    });
  }

  /** Committed here. */
  written(keys: readonly IdKey[]): void {
    this.writtenElsewhere(keys);
    if (this.#elsewhere.size === 0) return;
    const now = performance.now();
    const wanted = keys.filter((key) => (this.#elsewhere.peek(key) ?? 0) > now);
    if (wanted.length > 0) this.#deps.written(wanted);
  }

  /** Another replica has committed more of these. */
  writtenElsewhere(keys: readonly IdKey[]): void {
    for (const key of keys) for (const wake of [...(this.#waiters.get(key) ?? [])]) wake();
  }

  /** Somebody follows these on another replica. */
  followedElsewhere(keys: readonly IdKey[]): void {
    const until = performance.now() + FOLLOWED_MS;
    for (const key of keys) this.#elsewhere.set(key, until);
  }
}
