// What the wall between tenants costs: `node bench/tenant-wall.mjs`, about a minute, after `npm run build`.
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
import { EndpointRegistry } from "../apps/web-service/dist/endpoints/registry.js";
import { FunctionRows } from "../apps/web-service/dist/functions/rows.js";
import { Teams } from "../apps/web-service/dist/sharing/teams.js";
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

/** Of each of two people: functions, endpoints, and teams that both are in. */
const THINGS = 200;
const DIGEST = Buffer.alloc(32, 1);

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
  const plainCall = { seals: undefined, sealAt: 0, options: undefined };
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
      ...plainCall,
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
      ...plainCall,
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
  await road.query("INSERT INTO owner (id, name) VALUES ($1, 'other')", [OTHER]);
  for (const [who, whom] of [
    [WHO, OTHER],
    [OTHER, WHO],
  ]) {
    await road.query(
      `WITH made AS (INSERT INTO team (id, owner_id, name) SELECT gen_random_uuid(), $1, 't' || i FROM generate_series(1, $3) AS i RETURNING id)
       INSERT INTO team_member (team_id, person_id) SELECT id, whom FROM made, unnest(ARRAY[$1, $2]::uuid[]) AS whom`,
      [who, whom, THINGS],
    );
    await road.query(
      `INSERT INTO function (owner_id, digest, name, version, runtime, definition, code, visibility, team_id)
       SELECT $1, sha256(('f' || i)::bytea), 'f' || i, 1, 'python', '{}', '\\x01', i % 2, t.id
       FROM generate_series(1, $2) AS i LEFT JOIN team t ON i % 2 = 1 AND t.owner_id = $1 AND t.name = 't' || i`,
      [who, THINGS],
    );
    await road.query(
      `WITH made AS (INSERT INTO endpoint (id, owner_id, name) SELECT gen_random_uuid(), $1, 'e' || i FROM generate_series(1, $2) AS i
         RETURNING id, name)
       INSERT INTO endpoint_access (endpoint_id, subject_id, is_team, allow)
       SELECT made.id, t.id, true, 2 FROM made JOIN team t ON t.owner_id = $1 AND 'e' || substr(t.name, 2) = made.name`,
      [who, THINGS],
    );
  }
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

  const epoch = /** @type {any} */ ({ generation: 0, isFresh: false });
  const none = /** @type {any} */ (undefined);
  const { rows: theirs } = await road.query("SELECT id FROM endpoint WHERE owner_id = $1 AND name = 'e1'", [
    OTHER,
  ]);
  const of = (pool) => {
    const tenants = new TenantPool(pool);
    return {
      functions: new FunctionRows(tenants),
      endpoints: new EndpointRegistry({ prisma: none, pool: none, tenants }, epoch),
      teams: new Teams(none, tenants, epoch),
    };
  };
  const page = { text: undefined, before: undefined, limit: 100, isPublic: false };
  const [ownerThings, walledThings] = [of(owner), of(walled)];
  /** @type {Record<string, [number, (things: ReturnType<typeof of>) => () => Promise<unknown>]>} */
  const shared = {
    "an endpoint that is shared": [100, (t) => () => t.endpoints.load(key, uuidToKey(theirs[0].id))],
    "a function by its name": [100, (t) => () => t.functions.ownByName(WHO, "f1", none)],
    "a function by a digest that nobody has": [100, (t) => () => t.functions.ofDigest(WHO, DIGEST)],
    "list 100 functions": [20, (t) => () => t.functions.list(WHO, page)],
    "list 100 endpoints": [10, (t) => () => t.endpoints.list(WHO, { limit: 100 })],
    [`list ${2 * THINGS} teams`]: [10, (t) => () => t.teams.list(WHO)],
  };
  for (const [name, [times, work]] of Object.entries(shared)) {
    await compare(name, { before: { work: work(ownerThings) }, after: { work: work(walledThings) }, times });
  }
  const found = await behind.read(WHO, last, false);
  if (found.length !== BATCH || found.every(({ id }) => id !== keyToUuid(last[0])))
    throw new Error("rows are missing");
} finally {
  await Promise.all([road, owner, walled].map((pool) => pool.end()));
  await server.stop();
  await rm(home, { recursive: true, force: true });
}
