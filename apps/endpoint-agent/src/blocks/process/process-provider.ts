/**
 * The provider `process`: the nodes of a block are processes on this machine. For tests, and for a machine that is to
 * be used like a cluster: everything between agent and node is as on one, but nothing is shared out by a batch system.
 *
 *   1  A block's id tells its processes (number and start time of each), so that an agent that comes later knows them.
 *   2  Nodes outlive the agent, in sessions of their own.
 *   3  When a node's process has gone, whatever its tasks started is ended, before the block counts as over.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { killGroup, processStartTime } from "../../node/proc.js";
import { clearRemains } from "../../node/remains.js";
import type { BlockRequest, BlockStatus, Provider } from "../provider.js";

/** What every process of a node, and of its tasks, has in its environment. */
const NODE_MARKER = "FARLOOM_NODE_MARKER";
/** After this a node that was asked to end is ended; it drains for 25 s at most. */
const KILL_AFTER_MS = 30_000;
/** For this long a stop of what a dead node left is asked for, before it is enforced. */
const REMAINS_GRACE_MS = 500;

interface NodeProcess {
  readonly pid: number;
  readonly startTime: string;
  readonly marker: string;
  /** How it ended, where this process saw it. */
  end?: string;
  /** Nothing of it is left, as far as can be found. */
  isCleared: boolean;
  clearing?: Promise<void>;
}

export interface ProcessProviderOptions {
  /** Where the nodes' own output goes, a file for each. */
  readonly logDir: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export class ProcessProvider implements Provider {
  readonly name = "process";
  readonly #options: ProcessProviderOptions;
  readonly #blocks = new Map<string, NodeProcess[]>();
  readonly #cancelled = new Set<string>();

  constructor(options: ProcessProviderOptions) {
    this.#options = options;
  }

  async submit(request: BlockRequest): Promise<string> {
    const processes: NodeProcess[] = [];
    const logs = request.id ?? randomBytes(6).toString("hex");
    try {
      for (let i = 0; i < request.nodes; i++) processes.push(await this.#start(request, `node${i}`, logs));
    } catch (error) {
      for (const { pid } of processes) killGroup(pid, "SIGKILL");
      throw error;
    }
    const id = processes.map(({ pid, startTime, marker }) => `${pid}.${startTime}.${marker}`).join(","); // 1
    this.#blocks.set(id, processes);
    if (request.walltimeMs !== undefined) {
      setTimeout(() => this.#stop(id), request.walltimeMs).unref();
    }
    return id;
  }

  async status(ids: readonly string[]): Promise<readonly BlockStatus[]> {
    return ids.map((id) => {
      const processes = this.#processes(id);
      if (processes === undefined) return { id, state: "unknown" as const };
      for (const process of processes) if (!isAlive(process)) this.#clear(process);
      if (processes.some((process) => isAlive(process) || !process.isCleared))
        return { id, state: "running" };
      const bad = processes.find(({ end }) => end !== undefined && end !== "exit code 0");
      if (bad === undefined || this.#cancelled.has(id)) return { id, state: "ended" };
      return { id, state: "failed", detail: `a node's process ended with ${bad.end}` };
    });
  }

  async cancel(ids: readonly string[]): Promise<void> {
    for (const id of ids) {
      this.#cancelled.add(id);
      this.#stop(id);
    }
  }

  #stop(id: string): void {
    for (const one of this.#processes(id) ?? []) {
      if (!isAlive(one)) continue;
      signalTo(one, "SIGTERM");
      setTimeout(() => isAlive(one) && signalTo(one, "SIGKILL"), KILL_AFTER_MS).unref();
    }
  }

  #start(request: BlockRequest, name: string, logs: string): Promise<NodeProcess> {
    const [program = "", ...args] = request.command;
    const marker = randomBytes(16).toString("hex");
    const log = openSync(join(this.#options.logDir, `${logs}-${name}.log`), "a", 0o600);
    const child = spawn(program, [...args, request.parametersFile], {
      detached: true, // 2
      stdio: ["ignore", log, log],
      env: {
        ...(this.#options.env ?? process.env),
        FARLOOM_NODE_NAME: name,
        [NODE_MARKER]: marker,
      },
    });
    closeSync(log);
    child.unref();
    return new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("spawn", () => {
        const pid = child.pid!;
        const started: NodeProcess = {
          pid,
          startTime: processStartTime(pid) ?? "0",
          marker,
          isCleared: false,
        };
        child.once("exit", (code, signal) => {
          started.end = signal ?? `exit code ${code}`;
          this.#clear(started);
        });
        resolve(started);
      });
    });
  }

  /** Those of the id itself where another process of the agent started them. */
  #processes(id: string): NodeProcess[] | undefined {
    let processes = this.#blocks.get(id);
    if (processes === undefined && /^\d+\.\d+\.[0-9a-f]{32}(,\d+\.\d+\.[0-9a-f]{32})*$/.test(id)) {
      processes = id.split(",").map((one) => {
        const [pid, startTime, marker] = one.split(".") as [string, string, string];
        return { pid: Number(pid), startTime, marker, isCleared: false };
      });
      this.#blocks.set(id, processes);
    }
    return processes;
  }

  /** 3 */
  #clear(dead: NodeProcess): void {
    const { pid, startTime, marker } = dead;
    const killAtMs = performance.now() + REMAINS_GRACE_MS;
    dead.clearing ??= clearRemains({ pid, startTime, marker, variable: NODE_MARKER }, () => killAtMs).then(
      () => {
        dead.isCleared = true;
      },
    );
  }
}

function isAlive({ pid, startTime }: NodeProcess): boolean {
  return processStartTime(pid) === startTime;
}

function signalTo({ pid }: NodeProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone meanwhile.
  }
}
