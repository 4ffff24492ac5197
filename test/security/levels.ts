/**
 * An endpoint for each level of isolation, on one service: real agents in processes of their own, each as a user that
 * owns nothing else (the one of level `user` as root, as it must), with a secret in every place where agents have them.
 *
 * Who does what: `me` owns the endpoints and runs the other task; `mallory` may invoke them, and tries to get out.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Fabric, freePort, processesWith, type ServiceProcess } from "../support/fabric.js";
import type { Reply, RestClient } from "../support/rest-client.js";

const AGENT = join(import.meta.dirname, "../../apps/endpoint-agent/dist/bundle/main.js");
const START_MS = 60_000;
const STOP_MS = 20_000;

export const LEVELS = ["none", "limits", "namespaces", "user"] as const;
export type Level = (typeof LEVELS)[number];

/** Users without a name and without a file. Each its own, as the kernel counts processes by user. */
const UID: Readonly<Record<Level, number>> = { none: 61_001, limits: 61_002, namespaces: 61_003, user: 0 };
const TASK_UID = 61_004;
/** Small, so that what passes them harms nothing. Python's own address space is part of the memory. */
const LIMITS = "limits = { processes = 110, file_mb = 16, memory_mb = 384, disk_mb = 32 }";

/** Listens until its standard input ends. */
const ABSTRACT_SERVER =
  "import socket,sys\ns=socket.socket(socket.AF_UNIX); s.bind('\\0'+sys.argv[1]); s.listen(16)\nprint('here',flush=True); sys.stdin.read()";

/** Why these tests cannot run here, or undefined where they can. */
export function whyNot(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root, to run agents as users of their own";
  const isThere = (program: string) => spawnSync(program, ["--version"]).error === undefined;
  const missing = ["bwrap", "setpriv", "prlimit"].filter((program) => !isThere(program));
  return missing.length > 0
    ? `needs ${missing.join(", ")}: apt-get install bubblewrap util-linux`
    : undefined;
}

/** What an attempt is told of the machine (attempts.py). */
export interface Place {
  readonly state: string;
  readonly home: string;
  readonly agent: number;
  readonly service: number;
  readonly munge: string;
  readonly abstract: string;
  readonly secret: string;
}

export class Levels {
  readonly fabric: Fabric;
  readonly service: ServiceProcess;
  readonly me: RestClient;
  readonly mallory: RestClient;
  readonly places = new Map<Level, Place>();
  readonly #dir: string;
  readonly #agents: ChildProcess[] = [];
  #server: Server | undefined;
  #abstract: ChildProcess | undefined;

  private constructor(fabric: Fabric, service: ServiceProcess, mallory: RestClient) {
    this.fabric = fabric;
    this.service = service;
    this.me = fabric.api(service.url);
    this.mallory = mallory;
    this.#dir = mkdtempSync(join(tmpdir(), "farloom-security-"));
    chmodSync(this.#dir, 0o711);
  }

  static async open(): Promise<Levels> {
    const fabric = await Fabric.open();
    try {
      const service = await fabric.service();
      const mallory = fabric.api(service.url, await fabric.keyOf(service.url, "mallory"));
      const levels = new Levels(fabric, service, mallory);
      try {
        await levels.#start();
        return levels;
      } catch (error) {
        await levels.#stop();
        throw error;
      }
    } catch (error) {
      await fabric.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#stop();
    await this.fabric.close();
  }

  /** A function of mine that everybody may use. */
  async register(definition: Record<string, unknown>): Promise<string> {
    const made = await this.me.post("/v1/functions", definition);
    if (made.status > 201) throw new Error(JSON.stringify(made.body));
    const shared = await this.me.call("PUT", `/v1/functions/${made.body.id}/sharing`, {
      json: { visibility: "public" },
    });
    if (shared.status >= 300) throw new Error(JSON.stringify(shared.body));
    return made.body.id as string;
  }

  /** One call, to its end. */
  async run(who: RestClient, level: Level, fn: string, args: readonly unknown[]): Promise<Reply["body"]> {
    const endpoint = `me/${level}`;
    const { body } = await who.post("/v1/tasks?wait=60", { function: fn, endpoint, args });
    return body;
  }

  async #start(): Promise<void> {
    const munge = join(this.#dir, "munge.socket.2");
    const abstract = `farloom-security-${randomBytes(6).toString("hex")}`;
    this.#server = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve, reject) => this.#server!.once("error", reject).listen(munge, resolve));
    chmodSync(munge, 0o777);
    // Node has no abstract sockets.
    this.#abstract = spawn("python3", ["-c", ABSTRACT_SERVER, abstract], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    await new Promise((resolve) => this.#abstract!.stdout!.once("data", resolve));
    await Promise.all(
      LEVELS.map(async (level) => {
        const place = {
          munge,
          abstract,
          service: this.service.port,
          secret: randomBytes(12).toString("hex"),
        };
        this.places.set(level, { ...place, ...(await this.#agent(level, place.secret)) });
      }),
    );
  }

  async #agent(level: Level, secret: string): Promise<Pick<Place, "state" | "home" | "agent">> {
    const uid = UID[level];
    const home = join(this.#dir, level);
    const state = join(home, "agent");
    for (const path of [home, join(home, ".ssh"), state]) {
      mkdirSync(path, { mode: 0o700 });
      chownSync(path, uid, uid);
    }
    const table = `[isolation]\nlevel = "${level}"\n${LIMITS}\nuser = "${TASK_UID}"\n`;
    for (const [path, text] of [
      [join(home, ".ssh/id_ed25519"), secret],
      [join(state, "agent.toml"), table],
    ] as const) {
      writeFileSync(path, text, { mode: 0o600 });
      chownSync(path, uid, uid);
    }
    const made = await this.me.post("/v1/endpoints", { name: level });
    const entry = { person: "mallory", allow: "invoke" };
    const shared = await this.me.call("PUT", `/v1/endpoints/${level}/access`, { json: entry });
    if (shared.status >= 300) throw new Error(JSON.stringify(shared.body));
    const env = {
      PATH: process.env.PATH ?? "",
      HOME: home,
      FARLOOM_TEST_FABRIC: this.fabric.home,
      AWS_SECRET_ACCESS_KEY: secret,
      FARLOOM_API_KEY: secret,
      LAB_PASSWORD: secret,
    };
    const as = ["--reuid", String(uid), "--regid", String(uid), "--clear-groups", process.execPath, AGENT];
    const enrol = ["enroll", "--service", this.service.url, "--code-file", "-", "--state-dir", state];
    const enrolling = promisify(execFile)("setpriv", [...as, ...enrol], { env });
    enrolling.child.stdin!.end(made.body.enrolmentCode);
    await enrolling;
    const args = [...as, "run", "--state-dir", state, "--workers", "2", "--stop-workers"];
    const agent = spawn("setpriv", args, { env, stdio: ["ignore", "ignore", "pipe"] });
    this.#agents.push(agent);
    let said = "";
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the agent did not start\n${said}`)), START_MS);
      agent.once("exit", (status) => reject(new Error(`the agent ended with ${status}\n${said}`)));
      agent.stderr.setEncoding("utf8").on("data", (text: string) => {
        said = (said + text).slice(-20_000);
        if (!said.includes("agent started")) return;
        clearTimeout(timer);
        resolve();
      });
    });
    // setpriv becomes what it starts.
    return { state, home, agent: agent.pid! };
  }

  async #stop(): Promise<void> {
    await Promise.all(
      this.#agents.map(async (agent) => {
        if (agent.exitCode !== null || agent.signalCode !== null) return;
        const exited = new Promise((resolve) => agent.once("exit", resolve));
        agent.kill("SIGTERM");
        const late = setTimeout(() => agent.kill("SIGKILL"), STOP_MS);
        await exited;
        clearTimeout(late);
      }),
    );
    this.#server?.close();
    this.#abstract?.stdin?.end();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** A number that no other attempt has, for a port or a key. */
export const freshPort = freePort;

/** Live processes that have the text in their command line or environment; ended here, as the attempt's own. */
export function endProcessesWith(text: string): number {
  const found = processesWith(text);
  for (const { pid } of found) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended meanwhile.
    }
  }
  return found.length;
}

/** What an agent says of itself to the service. */
export async function agentInfoOf(who: RestClient, level: Level): Promise<Reply["body"]> {
  return (await who.get(`/v1/endpoints/${level}`)).body.agentInfo;
}

export const ATTEMPTS_CODE = readFileSync(join(import.meta.dirname, "escapes/attempts.py"), "utf8");
