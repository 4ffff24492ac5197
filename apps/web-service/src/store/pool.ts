/**
 * Pools of connections to PostgreSQL, as all of the service opens them.
 *
 *   1  A connection that ends costs the statement on it, never the process: pg tells of the end by an event, also while
 *      the connection is out of its pool, and an `error` that nobody listens to ends Node.
 *   2  No statement waits for ever, neither in PostgreSQL nor for a network that has forgotten the connection; and none
 *      holds locks for longer than that.
 */
import pg from "pg";
import type { Logger } from "pino";
import { ANSWER_TIMEOUT_MS, IDLE_TRANSACTION_MS, STATEMENT_TIMEOUT_MS } from "./statement-limits.js";

const CONNECT_TIMEOUT_MS = 10_000;
const LOCK_TIMEOUT_MS = 10_000;

export interface PoolOptions {
  readonly url: string;
  /** Connections at most. */
  readonly max: number;
  /** In the log, and in PostgreSQL's list of who is there. */
  readonly name: string;
  readonly log: Logger;
  /** Settings of each connection, as `-c name=value` with spaces between them. */
  readonly settings?: string;
  /** A connection that nobody needs is closed after so long; 0: never. */
  readonly idleTimeoutMs: number;
}

export function openPool({ url, max, name, log, settings = "", idleTimeoutMs }: PoolOptions): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max,
    application_name: name,
    options: [
      `-c statement_timeout=${STATEMENT_TIMEOUT_MS}`,
      `-c lock_timeout=${LOCK_TIMEOUT_MS}`,
      `-c idle_in_transaction_session_timeout=${IDLE_TRANSACTION_MS}`,
      settings,
    ].join(" "),
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    // PostgreSQL's own limit says nothing over a connection that is gone and has not told.
    query_timeout: ANSWER_TIMEOUT_MS,
    keepAlive: true,
    idleTimeoutMillis: idleTimeoutMs,
  });
  // An idle connection that ends is replaced when it is needed.
  pool.on("error", (err) => log.warn({ err: err.message, pool: name }, "a database connection has ended"));
  // Whoever has it out of the pool hears of it by the statement, which fails.
  pool.on("connect", (client) => client.on("error", () => undefined));
  return pool;
}
