/**
 * One look for many who ask: what a batch system says is asked for once and told to all, and seldom.
 *
 * 1. At most one look is under way.
 * 2. A look begins no sooner than `maxAgeMs` after the end of the one before, however many ask, unless something has
 *    happened (`fresh`); then no sooner than `minGapMs` after it.
 * 3. Who asks for a fresh look gets one that began after the asking.
 */
import { setTimeout as sleep } from "node:timers/promises";

export interface SharedLookOptions<T> {
  /** Must not reject: that it could not look is an answer too, and as good for `maxAgeMs`. */
  readonly look: () => Promise<T>;
  readonly maxAgeMs: number;
  readonly minGapMs: number;
}

export class SharedLook<T> {
  readonly #options: SharedLookOptions<T>;
  #last: { readonly value: T; readonly endedAtMs: number } | undefined;
  /** Under way. */
  #current: Promise<T> | undefined;
  /** Asked for while another was under way, or too soon after one. */
  #next: Promise<T> | undefined;
  #isStale = false;

  constructor(options: SharedLookOptions<T>) {
    this.#options = options;
  }

  /** What the last look told, or a new one. */
  get(fresh = false): Promise<T> {
    if (fresh || this.#isStale) return this.#lookAfterwards();
    const last = this.#last;
    if (last !== undefined && performance.now() - last.endedAtMs < this.#options.maxAgeMs) {
      return Promise.resolve(last.value);
    }
    return this.#current ?? this.#next ?? this.#look();
  }

  /** Something has changed that the last look cannot know of: the next who asks gets a fresh one. */
  forget(): void {
    this.#isStale = true;
  }

  #lookAfterwards(): Promise<T> {
    this.#next ??= this.#untilAllowed().then(() => {
      this.#next = undefined;
      return this.#look();
    });
    return this.#next;
  }

  async #untilAllowed(): Promise<void> {
    while (this.#current !== undefined) await this.#current;
    const sinceMs = performance.now() - (this.#last?.endedAtMs ?? Number.NEGATIVE_INFINITY);
    if (sinceMs < this.#options.minGapMs) await sleep(this.#options.minGapMs - sinceMs);
    while (this.#current !== undefined) await this.#current;
  }

  #look(): Promise<T> {
    this.#isStale = false;
    this.#current = this.#options.look().then((value) => {
      this.#last = { value, endedAtMs: performance.now() };
      this.#current = undefined;
      return value;
    });
    return this.#current;
  }
}
