// Runs the real PostgreSQL when DATABASE_URL is unset: makes the cluster, starts the server, or takes over one
// that a killed service has left running.
//
// 1. The server lives in its own session: neither a Ctrl-C nor the death of the service stops it half-way, and the
//    next start adopts it.
// 2. It is never open without a password (scram), and listens on a Unix socket and on loopback alone.
// 3. Stopping is a fast shutdown, and an immediate one after that: both lose nothing that was committed.
//
// Neighbours: postgres-cluster.ts (its files), postgres-identity.ts (under which user), postgres-binaries.ts (which
// programs), postgres-settings.ts (how it is tuned), postgres-process.ts (the process itself).
import { readFile } from "node:fs/promises";
import pg from "pg";
import type { Logger } from "pino";
import { ADMIN, type Cluster, keepPort, openCluster, writeSettings } from "./postgres-cluster.js";
import {
  findServer,
  freePort,
  isPortFree,
  type RunningServer,
  socketDirFor,
  spawnServer,
  stopServer,
  waitForExit,
  waitUntilReady,
  watchServer,
} from "./postgres-process.js";
import type { PostgresSettings } from "./postgres-settings.js";

/** The role and the database of the service. The role owns its database and is no superuser. */
const NAME = "farloom";
/** The role under which one person's rows are read: it owns nothing, and row-level security binds it. */
const TENANT = "farloom_tenant";
/** Crash recovery of a busy server took 1.65 s; a checkpoint distance of 4 GB can take a minute on a slow disk. */
const START_TIMEOUT_MS = 120_000;

/** Each lost race costs a round; more than a few means that something else is wrong. */
const START_ROUNDS = 5;

export interface EmbeddedPostgresOptions {
  /** The cluster's directory, made at the first start. Beside it are `<dataDir>.secret.json` and `<dataDir>.log`. */
  readonly dataDir: string;
  readonly log: Logger;
  /** The loopback TCP port; by default a free one, kept from then on. */
  readonly port?: number;
  /** Added to the tuned settings; for tests and measurements. */
  readonly settings?: PostgresSettings;
  /** Called once if the server ends without `stop()`. */
  readonly onExit?: (reason: string) => void;
}

export interface EmbeddedPostgres {
  /** For pg, Prisma and psql; carries the password, so it is never logged. Uses the Unix socket where it can. */
  readonly url: string;
  /** The same for the tenants' role (tenant-pool.ts). */
  readonly tenantUrl: string;
  readonly pid: number;
  /** True when the server was already running. */
  readonly adopted: boolean;
  /** Fast shutdown; idempotent, and bounded in time. */
  stop(): Promise<void>;
}

/**
 * Starts (or adopts) the PostgreSQL of `dataDir`; the first start makes the cluster, in about a second.
 * @throws Error when the platform has no binaries, the cluster is of another major version, or it does not start.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { dataDir, log } = options;
  const cluster = await openCluster(options);
  const { server, adopted } = await run(cluster, options.port);
  try {
    await createDatabase(cluster);
  } catch (error) {
    // What nobody gets a handle of must not stay behind; an adopted one was there before us.
    if (!adopted) await stopServer(server, log);
    throw error;
  }
  log.info({ pid: server.pid, port: server.port, dataDir, adopted }, "embedded PostgreSQL is ready");

  let stopping: Promise<void> | undefined;
  const unwatch = watchServer(server, (reason) => {
    if (stopping) return;
    log.error({ pid: server.pid, reason, logFile: cluster.logFile }, "embedded PostgreSQL has ended");
    options.onExit?.(reason);
  });
  return {
    url: urlFor(cluster, NAME, NAME),
    tenantUrl: urlFor(cluster, TENANT, NAME),
    pid: server.pid,
    adopted,
    stop() {
      stopping ??= stopServer(server, log).finally(unwatch);
      return stopping;
    },
  };
}

/** Adopts the server that runs, or spawns one; a lost race for the cluster or the port leads to another round. */
async function run(
  cluster: Cluster,
  wantedPort?: number,
): Promise<{ server: RunningServer; adopted: boolean }> {
  const { dir, logFile, identity, binaries, secret } = cluster;
  const deadline = performance.now() + START_TIMEOUT_MS;
  const leftMs = () => Math.max(0, deadline - performance.now());
  for (let round = 0; round < START_ROUNDS; round++) {
    const found = await findServer(dir);
    if (found?.status === "stopping") {
      await waitForExit(found, leftMs());
    } else if (found) {
      if ((await waitUntilReady(found, dir, leftMs())) !== "ready") continue;
      await keepPort(cluster, found.port);
      return { server: found, adopted: true };
    } else {
      const port = wantedPort ?? ((await isPortFree(secret.port)) ? secret.port : await freePort());
      await writeSettings(cluster);
      const server = await spawnServer({ program: binaries.postgres, dir, port, logFile, identity });
      const outcome = await waitUntilReady(server, dir, leftMs());
      if (outcome === "ready") {
        await keepPort(cluster, port);
        return { server, adopted: false };
      }
      if (outcome === "timeout")
        throw new Error(`PostgreSQL did not start in ${START_TIMEOUT_MS} ms, see ${logFile}`);
      if (wantedPort !== undefined && !(await isPortFree(wantedPort)) && !(await findServer(dir)))
        throw new Error(`PostgreSQL cannot listen on 127.0.0.1:${wantedPort}, the port is taken`);
    }
  }
  throw new Error(
    `PostgreSQL did not start in ${dir}. Its log, ${logFile}, ends with: ${await logTail(logFile)}`,
  );
}

async function logTail(file: string): Promise<string> {
  const text = await readFile(file, "utf8").catch(() => "");
  return text.trimEnd().split("\n").slice(-5).join(" | ");
}

/** Makes the service's roles and database where they are missing, and proves that the server is this cluster's. */
async function createDatabase(cluster: Cluster): Promise<void> {
  const client = new pg.Client({ connectionString: urlFor(cluster, ADMIN, "postgres") });
  client.on("error", () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ dir: string; role: boolean; tenant: boolean; database: boolean }>(
      `SELECT current_setting('data_directory') AS dir,
              EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS role,
              EXISTS (SELECT FROM pg_roles WHERE rolname = $2) AS tenant,
              EXISTS (SELECT FROM pg_database WHERE datname = $1) AS database`,
      [NAME, TENANT],
    );
    const state = rows[0];
    if (state?.dir !== cluster.dir)
      throw new Error(
        `the PostgreSQL on port ${cluster.secret.port} runs on ${state?.dir}, not on ${cluster.dir}`,
      );
    const password = pg.escapeLiteral(cluster.secret.password);
    if (!state.role)
      await client.query(`CREATE ROLE ${NAME} LOGIN CREATEDB PASSWORD ${password}`).catch(ignoreExisting);
    if (!state.tenant)
      await client
        .query(`CREATE ROLE ${TENANT} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD ${password}`)
        .catch(ignoreExisting);
    if (!state.database) await client.query(`CREATE DATABASE ${NAME} OWNER ${NAME}`).catch(ignoreExisting);
  } finally {
    await client.end().catch(() => {});
  }
}

/** duplicate_object, duplicate_database, and the unique violation that a race for them gives. */
function ignoreExisting(error: { code?: string }): void {
  if (!["42710", "42P04", "23505"].includes(error.code ?? "")) throw error;
}

function urlFor({ dir, secret }: Cluster, role: string, database: string): string {
  const socketDir = socketDirFor(dir);
  const query = socketDir ? `?host=${encodeURIComponent(socketDir)}` : "";
  return `postgresql://${role}:${secret.password}@127.0.0.1:${secret.port}/${database}${query}`;
}
