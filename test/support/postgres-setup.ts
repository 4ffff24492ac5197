// vitest's globalSetup for the projects that need PostgreSQL: one server on a directory of its own, and one
// migrated database that `freshDatabase()` copies. Both are gone after the run.
import { readFileSync } from "node:fs";
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

const ROOT = join(import.meta.dirname, "../..");
/** Tests start the bundle of what was compiled; an older one would be another program than its source says. */
async function requireFreshBundles(): Promise<void> {
  const { compiledDigest } = (await import("../../scripts/lib/compiled-digest.mjs" as string)) as {
    compiledDigest(dist: string): string;
  };
  for (const folder of ["apps/web-service", "apps/endpoint-agent", "packages/cli"]) {
    const dist = join(ROOT, folder, "dist");
    if (readFileSync(join(dist, "bundle/made-of"), "utf8") !== compiledDigest(dist))
      throw new Error(`the bundle of ${folder} is not of what was compiled: npm run build`);
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await requireFreshBundles();
  const home = await mkdtemp(join(tmpdir(), "farloom-test-"));
  const log = pino({ level: "silent" });
  const server = await startEmbeddedPostgres({
    dataDir: join(home, "postgres"),
    log,
    // Durability as in production; only smaller, as many tests share the machine.
    settings: { shared_buffers: "64MB", min_wal_size: "80MB", max_wal_size: "1GB", max_connections: 300 },
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
