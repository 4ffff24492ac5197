/**
 * The parts of a Farloom as an operator starts them, for the kill test: a service with its embedded PostgreSQL, an
 * agent, a client. Started without a watcher of their own, so that killing one leaves the others as they are; whoever
 * runs the whole test ends what is left.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { AGENT_MAIN, SERVICE_MAIN } from "../../support/fabric.mjs";
import { WORKERS } from "./farloom_task.mjs";

const CLIENT = fileURLToPath(new URL("./farloom_client.mjs", import.meta.url));
/** Between a death and the start that follows, as with a supervisor. */
export const RESTART_AFTER_MS = 500;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a program that logs JSON lines; `until(msg)` resolves with the first line that says so. */
function start(args, env) {
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const waiting = new Map();
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (text) => {
      process.stderr.write(`${text}\n`);
      let line;
      try {
        line = JSON.parse(text);
      } catch {
        return;
      }
      waiting.get(line.msg)?.(line);
    });
  }
  const until = (msg) =>
    new Promise((resolve, reject) => {
      waiting.set(msg, resolve);
      child.once("exit", (code) => reject(new Error(`${args[0]} ended with ${code} before "${msg}"`)));
    });
  return { child, until };
}

export class Parts {
  #folder;
  #port;
  url = "";
  apiKey = "";
  servicePid = 0;
  postgresPid = 0;
  agentPid = 0;
  endpointId = "";

  constructor(folder) {
    this.#folder = folder;
  }

  async startService() {
    const state = join(this.#folder, "service");
    // PostgreSQL runs under a user of its own when this is root: the way to its folder must be open to it.
    for (const folder of [this.#folder, state]) {
      mkdirSync(folder, { recursive: true });
      chmodSync(folder, 0o711);
    }
    this.#port ??= await freePort();
    const keyFile = join(this.#folder, "api-key");
    const { until } = start([SERVICE_MAIN], {
      FARLOOM_PORT: String(this.#port),
      FARLOOM_STATE_DIR: state,
      FARLOOM_BOOTSTRAP_KEY_FILE: keyFile,
    });
    const [database, service] = await Promise.all([
      until("embedded PostgreSQL is ready"),
      until("the service is ready"),
    ]);
    this.postgresPid = database.pid;
    this.servicePid = service.pid;
    this.url = service.url;
    this.apiKey = readFileSync(keyFile, "utf8").trim();
  }

  async request(method, path, json) {
    const headers = { authorization: `Bearer ${this.apiKey}`, "content-type": "application/json" };
    const response = await fetch(this.url + path, {
      method,
      headers,
      ...(json && { body: JSON.stringify(json) }),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  async enrol() {
    const { id, enrolmentCode } = await this.request("POST", "/v1/endpoints", { name: "main" });
    this.endpointId = id;
    const args = [AGENT_MAIN, "enroll", "--service", this.url];
    const env = { FARLOOM_ENROLMENT_CODE: enrolmentCode };
    const { child } = start([...args, "--state-dir", join(this.#folder, "agent")], env);
    const [code] = await once(child, "exit");
    if (code !== 0) throw new Error(`the enrolment ended with ${code}`);
  }

  async startAgent() {
    const args = [
      AGENT_MAIN,
      "run",
      "--state-dir",
      join(this.#folder, "agent"),
      "--workers",
      String(WORKERS),
    ];
    const { until } = start(args, { PYTHONDONTWRITEBYTECODE: "1" });
    this.agentPid = (await until("connected")).pid;
  }

  /** A client process; `outcomes` resolves with what it was told, or undefined where it was killed before. */
  startClient(mode) {
    const child = spawn(process.execPath, [CLIENT, this.url, this.endpointId, this.#folder, mode], {
      env: { ...process.env, KILL_API_KEY: this.apiKey },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (part) => {
      text += part;
    });
    const outcomes = once(child, "close").then(([code]) => (code === 0 ? JSON.parse(text) : undefined));
    return { child, outcomes };
  }
}

export async function killAndWait(pid) {
  process.kill(pid, "SIGKILL");
  await sleep(RESTART_AFTER_MS);
}
