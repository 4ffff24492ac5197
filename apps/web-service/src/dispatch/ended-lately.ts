/**
 * The tasks that ended in this owner's hands a short while ago. A first submission travels while its INSERT commits
 * (intake.ts, I2), but it may be first no more: its client may have given its link up, sent the tasks again over another
 * one, and had them run to their end, while the network still held what it had sent first. So a submission travels only
 * where its client is known to have been on this very link since some moment, and all that ended since that moment
 * is remembered here. That is what was submitted again, here or to another replica, whose submissions come by their rows;
 * what came straight from its first submission has no other on its way.
 *
 * Bound: two generations of at most MAX_KEYS ids, about 40 MB; beyond it the memory reaches back less far.
 */
import type { IdKey } from "@farloom/protocol";

const MAX_KEYS = 262_144;
/** A generation lasts so long: longer than a link is silent before it counts as dead. */
const GENERATION_MS = 15_000;

export class EndedLately {
  readonly #now: () => number;
  #current = new Set<IdKey>();
  #before = new Set<IdKey>();
  #currentFromMs: number;
  /** On the monotonic clock: all that ended since is remembered. */
  sinceMs: number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#currentFromMs = this.sinceMs = now();
  }

  add(key: IdKey): void {
    if (this.#current.size >= MAX_KEYS || this.#now() - this.#currentFromMs > GENERATION_MS) this.#turn();
    this.#current.add(key);
  }

  has(key: IdKey): boolean {
    return this.#current.has(key) || this.#before.has(key);
  }

  #turn(): void {
    this.#before = this.#current;
    this.sinceMs = this.#currentFromMs;
    this.#current = new Set();
    this.#currentFromMs = this.#now();
  }
}
