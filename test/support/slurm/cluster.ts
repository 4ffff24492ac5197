/**
 * A real Slurm cluster on this machine for tests: munged, slurmctld and a slurmd for each virtual node, as children of the
 * test, without systemd, in a folder of their own. Any user can run it; jobs run as that user.
 *
 * 1. Nothing is shared with a Slurm that this machine may have: own configuration, own ports on loopback, own munge key.
 * 2. `close` ends every process of the cluster, what its jobs have started included, and throws nothing away before.
 *
 * Where Slurm is not installed, `slurmMissing` names what is not there, and the tests that need it skip themselves:
 *
 *   describe.skipIf(slurmMissing !== undefined)(`… (skipped: ${slurmMissing} is not installed)`, …)
 */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir, userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { freePort, processesWith } from "../fabric.js";
import { slurmConf } from "./slurm-conf.js";

const PROGRAMS = [
  "munged",
  "slurmctld",
  "slurmd",
  "sbatch",
  "squeue",
  "scancel",
  "scontrol",
  "sinfo",
  "srun",
];
/** Debian puts the daemons where a user's PATH does not look. */
const PATH = [process.env.PATH ?? "", "/usr/sbin", "/sbin"].join(delimiter);
/** On a slow machine under load; it takes 1 s on a fast one. */
const UP_MS = 60_000;
const STOP_MS = 10_000;

function pathOf(program: string): string | undefined {
  return PATH.split(delimiter)
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** The first program that is not installed, or undefined where all are. */
export const slurmMissing = PROGRAMS.find((program) => pathOf(program) === undefined);

export interface SlurmClusterOptions {
  /** Nodes n1, n2, … Default 4. */
  readonly nodes?: number;
  /** Cores that each node claims. Default 4. */
  readonly cores?: number;
}

export class SlurmCluster {
  /** Everything of the cluster, and for files of the test. */
  readonly home: string;
  readonly nodes: readonly string[];
  /** For programs that speak to this cluster. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly #daemons = new Map<string, ChildProcess>();

  private constructor(nodes: number) {
    this.home = mkdtempSync(join(tmpdir(), "farloom-slurm-"));
    // munged insists that others may pass to its socket.
    chmodSync(this.home, 0o755);
    this.nodes = Array.from({ length: nodes }, (_, i) => `n${i + 1}`);
    this.env = { ...process.env, PATH, SLURM_CONF: join(this.home, "slurm.conf") };
  }

  /** Resolves when every node is idle. */
  static async start({ nodes = 4, cores = 4 }: SlurmClusterOptions = {}): Promise<SlurmCluster> {
    const cluster = new SlurmCluster(nodes);
    try {
      await cluster.#configure(cores);
      await cluster.#startMunge();
      await cluster.startController({ forgetful: true });
      for (const node of cluster.nodes) cluster.startNode(node);
      await cluster.untilIdle();
      return cluster;
    } catch (error) {
      const logs = ["munged", "slurmctld", ...cluster.nodes].map((name) => cluster.log(name).slice(-600));
      await cluster.close();
      throw new Error(`the cluster did not come up\n${logs.join("\n")}`, { cause: error });
    }
  }

  /** Runs one of Slurm's programs, as a person would; what it prints. */
  async run(program: string, ...args: string[]): Promise<string> {
    const { stdout } = await promisify(execFile)(program, args, { env: this.env as NodeJS.ProcessEnv });
    return stdout.trim();
  }

  /** What a daemon wrote, `slurmctld` or the name of a node. */
  log(name: string): string {
    try {
      return readFileSync(join(this.home, `${name}.log`), "utf8");
    } catch {
      return "";
    }
  }

  /** All nodes are there, and nothing runs on them. */
  async untilIdle(): Promise<void> {
    await this.until(`nodes ${this.nodes.join(", ")} idle`, async () => {
      const states = await this.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t");
      return states.split("\n").filter((state) => state === "idle").length === this.nodes.length;
    });
  }

  /** Slurm tells of nothing by itself; so its tests ask again. */
  async until(what: string, isSo: () => Promise<boolean>): Promise<void> {
    const giveUpAtMs = performance.now() + UP_MS;
    while (!(await isSo().catch(() => false))) {
      if (performance.now() > giveUpAtMs) throw new Error(`not so after ${UP_MS / 1000} s: ${what}`);
      await sleep(100);
    }
  }

  /** Resolves when it answers. `forgetful`: without the jobs that it knew before. */
  async startController({ forgetful = false } = {}): Promise<void> {
    this.#spawn("slurmctld", "slurmctld", ["-D", ...(forgetful ? ["-c"] : [])]);
    await this.until("slurmctld answers", async () => (await this.run("scontrol", "ping")).includes(" UP"));
  }

  /** As for an upgrade: it writes down all it knows. */
  stopController(): Promise<void> {
    return this.#end("slurmctld", "SIGTERM");
  }

  /** kill -9, as when its machine dies: it forgets the last seconds. */
  killController(): Promise<void> {
    return this.#end("slurmctld", "SIGKILL");
  }

  /** It takes connections and answers none. */
  freezeController(): void {
    this.#daemons.get("slurmctld")!.kill("SIGSTOP");
  }

  thawController(): void {
    this.#daemons.get("slurmctld")!.kill("SIGCONT");
  }

  startNode(node: string): void {
    this.#spawn(node, "slurmd", ["-D", "-N", node]);
  }

  /** Power loss: the node's slurmd and all that runs on the node, at once. */
  async crashNode(node: string): Promise<void> {
    await this.#end(node, "SIGKILL");
    // A slurmstepd writes to its node's log; jobs carry the node's name.
    const steps = processesWith(this.home).filter(
      ({ pid, command }) => command.startsWith("slurmstepd") && this.#isOnNode(pid, node),
    );
    for (const { pid } of [...steps, ...this.processesOf(`SLURMD_NODENAME=${node}`)]) endProcess(pid);
  }

  /** Processes of jobs of this cluster, by what Slurm tells them: `SLURM_JOB_ID=7`, `SLURMD_NODENAME=n1`. */
  processesOf(variable: string): { pid: number; command: string }[] {
    return processesWith(`${variable}\0`).filter(({ pid }) => environmentOf(pid).includes(this.home));
  }

  #isOnNode(pid: number, node: string): boolean {
    const log = join(this.home, `${node}.log`);
    try {
      return execFileSync("ls", ["-l", `/proc/${pid}/fd`], { encoding: "utf8" }).includes(`-> ${log}\n`);
    } catch {
      return false;
    }
  }

  /** Ends all of it; idempotent. */
  async close(): Promise<void> {
    // The controller first, so that nothing is begun anew; munged last, as the others need it.
    const munged = this.#daemons.get("munged");
    await this.#end("slurmctld", "SIGKILL");
    for (const node of this.nodes) await this.#end(node, "SIGKILL");
    for (;;) {
      const left = processesWith(this.home).filter(({ pid }) => pid !== munged?.pid);
      if (left.length === 0) break;
      for (const { pid } of left) endProcess(pid);
      await sleep(50);
    }
    await this.#end("munged", "SIGKILL");
    rmSync(this.home, { recursive: true, force: true });
  }

  async #configure(cores: number): Promise<void> {
    const ports = new Set<number>();
    while (ports.size < this.nodes.length + 1) ports.add(await freePort());
    const [controllerPort, ...nodePorts] = [...ports] as [number, ...number[]];
    for (const folder of ["state", "spool"]) mkdirSync(join(this.home, folder));
    for (const node of this.nodes) mkdirSync(join(this.home, "spool", node));
    const version = Number(
      /(\d+)\./.exec(execFileSync(pathOf("slurmd")!, ["-V"], { encoding: "utf8" }))?.[1],
    );
    // Later ones want a tree of cgroups that only systemd makes.
    if (version >= 24) writeFileSync(join(this.home, "cgroup.conf"), "CgroupPlugin=disabled\n");
    const user = userInfo().username;
    const nodes = this.nodes.map((name, i) => ({ name, port: nodePorts[i]! }));
    const conf = slurmConf({
      home: this.home,
      host: hostname().split(".")[0]!,
      user,
      controllerPort,
      nodes,
      cores,
    });
    writeFileSync(join(this.home, "slurm.conf"), conf);
  }

  async #startMunge(): Promise<void> {
    const inHome = (name: string) => join(this.home, "munge", name);
    mkdirSync(join(this.home, "munge"), { mode: 0o755 });
    writeFileSync(inHome("key"), crypto.getRandomValues(new Uint8Array(1024)), { mode: 0o600 });
    const places = {
      "key-file": "key",
      socket: "socket",
      "pid-file": "pid",
      "log-file": "log",
      "seed-file": "seed",
    };
    const args = Object.entries(places).map(([option, name]) => `--${option}=${inHome(name)}`);
    this.#spawn("munged", "munged", ["--foreground", ...args]);
    await this.until("munged answers", async () => {
      accessSync(inHome("socket"));
      return true;
    });
  }

  #spawn(name: string, program: string, args: readonly string[]): void {
    const log = openSync(join(this.home, `${name}.log`), "a");
    const child = spawn(pathOf(program)!, args, {
      cwd: "/",
      env: this.env as NodeJS.ProcessEnv,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.#daemons.set(name, child);
  }

  async #end(name: string, signal: NodeJS.Signals): Promise<void> {
    const child = this.#daemons.get(name);
    this.#daemons.delete(name);
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    child.kill(signal);
    const late = sleep(STOP_MS, "late", { ref: false });
    if ((await Promise.race([exited, late])) === "late") throw new Error(`${name} does not end`);
  }
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}

function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return "";
  }
}
