// The embedded PostgreSQL as a process: made, adopted after kill -9 of its starter, recovered, stopped.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { pino } from "pino";
import { afterEach, beforeEach, expect, it } from "vitest";
import {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
} from "../../apps/web-service/src/store/embedded-postgres.js";
import { keepEmbeddedPostgres } from "../../apps/web-service/src/store/kept-postgres.js";
import { isAlive } from "../../apps/web-service/src/store/postgres-process.js";

const log = pino({ level: "silent" });
const starterScript = fileURLToPath(new URL("../support/start-postgres.mjs", import.meta.url));

let home: string;
let dataDir: string;
let servers: EmbeddedPostgres[] = [];

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "farloom-pg-"));
  dataDir = join(home, "farloom", "postgres");
});
afterEach(async () => {
  await Promise.all(servers.map((server) => server.stop()));
  for (const server of servers) expect(await isAlive(server.pid)).toBe(false);
  servers = [];
  await rm(home, { recursive: true, force: true });
});

async function start(options: Partial<EmbeddedPostgresOptions> = {}): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ dataDir, log, ...options });
  servers.push(server);
  return server;
}

async function query(url: string, sql: string) {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

async function listenOn(port: number): Promise<Server> {
  const server = createServer().listen(port, "127.0.0.1");
  await once(server, "listening");
  return server;
}

const portOf = (server: EmbeddedPostgres) => Number(new URL(server.url).port);
const close = (server: Server) => new Promise<void>((resolve) => server.close(() => resolve()));

it("starts on an empty directory, keeps its data over a stop, and stops twice without harm", async () => {
  const first = await start();
  expect(first.adopted).toBe(false);
  await query(first.url, "CREATE TABLE kept AS SELECT 7 AS n");
  await first.stop();
  await first.stop();
  expect(await isAlive(first.pid)).toBe(false);
  const second = await start();
  expect(second.adopted).toBe(false);
  expect(portOf(second)).toBe(portOf(first));
  expect(await query(second.url, "SELECT n FROM kept")).toEqual([{ n: 7 }]);
});

it("is adopted after kill -9 of the process that started it", async () => {
  const starter = spawn(process.execPath, [starterScript, dataDir], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(createInterface(starter.stdout), "line");
  const { pid, url } = JSON.parse(line);
  await query(url, "CREATE TABLE kept AS SELECT 7 AS n");
  starter.kill("SIGKILL");
  await once(starter, "exit");
  const exits: string[] = [];
  const adopted = await start({ onExit: (reason) => exits.push(reason) });
  expect(adopted).toMatchObject({ adopted: true, pid, url });
  expect(await query(adopted.url, "SELECT n FROM kept")).toEqual([{ n: 7 }]);
  await adopted.stop();
  expect(await isAlive(pid)).toBe(false);
  expect(exits).toEqual([]);
});

it("survives kill -9 of its own processes, and says so through onExit", async () => {
  let ended: (reason: string) => void = () => {};
  const exit = new Promise<string>((resolve) => {
    ended = resolve;
  });
  const first = await start({ onExit: (reason) => ended(reason) });
  await query(first.url, "CREATE TABLE kept AS SELECT 7 AS n");
  process.kill(first.pid, "SIGKILL");
  expect(await exit).toBe("killed by SIGKILL");
  const second = await start();
  expect(await query(second.url, "SELECT n FROM kept")).toEqual([{ n: 7 }]);
});

it("is started by one and adopted by the other when two services start at once", async () => {
  const both = await Promise.all([start(), start()]);
  expect(both.map((server) => server.adopted).toSorted()).toEqual([false, true]);
  expect(both[0].url).toBe(both[1].url);
  expect((await readdir(join(home, "farloom"))).toSorted()).toEqual([
    "postgres",
    "postgres.log",
    "postgres.secret.json",
  ]);
});

it("starts although postmaster.pid names a living process that is not PostgreSQL", async () => {
  const first = await start();
  const pidFile = join(dataDir, "postmaster.pid");
  const text = await readFile(pidFile, "utf8");
  await first.stop();
  await writeFile(pidFile, text.replace(String(first.pid), String(process.pid)));
  expect((await start()).adopted).toBe(false);
});

it("takes another port when its own is taken, unless the port was asked for", async () => {
  const first = await start();
  const port = portOf(first);
  await first.stop();
  const squatter = await listenOn(port);
  try {
    await expect(start({ port })).rejects.toThrow(`127.0.0.1:${port}, the port is taken`);
    expect(portOf(await start())).not.toBe(port);
  } finally {
    await close(squatter);
  }
});

it("asks for the password on the socket and on loopback, and listens nowhere else", async () => {
  const { url } = await start();
  for (const path of ["", new URL(url).search]) {
    const stranger = new URL(url);
    stranger.search = path;
    stranger.password = "wrong";
    await expect(query(stranger.toString(), "SELECT 1")).rejects.toMatchObject({ code: "28P01" });
  }
  expect(
    await query(
      url,
      "SELECT current_setting('listen_addresses') AS addresses, usesuper FROM pg_user WHERE usename = current_user",
    ),
  ).toEqual([{ addresses: "127.0.0.1", usesuper: false }]);
  expect((await stat(`${dataDir}.secret.json`)).mode & 0o777).toBe(0o600);
});

it("falls back to loopback where the directory is too long for a Unix socket", async () => {
  dataDir = join(home, "x".repeat(100), "postgres");
  const { url } = await start();
  expect(new URL(url).search).toBe("");
  expect(await query(url, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

it("refuses a cluster without its password rather than making another", async () => {
  await (await start()).stop();
  await rm(`${dataDir}.secret.json`);
  await expect(start()).rejects.toThrow(/is missing: put it back/);
});

it("refuses a cluster of another major version", async () => {
  await mkdir(dataDir, { recursive: true });
  await writeFile(join(dataDir, "PG_VERSION"), "11\n");
  await writeFile(`${dataDir}.secret.json`, JSON.stringify({ password: "x", port: 1 }));
  await expect(start()).rejects.toThrow(/made by PostgreSQL 11/);
});

it("is there again under the same address after kill -9, where it is kept", async () => {
  const kept = await keepEmbeddedPostgres({ dataDir, log });
  servers.push(kept);
  await query(kept.url, "CREATE TABLE kept AS SELECT 7 AS n");
  const { pid } = kept;
  process.kill(pid, "SIGKILL");
  const rows = async (): Promise<unknown> => {
    for (;;) {
      const found = await query(kept.url, "SELECT n FROM kept").catch(() => undefined);
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  expect(await rows()).toEqual([{ n: 7 }]);
  // It serves a moment before it is known to.
  await expect.poll(() => kept.pid).not.toBe(pid);
});
