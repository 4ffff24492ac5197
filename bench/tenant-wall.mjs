// What the wall between tenants costs: `node bench/tenant-wall.mjs`, some 40 seconds, after `npm run build`.
//
// On one embedded PostgreSQL, in rounds that take turns, so that a machine whose load changes is fair to both sides:
// the hot path's two statements with row-level security on their tables and without, and a person's reads under the
// tenants' role and under the one that owns the tables. Prints the median of the rounds and their ratio.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keyToUuid, TaskIdAllocator, uuidToKey } from "@farloom/protocol";
import pg from "pg";
import { pino } from "pino";
import { startEmbeddedPostgres } from "../apps/web-service/dist/store/embedded-postgres.js";
import { insertOutcomes } from "../apps/web-service/dist/store/insert-outcomes.js";
import { insertTasks } from "../apps/web-service/dist/store/insert-tasks.js";
import { applyMigrations, findMigrationsDir } from "../apps/web-service/dist/store/migrate.js";
import { TenantPool } from "../apps/web-service/dist/store/tenant-pool.js";
import { raiseTenantWall } from "../apps/web-service/dist/store/tenant-wall.js";
import { TaskReader } from "../apps/web-service/dist/tasks/reader.js";

const ROUNDS = 15;
const BATCH = 256;
const BATCHES = 12;
const WHO = "01a209ca-e86a-7123-ae21-400dcac571c2";
const OTHER = "01a209ca-e86a-7123-ae21-400dcac571c3";

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

async function timed(times, work) {
  const startMs = performance.now();
  for (let i = 0; i < times; i++) await work(i);
  return ((performance.now() - startMs) * 1000) / times;
}

/** Microseconds of both sides by turns; each warms up first, as a change of the tables makes PostgreSQL plan again. */
async function compare(name, { before, after, times }) {
  const samples = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    for (const side of round % 2 ? [1, 0] : [0, 1]) {
      const { prepare, work } = side ? after : before;
      await prepare?.();
      await timed(8, work);
      samples[side].push(await timed(times, work));
    }
  }
  const [a, b] = samples.map(median);
  console.log(
    `${name}: ${a.toFixed(0)} µs without, ${b.toFixed(0)} µs with the wall (${((b / a - 1) * 100).toFixed(1)} %)`,
  );
}

const home = await mkdtemp(join(tmpdir(), "farloom-wall-"));
const log = pino({ level: "silent" });
const server = await startEmbeddedPostgres({ dataDir: join(home, "postgres"), log });
const open = (connectionString) => new pg.Pool({ connectionString, max: 1 });
const [road, owner, walled] = [open(server.url), open(server.url), open(server.tenantUrl)];
try {
  await applyMigrations(road, findMigrationsDir(), log);
  if (!(await raiseTenantWall(road, walled, log))) throw new Error("the wall does not stand");
  await road.query("INSERT INTO owner (id, name) VALUES ($1, 'who')", [WHO]);
  await road.query("INSERT INTO endpoint (id, owner_id, name, epoch) VALUES ($1, $1, 'here', 1)", [WHO]);

  const ids = new TaskIdAllocator();
  const key = uuidToKey(WHO);
  const none = { seals: undefined, sealAt: 0, options: undefined };
  const slice = { source: Buffer.from("[1]"), start: 0, end: 3 };
  /** @type {string[]} */
  let last = [];
  const road2 = async () => {
    last = Array.from({ length: BATCH }, () => ids.next());
    const task = {
      ...slice,
      ownerKey: key,
      endpointKey: key,
      groupKey: key,
      functionKey: 1,
      codec: 1,
      ...none,
    };
    await insertTasks(
      road,
      last.map((id) => ({ ...task, key: id })),
    );
    const outcome = {
      ...slice,
      endpointKey: key,
      epoch: 1,
      attempt: 1,
      state: 1,
      reason: 0,
      codec: 1,
      ...none,
      detail: undefined,
    };
    const spent = { queueUs: 1, runUs: 1, cpuUs: 1, peakKb: 1 };
    const written = await insertOutcomes(
      road,
      last.map((id) => ({ ...outcome, ...spent, key: id })),
    );
    if (written !== BATCH) throw new Error(`${written} outcomes of ${BATCH}`);
  };
  const secure = (how) => async () => {
    for (const table of ["task", "outcome"])
      await road.query(`ALTER TABLE ${table} ${how} ROW LEVEL SECURITY`);
  };
  await compare(`submit and finish ${BATCH} tasks`, {
    before: { prepare: secure("DISABLE"), work: road2 },
    after: { prepare: secure("ENABLE"), work: road2 },
    times: BATCHES,
  });
  await secure("ENABLE")();
  await road.query("ANALYZE");

  /** What is read has ended: no queue is asked. */
  const queues = /** @type {any} */ ({ liveState: () => "QUEUED" });
  const readerOf = (pool) => new TaskReader(new TenantPool(pool), queues);
  const [plain, behind] = [readerOf(owner), readerOf(walled)];
  /** @type {Record<string, [number, (reader: TaskReader) => (turn: number) => Promise<unknown>]>} */
  const reads = {
    "read a task": [200, (reader) => () => reader.read(WHO, [last[0]], true)],
    "read a task, another person each time": [
      200,
      (reader) => (i) => reader.read(i % 2 ? WHO : OTHER, [last[0]], true),
    ],
    "list 100 tasks": [20, (reader) => () => reader.list(WHO, { limit: 100 })],
    [`read ${BATCH} tasks`]: [20, (reader) => () => reader.read(WHO, last, false)],
  };
  for (const [name, [times, work]] of Object.entries(reads)) {
    await compare(name, { before: { work: work(plain) }, after: { work: work(behind) }, times });
  }
  const found = await behind.read(WHO, last, false);
  if (found.length !== BATCH || found.every(({ id }) => id !== keyToUuid(last[0])))
    throw new Error("rows are missing");
} finally {
  await Promise.all([road, owner, walled].map((pool) => pool.end()));
  await server.stop();
  await rm(home, { recursive: true, force: true });
}
