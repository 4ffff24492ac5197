/**
 * The fabric under test: PostgreSQL, Redis, web services, agents and clients as real processes, with a link of ours
 * between any two of them. The file that wires this folder; README.md has its map.
 *
 *   T1  Everything of a run lies in one folder, and every process carries that folder in its environment.
 *   T2  `close` finds what still carries it, names it, and ends it.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { kernelFaultsAllowed } from "../kinds/kernel.mjs";
import { Recorder } from "../record.mjs";
import { auditAll, untilQuiet } from "../workload/audit.mjs";
import { FUNCTION_NAMES, functionSpecOf } from "../workload/functions.mjs";
import { endFabric } from "./ending.mjs";
import { clockEnv, clocksAvailable, disksAvailable, mountDisk, setClock } from "./machine.mjs";
import { enrolAgent, makeClient, makeService, statusOf } from "./parts.mjs";
import { freePort, processesWith } from "./ports.mjs";
import { LinkProxy } from "./proxy.mjs";
import { request } from "./rest.mjs";
import { Postgres, redisAvailable, startRedis } from "./stores.mjs";

/** Sooner than in production, so that a run of minutes sees it happen. */
const RECLAIM_MS = 20_000;
const POSTGRES_DISK_MB = 3_072;

/**
 * @typedef {object} FaultFabricOptions
 * @property {number} [services]
 * @property {number} [agents]
 * @property {number} [workers] of each agent
 * @property {boolean} [redis] where redis-server is installed
 * @property {number} [reclaimMs]
 * @property {Record<string, Record<string, string>>} [env] by name (`service-0`) or role (`service`, `agent`, `client`, `all`)
 * @property {Record<string, string>} [crashAt] by name: FARLOOM_CRASH_AT of the first start
 * @property {Postgres} [shared] another fabric's PostgreSQL
 * @property {string} [folder] for evidence, histories and logs
 * @property {boolean} [disks] small disks of their own for PostgreSQL and the last agent, where this machine allows it
 * @property {boolean} [clocks] clocks of their own for the last service and the last agent, the same
 */

export class FaultFabric {
  folder;
  reclaimMs;
  /** @type {import("./member.mjs").Member[]} */
  services = [];
  /** @type {(import("./member.mjs").Member & {endpointId: string, stateDir: string})[]} */
  agents = [];
  /** @type {import("./member.mjs").Member[]} */
  clients = [];
  /** @type {Postgres} */
  postgres;
  redis;
  /** The campaign's own record. */
  run;
  /** The owner's key, and a stranger's. */
  key = "";
  strangerKey = "";
  database = "";
  /** Members that ended by themselves. */
  crashes = [];
  #links = new Map();
  options;
  #ownsPostgres;
  /** Of the services, each at the same one for good. */
  ports = [];
  #closing;
  #disks = [];

  /** @param {FaultFabricOptions} options */
  static async open(options = {}) {
    const fabric = new FaultFabric(options);
    try {
      await fabric.#open();
      return fabric;
    } catch (error) {
      await fabric.close().catch(() => {});
      throw error;
    }
  }

  constructor(options) {
    this.options = {
      services: 2,
      agents: 2,
      workers: 2,
      redis: true,
      reclaimMs: RECLAIM_MS,
      disks: false,
      clocks: false,
      env: {},
      ...options,
    };
    this.reclaimMs = this.options.reclaimMs;
    this.folder =
      options.folder === undefined ? mkdtempSync(join(tmpdir(), "farloom-faults-")) : resolve(options.folder);
    mkdirSync(this.folder, { recursive: true });
    // PostgreSQL runs under a user of its own when this is root: the way to its folder must be open to it.
    chmodSync(this.folder, 0o711);
    for (const name of ["evidence", "history", "logs", "service"])
      mkdirSync(join(this.folder, name), { recursive: true });
    this.run = new Recorder(join(this.folder, "run.jsonl"));
  }

  /** @returns {import("../kinds/kinds.mjs").Shape} */
  get shape() {
    const { services, agents, clients, disks, clocks } = this;
    return {
      services: services.length,
      agents: agents.length,
      clients: clients.length,
      redis: this.redis !== undefined,
      agentDisk: disks,
      postgresDisk: disks && this.#ownsPostgres,
      clocks,
      kernel: kernelFaultsAllowed(),
    };
  }

  get evidenceDir() {
    return join(this.folder, "evidence");
  }

  get disks() {
    return this.options.disks && disksAvailable();
  }

  get clocks() {
    return this.options.clocks && clocksAvailable();
  }

  /** Where the offset of a member's wall clock stands. */
  clockFile(name) {
    return join(this.folder, `${name}.clock`);
  }

  /** `client-0`, `agent-1`, `postgres-0`, `redis-1`. */
  link(name) {
    const link = this.#links.get(name);
    if (link === undefined) throw new Error(`no link ${name}`);
    return link;
  }

  get linkNames() {
    return [...this.#links.keys()];
  }

  async #open() {
    const { services, agents, shared, redis } = this.options;
    this.#ownsPostgres = shared === undefined;
    this.postgres =
      shared ?? (await Postgres.start(join(this.disk("postgres", POSTGRES_DISK_MB, 0o711), "postgres")));
    this.database = await this.postgres.createDatabase();
    if (redis && redisAvailable) this.redis = await startRedis(this.logFile("redis"));
    for (let i = 0; i < services; i++) {
      await this.openLink(`postgres-${i}`, [this.postgres.port]);
      if (this.redis) await this.openLink(`redis-${i}`, [this.redis.port]);
      this.ports.push(await freePort());
    }
    for (let i = 0; i < services; i++) {
      this.services.push(makeService(this, i));
      await this.services[i].start();
    }
    this.key = readFileSync(join(this.folder, "first.key"), "utf8").trim();
    this.strangerKey = (
      await this.request(0, "POST", "/v1/keys", { label: "faults", owner: "stranger" })
    ).key;
    for (let i = 0; i < agents; i++) this.agents.push(await enrolAgent(this, i));
    await Promise.all(this.agents.map((agent) => agent.start()));
    for (const name of FUNCTION_NAMES) await this.request(0, "POST", "/v1/functions", functionSpecOf(name));
    this.run.write("settings", {
      reclaimMs: this.reclaimMs,
      services,
      agents,
      redis: this.redis !== undefined,
    });
  }

  /** A folder of its own, on a small disk where that is wanted. */
  disk(name, sizeMb, mode) {
    const dir = join(this.folder, `${name}-disk`);
    mkdirSync(dir, { recursive: true, mode });
    if (this.disks) {
      mountDisk(dir, sizeMb, mode);
      this.#disks.push(dir);
    }
    return dir;
  }

  /** The last of each role has a clock of its own. */
  clockOf(name, isLast) {
    if (!isLast || !this.clocks) return {};
    setClock(this.clockFile(name), "+0");
    return clockEnv(this.clockFile(name));
  }

  logFile(name) {
    return join(this.folder, "logs", `${name}.log`);
  }

  async openLink(name, targets) {
    const link = await LinkProxy.open(targets);
    this.#links.set(name, link);
    return link;
  }

  /** The services in turn, beginning with the i-th: who talks to whom is spread. */
  targetsOf(i) {
    return this.ports.map((_, j) => this.ports[(i + j) % this.ports.length]);
  }

  /** What an agent says of itself, or undefined where it does not answer. */
  agentStatus(i) {
    return statusOf(this.agents[i].stateDir);
  }

  /** Worker processes that live now, of the agent or of all. */
  workers(i) {
    const text = i === undefined ? this.folder : `FARLOOM_FAULTS_MEMBER=agent-${i}\0`;
    return processesWith(text).filter(
      ({ pid, command }) => /workers\/(python|node)/.test(command) && hasMark(pid, this.folder),
    );
  }

  /** A plain request straight to a service, past every link. Throws where the reply is no success. */
  request(i, method, path, json, { key = this.key, timeoutMs = 30_000 } = {}) {
    return request(`http://127.0.0.1:${this.ports[i]}${path}`, { method, json, key, timeoutMs });
  }

  /**
   * Starts clients; each has its own link and history.
   * @param {{seed: number | string, clients?: number, mix?: unknown, rate?: number, count?: number, outstanding?: number}} settings
   */
  async startClients({ clients = 3, ...settings }) {
    for (let i = 0; i < clients; i++) this.clients.push(await makeClient(this, i, settings));
    await Promise.all(this.clients.map((client) => client.start()));
  }

  /** No new submissions; resolves when each client has heard of all that it was acknowledged, or the time is over. */
  async stopClients({ timeoutMs = 60_000 } = {}) {
    const done = this.clients.map(async (client) => {
      if (!client.isUp) return;
      client.wanted = false;
      client.child?.send({ stop: true, timeoutMs });
      await Promise.race([client.exited, sleep(timeoutMs + 5_000, undefined, { ref: false })]);
      if (client.isUp) await client.kill();
    });
    await Promise.all(done);
  }

  quiet(options) {
    return untilQuiet(this, options);
  }

  audit(options) {
    return auditAll(this, options);
  }

  /** Ends everything. Resolves with what was left behind: processes, sockets, tasks that an agent still held. */
  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    const left = await endFabric(this, {
      links: this.#links.values(),
      ownsPostgres: this.#ownsPostgres,
      disks: this.#disks,
    });
    for (const what of left) this.run.write("left", { what });
    this.run.close();
    return left;
  }

  /** Everything of the run but its record; `all`: that too. */
  remove({ all = false } = {}) {
    const parts = this.agents.flatMap(({ name }) => [name, `${name}-disk`]);
    for (const name of ["postgres-disk", "service", "flaky", ...parts])
      rmSync(join(this.folder, name), { recursive: true, force: true, maxRetries: 5 });
    if (all) rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

function hasMark(pid, folder) {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").includes(folder);
  } catch {
    return false;
  }
}
