/**
 * A fabric of real processes for tests that kill them: web services and endpoint agents as they are installed
 * (`dist/bundle/main.js`), over a database of the test's own.
 *
 *   1. Every process carries the fabric's folder in its environment; `close` finds what still does and fails.
 *   2. What a process writes is kept, and stands in the message of whatever fails because of it.
 *   3. A process that ends by itself fails `close` too.
 *   4. A killed process is known to be dead before anything else is done.
 *   5. A secret in what a process writes, in a command line, or in a file that is not there to hold it, fails `close`
 *      (secret-watch.ts).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freshDatabase, type TestDatabase } from "./postgres.js";
import { RestClient } from "./rest-client.js";
import { SecretWatch } from "./secret-watch.js";

const ROOT = join(import.meta.dirname, "../..");
const SERVICE = join(ROOT, "apps/web-service/dist/bundle/main.js");
const AGENT = join(ROOT, "apps/endpoint-agent/dist/bundle/main.js");
const START_MS = 60_000;
const STOP_MS = 15_000;
/** What is left of a fabric so long after its end was left behind. */
const LEAVE_MS = 10_000;
const AGENT_TITLE = "agent";
/** Lines kept of each process. */
const LOG_LINES = 2_000;

type Env = Readonly<Record<string, string>>;

/** What is told of every program: its environment, and who looks for secrets. */
interface Place {
  readonly env: Env;
  readonly secrets: SecretWatch;
}

/** A child whose lines are read as they come. */
class Program {
  readonly lines: string[] = [];
  readonly child: ChildProcess;
  readonly exited: Promise<number | null>;
  /** How it ended, if nobody asked for that. */
  crash: string | undefined;
  #asked = false;
  readonly #title: string;
  readonly #listeners = new Set<() => void>();

  constructor(title: string, args: readonly string[], { env, secrets }: Place) {
    this.#title = title;
    secrets.look(`the command line of ${title}`, args.join(" "));
    this.child = spawn(process.execPath, args, {
      // With an IPC channel the service ends when this process does, whatever becomes of the test.
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      env: { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "", ...env },
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      let rest = "";
      stream.setEncoding("utf8").on("data", (text: string) => {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        this.lines.push(...lines);
        for (const line of lines) secrets.look(`what ${title} writes`, line);
        if (this.lines.length > LOG_LINES) this.lines.splice(0, LOG_LINES / 2);
        for (const look of [...this.#listeners]) look();
      });
    }
    if (this.child.pid !== undefined) secrets.follow(this.child.pid, title === AGENT_TITLE);
    this.exited = new Promise((resolve) =>
      this.child.once("exit", (code, signal) => {
        if (!this.#asked) this.crash = `${title} ended by itself with ${signal ?? code}\n${this.tail()}`;
        resolve(code);
      }),
    );
  }

  get pid(): number {
    return this.child.pid!;
  }

  /** The first line, from `from` on, that has the text. */
  async line(text: string, from = 0, timeoutMs = START_MS): Promise<string> {
    const find = () => this.lines.slice(from).find((line) => line.includes(text));
    let look: (() => void) | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<string>((resolve, reject) => {
        const fail = (why: string) =>
          reject(new Error(`${this.#title}: no "${text}", ${why}\n${this.tail()}`));
        look = () => {
          const found = find();
          if (found !== undefined) resolve(found);
        };
        this.#listeners.add(look);
        timer = setTimeout(() => fail(`after ${timeoutMs} ms`), timeoutMs);
        void this.exited.then((code) => fail(`it ended with ${code}`));
        look();
      });
    } finally {
      clearTimeout(timer);
      if (look) this.#listeners.delete(look);
    }
  }

  tail(lines = 30): string {
    return this.lines.slice(-lines).join("\n");
  }

  /** kill -9; resolves when it is dead. */
  async kill(): Promise<void> {
    this.#asked = true;
    this.child.kill("SIGKILL");
    await this.exited;
  }

  /** SIGTERM; its exit code. */
  async stop(): Promise<number | null> {
    this.#asked = true;
    this.child.kill("SIGTERM");
    const late = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
    const code = await this.exited;
    clearTimeout(late);
    return code;
  }
}

export class ServiceProcess {
  readonly url: string;
  readonly port: number;
  readonly #place: Place;
  #program: Program;

  private constructor(port: number, place: Place) {
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.#place = place;
    this.#program = this.#spawn();
  }

  static async start(port: number, place: Place): Promise<ServiceProcess> {
    const service = new ServiceProcess(port, place);
    await service.#ready();
    return service;
  }

  get pid(): number {
    return this.#program.pid;
  }
  get crash(): string | undefined {
    return this.#program.crash;
  }
  /** What it wrote. */
  get lines(): readonly string[] {
    return this.#program.lines;
  }
  line(text: string, from = 0): Promise<string> {
    return this.#program.line(text, from);
  }
  kill(): Promise<void> {
    return this.#program.kill();
  }
  stop(): Promise<number | null> {
    return this.#program.stop();
  }
  /** Once it is dead: again, at the same address with the same state. */
  async restart(): Promise<void> {
    await this.#program.exited;
    this.#program = this.#spawn();
    await this.#ready();
  }

  #spawn(): Program {
    return new Program("web service", [SERVICE], this.#place);
  }

  async #ready(): Promise<void> {
    await this.#program.line("the service is ready");
  }
}

export class AgentProcess {
  readonly stateDir: string;
  readonly endpointId: string;
  readonly #args: readonly string[];
  readonly #place: Place;
  #program: Program;

  private constructor(stateDir: string, endpointId: string, args: readonly string[], place: Place) {
    this.stateDir = stateDir;
    this.endpointId = endpointId;
    this.#args = args;
    this.#place = place;
    this.#program = this.#spawn();
  }

  static async start(
    stateDir: string,
    endpointId: string,
    args: readonly string[],
    place: Place,
  ): Promise<AgentProcess> {
    const agent = new AgentProcess(stateDir, endpointId, args, place);
    await agent.#program.line("agent started");
    return agent;
  }

  get pid(): number {
    return this.#program.pid;
  }
  get crash(): string | undefined {
    return this.#program.crash;
  }
  get lines(): readonly string[] {
    return this.#program.lines;
  }
  line(text: string, from = 0): Promise<string> {
    return this.#program.line(text, from);
  }
  kill(): Promise<void> {
    return this.#program.kill();
  }
  stop(): Promise<number | null> {
    return this.#program.stop();
  }
  async restart(): Promise<void> {
    await this.#program.exited;
    this.#program = this.#spawn();
    await this.#program.line("agent started");
  }

  #spawn(): Program {
    const args = [AGENT, "run", "--state-dir", this.stateDir, "--stop-workers", ...this.#args];
    return new Program(AGENT_TITLE, args, this.#place);
  }
}

/** Where an agent is, and what its agent.toml says. */
export interface AgentPlace {
  readonly config?: string;
  readonly env?: Env;
}

export interface FabricOptions {
  /** For every service. */
  readonly env?: Env;
}

export class Fabric {
  readonly database: TestDatabase;
  /** Everything durable of the fabric but its database. */
  readonly home: string;
  readonly keyFile: string;
  /** Who looks for secrets; tests tell it of those that have no form of ours. */
  readonly secrets = new SecretWatch();
  readonly #options: FabricOptions;
  readonly #programs: { stop(): Promise<number | null>; readonly crash: string | undefined }[] = [];

  private constructor(database: TestDatabase, options: FabricOptions) {
    this.database = database;
    this.#options = options;
    this.home = mkdtempSync(join(tmpdir(), "farloom-fabric-"));
    this.keyFile = join(this.home, "first.key");
    this.secrets.knowUrl(database.url);
  }

  static async open(options: FabricOptions = {}): Promise<Fabric> {
    return new Fabric(await freshDatabase({ maxConnections: 8 }), options);
  }

  /** The bootstrap owner's key, once a service has run. */
  get key(): string {
    return readFileSync(this.keyFile, "utf8").trim();
  }

  api(url: string, key = this.key): RestClient {
    return new RestClient(url, key);
  }

  /** A service process; several share the database and the state folder, as replicas do. */
  async service(env: Env = {}): Promise<ServiceProcess> {
    const port = await freePort();
    const settings = {
      FARLOOM_STATE_DIR: join(this.home, "service"),
      FARLOOM_PORT: String(port),
      DATABASE_URL: this.database.url,
      // Behind a proxy of the test's, all that the service says to PostgreSQL goes through it.
      ...(env.DATABASE_URL === undefined ? { FARLOOM_TENANT_DATABASE_URL: this.database.tenantUrl } : {}),
      FARLOOM_BOOTSTRAP_KEY_FILE: this.keyFile,
      ...this.#options.env,
      ...env,
    };
    const service = await ServiceProcess.start(port, { env: settings, secrets: this.secrets });
    this.#programs.push(service);
    return service;
  }

  /** A real agent, enrolled as a new endpoint of that name and connected. */
  async agent(
    url: string,
    name: string,
    args: readonly string[] = [],
    place: AgentPlace = {},
  ): Promise<AgentProcess> {
    const made = await this.api(url).post("/v1/endpoints", { name });
    if (made.status !== 201) throw new Error(JSON.stringify(made.body));
    return this.enrolled(url, made.body, name, args, place);
  }

  /** The same of an endpoint that somebody has made. */
  async enrolled(
    url: string,
    made: { readonly id: string; readonly enrolmentCode: string },
    name: string,
    args: readonly string[] = [],
    { config, env: more = {} }: AgentPlace = {},
  ): Promise<AgentProcess> {
    const stateDir = join(this.home, `agent-${name}`);
    if (config !== undefined) {
      mkdirSync(stateDir, { mode: 0o700 });
      writeFileSync(join(stateDir, "agent.toml"), config);
    }
    const env = { FARLOOM_TEST_FABRIC: this.home, ...more };
    const { secrets } = this;
    const codeFile = join(this.home, `code-${name}`);
    writeFileSync(codeFile, made.enrolmentCode, { mode: 0o600 });
    const words = ["enroll", "--service", url, "--code-file", codeFile, "--state-dir", stateDir];
    const enrol = new Program("enrolment", [AGENT, ...words], { env, secrets });
    if ((await enrol.exited) !== 0) throw new Error(`the agent did not enrol\n${enrol.tail()}`);
    rmSync(codeFile);
    const agent = await AgentProcess.start(stateDir, made.id, args, { env, secrets });
    this.#programs.push(agent);
    return agent;
  }

  /** A key of another owner, made by the first. */
  async keyOf(url: string, owner: string): Promise<string> {
    const made = await this.api(url).post("/v1/keys", { label: "test", owner });
    if (made.status !== 201) throw new Error(JSON.stringify(made.body));
    return made.body.key as string;
  }

  /** A function that agents of a test answer for, whatever its code says; its digest. */
  async register(url: string, definition: Record<string, unknown>, key = this.key): Promise<Buffer> {
    const body = { runtime: "python", code: "def f(*args):\n    return args\n", entry: "f", ...definition };
    const made = await this.api(url, key).post("/v1/functions", body);
    if (made.status > 201) throw new Error(JSON.stringify(made.body));
    return Buffer.from(made.body.id, "hex");
  }

  /** Stops everything, agents first, and throws where a process is left. */
  async close(): Promise<void> {
    this.secrets.sample();
    for (const program of this.#programs.reverse()) await program.stop();
    const crashes = this.#programs.flatMap((program) => program.crash ?? []);
    // A node of a block has said goodbye to its agent before its process has ended.
    let left = processesWith(this.home);
    for (const end = performance.now() + LEAVE_MS; left.length > 0 && performance.now() < end; ) {
      await sleep(100);
      left = processesWith(this.home);
    }
    for (const { pid } of left) process.kill(pid, "SIGKILL");
    this.secrets.stop();
    this.secrets.lookInto(this.home);
    rmSync(this.home, { recursive: true, force: true });
    await this.database.drop();
    if (crashes.length > 0) throw new Error(crashes.join("\n\n"));
    if (left.length > 0) {
      throw new Error(`processes left behind: ${left.map((p) => `${p.pid} ${p.command}`).join("; ")}`);
    }
    const { findings } = this.secrets; // 5
    if (findings.length > 0) throw new Error(`secrets were told:\n${findings.join("\n")}`);
  }
}

/** Processes with the text in their environment or command line, zombies aside. */
export function processesWith(text: string): { pid: number; command: string }[] {
  const found: { pid: number; command: string }[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8");
      if (command === "") continue;
      if (command.includes(text) || readFileSync(`/proc/${name}/environ`, "utf8").includes(text)) {
        found.push({ pid: Number(name), command: command.replaceAll("\0", " ").trim() });
      }
    } catch {
      // It has ended meanwhile.
    }
  }
  return found;
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}
