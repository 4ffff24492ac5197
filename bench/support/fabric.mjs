/**
 * A whole fabric on this machine, as separate real processes: web service with embedded PostgreSQL (default
 * durability), and agents with their workers. Each in a folder of its own, and gone with it.
 *
 *   F1  Every process is started under scripts/lib/reaper.py: nothing it starts outlives it, and it does not
 *       outlive this process.
 *   F2  `stop` is idempotent, and tells what had ended by itself or had to be killed; an orderly fabric: nothing.
 *   F3  The fabric has the products' default settings, but for ports, folders and the number of workers. Only
 *       the limit of requests per minute is lifted, as one client here is a whole crowd.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { startContained } from "../../scripts/lib/contain.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const SERVICE_MAIN = join(ROOT, "apps/web-service/dist/bundle/main.js");
export const AGENT_MAIN = join(ROOT, "apps/endpoint-agent/dist/bundle/main.js");
/** A first start makes a database; a busy machine takes its time. */
const READY_MS = 120_000;
/** Kept of a process's log, for the message when it fails. */
const KEPT_LINES = 20;

/** Everything that has not ended, for the signal handler. */
const fabrics = new Set();
const programs = new Set();
let isStopping = false;

/** Folders that are still there; a process that is stopped may write into its own to the last. */
const folders = new Set();
process.on("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** For the end of this process: stops everything, and lets nothing new start. */
export async function stopEverything() {
  isStopping = true;
  await Promise.allSettled([...fabrics].map((fabric) => fabric.stop()));
  await Promise.allSettled([...programs].map((program) => program.stop()));
}

/** Starts a program that nothing of outlives (F1). */
export function startProgram(command, args, options) {
  if (isStopping) throw new Error("stopping");
  const run = startContained(command, args, options);
  programs.add(run);
  const onEnd = () => programs.delete(run);
  run.ended.then(onEnd, onEnd);
  return run;
}

/** What a process gets: none of the caller's own Farloom settings. */
function cleanEnv(more) {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^(FARLOOM_|DATABASE_URL$|REDIS_URL$|NODE_OPTIONS$)/.test(name),
    ),
  );
  return { ...env, ...more };
}

/**
 * A program that logs JSON lines. `until(predicate)` resolves with the first line that fits, past ones included
 * as far as they are kept.
 */
class Logged {
  #lines = [];
  #waiters = new Set();
  #ended = false;
  /** How it ended; undefined while it runs. */
  ending;

  constructor(command, args, { env, cwd, stream }) {
    this.run = startProgram(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    for (const name of ["stdout", "stderr"]) {
      const lines = createInterface({ input: this.run.child[name] });
      lines.on("line", (line) => this.#take(line, name === stream));
    }
    const onEnd = ({ status }) => {
      this.#ended = true;
      this.ending = `status ${status}, and its last lines:\n${this.#lines.join("\n")}`;
      for (const waiter of this.#waiters) waiter.end();
    };
    this.run.ended.then(onEnd, () => onEnd({ status: -1 }));
  }

  #take(text, structured) {
    this.#lines.push(text);
    if (this.#lines.length > KEPT_LINES) this.#lines.shift();
    if (!structured || this.#waiters.size === 0) return;
    let line;
    try {
      line = JSON.parse(text);
    } catch {
      return; // Not of the log: a warning of Node, say.
    }
    for (const waiter of this.#waiters) waiter.take(line);
  }

  until(what, fits) {
    return new Promise((resolve, reject) => {
      const settle = (how) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        how();
      };
      const fail = (why) => settle(() => reject(new Error(`${what}: ${why}\n${this.#lines.join("\n")}`)));
      const waiter = {
        take: (line) => fits(line) && settle(() => resolve(line)),
        end: () => fail("the process has ended"),
      };
      const timer = setTimeout(() => fail(`not within ${READY_MS / 1000} s`), READY_MS);
      this.#waiters.add(waiter);
      if (this.#ended) waiter.end();
    });
  }

  stop() {
    return this.run.stop();
  }
}

/** One agent process. `pid` is its own, not that of the process that watches it. */
class RunningAgent {
  pid = 0;
  /** From the start of the process to the service's welcome. */
  connectedMs = 0;
  /** @type {Promise<{left: string[]}> | undefined} */
  #stopping;

  /** @param {{name: string, stateDir: string, endpointId: string}} identity @param {Logged} process */
  constructor(identity, process) {
    this.name = identity.name;
    this.endpointId = identity.endpointId;
    this.process = process;
  }

  /** Drains, ends the workers and resolves with what had to be killed. Idempotent. */
  stop() {
    this.#stopping ??= this.process.stop();
    return this.#stopping;
  }
}

export class Fabric {
  #agents = new Set();
  #stopping;

  url = "";
  apiKey = "";
  pid = 0;
  postgresPid = 0;
  /** From the start of the process to its first answer, the making of the database included. */
  readyMs = 0;

  /** @param {string} root @param {Logged} process */
  constructor(root, process) {
    this.root = root;
    this.process = process;
    /** What ended before its time, and what had to be killed at a stop; empty is as it should be. */
    this.left = [];
  }

  /** Whom proc.mjs is to watch: the service, PostgreSQL's first process, the agents that run. */
  get pids() {
    const agentPids = [...this.#agents].map(({ pid }) => pid);
    return { servicePid: this.pid, postgresPid: this.postgresPid, agentPids };
  }

  /** A plain request, as from curl. Rejects where the reply is no success. */
  async request(method, path, json, { authorised = true } = {}) {
    const response = await fetch(this.url + path, {
      method,
      headers: {
        ...(authorised && { authorization: `Bearer ${this.apiKey}` }),
        ...(json && { "content-type": "application/json" }),
      },
      ...(json && { body: JSON.stringify(json) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 500)}`);
    return text === "" ? undefined : JSON.parse(text);
  }

  /** Makes an endpoint and enrols the agent of a new folder with it, as a user would. */
  async enrol(name) {
    const endpoint = await this.request("POST", "/v1/endpoints", { name });
    const stateDir = join(this.root, `agent-${name}`);
    const args = [AGENT_MAIN, "enroll", "--service", this.url];
    const enrolling = new Logged(process.execPath, [...args, "--state-dir", stateDir], {
      cwd: this.root,
      env: { ...cleanEnv(), FARLOOM_ENROLMENT_CODE: endpoint.enrolmentCode },
      stream: "stderr",
    });
    const { status } = await enrolling.run.ended;
    if (status !== 0) throw new Error(`the enrolment of ${name} ended with status ${status}`);
    return { name, stateDir, endpointId: endpoint.id };
  }

  /** Starts the agent of an enrolled folder; resolves once it is connected. */
  async startAgent(identity, { workers = 2, nodeArgs = [] } = {}) {
    const startedAt = performance.now();
    const args = [...nodeArgs, AGENT_MAIN, "run", "--state-dir", identity.stateDir];
    const logged = new Logged(process.execPath, [...args, "--workers", String(workers), "--stop-workers"], {
      cwd: this.root,
      env: cleanEnv({ PYTHONDONTWRITEBYTECODE: "1" }),
      stream: "stderr",
    });
    const agent = new RunningAgent(identity, logged);
    this.#agents.add(agent);
    const line = await logged.until(`agent ${identity.name}`, ({ msg }) => msg === "connected");
    agent.pid = line.pid;
    agent.connectedMs = performance.now() - startedAt;
    return agent;
  }

  async stopAgent(agent) {
    if (!this.#agents.delete(agent)) return;
    this.#noteEnding(`agent ${agent.name}`, agent.process);
    const { left } = await agent.stop();
    this.left.push(...left);
  }

  #noteEnding(what, { ending }) {
    if (ending !== undefined) this.left.push(`${what} had ended by itself, ${ending}`);
  }

  /** Agents, then the service, then the folder. */
  stop() {
    this.#stopping ??= (async () => {
      await Promise.all([...this.#agents].map((agent) => this.stopAgent(agent)));
      this.#noteEnding("the service", this.process);
      const { left } = await this.process.stop();
      this.left.push(...left);
      rmSync(this.root, { recursive: true, force: true, maxRetries: 5 });
      if (!isStopping) folders.delete(this.root);
      fabrics.delete(this);
      return { left: this.left };
    })();
    return this.#stopping;
  }
}

/** Starts a service in a new folder, its database made from nothing; resolves once it is ready. */
export async function startFabric({ nodeArgs = [] } = {}) {
  if (isStopping) throw new Error("stopping");
  const root = mkdtempSync(join(tmpdir(), "farloom-bench-"));
  folders.add(root);
  mkdirSync(join(root, "service"), { mode: 0o700 });
  // PostgreSQL runs under a user of its own when this is root: the way to its folder must be open to it.
  chmodSync(root, 0o711);
  chmodSync(join(root, "service"), 0o711);
  const keyFile = join(root, "api-key");
  const startedAt = performance.now();
  const logged = new Logged(process.execPath, [...nodeArgs, SERVICE_MAIN], {
    cwd: root,
    env: cleanEnv({
      FARLOOM_PORT: "0",
      FARLOOM_STATE_DIR: join(root, "service"),
      FARLOOM_BOOTSTRAP_KEY_FILE: keyFile,
      FARLOOM_RATE_LIMIT_PER_MINUTE: "1000000000",
    }),
    stream: "stdout",
  });
  const fabric = new Fabric(root, logged);
  fabrics.add(fabric);
  try {
    const database = logged.until("PostgreSQL", ({ msg }) => msg === "embedded PostgreSQL is ready");
    const service = logged.until("web service", ({ msg }) => msg === "the service is ready");
    const [{ pid }, line] = await Promise.all([database, service]);
    fabric.readyMs = performance.now() - startedAt;
    fabric.postgresPid = pid;
    fabric.url = line.url;
    fabric.pid = line.pid;
    fabric.apiKey = readFileSync(keyFile, "utf8").trim();
    return fabric;
  } catch (error) {
    await fabric.stop();
    throw error;
  }
}
