/**
 * A whole fabric over a test's cluster: one service, and endpoints whose agents ask Slurm for their blocks. What ran, and
 * how often, the functions write themselves; they run until they are let go.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type AgentProcess, Fabric, type ServiceProcess } from "../fabric.js";
import { PYTHON } from "../node-harness.js";
import { SlurmCluster, type SlurmClusterOptions } from "./cluster.js";

export type Mode = "at_most_once" | "at_least_once";
export const MODES: readonly Mode[] = ["at_most_once", "at_least_once"];
export type Table = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** A line for each run that begins, with the worker's process in it. Lets the task go when there is a file `go`. */
const GATED = `
import os, time
def gated(folder, name):
    fd = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.05)
    return name
`;
const WAIT_MS = 90_000;
const POLL_MS = 200;
const OPEN_STATES = ["QUEUED", "LEASED", "STARTED"];

/** A task as the service tells of it, and the processes that began to run it. */
export interface EndedTask {
  readonly mode: Mode;
  readonly state: string;
  readonly reason: string;
  readonly attempt: number;
  readonly runs: readonly number[];
}

/** A job of an endpoint, as squeue tells of it. */
export interface Job {
  readonly id: string;
  readonly state: string;
  /** Of one node its name; of several Slurm's short form. */
  readonly nodes: string;
}

export async function until(
  holds: () => Promise<boolean> | boolean,
  what: string,
  withinMs = WAIT_MS,
): Promise<void> {
  for (const end = performance.now() + withinMs; !(await holds()); await sleep(POLL_MS))
    if (performance.now() > end) throw new Error(`not within ${withinMs / 1000} s: ${what}`);
}

export class SlurmFabric {
  readonly cluster: SlurmCluster;
  readonly fabric: Fabric;
  readonly service: ServiceProcess;
  readonly #functions: ReadonlyMap<Mode, string>;

  private constructor(
    cluster: SlurmCluster,
    fabric: Fabric,
    service: ServiceProcess,
    functions: ReadonlyMap<Mode, string>,
  ) {
    this.cluster = cluster;
    this.fabric = fabric;
    this.service = service;
    this.#functions = functions;
  }

  static async start(options: SlurmClusterOptions): Promise<SlurmFabric> {
    const cluster = await SlurmCluster.start(options);
    const fabric = await Fabric.open();
    const service = await fabric.service();
    const functions = new Map<Mode, string>();
    for (const mode of MODES) {
      const digest = await fabric.register(service.url, { name: mode, code: GATED, entry: "gated", mode });
      functions.set(mode, digest.toString("hex"));
    }
    return new SlurmFabric(cluster, fabric, service, functions);
  }

  /** An endpoint with an agent of its own; tables as in its agent.toml. `more`: its environment. */
  async endpoint(
    name: string,
    slurm: Table = {},
    blocks: Table = {},
    more: Readonly<Record<string, string>> = {},
  ): Promise<SlurmEndpoint> {
    const lines = (table: Table) =>
      Object.entries(table).map(([option, value]) => `${option} = ${JSON.stringify(value)}`);
    const config = [
      'provider = "slurm"',
      // Unsigned functions run: whose code runs is no question of these tests.
      'trust = "off"',
      `python = ${JSON.stringify(PYTHON)}`,
      "[slurm]",
      ...lines(slurm),
      "[blocks]",
      // Nothing is handed out that does not run at once: so what is lost had begun.
      ...lines({ workers_per_node: 2, prefetch: 0, status_seconds: 1, ...blocks }),
    ].join("\n");
    const { SLURM_CONF = "", PATH = "" } = this.cluster.env;
    const env = { SLURM_CONF, PATH, ...more };
    const agent = await this.fabric.agent(this.service.url, name, [], { config, env });
    return new SlurmEndpoint(this, name, agent);
  }

  /** Options of Slurm that keep a block on these nodes. */
  only(...nodes: readonly string[]): Table {
    const others = this.cluster.nodes.filter((node) => !nodes.includes(node));
    return { scheduler_options: [`--exclude=${others.join(",")}`] };
  }

  function(mode: Mode): string {
    return this.#functions.get(mode)!;
  }

  /** Throws where a process of a job is left. */
  async close(): Promise<void> {
    const closing = this.fabric.close();
    await closing.catch(() => undefined);
    const left = this.cluster.nodes.flatMap((node) => this.cluster.processesOf(`SLURMD_NODENAME=${node}`));
    await this.cluster.close();
    await closing;
    if (left.length > 0) {
      throw new Error(`left of jobs: ${left.map(({ pid, command }) => `${pid} ${command}`).join("; ")}`);
    }
  }
}

export class SlurmEndpoint {
  readonly name: string;
  readonly agent: AgentProcess;
  readonly #place: SlurmFabric;
  readonly #folder: string;
  readonly #modes = new Map<string, Mode>();

  constructor(place: SlurmFabric, name: string, agent: AgentProcess) {
    this.#place = place;
    this.name = name;
    this.agent = agent;
    this.#folder = mkdtempSync(join(place.fabric.home, "evidence-"));
    mkdirSync(join(this.#folder, "runs"));
  }

  /** So many of each mode, in turn. */
  async submit(ofEach: number): Promise<void> {
    const api = this.#place.fabric.api(this.#place.service.url);
    for (let i = 0; i < ofEach; i++) {
      for (const mode of MODES) {
        const made = await api.post("/v1/tasks", {
          endpoint: this.name,
          function: this.#place.function(mode),
          args: [join(this.#folder, "runs"), `${mode}-${i}`],
        });
        if (made.status >= 300) throw new Error(JSON.stringify(made.body));
        this.#modes.set(made.body.id as string, mode);
      }
    }
  }

  /** Resolves when so many tasks have begun. */
  begun(count: number): Promise<void> {
    return until(() => readdirSync(join(this.#folder, "runs")).length >= count, `${count} have begun`);
  }

  /** Processes that run a task, or ran it. */
  get workers(): number[] {
    return readdirSync(join(this.#folder, "runs"))
      .filter((name) => name !== "go")
      .flatMap((name) => this.#runs(name));
  }

  /** Lets all tasks end, those too that begin later. */
  go(): void {
    writeFileSync(join(this.#folder, "runs", "go"), "");
  }

  /** Jobs that are not over, the oldest first. */
  async jobs(): Promise<Job[]> {
    const rows = await this.#place.cluster.run("squeue", "--noheader", "--sort=i", "--format=%i|%j|%T|%N");
    return rows
      .split("\n")
      .map((row) => row.split("|"))
      .filter(([, name]) => name?.startsWith(`farloom-${this.agent.endpointId}-`))
      .map(([id, , state, nodes]) => ({ id: id!, state: state!, nodes: nodes! }));
  }

  /** The node programs of a job. */
  nodePrograms(job: Job): number[] {
    return this.#place.cluster
      .processesOf(`SLURM_JOB_ID=${job.id}`)
      .filter(({ command }) => command.includes("/bundle/node.js --parameters "))
      .map(({ pid }) => pid);
  }

  async cancel(): Promise<void> {
    const api = this.#place.fabric.api(this.#place.service.url);
    for (const id of this.#modes.keys()) await api.post(`/v1/tasks/${id}/cancel`, {});
  }

  /** Waits until every task has its end. */
  async ended(): Promise<EndedTask[]> {
    const api = this.#place.fabric.api(this.#place.service.url);
    const perMode = new Map<Mode, number>();
    let tasks: Record<string, unknown>[] = [];
    const isOver = async (): Promise<boolean> => {
      // A service that is being restarted answers nothing.
      const answer = await api.get(`/v1/tasks?endpoint=${this.name}&limit=100`).catch(() => undefined);
      tasks = answer?.body.items ?? [];
      return (
        tasks.length === this.#modes.size && tasks.every(({ state }) => !OPEN_STATES.includes(String(state)))
      );
    };
    await until(isOver, `tasks of ${this.name} have ended`).catch((error) => {
      const log = this.agent.lines.slice(-40).join("\n");
      throw new Error(`${error.message}: ${JSON.stringify(tasks)}\n${log}`);
    });
    // In the order in which they were submitted, so that each finds its evidence.
    const byId = new Map(tasks.map((task) => [String(task.id), task]));
    return [...this.#modes].map(([id, mode]) => {
      const at = perMode.get(mode) ?? 0;
      perMode.set(mode, at + 1);
      const { state, reason, attempt } = byId.get(id)!;
      return {
        mode,
        state: String(state),
        reason: String(reason ?? "none"),
        attempt: Number(attempt),
        runs: this.#runs(`${mode}-${at}`),
      };
    });
  }

  /** The agent stops and wants no block any more; resolves when it has no job. */
  async close(): Promise<void> {
    await this.agent.stop();
    await until(async () => (await this.jobs()).length === 0, `no job of ${this.name} is left`);
  }

  #runs(name: string): number[] {
    const path = join(this.#folder, "runs", name);
    return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n").map(Number) : [];
  }
}
