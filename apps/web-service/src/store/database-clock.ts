/**
 * The time by PostgreSQL's clock, kept on this process's monotonic clock: what expires (tokens, codes, challenges,
 * keys) is made by one replica and judged by another, and no wall clock of ours may stand between them. A clock of
 * this machine that is wrong, or jumps, changes nothing.
 *
 * Bound: a monotonic clock is off by some milliseconds a minute at worst, and is set again every minute.
 */
import type { Pool } from "pg";
import type { Logger } from "pino";

const SET_EVERY_MS = 60_000;

/** Milliseconds since 1970. */
export interface Clock {
  nowMs(): number;
}

export class DatabaseClock implements Clock {
  readonly #pool: Pool;
  readonly #log: Logger;
  #offsetMs = 0;
  #timer: NodeJS.Timeout | undefined;

  private constructor(pool: Pool, log: Logger) {
    this.#pool = pool;
    this.#log = log;
  }

  /** Reads the clock once, and then every minute. */
  static async start(pool: Pool, log: Logger): Promise<DatabaseClock> {
    const clock = new DatabaseClock(pool, log);
    await clock.#set();
    clock.#timer = setInterval(() => {
      // Without the database the offset stays what it was: the monotonic clock goes on.
      clock.#set().catch((err) => clock.#log.debug({ err }, "the database's clock could not be read"));
    }, SET_EVERY_MS);
    clock.#timer.unref();
    return clock;
  }

  nowMs(): number {
    return performance.now() + this.#offsetMs;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #set(): Promise<void> {
    const askedAtMs = performance.now();
    const { rows } = await this.#pool.query<{ now_ms: number }>(
      "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now_ms",
    );
    // Half of the way there and back.
    this.#offsetMs = rows[0]!.now_ms - (askedAtMs + performance.now()) / 2;
  }
}
