// vitest's globalSetup for the projects that need PostgreSQL: one server on a directory of its own, and one
// migrated database that `freshDatabase()` copies. Both are gone after the run.
import { readdirSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { pino } from "pino";
import type { TestProject } from "vitest/node";
import { startEmbeddedPostgres } from "../../apps/web-service/src/store/embedded-postgres.js";
import { applyMigrations, findMigrationsDir } from "../../apps/web-service/src/store/migrate.js";

declare module "vitest" {
  export interface ProvidedContext {
    /** The URL of the migrated database that test databases are copies of; nothing connects to it. */
    templateUrl: string;
  }
}

const DIST = join(import.meta.dirname, "../../apps/web-service/dist");

/** Tests start the bundle of what was compiled, and one that is older would be another service than its source says. */
function requireFreshBundle(): void {
  const changedAt = (path: string): number => statSync(join(DIST, path)).mtimeMs;
  const compiled = readdirSync(DIST, { recursive: true, encoding: "utf8" }).filter(
    (path) => path.endsWith(".js") && !path.startsWith("bundle"),
  );
  const bundledAt = changedAt("bundle/main.js");
  const newer = compiled.find((path) => changedAt(path) > bundledAt);
  if (newer) throw new Error(`the service's bundle is older than dist/${newer}: npm run build`);
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  requireFreshBundle();
  const home = await mkdtemp(join(tmpdir(), "farloom-test-"));
  const log = pino({ level: "silent" });
  const server = await startEmbeddedPostgres({
    dataDir: join(home, "postgres"),
    log,
    // Durability as in production; only smaller, as many tests share the machine.
    settings: { shared_buffers: "64MB", min_wal_size: "80MB", max_wal_size: "1GB", max_connections: 100 },
  });
  const teardown = async () => {
    await server.stop();
    await rm(home, { recursive: true, force: true });
  };
  try {
    // The only connection the template ever sees: CREATE DATABASE refuses one that is in use.
    const pool = new pg.Pool({ connectionString: server.url, max: 1 });
    await applyMigrations(pool, findMigrationsDir(), log).finally(() => pool.end());
  } catch (error) {
    await teardown();
    throw error;
  }
  project.provide("templateUrl", server.url);
  return teardown;
}
