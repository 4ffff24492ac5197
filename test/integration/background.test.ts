// What happens later, on both of its backends: nothing early, nothing lost, old things deleted.
import { randomBytes, randomUUID } from "node:crypto";
import { encodeReference } from "@farloom/protocol";
import { Redis } from "ioredis";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  type Background,
  type BackgroundOptions,
  createBackground,
} from "../../apps/web-service/src/background/background.js";
import { freshDatabase, type TestDatabase } from "../support/postgres.js";
import { redisAvailable, startRedis, type TestRedis } from "../support/redis.js";

const DAY_MS = 86_400_000;
/** The sweep as good as off: what is released in these tests, a job has released. */
const NO_SWEEP = { sweepIntervalMs: 600_000 };

let database: TestDatabase;
let redis: TestRedis | undefined;
let opened: Background[] = [];
let released: { endpointId: string; taskIds: readonly string[]; atMs: number }[] = [];
let deletedPayloads: string[] = [];

beforeAll(async () => {
  database = await freshDatabase({ maxConnections: 10 });
  if (redisAvailable) redis = await startRedis();
});
afterAll(async () => {
  await redis?.stop();
  await database.drop();
});
beforeEach(async () => {
  released = [];
  deletedPayloads = [];
  await database.pool.query(
    "TRUNCATE task, outcome, payload, idempotency, agent_challenge, tombstone, late_result",
  );
});
afterEach(async () => {
  await Promise.all(opened.map((background) => background.close()));
  opened = [];
});

async function start(options: Partial<BackgroundOptions> = {}): Promise<Background> {
  const background = await createBackground(
    {
      pool: database.pool,
      databaseUrl: database.url,
      log: pino({ level: "silent" }),
      onReleased: (endpointId, taskIds) => {
        released.push({ endpointId, taskIds, atMs: Date.now() });
      },
      deletePayload: async (ownerId, digest) => {
        deletedPayloads.push(`${ownerId} ${digest.toString("hex")}`);
      },
    },
    { retentionMs: 30 * DAY_MS, ...options },
  );
  opened.push(background);
  return background;
}

interface TaskOptions {
  readonly ownerId?: string;
  readonly endpointId?: string;
  readonly delayMs?: number;
  readonly args?: Buffer;
  readonly codec?: number;
}

async function insertTask(options: TaskOptions = {}): Promise<string> {
  const {
    ownerId = randomUUID(),
    endpointId = randomUUID(),
    delayMs = null,
    args = Buffer.of(1),
    codec = 1,
  } = options;
  const { rows } = await database.pool.query(
    `INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, codec, not_before)
     VALUES (gen_random_uuid(), $1, $2, 1, gen_random_uuid(), $3, $4, now() + $5::float8 * interval '1 millisecond')
     RETURNING id`,
    [ownerId, endpointId, args, codec, delayMs],
  );
  return rows[0].id;
}

const finish = (taskId: string, ageMs: number, result: Buffer = Buffer.of(2), codec = 1) =>
  database.pool.query(
    `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb, finished_at)
     VALUES ($1, 1, 0, 1, $2, $3, 0, 0, 0, 0, now() - $4 * interval '1 millisecond')`,
    [taskId, result, codec, ageMs],
  );

const insertPayload = (ownerId: string, digest: Buffer, unusedMs: number) =>
  database.pool.query(
    `INSERT INTO payload (owner_id, digest, size_bytes, last_used_at)
     VALUES ($1, $2, 1, now() - $3 * interval '1 millisecond')`,
    [ownerId, digest, unusedMs],
  );

async function waiting(): Promise<number> {
  const { rows } = await database.pool.query(
    "SELECT count(*)::int AS n FROM task WHERE not_before IS NOT NULL",
  );
  return rows[0].n;
}

const untilReleased = (timeoutMs = 10_000) =>
  expect.poll(waiting, { timeout: timeoutMs, interval: 20 }).toBe(0);

async function ids(table: string, column: string): Promise<string[]> {
  const { rows } = await database.pool.query(`SELECT ${column} AS id FROM ${table} ORDER BY 1`);
  return rows.map((row) => row.id);
}

async function flushRedis(): Promise<void> {
  const client = new Redis(redis?.url as string);
  await client.flushall();
  client.disconnect();
}

const backends = [
  { name: "PostgreSQL", needsRedis: false },
  { name: "Redis", needsRedis: true },
];

describe.each(backends)("background on $name", ({ needsRedis }) => {
  // Without redis-server (apt-get install redis-server) the Redis half is skipped.
  const rule = it.skipIf(needsRedis && !redisAvailable);
  const redisUrl = () => (needsRedis ? redis?.url : undefined);

  rule(
    "releases delayed tasks when their time has come, not before, and names them by endpoint",
    async () => {
      const background = await start({ ...NO_SWEEP, redisUrl: redisUrl() });
      const endpointIds = [randomUUID(), randomUUID()];
      const startedAtMs = Date.now();
      const tasks = await Promise.all(
        [0, 1, 0].map((n) => insertTask({ endpointId: endpointIds[n] as string, delayMs: 600 })),
      );
      await background.scheduleRelease(tasks, 600);
      await untilReleased();
      // Rows written some milliseconds apart may fall due in two rounds.
      const tasksOf = (endpointId: string | undefined) =>
        released.filter((call) => call.endpointId === endpointId).flatMap((call) => call.taskIds);
      expect(tasksOf(endpointIds[0]).toSorted()).toEqual([tasks[0], tasks[2]].toSorted());
      expect(tasksOf(endpointIds[1])).toEqual([tasks[1]]);
      const lateMs = (released[0]?.atMs ?? 0) - startedAtMs - 600;
      expect(lateMs).toBeGreaterThanOrEqual(-50);
      expect(lateMs).toBeLessThan(2_000);
    },
  );

  rule("leaves alone a task whose time was put off meanwhile, and releases it then", async () => {
    const background = await start({ ...NO_SWEEP, redisUrl: redisUrl() });
    const taskId = await insertTask({ delayMs: 1_500 });
    const startedAtMs = Date.now();
    await background.scheduleRelease([taskId], 200);
    await untilReleased();
    expect(Date.now() - startedAtMs).toBeGreaterThan(1_300);
  });

  rule("releases tasks that no job knows of", async () => {
    await insertTask({ delayMs: 400 });
    await insertTask({ delayMs: -5_000 });
    await start({ sweepIntervalMs: 500, redisUrl: redisUrl() });
    await untilReleased();
    expect(released.flatMap((call) => call.taskIds)).toHaveLength(2);
  });

  rule("deletes in the run of one replica what is older than its limit, and nothing else", async () => {
    const ownerId = randomUUID();
    const [used, unused, young, result] = [1, 2, 3, 4].map(() => randomBytes(32)) as [
      Buffer,
      Buffer,
      Buffer,
      Buffer,
    ];
    // As rows have it: the digest, and the size in eight bytes.
    const reference = (digest: Buffer) => encodeReference(digest, 70_000);
    const old = await insertTask({ ownerId });
    const kept = await insertTask({ ownerId, args: reference(used), codec: 129 });
    const open = await insertTask({ ownerId });
    await finish(old, 31 * DAY_MS);
    await finish(kept, 29 * DAY_MS, reference(result), 130);
    await insertPayload(ownerId, used, 2 * DAY_MS);
    await insertPayload(ownerId, result, 2 * DAY_MS);
    await insertPayload(ownerId, unused, 2 * DAY_MS);
    await insertPayload(ownerId, young, DAY_MS / 2);
    // Somebody else's reference to the same content does not keep this owner's file.
    const other = randomUUID();
    await insertPayload(other, used, 2 * DAY_MS);
    await database.pool.query(
      `INSERT INTO idempotency (owner_id, key, body_digest, group_id, base_id, task_count, created_at)
       VALUES ($1, 'old', '\\x00', $1, $1, 1, now() - interval '2 days'), ($1, 'new', '\\x00', $1, $1, 1, now())`,
      [ownerId],
    );
    await database.pool.query(
      `INSERT INTO agent_challenge VALUES ('\\x01', $1, now() - interval '1 s'), ('\\x02', $1, now() + interval '1 h')`,
      [ownerId],
    );
    await database.pool.query(
      `INSERT INTO tombstone (task_id, owner_id, state, reason, finished_at, expired_at)
       VALUES ($1, $1, 1, 0, now(), now() - interval '91 days')`,
      [other],
    );
    await Promise.all(
      [1, 2].map(() => start({ ...NO_SWEEP, redisUrl: redisUrl(), retentionIntervalMs: 300 })),
    );

    await expect.poll(() => deletedPayloads.length, { timeout: 10_000 }).toBe(2);
    expect(deletedPayloads.toSorted()).toEqual(
      [`${ownerId} ${unused.toString("hex")}`, `${other} ${used.toString("hex")}`].toSorted(),
    );
    expect(await ids("task", "id")).toEqual([kept, open].toSorted());
    expect(await ids("outcome", "task_id")).toEqual([kept]);
    expect(await ids("tombstone", "task_id")).toEqual([old]);
    expect(await ids("idempotency", "key")).toEqual(["new"]);
    expect(await ids("agent_challenge", "encode(nonce_hash, 'hex')")).toEqual(["02"]);
    expect(await ids("payload", "encode(digest, 'hex')")).toEqual(
      [used, result, young].map((digest) => digest.toString("hex")).toSorted(),
    );
  });

  rule("keeps a payload whose file could not be deleted for the next run", async () => {
    const digest = randomBytes(32);
    await insertPayload(randomUUID(), digest, 2 * DAY_MS);
    let attempts = 0;
    const background = await createBackground(
      {
        pool: database.pool,
        databaseUrl: database.url,
        log: pino({ level: "silent" }),
        onReleased: () => {},
        deletePayload: async (ownerId) => {
          if (++attempts === 1) throw new Error("disk is busy");
          // No lock is held: whoever deletes the file may delete the row as well.
          await database.pool.query("DELETE FROM payload WHERE owner_id = $1", [ownerId]);
        },
      },
      { ...NO_SWEEP, redisUrl: redisUrl(), retentionMs: DAY_MS, retentionIntervalMs: 350 },
    );
    opened.push(background);
    // A row goes before its file, and is put back where that cannot be deleted: in between it is away.
    const state = async () => [attempts, await ids("payload", "owner_id")];
    await expect.poll(state, { timeout: 10_000 }).toEqual([2, []]);
  });

  rule("closes twice, with jobs waiting, in little time", async () => {
    const background = await start({ redisUrl: redisUrl() });
    await background.scheduleRelease([await insertTask({ delayMs: 10_000 })], 10_000);
    const startedAtMs = Date.now();
    await Promise.all([background.close(), background.close()]);
    expect(Date.now() - startedAtMs).toBeLessThan(3_000);
  });
});

describe.skipIf(!redisAvailable)("losing Redis whole", () => {
  it("loses nothing: what a flush took, the next sweep makes again", async () => {
    const background = await start({ sweepIntervalMs: 800, redisUrl: redis?.url, retentionIntervalMs: 400 });
    const tasks = await Promise.all(Array.from({ length: 50 }, () => insertTask({ delayMs: 1_500 })));
    await background.scheduleRelease(tasks, 1_500);
    await flushRedis();
    await untilReleased();
    expect(released.flatMap((call) => call.taskIds)).toHaveLength(50);
    // The schedule of retention was in there as well.
    await finish(tasks[0] as string, 31 * DAY_MS);
    await expect.poll(() => ids("outcome", "task_id"), { timeout: 10_000 }).toEqual([]);
  });

  it("for good delays releases by a sweep, and holds up neither callers nor close", async () => {
    const own = await startRedis();
    const background = await start({ sweepIntervalMs: 500, redisUrl: own.url });
    await own.stop();
    const taskId = await insertTask({ delayMs: 300 });
    const startedAtMs = Date.now();
    await background.scheduleRelease([taskId], 300);
    expect(Date.now() - startedAtMs).toBeLessThan(3_000);
    await untilReleased();
    await background.close();
    expect(Date.now() - startedAtMs).toBeLessThan(20_000);
  });

  it("and having it back takes up where it was", async () => {
    const own = await startRedis();
    const background = await start({ ...NO_SWEEP, redisUrl: own.url });
    await own.stop();
    const back = await startRedis(Number(new URL(own.url).port));
    try {
      await expect
        .poll(
          async () => {
            await background.scheduleRelease([await insertTask({ delayMs: 100 })], 100);
            await expect.poll(waiting, { timeout: 1_500 }).toBe(0);
            return true;
          },
          { timeout: 15_000 },
        )
        .toBe(true);
      await background.close();
    } finally {
      await back.stop();
    }
  });
});
