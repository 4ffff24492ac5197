/**
 * Results of submissions that the service never committed (P14): the client's retry may still come, and its
 * tasks have run already. Kept for ten minutes, at most 10,000 and 64 MiB; the oldest go first.
 */
import { type IdKey, limits } from "@farloom/protocol";
import type { HeldTask } from "../scheduler/held-task.js";
import { resultBytes } from "./result-sender.js";

export interface KeptBounds {
  readonly most: number;
  readonly mostBytes: number;
  readonly keepMs: number;
}

const BOUNDS: KeptBounds = {
  most: 10_000,
  mostBytes: 64 * 1024 * 1024,
  keepMs: limits.UNKNOWN_RESULT_KEEP_MS,
};

export class KeptResults {
  readonly #bounds: KeptBounds;
  readonly #kept = new Map<
    IdKey,
    { readonly task: HeldTask; readonly bytes: number; readonly untilMs: number }
  >();
  #bytes = 0;

  constructor(bounds: KeptBounds = BOUNDS) {
    this.#bounds = bounds;
  }

  get size(): number {
    return this.#kept.size;
  }

  /** When the oldest is to go, on the clock of `nowMs`; undefined where there is none. */
  get nextExpiryMs(): number | undefined {
    for (const entry of this.#kept.values()) return entry.untilMs;
    return undefined;
  }

  add(task: HeldTask, nowMs: number): void {
    this.take(task.key);
    const bytes = resultBytes(task) + task.sizeBytes;
    this.#kept.set(task.key, { task, bytes, untilMs: nowMs + this.#bounds.keepMs });
    this.#bytes += bytes;
  }

  /** It is wanted after all. */
  take(key: IdKey): HeldTask | undefined {
    const entry = this.#kept.get(key);
    if (entry === undefined) return undefined;
    this.#kept.delete(key);
    this.#bytes -= entry.bytes;
    return entry.task;
  }

  /** Removes and returns what is too old or too much. */
  expire(nowMs: number): HeldTask[] {
    const gone: HeldTask[] = [];
    for (const [key, entry] of this.#kept) {
      const fits = this.#kept.size <= this.#bounds.most && this.#bytes <= this.#bounds.mostBytes;
      if (fits && entry.untilMs > nowMs) break;
      this.#kept.delete(key);
      this.#bytes -= entry.bytes;
      gone.push(entry.task);
    }
    return gone;
  }
}
