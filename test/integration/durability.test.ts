// The service refuses a PostgreSQL that could lose what it acknowledged.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { assertDurable } from "../../apps/web-service/src/store/durability.js";
import {
  type EmbeddedPostgres,
  startEmbeddedPostgres,
} from "../../apps/web-service/src/store/embedded-postgres.js";

// A server of its own: these settings belong to the whole server, and other tests run meanwhile.
let home: string;
let server: EmbeddedPostgres;
let admin: pg.Pool;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "farloom-durability-"));
  server = await startEmbeddedPostgres({ dataDir: join(home, "postgres"), log: pino({ level: "silent" }) });
  const url = new URL(server.url);
  url.username = "postgres";
  admin = new pg.Pool({ connectionString: url.toString(), max: 1 });
});
afterAll(async () => {
  await admin.end();
  await server.stop();
  await rm(home, { recursive: true, force: true });
});
afterEach(async () => {
  await admin.query("ALTER SYSTEM RESET ALL");
  await admin.query("ALTER ROLE farloom RESET ALL");
  await admin.query("SELECT pg_reload_conf()");
});

/** What a new session of the service finds. */
async function check(options?: string): Promise<void> {
  const pool = new pg.Pool({ connectionString: server.url, max: 1, ...(options && { options }) });
  await assertDurable(pool).finally(() => pool.end());
}

/** A reload reaches a session some time after pg_reload_conf() has returned. */
async function setSystem(setting: string, value: string): Promise<void> {
  await admin.query(`ALTER SYSTEM SET ${setting} = '${value}'`);
  await admin.query("SELECT pg_reload_conf()");
  const pool = new pg.Pool({ connectionString: server.url, max: 1 });
  try {
    await expect.poll(async () => (await pool.query(`SHOW ${setting}`)).rows[0][setting]).toBe(value);
  } finally {
    await pool.end();
  }
}

it("accepts the embedded PostgreSQL as it is", () => check());

it.each(["fsync", "synchronous_commit", "full_page_writes"])(
  "refuses %s=off, naming it and the way out",
  async (setting) => {
    await setSystem(setting, "off");
    await expect(check()).rejects.toThrow(new RegExp(`${setting}=off .*ALTER SYSTEM SET ${setting} = 'on'`));
  },
);

it("refuses synchronous_commit=off set for the role alone", async () => {
  await admin.query("ALTER ROLE farloom SET synchronous_commit = off");
  await expect(check()).rejects.toThrow(/synchronous_commit=off \(set by: user\)/);
});

it("refuses synchronous_commit=off set in the connection alone", async () => {
  await expect(check("-c synchronous_commit=off")).rejects.toThrow(
    /synchronous_commit=off \(set by: client\)/,
  );
});

it.each(["local", "remote_write", "on", "remote_apply"])("accepts synchronous_commit=%s", (value) =>
  check(`-c synchronous_commit=${value}`),
);
