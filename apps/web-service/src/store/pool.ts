/**
 * Pools of connections to PostgreSQL, as all of the service opens them.
 *
 *   1  A connection that ends costs the statement on it, never the process: pg tells of the end by an event, also while
 *      the connection is out of its pool, and an `error` that nobody listens to ends Node.
 *   2  No statement waits for ever, neither in PostgreSQL nor for a network that has forgotten the connection; and none
 *      holds locks for longer than that.
 *   3  What lost one connection mostly lost the others with it, and a statement that is tried again must not wait out each
 *      of them in turn: those that are idle when one fails, in all pools of the service, are closed, and what comes next
 *      opens new ones.
 */
import { Socket } from "node:net";
import pg from "pg";
import type { Logger } from "pino";
import { isOfConnection } from "./pg-errors.js";
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
  /** Those of the pools of this service that nothing runs on: the same set for all of them. */
  readonly idle: Set<Connection>;
}

export function openPool({ url, max, name, log, settings = "", idleTimeoutMs, idle }: PoolOptions): pg.Pool {
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
    Client: Connection,
  });
  // An idle connection that ends is replaced when it is needed.
  pool.on("error", (err) => log.warn({ err: err.message, pool: name }, "a database connection has ended"));
  // Whoever has it out of the pool hears of it by the statement, which fails.
  pool.on("connect", (client) => client.on("error", () => undefined));
  pool.on("acquire", (client) => isOurs(client) && idle.delete(client));
  pool.on("remove", (client) => isOurs(client) && idle.delete(client));
  pool.on("release", (error, client) => {
    if (!isOurs(client)) return;
    // One that is given back with an error does not stay.
    if (!error) idle.add(client);
    else if (isOfConnection(error)) for (const each of idle) each.giveUp();
  });
  return pool;
}

const isOurs = (client: pg.PoolClient): client is pg.PoolClient & Connection => client instanceof Connection;

/** A connection that can be closed without a word to PostgreSQL, which may not hear it. */
export class Connection extends pg.Client {
  readonly #socket: Socket;

  constructor(config: pg.ClientConfig = {}) {
    const socket = new Socket();
    super({ ...config, stream: () => socket });
    this.#socket = socket;
  }

  giveUp(): void {
    this.#socket.destroy(new Error("closed, as another connection to the database has failed"));
  }
}
