/** PostgreSQL (the embedded one, on a cluster of its own) and Redis, to be killed, paused and brought back. */
import { randomBytes } from "node:crypto";
import { accessSync, constants, readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { pino } from "pino";
import { startEmbeddedPostgres } from "../../../apps/web-service/dist/store/embedded-postgres.js";
import { Member } from "./member.mjs";
import { freePort } from "./ports.mjs";

/** Durability as in production; only smaller. */
const SETTINGS = { shared_buffers: "64MB", min_wal_size: "80MB", max_wal_size: "1GB", max_connections: 200 };

export class Postgres {
  #dataDir;
  #server;
  #isPaused = [];
  port;
  /** Each call may reach the server, however the links are. */
  url;

  static async start(dataDir) {
    const postgres = new Postgres();
    postgres.#dataDir = dataDir;
    await postgres.start();
    return postgres;
  }

  get pid() {
    return this.#server.pid;
  }

  async start() {
    const log = pino({ level: "silent" });
    const options = this.port === undefined ? {} : { port: this.port };
    this.#server = await startEmbeddedPostgres({
      dataDir: this.#dataDir,
      log,
      settings: SETTINGS,
      ...options,
    });
    const url = new URL(this.#server.url);
    url.search = "";
    this.port = Number(url.port);
    this.url = url.toString();
  }

  /** A database of its own, migrated by the first service. */
  async createDatabase() {
    const name = `faults_${randomBytes(5).toString("hex")}`;
    await this.#query(`CREATE DATABASE ${name}`);
    return name;
  }

  async dropDatabase(name) {
    await this.#query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  }

  urlOf(database, port = this.port) {
    const url = new URL(this.url);
    url.pathname = `/${database}`;
    url.port = String(port);
    return url.toString();
  }

  /** Ends every connection to the database; resolves with how many. */
  async terminate(database) {
    const text = `SELECT count(pg_terminate_backend(pid))::int AS cut FROM pg_stat_activity WHERE datname = $1 AND usename = current_user`;
    const [{ cut }] = await this.#query(text, [database]);
    return cut;
  }

  /** kill -9 of its first process; the others follow by themselves. Resolves when all are gone. */
  async kill() {
    const pids = this.#pids();
    process.kill(this.pid, "SIGKILL");
    while (pids.some(isAlive)) await sleep(20);
  }

  /** An orderly stop (fast), as before an upgrade. */
  async stop() {
    await this.#server.stop();
  }

  pause() {
    this.#isPaused = this.#pids();
    for (const pid of this.#isPaused) signal(pid, "SIGSTOP");
  }

  resume() {
    for (const pid of this.#isPaused.reverse()) signal(pid, "SIGCONT");
    this.#isPaused = [];
  }

  #pids() {
    const below = readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name) && parentOf(name) === this.pid)
      .map(Number);
    return [this.pid, ...below];
  }

  async #query(text, values = []) {
    const client = new pg.Client({ connectionString: this.url });
    client.on("error", () => {});
    await client.connect();
    try {
      return (await client.query(text, values)).rows;
    } finally {
      await client.end();
    }
  }
}

const redisProgram = (process.env.PATH ?? "")
  .split(delimiter)
  .map((dir) => join(dir, "redis-server"))
  .find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

export const redisAvailable = redisProgram !== undefined;

/** Without persistence: killed is wiped. */
export async function startRedis(logFile) {
  const port = await freePort();
  const redis = new Member("redis", {
    command: redisProgram ?? "redis-server",
    args: () => ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
    env: () => ({}),
    logFile,
    ready: () => redisSays(port, "PING").then((text) => text.startsWith("+PONG")),
  });
  await redis.start();
  return Object.assign(redis, { port, flush: () => redisSays(port, "FLUSHALL") });
}

function redisSays(port, command) {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(`${command}\r\n`));
    socket.setTimeout(2_000, () => socket.destroy());
    socket.once("data", (text) => {
      resolve(String(text));
      socket.destroy();
    });
    socket.on("error", () => {});
    socket.once("close", () => resolve(""));
  });
}

function parentOf(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[1]);
  } catch {
    return undefined;
  }
}

/** Running, not merely waiting to be buried. */
function isAlive(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return text[text.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}

function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}
