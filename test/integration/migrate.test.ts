// The migrations as the service applies them at start, on a real PostgreSQL.
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type pg from "pg";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { applyMigrations, findMigrationsDir } from "../../apps/web-service/src/store/migrate.js";
import { diffDatabase, diffSchemas, readSchema, readSnapshot } from "../../scripts/schema-engine.mjs";
import { freshDatabase, type TestDatabase } from "../support/postgres.js";

const log = pino({ level: "silent" });
const migrationsDir = findMigrationsDir();
const id = (n: number) => `00000000-0000-7000-8000-${String(n).padStart(12, "0")}`;

const insertTask = (pool: pg.Pool, taskId: string) =>
  pool.query(
    `INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, codec) VALUES ($1, $2, $2, 1, $2, '\\x01', 1)`,
    [taskId, id(9)],
  );
const insertOutcome = (pool: pg.Pool, taskId: string) =>
  pool.query(
    `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb)
     VALUES ($1, 1, 0, 1, '\\x02', 1, 0, 0, 0, 0)`,
    [taskId],
  );

describe("applyMigrations on an empty database", () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await freshDatabase({ migrated: false });
  });
  afterEach(() => database.drop());

  it("applies all of them in order, once", async () => {
    const applied = await applyMigrations(database.pool, migrationsDir, log);
    expect(applied.length).toBeGreaterThanOrEqual(2);
    expect(applied).toEqual(applied.toSorted());
    expect(await applyMigrations(database.pool, migrationsDir, log)).toEqual([]);
    const { rows } = await database.pool.query(
      `SELECT migration_name, applied_steps_count, finished_at IS NOT NULL AS finished FROM _prisma_migrations ORDER BY 1`,
    );
    expect(rows).toEqual(
      applied.map((name) => ({ migration_name: name, applied_steps_count: 1, finished: true })),
    );
  });

  it("leads to exactly what schema.prisma says", async () => {
    await applyMigrations(database.pool, migrationsDir, log);
    expect(await diffDatabase(database.url, readSchema())).toBe("");
    expect(await diffSchemas(readSnapshot(), readSchema())).toBe("");
  });

  it("lets replicas that start at once agree on who applies what", async () => {
    const runs = await Promise.all([1, 2, 3].map(() => applyMigrations(database.pool, migrationsDir, log)));
    expect(runs.filter((applied) => applied.length > 0)).toHaveLength(1);
    const { rows } = await database.pool.query(
      "SELECT count(*)::int AS rows, count(DISTINCT migration_name)::int AS names FROM _prisma_migrations",
    );
    expect(rows[0].rows).toBe(rows[0].names);
    const locks = await database.pool.query("SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted");
    expect(locks.rowCount).toBe(0);
  });
});

describe("applyMigrations refuses", () => {
  let database: TestDatabase;
  let dir: string;
  beforeEach(async () => {
    database = await freshDatabase();
    dir = await mkdtemp(join(tmpdir(), "farloom-migrations-"));
    await cp(migrationsDir, dir, { recursive: true });
  });
  afterEach(async () => {
    await database.drop();
    await rm(dir, { recursive: true });
  });

  const addMigration = async (name: string, sql: string) => {
    await cp(join(migrationsDir, "migration_lock.toml"), join(dir, name, "x"), { recursive: true });
    await writeFile(join(dir, name, "migration.sql"), sql);
  };

  it("a migration that was edited after it was applied", async () => {
    const { rows } = await database.pool.query(
      "SELECT migration_name FROM _prisma_migrations ORDER BY 1 LIMIT 1",
    );
    await writeFile(join(dir, rows[0].migration_name, "migration.sql"), "-- edited");
    await expect(applyMigrations(database.pool, dir, log)).rejects.toThrow(/differs from the one applied/);
  });

  it("a database that is newer than this build", async () => {
    await addMigration("99990101000000_later", "CREATE TABLE later (id int)");
    await applyMigrations(database.pool, dir, log);
    await expect(applyMigrations(database.pool, migrationsDir, log)).rejects.toThrow(
      /newer than the service/,
    );
  });

  it("a migration that another tool left unfinished", async () => {
    await database.pool.query("UPDATE _prisma_migrations SET finished_at = NULL");
    await expect(applyMigrations(database.pool, dir, log)).rejects.toThrow(/never finished/);
  });

  it("a migration that fails, and leaves nothing of it behind", async () => {
    await addMigration("99990101000000_broken", "CREATE TABLE half (id int); SELECT 1 / 0;");
    await expect(applyMigrations(database.pool, dir, log)).rejects.toThrow(
      /99990101000000_broken.*division by zero/,
    );
    const { rows } = await database.pool.query("SELECT to_regclass('half') AS half");
    expect(rows[0].half).toBeNull();
    await addMigration("99990101000000_broken", "CREATE TABLE half (id int)");
    expect(await applyMigrations(database.pool, dir, log)).toEqual(["99990101000000_broken"]);
  });
});

describe("the database itself keeps the rule", () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await freshDatabase();
  });
  beforeEach(async () => {
    await database.pool.query("TRUNCATE task, outcome");
    await insertTask(database.pool, id(1));
    await insertOutcome(database.pool, id(1));
  });
  afterAll(() => database.drop());

  it("that a terminal state is written once and never changed", async () => {
    await expect(insertOutcome(database.pool, id(1))).rejects.toMatchObject({ code: "23505" });
    await expect(database.pool.query("UPDATE outcome SET state = 2")).rejects.toThrow(/is final/);
    await expect(database.pool.query("UPDATE outcome SET state = state")).rejects.toThrow(/is final/);
  });

  it("that retention may delete an outcome", async () => {
    expect((await database.pool.query("DELETE FROM outcome")).rowCount).toBe(1);
  });

  it.each(["id", "owner_id", "endpoint_id", "function_key", "group_id", "args", "codec"])(
    "that %s of a task never changes",
    async (column) => {
      await expect(database.pool.query(`UPDATE task SET ${column} = ${column}`)).rejects.toThrow(
        /cannot be changed/,
      );
    },
  );

  it("that attempt, times and flags of a task may change", async () => {
    const { rowCount } = await database.pool.query(
      "UPDATE task SET attempt = attempt + 1, not_before = now(), cancel_requested_at = now(), started_at = now()",
    );
    expect(rowCount).toBe(1);
  });
});
