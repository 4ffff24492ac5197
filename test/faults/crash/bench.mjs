/**
 * The smallest fabric that can be broken, for many short runs: one service (or two), one agent, and a client process
 * for each run. Crash points and planted bugs run in it by the hundred.
 *
 *   B1  Each run has a folder of its own with evidence and histories, which the checker judges alone.
 *   B2  The order to crash lies in one file that every process reads (FARLOOM_CRASH_AT=@file); whoever carries it
 *       out takes it away. Nothing is restarted to be armed.
 *   B3  A process that ends by itself without such an order is a failure of the run.
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { pino } from "pino";
import { applyMigrations, findMigrationsDir } from "../../../apps/web-service/dist/store/migrate.js";
import { Recorder, readHistories } from "../record.mjs";
import { FaultFabric } from "../topology/fabric.mjs";
import { Member } from "../topology/member.mjs";
import { LinkProxy } from "../topology/proxy.mjs";
import { Postgres } from "../topology/stores.mjs";

const CLIENT = fileURLToPath(new URL("./small-client.mjs", import.meta.url));
/** A client that dies again and again is no crash point's doing. */
const MAX_CLIENT_STARTS = 5;
/** How often it is asked whether a run has shown enough. */
const LOOK_MS = 1_000;

/** Ends the connections of services that wait for a lock: what they were about to write never was. */
const CUT_WAITING = `
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
   WHERE datname = current_database() AND application_name LIKE 'farloom%' AND wait_event_type = 'Lock'`;

/** One PostgreSQL for many benches: each gets a copy of a database that was migrated once. */
export async function shareCluster() {
  const home = mkdtempSync(join(tmpdir(), "farloom-bench-pg-"));
  const postgres = await Postgres.start(join(home, "postgres"));
  const template = await postgres.createDatabase();
  const pool = new pg.Pool({ connectionString: postgres.urlOf(template), max: 1 });
  await applyMigrations(pool, findMigrationsDir(), pino({ level: "silent" })).finally(() => pool.end());
  return {
    pid: postgres.pid,
    port: postgres.port,
    urlOf: (database, port) => postgres.urlOf(database, port),
    dropDatabase: (name) => postgres.dropDatabase(name),
    async createDatabase() {
      const name = `faults_${randomBytes(5).toString("hex")}`;
      const client = new pg.Client({ connectionString: postgres.url });
      await client.connect();
      await client.query(`CREATE DATABASE ${name} TEMPLATE ${template}`).finally(() => client.end());
      return name;
    },
    async stop() {
      await postgres.stop();
      rmSync(home, { recursive: true, force: true });
    },
  };
}

export class Bench {
  /** @type {FaultFabric} */
  fabric;
  /** @type {pg.Pool} */
  pool;
  clientLink;
  crashFile = "";
  /** For clients. @type {Record<string, string>} */
  clientEnv = {};
  /** Where the services' clock of the day can be moved. @type {(seconds: number) => void} */
  jumpClock = () => {};
  #ordered = false;

  /** @param {{postgres: any, services?: number, workers?: number, reclaimMs?: number, env?: Record<string, Record<string, string>>}} options */
  static async open({ postgres, services = 1, workers = 2, reclaimMs = 60_000, env = {} }) {
    const bench = new Bench();
    const folder = mkdtempSync(join(tmpdir(), "farloom-bench-"));
    bench.crashFile = join(folder, "crash-at");
    const all = { ...env.all, FARLOOM_CRASH_AT: `@${bench.crashFile}` };
    const parts = { services, agents: 1, workers, redis: false, reclaimMs, shared: postgres };
    bench.fabric = await FaultFabric.open({ ...parts, folder, env: { ...env, all } });
    bench.clientEnv = { ...env.all, ...env.client };
    bench.pool = new pg.Pool({
      connectionString: postgres.urlOf(bench.fabric.database),
      max: 4,
      application_name: "faults",
    });
    bench.pool.on("error", () => {});
    const ports = bench.fabric.link("agent-0").targets;
    // With two services a client reaches its agent through the other one.
    bench.clientLink = await LinkProxy.open([...ports].reverse());
    return bench;
  }

  get agent() {
    return this.fabric.agents[0];
  }

  get service() {
    return this.fabric.services[0];
  }

  /** Has whoever passes `label` for the n-th time die (B2). */
  orderCrash(label, n) {
    this.#ordered = true;
    writeFileSync(this.crashFile, `${label}:${n}:${randomBytes(4).toString("hex")}`);
  }

  get crashed() {
    return this.#ordered && !existsSync(this.crashFile);
  }

  async untilCrashed(timeoutMs) {
    const deadline = performance.now() + timeoutMs;
    while (!this.crashed && performance.now() < deadline) await sleep(20);
    return this.crashed;
  }

  withdrawCrash() {
    rmSync(this.crashFile, { force: true });
    this.#ordered = false;
  }

  /** What ended by itself since the last call, beside the one that was ordered to (B3). */
  takeCrashes(expected) {
    const crashes = this.fabric.crashes.splice(0);
    const at = crashes.findIndex(({ signal }) => signal === "SIGKILL");
    if (expected && at >= 0) crashes.splice(at, 1);
    return crashes.map(
      ({ name, code, signal, tail }) => `${name} ended by itself with ${signal ?? code}\n${tail}`,
    );
  }

  /** Both killed at once, and started again. */
  async killAgentAndWorkers() {
    const workers = this.fabric.workers(0);
    await this.agent.kill();
    for (const { pid } of workers) killQuietly(pid);
  }

  killWorkers() {
    for (const { pid } of this.fabric.workers(0)) killQuietly(pid);
  }

  /** While `work` runs, nobody else writes the table; with `cut`, those who wait to write it then are cut off. */
  async withLock(table, work, { cut = false } = {}) {
    const client = await this.pool.connect();
    try {
      await client.query("BEGIN");
      await client.query(`LOCK TABLE ${table} IN SHARE MODE`);
      const result = await work();
      if (cut) await this.pool.query(CUT_WAITING);
      await client.query("ROLLBACK");
      return result;
    } finally {
      client.release();
    }
  }

  /** Tasks that have no outcome. */
  async openTasks() {
    const { rows } = await this.pool.query(
      "SELECT count(*)::int AS n FROM task t WHERE NOT EXISTS (SELECT FROM outcome o WHERE o.task_id = t.id)",
    );
    return rows[0].n;
  }

  async quiet(timeoutMs) {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const open = await this.openTasks().catch(() => -1);
      if (open === 0 || performance.now() > deadline) return open;
      await sleep(50);
    }
  }

  /** A run with a folder of its own (B1). */
  begin(parent, name, settings = {}) {
    return new Run(this, join(parent, name.replaceAll(/[^a-z0-9.-]/gi, "-")), settings);
  }

  /** Everything ends, in order or by force; resolves with what was left behind. */
  async close({ byForce = false } = {}) {
    if (byForce) {
      await this.killAgentAndWorkers();
      for (const service of this.fabric.services) await service.kill();
    }
    await this.clientLink?.close();
    await this.pool?.end();
    const left = await this.fabric.close();
    this.fabric.remove({ all: true });
    return left;
  }
}

/** One run: its folder, its client, its end. */
class Run {
  folder;
  bench;
  record;
  client;
  #starts = 0;
  #done;

  constructor(bench, folder, settings) {
    this.bench = bench;
    this.folder = folder;
    rmSync(folder, { recursive: true, force: true });
    for (const part of ["evidence", "history", "logs"]) mkdirSync(join(folder, part), { recursive: true });
    this.record = new Recorder(join(folder, "run.jsonl"));
    const { reclaimMs, services } = bench.fabric;
    this.record.write("settings", { reclaimMs, services: services.length, agents: 1, ...settings });
  }

  /** Starts the client over these calls; where it is killed it starts again and takes up what its history says. */
  async start(plan, name = "client-0") {
    const { fabric, clientLink } = this.bench;
    const file = join(this.folder, `${name}.plan.json`);
    const order = { name, folder: this.folder, url: `http://127.0.0.1:${clientLink.port}`, key: fabric.key };
    writeFileSync(file, JSON.stringify({ ...order, endpoint: fabric.agents[0].endpointId, ...plan }));
    const env = { FARLOOM_FAULTS_RUN: fabric.folder, ...this.bench.clientEnv };
    let finish;
    this.#done = new Promise((resolve) => {
      finish = resolve;
    });
    const again = async () => {
      this.client = new Member(name, {
        args: () => [CLIENT, file],
        env: () => ({ ...env, FARLOOM_CRASH_AT: `@${this.bench.crashFile}` }),
        logFile: join(this.folder, "logs", `${name}.log`),
        restart: false,
        onEnd: ({ code, signal, tail }) => {
          if (signal === "SIGKILL" && ++this.#starts < MAX_CLIENT_STARTS) void again();
          else finish(code === 0 ? undefined : `the client ended with ${signal ?? code}\n${tail}`);
        },
      });
      await this.client.start();
    };
    await again();
  }

  /** Until the client has heard of everything, or nobody needs it to (`enough`); its complaint, if it has one. */
  async finished(timeoutMs, enough = () => false) {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const how = await Promise.race([this.#done, sleep(LOOK_MS, "late", { ref: false })]);
      if (how !== "late") return how;
      if (performance.now() < deadline && !enough()) continue;
      await this.client.kill();
      return `the client has not finished after ${timeoutMs} ms: ${this.pending().slice(0, 5).join(", ")}`;
    }
  }

  /** Until the history has `n` records of this kind. */
  async until(ev, n, timeoutMs = 20_000) {
    const deadline = performance.now() + timeoutMs;
    while (performance.now() < deadline) {
      if (this.history().filter((record) => record.ev === ev).length >= n) return true;
      await sleep(20);
    }
    return false;
  }

  history() {
    return readHistories(this.folder);
  }

  /** Acknowledged tasks that the client has not heard the end of. */
  pending() {
    const records = this.history();
    const told = new Set(records.filter(({ ev }) => ev === "told").map(({ task }) => task));
    return records.filter(({ ev, task }) => ev === "acked" && !told.has(task)).map(({ task }) => task);
  }

  /** Reads every acknowledged task once more, by REST from every service, as somebody who never saw it. */
  async audit() {
    const tasks = new Map(
      this.history().flatMap(({ ev, task, nonce }) => (ev === "acked" ? [[task, nonce]] : [])),
    );
    const audit = new Recorder(join(this.folder, "history", "audit.jsonl"));
    const { fabric } = this.bench;
    for (let i = 0; i < fabric.services.length; i++) {
      for (const [task, nonce] of tasks) await auditOne(fabric, audit, { i, task, nonce });
    }
    audit.close();
  }

  close() {
    this.record.close();
  }
}

async function auditOne(fabric, audit, { i, task, nonce }) {
  try {
    const view = await fabric.request(i, "GET", `/v1/tasks/${task}`);
    audit.write(...tellingOf(view, { nonce, replica: i }));
  } catch (error) {
    if (error.status !== 404 && error.status !== 410) throw error;
    audit.write("missing", { task, nonce, code: String(error.status) });
  }
}

const ENDS = new Set(["SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST"]);

/** What a view of a task says, as a record of a history. */
export function tellingOf(view, more) {
  const { id: task, state, reason = "none", attempt, result, confirmed } = view;
  if (!ENDS.has(state)) return ["open", { task, state, ...more }];
  const value = state === "SUCCEEDED" ? { value: result } : {};
  return [
    "told",
    { task, state, reason, attempt, ...value, ...(confirmed === undefined ? {} : { confirmed }), ...more },
  ];
}

function killQuietly(pid) {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}
