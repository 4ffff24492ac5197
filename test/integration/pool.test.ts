/** The service's connections to PostgreSQL where the network ends them: in the pool, and out of it. */
import type { QueryConfig } from "pg";
import { pino } from "pino";
import { expect, it } from "vitest";
import { type Connection, openPool } from "../../apps/web-service/src/store/pool.js";
import { freshDatabase } from "../support/postgres.js";
import { TcpProxy } from "../support/tcp-proxy.js";

it("a connection that ends costs its statement alone, also while it is out of its pool", async () => {
  const database = await freshDatabase({ migrated: false });
  const proxy = await TcpProxy.open([Number(new URL(database.url).port)]);
  const log = pino({ level: "silent" });
  const pool = openPool({
    url: proxy.through(database.url),
    max: 2,
    name: "cut",
    log,
    idleTimeoutMs: 1_000,
    idle: new Set(),
  });
  try {
    const taken = await pool.connect();
    await taken.query("SELECT 1");
    // Nothing runs on it as it ends: nobody but the connection itself hears of it.
    const ended = new Promise((resolve) => taken.once("end", resolve));
    proxy.cut();
    await ended;
    await expect(taken.query("SELECT 1")).rejects.toThrow();
    taken.release(true);
    expect((await pool.query("SELECT 1 AS one")).rows).toEqual([{ one: 1 }]);
    // And while a statement is on its way.
    const asked = pool.query("SELECT pg_sleep(30)");
    const refused = expect(asked).rejects.toThrow();
    await expect.poll(() => pool.totalCount - pool.idleCount).toBe(1);
    proxy.cut();
    await refused;
  } finally {
    await pool.end();
    await proxy.close();
    await database.drop();
  }
});

it("a transaction whose connection the network forgot lets go of its locks", async () => {
  const database = await freshDatabase({ migrated: false });
  const proxy = await TcpProxy.open([Number(new URL(database.url).port)]);
  const pool = openPool({
    url: proxy.through(database.url),
    max: 1,
    name: "forgotten",
    log: pino({ level: "silent" }),
    idleTimeoutMs: 1_000,
    idle: new Set(),
  });
  try {
    const taken = await pool.connect();
    await taken.query("BEGIN");
    await taken.query("SELECT pg_advisory_xact_lock(7)");
    proxy.forget();
    await database.pool.query("SELECT pg_advisory_lock(7)");
    taken.release(true);
  } finally {
    await pool.end();
    await proxy.close();
    await database.drop();
  }
}, 40_000);

it("where the network forgot all of them, a statement that is tried again waits for one of them alone", async () => {
  const database = await freshDatabase({ migrated: false });
  const proxy = await TcpProxy.open([Number(new URL(database.url).port)]);
  const all = { url: proxy.through(database.url), max: 4, log: pino({ level: "silent" }), idleTimeoutMs: 0 };
  const idle = new Set<Connection>();
  const pool = openPool({ ...all, name: "forgotten", idle });
  const other = openPool({ ...all, name: "forgotten-too", idle });
  // A shorter time than the pool's own, which the second one would meet too.
  const ask = (query_timeout: number, of = pool) =>
    of.query({ text: "SELECT 1 AS one", query_timeout } as QueryConfig);
  try {
    const taken = await Promise.all([pool, pool, pool, pool, other].map((of) => of.connect()));
    for (const client of taken) client.release();
    expect([pool.idleCount, other.idleCount]).toEqual([4, 1]);
    proxy.forget();
    await expect(ask(500)).rejects.toThrow(/timeout/);
    for (const of of [pool, other]) expect((await ask(10_000, of)).rows).toEqual([{ one: 1 }]);
  } finally {
    await Promise.all([pool.end(), other.end()]);
    await proxy.close();
    await database.drop();
  }
});
