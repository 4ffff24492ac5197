/** What carries hints, against a PostgreSQL that goes away for longer than anything is tried, and comes back. */
import { randomUUID } from "node:crypto";
import type { IdKey } from "@farloom/protocol";
import pino from "pino";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { type HintBus, joinHintBus } from "../../apps/web-service/src/store/hint-bus.js";
import { freshDatabase, type TestDatabase } from "../support/postgres.js";
import { redisAvailable, startRedis } from "../support/redis.js";
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

afterEach(async () => {
  for (const bus of buses.splice(0)) await bus.close();
});

const warnings: string[] = [];
const log = pino({ level: "warn" }, { write: (line: string) => void warnings.push(line) });
const buses: HintBus[] = [];

async function join(
  databaseUrl: string,
  redisUrl: string | undefined,
  onFinished: (keys: IdKey[]) => void = () => undefined,
): Promise<HintBus> {
  const bus = await joinHintBus({
    pool: database.pool,
    databaseUrl,
    redisUrl,
    replicaId: randomUUID(),
    log,
    handlers: { ...IGNORE, onFinished },
    onAlone: () => undefined,
  });
  buses.push(bus);
  return bus;
}

/** Says something until it is heard. */
async function untilHeard(speaker: HintBus, heard: readonly (readonly IdKey[])[]): Promise<void> {
  speaker.hints.alone = false;
  const key = "k".repeat(16);
  const before = heard.length;
  const say = () => {
    speaker.hints.finished([key]);
    return heard.length;
  };
  await expect.poll(say, { timeout: 15_000, interval: 200 }).toBeGreaterThan(before);
  expect(heard[before]).toEqual([key]);
}

it("listens again by one loop, however long PostgreSQL is away, and hears once it is back", async () => {
  const heard: (readonly IdKey[])[] = [];
  const listener = await join(proxy.through(database.url), undefined, (keys) => void heard.push(keys));
  const speaker = await join(database.url, undefined);
  listener.follow();
  const { targets } = proxy;
  proxy.targets = [];
  proxy.cut();
  await new Promise((resolve) => setTimeout(resolve, AWAY_MS));
  const failures = warnings.filter((line) => line.includes("hints cannot be heard")).length;
  expect(failures).toBeGreaterThanOrEqual(2);
  expect(failures).toBeLessThanOrEqual(AWAY_MS / 1_000);

  proxy.targets = targets;
  await untilHeard(speaker, heard);
});

it("hears again over PostgreSQL after the network forgot its connection", async () => {
  const heard: (readonly IdKey[])[] = [];
  const listener = await join(proxy.through(database.url), undefined, (keys) => void heard.push(keys));
  const speaker = await join(database.url, undefined);
  listener.follow();
  await untilHeard(speaker, heard);
  proxy.forget();
  await untilHeard(speaker, heard);
});

it.skipIf(!redisAvailable)("hears again over Redis after the network forgot its connections", async () => {
  const redis = await startRedis();
  const redisProxy = await TcpProxy.open([Number(new URL(redis.url).port)]);
  try {
    const heard: (readonly IdKey[])[] = [];
    const listener = await join(
      database.url,
      redisProxy.url.replace("http", "redis"),
      (keys) => void heard.push(keys),
    );
    const speaker = await join(database.url, redisProxy.url.replace("http", "redis"));
    listener.follow();
    await untilHeard(speaker, heard);
    redisProxy.forget();
    await untilHeard(speaker, heard);
  } finally {
    for (const bus of buses.splice(0)) await bus.close();
    await redisProxy.close();
    await redis.stop();
  }
});

const IGNORE = new Proxy({} as Parameters<typeof joinHintBus>[0]["handlers"], { get: () => () => undefined });
