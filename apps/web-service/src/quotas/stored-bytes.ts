/**
 * How many bytes one person may have stored, payload files and objects together. As with open tasks, an upper bound is kept in
 * memory: what was summed up last, plus all that came by this replica since. Only near the limit it is summed anew, in the
 * background, so that an upload costs a look at a map.
 *
 * Results of tasks are kept whatever the sum is: what was computed is not thrown away. They count.
 */
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { LruMap } from "../support/lru-map.js";

const MAX_COUNTED = 100_000;
/** A bound above this part of the limit is worth a sum. */
const NEAR = 0.75;
/** Between two sums of the same person: one of millions of rows takes PostgreSQL seconds. */
const SUM_PAUSE_MS = 2_000;
const MIB = 1024 ** 2;

const SUM = `
  SELECT (SELECT coalesce(sum(size_bytes), 0) FROM payload WHERE owner_id = $1)
       + (SELECT coalesce(sum(size_bytes), 0) FROM object WHERE owner_id = $1) AS bytes`;

interface Counted {
  upper: number;
  summing: Promise<void> | undefined;
  summedAtMs: number;
}

export class StoredBytes {
  readonly #pool: Pool;
  readonly #log: Logger;
  readonly #limit: number;
  readonly #persons = new LruMap<string, Counted>(MAX_COUNTED);

  constructor(pool: Pool, log: Logger, limitBytes: number) {
    this.#pool = pool;
    this.#log = log;
    this.#limit = limitBytes;
  }

  /** Before an upload of so many bytes, as far as that is known. @throws FarloomError QUOTA_EXCEEDED */
  async check(personId: string, sizeBytes: number): Promise<void> {
    const counted = this.#counted(personId);
    if (counted.upper + sizeBytes <= this.#limit) return;
    // Perhaps something was deleted: whoever is about to be refused gets a true sum.
    await this.#sum(personId, counted);
    if (counted.upper + sizeBytes <= this.#limit) return;
    throw new FarloomError("QUOTA_EXCEEDED", {
      what: `${mib(counted.upper)} MiB stored`,
      limit: `${mib(this.#limit)} MiB`,
    });
  }

  /** So much more is stored. */
  add(personId: string, sizeBytes: number): void {
    this.#counted(personId).upper += sizeBytes;
  }

  #counted(personId: string): Counted {
    let counted = this.#persons.get(personId);
    if (!counted) {
      counted = { upper: 0, summing: undefined, summedAtMs: Number.NEGATIVE_INFINITY };
      this.#persons.set(personId, counted);
      void this.#sum(personId, counted);
    } else if (counted.upper > NEAR * this.#limit) void this.#sum(personId, counted);
    return counted;
  }

  #sum(personId: string, counted: Counted): Promise<void> {
    if (counted.summing !== undefined) return counted.summing;
    if (performance.now() - counted.summedAtMs < SUM_PAUSE_MS) return Promise.resolve();
    const before = counted.upper;
    counted.summing = this.#pool
      .query<{ bytes: string }>(SUM, [personId])
      // What came while it ran may be in the sum or not: it counts twice rather than never.
      .then(({ rows }) => {
        counted.upper = Number(rows[0]!.bytes) + (counted.upper - before);
      })
      .catch((err) => this.#log.warn({ err }, "stored bytes could not be summed up"))
      .finally(() => {
        counted.summing = undefined;
        counted.summedAtMs = performance.now();
      });
    return counted.summing;
  }
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(1);
}
