// Brings the database to the schema of this build, at start, without the Prisma CLI.
//
// 1. One process at a time: everything happens under a PostgreSQL advisory lock, the one Prisma's own CLI takes.
// 2. A migration and its row in `_prisma_migrations` commit together, so an interrupted start leaves nothing half done.
// 3. History is checked before anything is applied. An edited migration, or one this build does not know, means
//    that code and database disagree: the service refuses to start rather than guess.
import { createHash, randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type pg from "pg";
import type { Logger } from "pino";

/** The key of Prisma's own migration lock: a `prisma migrate deploy` by hand and our start exclude each other. */
const LOCK_KEY = 72_707_369;

/** The table as Prisma creates it, so that its tools can read our history. */
const HISTORY_TABLE = `
  CREATE TABLE IF NOT EXISTS "_prisma_migrations" (
    "id" VARCHAR(36) PRIMARY KEY NOT NULL,
    "checksum" VARCHAR(64) NOT NULL,
    "finished_at" TIMESTAMPTZ,
    "migration_name" VARCHAR(255) NOT NULL,
    "logs" TEXT,
    "rolled_back_at" TIMESTAMPTZ,
    "started_at" TIMESTAMPTZ NOT NULL DEFAULT now(),
    "applied_steps_count" INTEGER NOT NULL DEFAULT 0
  )`;

/** The database cannot be brought to this build's schema; the message says why and what to do. */
export class MigrationError extends Error {
  override readonly name = "MigrationError";
}

interface Migration {
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
}

interface HistoryRow {
  readonly migration_name: string;
  readonly checksum: string;
  readonly finished_at: Date | null;
}

/** Where the migrations are: beside `dist` in a package, at the root in the repository. */
export function findMigrationsDir(): string {
  const candidates = ["../../prisma/migrations", "../../../../prisma/migrations"].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  const found = candidates.find((path) => existsSync(join(path, "migration_lock.toml")));
  if (!found) throw new MigrationError(`no migrations found in ${candidates.join(" or ")}`);
  return found;
}

/**
 * Applies the pending migrations of `dir` in the order of their names. Safe when several replicas start at once.
 * @returns the names of those applied now.
 * @throws MigrationError when the history does not fit this build, or a migration fails (and is rolled back).
 */
export async function applyMigrations(pool: pg.Pool, dir: string, log: Logger): Promise<string[]> {
  const migrations = await readMigrations(dir);
  const client = await pool.connect();
  let failure: Error | undefined;
  try {
    await lock(client, log);
    const applied = await readHistory(client);
    checkHistory(migrations, applied);
    const known = new Set(applied.map((row) => row.migration_name));
    const pending = migrations.filter((migration) => !known.has(migration.name));
    for (const migration of pending) await applyOne(client, migration, log);
    await client.query("SELECT pg_advisory_unlock($1)", [LOCK_KEY]);
    return pending.map((migration) => migration.name);
  } catch (error) {
    failure = error as Error;
    throw error;
  } finally {
    // After an error the connection is closed, and the lock goes with it.
    client.release(failure);
  }
}

async function readMigrations(dir: string): Promise<Migration[]> {
  const entries = await readdir(dir, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  return Promise.all(
    names.sort().map(async (name) => {
      const sql = await readFile(join(dir, name, "migration.sql"), "utf8");
      return { name, sql, checksum: createHash("sha256").update(sql).digest("hex") };
    }),
  );
}

async function lock(client: pg.PoolClient, log: Logger): Promise<void> {
  const { rows } = await client.query<{ locked: boolean }>("SELECT pg_try_advisory_lock($1) AS locked", [
    LOCK_KEY,
  ]);
  if (rows[0]?.locked) return;
  log.info("waiting for another process that migrates the database");
  await client.query("SELECT pg_advisory_lock($1)", [LOCK_KEY]);
}

async function readHistory(client: pg.PoolClient): Promise<HistoryRow[]> {
  // Asked first: a role that may not create tables can still start on a database that is up to date.
  const { rows } = await client.query<{ exists: boolean }>(
    `SELECT to_regclass('"_prisma_migrations"') IS NOT NULL AS exists`,
  );
  if (!rows[0]?.exists) await client.query(HISTORY_TABLE);
  const history = await client.query<HistoryRow>(
    `SELECT "migration_name", "checksum", "finished_at" FROM "_prisma_migrations" WHERE "rolled_back_at" IS NULL`,
  );
  return history.rows;
}

function checkHistory(migrations: Migration[], applied: HistoryRow[]): void {
  const byName = new Map(migrations.map((migration) => [migration.name, migration]));
  for (const row of applied) {
    const migration = byName.get(row.migration_name);
    if (!migration)
      throw new MigrationError(
        `the database has the migration "${row.migration_name}", which this build does not know: the database ` +
          "is newer than the service. Run the newer version, or restore a backup from before the upgrade.",
      );
    if (row.finished_at === null)
      throw new MigrationError(
        `the migration "${row.migration_name}" was started by another tool and never finished. Repair the ` +
          `database, then set rolled_back_at on its row in "_prisma_migrations".`,
      );
    if (row.checksum !== migration.checksum)
      throw new MigrationError(
        `the migration "${row.migration_name}" differs from the one applied to this database (checksum ` +
          `${migration.checksum}, applied ${row.checksum}). Applied migrations are never edited: restore the ` +
          "file and put the change in a new migration.",
      );
  }
}

async function applyOne(client: pg.PoolClient, migration: Migration, log: Logger): Promise<void> {
  const startedAtMs = performance.now();
  try {
    await client.query("BEGIN");
    await client.query(migration.sql);
    await client.query(
      `INSERT INTO "_prisma_migrations" ("id", "checksum", "migration_name", "started_at", "finished_at", "applied_steps_count")
       VALUES ($1, $2, $3, now(), clock_timestamp(), 1)`,
      [randomUUID(), migration.checksum, migration.name],
    );
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK").catch(() => {});
    throw new MigrationError(
      `the migration "${migration.name}" failed and was rolled back: ${String(error)}`,
      {
        cause: error,
      },
    );
  }
  log.info(
    { migration: migration.name, durationMs: Math.round(performance.now() - startedAtMs) },
    "migration applied",
  );
}
