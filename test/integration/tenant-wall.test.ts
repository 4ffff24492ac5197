/**
 * The second wall: PostgreSQL keeps people's rows apart, whatever the service's statements forget. Mutants of every
 * module that reads for a person, with the condition on the owner taken out of the statement's text, are run twice:
 * under the role of the road, where they leak (so they are mutants indeed), and under the tenants', where they do not.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { type IdKey, keyToUuid, TaskIdAllocator, uuidToKey } from "@farloom/protocol";
import pg from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAudit } from "../../apps/web-service/src/audit/reader.js";
import { ObjectRows } from "../../apps/web-service/src/objects/rows.js";
import { PayloadRows } from "../../apps/web-service/src/payloads/rows.js";
import { SharedPayloads } from "../../apps/web-service/src/payloads/shared.js";
import { SecretStore } from "../../apps/web-service/src/secrets/store.js";
import { readLateResult } from "../../apps/web-service/src/store/late-results.js";
import { outcomesByIds } from "../../apps/web-service/src/store/read-outcomes.js";
import { readOutput } from "../../apps/web-service/src/store/task-output.js";
import { TenantPool } from "../../apps/web-service/src/store/tenant-pool.js";
import {
  raiseTenantWall,
  TENANT_GRANTS,
  TenantWallError,
} from "../../apps/web-service/src/store/tenant-wall.js";
import { readTombstones } from "../../apps/web-service/src/store/tombstones.js";
import { TaskGroups } from "../../apps/web-service/src/tasks/groups.js";
import { Idempotency } from "../../apps/web-service/src/tasks/idempotency.js";
import { TaskReach } from "../../apps/web-service/src/tasks/reach.js";
import { TaskReader } from "../../apps/web-service/src/tasks/reader.js";
import { WebhookRows } from "../../apps/web-service/src/webhooks/rows.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";
import { MutantClient, mutants, thingsOf } from "../support/tenant-things.js";

const log = pino({ level: "silent" });
const INSUFFICIENT_PRIVILEGE = "42501";
const [ANN, BOB, LENDER] = [randomUUID(), randomUUID(), randomUUID()] as const;
const DIGEST = randomBytes(32);
const BUCKET = "lab";

/** One person's row in each table. */
interface Rows {
  readonly ownerId: string;
  readonly ended: IdKey;
  readonly open: IdKey;
  readonly expired: IdKey;
  readonly groupId: string;
  readonly objectKey: Buffer;
  readonly blobId: string;
}

let rest: RestService;
let road: pg.Pool;
let walled: pg.Pool;
let ann: Rows;
let bob: Rows;
const pools: pg.Pool[] = [];

beforeAll(async () => {
  rest = await startRestService();
  road = rest.database.pool;
  walled = open(rest.database.tenantUrl);
  await road.query("INSERT INTO owner (id, name) VALUES ($1, 'lender')", [LENDER]);
  ann = await rowsOf(ANN, "ann");
  bob = await rowsOf(BOB, "bob");
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
  await rest?.close();
});

function open(connectionString: string, more: pg.PoolConfig = {}): pg.Pool {
  const pool = new pg.Pool({ connectionString, max: 2, ...more });
  pool.on("error", () => {});
  pools.push(pool);
  return pool;
}

async function rowsOf(ownerId: string, name: string): Promise<Rows> {
  const ids = new TaskIdAllocator();
  const [ended, lost, opened, expired] = [ids.next(), ids.next(), ids.next(), ids.next()] as const;
  const groupId = randomUUID();
  const blobId = randomUUID();
  const objectKey = Buffer.from(`${name}/data`);
  await road.query("INSERT INTO owner (id, name) VALUES ($1, $2)", [ownerId, name]);
  await thingsOf(road, ownerId, name);
  await road.query("INSERT INTO task_group (id, owner_id, name) VALUES ($1, $2, $3)", [
    groupId,
    ownerId,
    name,
  ]);
  for (const key of [ended, lost, opened]) {
    await road.query(
      `INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, codec) VALUES ($1, $2, $2, 1, $3, '\\x01', 1)`,
      [keyToUuid(key), ownerId, groupId],
    );
  }
  for (const [key, state] of [
    [ended, 1],
    [lost, 5],
  ] as const) {
    await road.query(
      `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb)
       VALUES ($1, $2, 0, 1, $3, 1, 0, 0, 0, 0)`,
      [keyToUuid(key), state, Buffer.from(name)],
    );
    await road.query(
      "INSERT INTO task_output (task_id, attempt, stream, at, data) VALUES ($1, 1, 1, 0, $2)",
      [keyToUuid(key), Buffer.from(name)],
    );
    await road.query(
      "INSERT INTO late_result (task_id, owner_id, attempt, state, reason, result, codec) VALUES ($1, $2, 1, 1, 0, $3, 1)",
      [keyToUuid(key), ownerId, Buffer.from(name)],
    );
  }
  await road.query(
    "INSERT INTO tombstone (task_id, owner_id, state, reason, finished_at) VALUES ($1, $2, 1, 0, now())",
    [keyToUuid(expired), ownerId],
  );
  await road.query(
    `INSERT INTO object (owner_id, bucket, key, blob_id, size_bytes, digest, content_type, metadata)
     VALUES ($1, $2, $3, $4, 1, $5, 'text/plain', '{}')`,
    [ownerId, BUCKET + name, objectKey, blobId, DIGEST],
  );
  await road.query("INSERT INTO payload (owner_id, digest, size_bytes) VALUES ($1, sha256($2), 1)", [
    ownerId,
    Buffer.from(name),
  ]);
  await road.query(
    "INSERT INTO idempotency (owner_id, key, body_digest, group_id, base_id, task_count) VALUES ($1, $2, $3, $4, $5, 1)",
    [ownerId, name, DIGEST, groupId, keyToUuid(ended)],
  );
  await road.query(
    `INSERT INTO audit_entry (seq, at, owner_id, actor, credential, action, target, origin, status, code, detail, previous, hash)
     SELECT coalesce(max(seq), 0) + 1000, now(), $1, $2, '', 'a', '', '', 200, '', '', '\\x00', '\\x00' FROM audit_entry`,
    [ownerId, name],
  );
  await road.query(
    "INSERT INTO secret (owner_id, name, version, key_id, sealed) VALUES ($1, $2, $3, '', '\\x00')",
    [ownerId, `SECRET_OF_${name}`, randomUUID()],
  );
  await road.query(
    "INSERT INTO webhook (id, owner_id, url, secret_nonce) VALUES ($1, $2, 'https://x.example/', '\\x01')",
    [blobId, ownerId],
  );
  await road.query(
    "INSERT INTO webhook_delivery (id, webhook_id, owner_id, event, subject_id, body) VALUES ($1, $2, $3, 'ping', $2, '{}')",
    [groupId, blobId, ownerId],
  );
  // A result that is a reference to a file of whoever owns the endpoint: an index finds it by its digest.
  const referring = ids.next();
  await road.query("INSERT INTO endpoint (id, owner_id, name) VALUES ($1, $2, $3)", [groupId, LENDER, name]);
  await road.query(
    `INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, codec) VALUES ($1, $2, $3, 1, $3, '\\x01', 1)`,
    [keyToUuid(referring), ownerId, groupId],
  );
  await road.query(
    `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb)
     VALUES ($1, 1, 0, 1, sha256($2), 129, 0, 0, 0, 0)`,
    [keyToUuid(referring), Buffer.from(`file for ${name}`)],
  );
  return { ownerId, ended, open: opened, expired, groupId, objectKey, blobId };
}

const DISPATCH = { liveState: () => "QUEUED", liveProgress: () => undefined } as never;
const NARROW = {
  ownerId: ANN,
  narrow: { endpoints: undefined, functions: undefined },
} as never;
const reader = (tenants: TenantPool): TaskReader => new TaskReader(tenants, DISPATCH);
const objects = (tenants: TenantPool): ObjectRows => new ObjectRows(road, tenants);
const hooks = (tenants: TenantPool): WebhookRows => new WebhookRows(road, tenants, 20);
const page = { prefix: Buffer.alloc(0), from: undefined, delimiter: undefined, limit: 100 };
const labOfBob = () => ({ bucket: `${BUCKET}bob`, keyBytes: bob.objectKey }) as never;
const isBobs = (id: string): boolean => [bob.ended, bob.open].some((key) => keyToUuid(key) === id);

/** What each module that reads for a person tells Ann of Bob's: how many things. */
const READS: Record<string, (tenants: TenantPool) => Promise<number>> = {
  "a task, whole": async (t) => (await reader(t).read(ANN, [bob.ended], true)).length,
  "a task, light": async (t) => (await reader(t).read(ANN, [bob.open], false)).length,
  "a list of tasks": async (t) =>
    (await reader(t).list(ANN, { limit: 100 })).rows.filter(({ id }) => isBobs(id)).length,
  "a list of a group's tasks": async (t) =>
    (await reader(t).list(ANN, { limit: 100, groupId: bob.groupId })).rows.length,
  "counts of a group": async (t) => (await reader(t).countGroup(ANN, bob.groupId))?.total ?? 0,
  "open tasks of a group": async (t) => (await reader(t).openOfGroup(ANN, bob.groupId, 100)).length,
  "a range of ids": async (t) => reader(t).countRange(ANN, bob.ended, bob.ended),
  "what a narrow key reaches": async (t) =>
    (
      await new TaskReach(t, undefined as never, { requireTasks: async () => {} } as never).within(NARROW, [
        bob.ended,
      ])
    ).length,
  "results on a link": async (t) => (await outcomesByIds(t, ANN, [bob.ended])).length,
  "a late result": async (t) => ((await readLateResult(t, ANN, bob.ended)) ? 1 : 0),
  tombstones: async (t) => (await readTombstones(t, ANN, [bob.expired])).length,
  "live output": async (t) =>
    (await readOutput(t, { ownerId: ANN, key: bob.ended, attempt: 1, stream: 1 }, { offset: 0, rows: 9 }))
      .length,
  "a group": async (t) => ((await new TaskGroups(t).find(ANN, bob.groupId)) ? 1 : 0),
  "a list of groups": async (t) =>
    (await new TaskGroups(t).list(ANN, { limit: 100 })).items.filter(({ id }) => id === bob.groupId).length,
  "an object": async (t) => ((await objects(t).find(ANN, labOfBob())) ? 1 : 0),
  "a list of objects": async (t) => (await objects(t).list(ANN, `${BUCKET}bob`, page)).items.length,
  "a list of objects by folder": async (t) =>
    (await objects(t).list(ANN, `${BUCKET}bob`, { ...page, delimiter: Buffer.from("/") })).prefixes.length,
  buckets: async (t) => (await objects(t).buckets(ANN)).filter((name) => name === `${BUCKET}bob`).length,
  "a payload": async (t) => {
    const { rows } = await road.query<{ digest: Buffer }>("SELECT digest FROM payload WHERE owner_id = $1", [
      BOB,
    ]);
    return (await new PayloadRows(road, t, log).has(ANN, rows[0]!.digest)) === undefined ? 0 : 1;
  },
  "an idempotency key": async (t) =>
    (await new Idempotency(t).find(ANN, { key: "bob", bodyDigest: DIGEST })) ? 1 : 0,
  secrets: async (t) =>
    (await new SecretStore(road, t, undefined as never, log).list(ANN)).filter(({ name }) =>
      name.endsWith("bob"),
    ).length,
  webhooks: async (t) => (await hooks(t).list(ANN)).filter(({ id }) => id === bob.blobId).length,
  "deliveries of a webhook": async (t) => (await hooks(t).deliveries(ANN, bob.blobId, { limit: 9 })).length,
  "the audit log": async (t) =>
    (
      await readAudit(t, { readerId: ANN, ownerId: ANN, cursor: undefined, fromEnd: true, limit: 100 })
    ).items.filter(({ actor }) => actor === "bob").length,
  // Whoever is taken for an administrator by mistake.
  "the whole audit log": async (t) => {
    mutants.count++;
    const whole = { readerId: ANN, ownerId: undefined, cursor: undefined, fromEnd: true, limit: 100 };
    return (await readAudit(t, whole)).items.filter(({ actor }) => actor === "bob").length;
  },
};

describe("a statement that forgets whose rows it wants", () => {
  for (const [what, read] of Object.entries(READS)) {
    it(`leaks nothing: ${what}`, async () => {
      expect(await read(new TenantPool(walled)), "as it is").toBe(0);
      mutants.count = 0;
      const leaky = new TenantPool(open(rest.database.url, { Client: MutantClient as never }));
      expect(await read(leaky), "the mutant without the wall").toBeGreaterThan(0);
      expect(mutants.count).toBeGreaterThan(0);
      const mutant = new TenantPool(open(rest.database.tenantUrl, { Client: MutantClient as never }));
      expect(await read(mutant), "the mutant behind the wall").toBe(0);
    });
  }

  it("changes nothing: neither an object of somebody else's, nor one put under their name", async () => {
    const tenants = new TenantPool(open(rest.database.tenantUrl, { Client: MutantClient as never }));
    const before = { blobId: bob.blobId } as never;
    expect(await objects(tenants).remove(ANN, labOfBob(), before)).toBe(false);
    expect(await objects(tenants).removeAll(ANN, `${BUCKET}bob`, [bob.objectKey])).toEqual([]);
    const put = (ownerId: string) =>
      tenants.query(ANN, {
        text: `INSERT INTO object (owner_id, bucket, key, blob_id, size_bytes, digest, content_type, metadata)
               VALUES ($1, 'x', '\\x01', $2, 1, '\\x01', '', '{}')`,
        values: [ownerId, randomUUID()],
      });
    await expect(put(BOB)).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
    expect((await put(ANN)).rowCount).toBe(1);
    expect((await objects(new TenantPool(walled)).find(BOB, labOfBob()))?.blobId).toBe(bob.blobId);
  });
});

it("a file that came as a result is its submitter's to read, and nobody else's who knows its digest", async () => {
  const shared = new SharedPayloads(new TenantPool(walled));
  const digest = createHash("sha256").update("file for bob").digest();
  expect(await shared.ownerForSubmitter(BOB, digest)).toBe(LENDER);
  expect(await shared.ownerForSubmitter(ANN, digest)).toBeUndefined();
});

describe("the tenants' role", () => {
  const tables = [...new Set(TENANT_GRANTS.map(({ table }) => table))];
  /** Which show the tenant's alone to the tables' owner, too. */
  const views = ["task_names", "tenant", "tenant_team", "tenant_endpoint"];
  const count = async (pool: pg.Pool | pg.PoolClient, table: string): Promise<number> =>
    Number((await pool.query(`SELECT count(*) AS n FROM "${table}"`)).rows[0].n);

  it("sees one's own rows of every table, and without a person none", async () => {
    const tenants = new TenantPool(walled);
    const nobody = open(rest.database.tenantUrl);
    for (const table of tables) {
      expect(await count(nobody, table), table).toBe(0);
      const { rows } = await tenants.query<{ n: string }>(ANN, {
        text: `SELECT count(*) AS n FROM "${table}"`,
      });
      const [mine, all] = [Number(rows[0]!.n), await count(road, table)];
      expect(mine, table).toBeGreaterThan(0);
      if (!views.includes(table)) expect(mine, table).toBeLessThan(all);
    }
  });

  it("is bound by row-level security in all that it may touch, and may touch nothing else", async () => {
    const { rows } = await walled.query<{ name: string; kind: string; bound: boolean; owned: boolean }>(
      `SELECT c.relname AS name, c.relkind AS kind, row_security_active(c.oid) AS bound, c.relowner = r.oid AS owned
       FROM pg_class c JOIN pg_roles r ON r.rolname = current_user
       WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
         AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, SELECT, UPDATE')
             ELSE has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege(c.oid, 'DELETE, TRUNCATE') END`,
    );
    expect(rows.map(({ name }) => name).sort()).toEqual([...tables].sort());
    for (const { name, kind, bound, owned } of rows) {
      expect(owned, name).toBe(false);
      if (kind === "r") expect(bound, name).toBe(true);
    }
    const role = await walled.query(
      "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user",
    );
    expect(role.rows).toEqual([{ rolsuper: false, rolbypassrls: false, rolcreaterole: false }]);
  });

  it("can neither leave its rows nor become the road", async () => {
    const client = await open(rest.database.tenantUrl).connect();
    try {
      await expect(client.query("SET ROLE farloom")).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
      await client.query("SET row_security = off");
      await expect(client.query("SELECT id FROM task")).rejects.toMatchObject({
        code: INSUFFICIENT_PRIVILEGE,
      });
      await expect(client.query("SELECT args FROM task")).rejects.toMatchObject({
        code: INSUFFICIENT_PRIVILEGE,
      });
      await expect(client.query("DELETE FROM outcome")).rejects.toMatchObject({
        code: INSUFFICIENT_PRIVILEGE,
      });
    } finally {
      client.release(true);
    }
  });

  it("every table that says whose its rows are, or of which task, is walled or closed to it", async () => {
    const { rows } = await road.query<{ name: string }>(
      `SELECT DISTINCT c.relname AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
       WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attname IN ('owner_id', 'task_id', 'team_id', 'person_id', 'function_key')
         AND NOT c.relrowsecurity AND has_any_column_privilege('farloom_tenant', c.oid, 'SELECT')`,
    );
    expect(rows).toEqual([]);
  });
});

describe("the connections of tenants", () => {
  it("never answer one person with what another asked, however many ask at once", async () => {
    const tenants = new TenantPool(walled);
    const asked = Array.from({ length: 300 }, async (_, i) => {
      const who = [ann, bob][i % 2]!;
      const bad =
        i % 7 === 0 ? tenants.query(who.ownerId, { text: "SELECT 1/0" }).catch(() => {}) : undefined;
      const { rows } = await tenants.query<{ owner_id: string }>(who.ownerId, {
        text: "SELECT owner_id FROM task",
      });
      await bad;
      return rows.length === 4 && rows.every(({ owner_id }) => owner_id === who.ownerId);
    });
    expect(await Promise.all(asked)).toEqual(asked.map(() => true));
  });
});

describe("at the start", () => {
  const warnings: string[] = [];
  const heard = pino(
    { level: "warn" },
    { write: (line: string) => void warnings.push(JSON.parse(line).msg) },
  );

  it("the service says that the wall is missing where it has one role alone, and serves", async () => {
    expect(await raiseTenantWall(road, open(rest.database.url), heard)).toBe(false);
    expect(warnings.at(-1)).toMatch(/FARLOOM_TENANT_DATABASE_URL/);
    const alone = await startRestService({ tenantDatabaseUrl: undefined });
    try {
      const me = await alone.api.get("/v1/me");
      expect(me.body).toMatchObject({ admin: true, tenantWall: false });
      for (const path of ["tasks", "functions", "endpoints", "teams", "sessions"])
        expect((await alone.api.get(`/v1/${path}`)).body.items, path).toEqual([]);
      for (const path of ["keys", "accounts"])
        expect((await alone.api.get(`/v1/${path}`)).body.items, path).toHaveLength(1);
    } finally {
      await alone.close();
    }
  });

  it("the service refuses a role of its own that row-level security would blind", async () => {
    await expect(raiseTenantWall(walled, walled, heard)).rejects.toThrow(TenantWallError);
  });

  it("an administrator is told that the wall stands, and nobody else is told anything", async () => {
    expect((await rest.api.get("/v1/me")).body).toMatchObject({ admin: true, tenantWall: true });
    const made = await rest.api.post("/v1/keys", { label: "x", owner: "cid", scopes: ["tasks:read"] });
    expect(made.status).toBe(201);
    const me = await new RestClient(rest.url, made.body.key).get("/v1/me");
    expect(me.body).toMatchObject({ owner: "cid", admin: false });
    expect(me.body).not.toHaveProperty("tenantWall");
  });
});

it("one's own tasks, with the names of what they call, are read through the wall", async () => {
  const { rows } = await road.query<{ id: string }>("SELECT id FROM owner WHERE name = 'me'");
  const fn = await rest.api.post("/v1/functions", {
    name: "f",
    runtime: "python",
    entry: "f",
    code: "def f(): pass",
  });
  const endpoint = await rest.api.post("/v1/endpoints", { name: "here" });
  const sent = await rest.api.post("/v1/tasks", { endpoint: endpoint.body.id, function: "f", args: [] });
  expect(sent.status, JSON.stringify(sent.body)).toBe(202);
  const key = uuidToKey(sent.body.id)!;
  const [row] = await reader(new TenantPool(walled)).read(rows[0]!.id, [key], true);
  expect(row).toMatchObject({ function_owner: "me", function_name: "f", endpoint_name: "here" });
  expect((await rest.api.get(`/v1/tasks/${sent.body.id}`)).body).toMatchObject({
    function: fn.body.ref,
    endpointName: "here",
    state: "QUEUED",
  });
});
