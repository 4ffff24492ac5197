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

const ROOT = join(import.meta.dirname, "../..");
/** Each with a file that its bundle is sure to hold. */
const BUNDLES = {
  "apps/web-service": "main.js",
  "apps/endpoint-agent": "main.js",
  "packages/cli": "index.js",
};

/** Tests start the bundle of what was compiled, and one that is older would be another program than its source says. */
function requireFreshBundles(): void {
  for (const [folder, program] of Object.entries(BUNDLES)) {
    const dist = join(ROOT, folder, "dist");
    const changedAt = (path: string): number => statSync(join(dist, path)).mtimeMs;
    const compiled = readdirSync(dist, { recursive: true, encoding: "utf8" }).filter(
      (path) => path.endsWith(".js") && !path.startsWith("bundle"),
    );
    const bundledAt = changedAt(join("bundle", program));
    const newer = compiled.find((path) => changedAt(path) > bundledAt);
    if (newer) throw new Error(`the bundle of ${folder} is older than its dist/${newer}: npm run build`);
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  requireFreshBundles();
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
