// A database for each test file: a copy of the migrated one, made in about 50 ms on the server of the run.
import { randomBytes } from "node:crypto";
import pg from "pg";
import { inject } from "vitest";

/** SQLSTATE of an attempt to end a superuser's process. */
const INSUFFICIENT_PRIVILEGE = "42501";

export interface TestDatabase {
  /** For a service under test; the same database as `pool`. */
  readonly url: string;
  /** The same under the tenants' role, which row-level security binds. */
  readonly tenantUrl: string;
  readonly pool: pg.Pool;
  /** Ends the pool, cuts every other connection and removes the database. */
  drop(): Promise<void>;
}

export interface FreshDatabaseOptions {
  /** False for a database without any table of ours. Default true. */
  readonly migrated?: boolean;
  /** Connections of `pool`. Default 5. */
  readonly maxConnections?: number;
}

/** Call it in `beforeAll`, and `drop()` in `afterAll`. */
export async function freshDatabase(options: FreshDatabaseOptions = {}): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  const template = databaseName(inject("templateUrl"));
  const migrated = options.migrated ?? true;
  await admin(`CREATE DATABASE ${name} TEMPLATE ${migrated ? template : "template0"}`);
  const url = urlOf(name);
  const pool = new pg.Pool({ connectionString: url, max: options.maxConnections ?? 5 });
  // An idle connection that `drop` or a test cuts is no failure.
  pool.on("error", () => {});
  return {
    url,
    tenantUrl: tenantUrlOf(url),
    pool,
    async drop() {
      await pool.end();
      await dropDatabase(name);
    },
  };
}

/** The same server, another database. */
function urlOf(name: string): string {
  const url = new URL(inject("templateUrl"));
  url.pathname = `/${name}`;
  return url.toString();
}

/** The tenants' role of the embedded server has the service's password. */
function tenantUrlOf(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  url.username = "farloom_tenant";
  return url.toString();
}

function databaseName(url: string): string {
  return new URL(url).pathname.slice(1);
}

/** An autovacuum worker in it cannot be cut by us; it ends by itself. */
async function dropDatabase(name: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await admin(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
      return;
    } catch (error) {
      if ((error as { code?: string }).code !== INSUFFICIENT_PRIVILEGE || attempt === 40) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}

async function admin(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: urlOf("postgres") });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
