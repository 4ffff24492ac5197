/** What carries hints, against a PostgreSQL that goes away for longer than anything is tried, and comes back. */
import { randomUUID } from "node:crypto";
import pino from "pino";
import { afterAll, beforeAll, expect, it } from "vitest";
import { joinHintBus } from "../../apps/web-service/src/store/hint-bus.js";
import { freshDatabase, type TestDatabase } from "../support/postgres.js";
import { TcpProxy } from "../support/tcp-proxy.js";

/** Long enough for a handful of tries; a storm that doubles has dozens by then. */
const AWAY_MS = 7_000;

let database: TestDatabase;
let proxy: TcpProxy;

beforeAll(async () => {
  database = await freshDatabase();
  proxy = await TcpProxy.open([Number(new URL(database.url).port)]);
});

afterAll(async () => {
  await proxy.close();
  await database.drop();
});

it("listens again by one loop, however long PostgreSQL is away, and hears once it is back", async () => {
  const url = new URL(database.url);
  const port = Number(url.port);
  url.port = new URL(proxy.url).port;
  url.hostname = "127.0.0.1";
  url.searchParams.delete("host");
  const warnings: string[] = [];
  const log = pino({ level: "warn" }, { write: (line: string) => void warnings.push(line) });
  const heard: (readonly string[])[] = [];
  const join = (handlers: Partial<Parameters<typeof joinHintBus>[0]["handlers"]>, databaseUrl: string) =>
    joinHintBus({
      pool: database.pool,
      databaseUrl,
      redisUrl: undefined,
      replicaId: randomUUID(),
      log,
      handlers: { ...IGNORE, ...handlers },
      onAlone: () => undefined,
    });
  const listener = await join({ onFinished: (keys) => void heard.push(keys) }, url.toString());
  const speaker = await join({}, database.url);
  listener.follow();
  try {
    proxy.targets = [];
    proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, AWAY_MS));
    const failures = warnings.filter((line) => line.includes("hints cannot be heard")).length;
    expect(failures).toBeGreaterThanOrEqual(2);
    expect(failures).toBeLessThanOrEqual(AWAY_MS / 1_000);

    proxy.targets = [port];
    speaker.hints.alone = false;
    const key = "k".repeat(16);
    await expect
      .poll(
        () => {
          speaker.hints.finished([key]);
          return heard.length;
        },
        { timeout: 10_000, interval: 200 },
      )
      .toBeGreaterThan(0);
    expect(heard[0]).toEqual([key]);
  } finally {
    await listener.close();
    await speaker.close();
  }
});

const IGNORE = new Proxy({} as Parameters<typeof joinHintBus>[0]["handlers"], { get: () => () => undefined });
