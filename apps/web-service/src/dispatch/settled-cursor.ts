/**
 * Up to which seq nothing is left for a sweep to find. Numbers are drawn before their INSERT commits, so behind a
 * queue's cursor tasks may still appear, but not for ever: statements are limited to STATEMENT_TIMEOUT_MS.
 *
 *   S1  `seq` rises only when a scan of all behind it has succeeded that began SETTLED_MS after the cursor stood
 *       there: what that scan did not see commits no more.
 *   S2  A scan that fails, or takes long, raises nothing. Scans may come at any distance from each other.
 */
import { STATEMENT_TIMEOUT_MS } from "../store/statement-limits.js";

/** After so long nothing commits any more below where a cursor was; the rest is room for slow networks. */
export const SETTLED_MS = 2 * STATEMENT_TIMEOUT_MS;
/** Cursors that are remembered. To forget one only settles later. */
const MAX_STANDS = 8;

interface Stand {
  readonly atMs: number;
  readonly cursor: number;
}

export class SettledCursor {
  readonly #now: () => number;
  /** Where the cursor was at the begin of past scans, oldest first. */
  readonly #stands: Stand[] = [];
  #seq: number;

  constructor(seq: number, now: () => number = () => performance.now()) {
    this.#seq = seq;
    this.#now = now;
  }

  get seq(): number {
    return this.#seq;
  }

  /** A scan of what is behind `cursor` and after `seq` begins; to be called back once it has seen it all (S1). */
  scan(cursor: number): () => void {
    const beganMs = this.#now();
    if (this.#stands.length >= MAX_STANDS) this.#stands.pop();
    this.#stands.push({ atMs: beganMs, cursor });
    return () => {
      while (this.#stands.length > 0 && this.#stands[0]!.atMs <= beganMs - SETTLED_MS) {
        this.#seq = Math.max(this.#seq, this.#stands.shift()!.cursor);
      }
    };
  }
}
