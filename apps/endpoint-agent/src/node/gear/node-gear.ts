/**
 * The gear of one node: what its workers can be given for themselves, and how a worker is started with it. A worker has
 * its gear from its start to its end, since a process that has opened a GPU keeps it: so workers are pinned, tasks go to
 * workers that have what they need, and a worker with other gear is replaced (dispatcher.ts).
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { GearInfo, NodeCapacity, Resources, WholeNodesOption } from "@farloom/protocol";
import { gpuSlotsOf } from "../../gpu-slots.js";
import type { WorkerProgram } from "../worker.js";
import { WorkerCgroups } from "./cgroup.js";
import { parseCpuList } from "./cpu-list.js";
import type { GearConfig } from "./gear-config.js";
import { discoverGpus, type GpuList, visibleDevices } from "./gpus.js";
import { launcherPrefix, ranksOf } from "./launcher.js";
import { type Gear, GearLedger, type GearNeed, NO_NEED } from "./ledger.js";

type Environment = Readonly<Record<string, string | undefined>>;

/** How a worker's memory is limited. */
type Limiter = { readonly by: "cgroup"; readonly cgroups: WorkerCgroups } | { readonly by: "rlimit" };

interface Parts {
  readonly config: GearConfig;
  readonly list: GpuList;
  /** Cores that workers are pinned to; none: they are not pinned. */
  readonly cores: readonly number[];
  readonly limiter: Limiter | undefined;
  readonly info: GearInfo;
}

export class NodeGear {
  readonly ledger: GearLedger;
  /** What the node tells of it. */
  readonly info: GearInfo;
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.info = parts.info;
    const ids = parts.list.gpus.map(({ id }) => id);
    this.ledger = new GearLedger(ids, parts.config.gpuSlots, parts.cores);
  }

  /** Looks what there is, and what can be done with it here. */
  static async open(config: GearConfig, env: Environment): Promise<NodeGear> {
    const list = await discoverGpus(config.gpus, env);
    const cores = config.pinCores ? pinnableCores() : "pin_cores is not set";
    const memory = limiterOf(config);
    return new NodeGear({
      config,
      list,
      cores: typeof cores === "string" ? [] : cores,
      limiter: typeof memory === "string" ? undefined : memory,
      info: {
        gpus: list.gpus.map((gpu) => ({ ...gpu })),
        gpusFrom: list.from,
        gpuSlots: config.gpuSlots,
        cores: typeof cores === "string" ? `not pinned: ${cores}` : `pinned to cores ${cores.join(",")}`,
        memory: typeof memory === "string" ? `not limited: ${memory}` : `limited by ${memory.by}`,
      },
    });
  }

  /** What of its configuration a worker has from its start. */
  get rules(): Omit<GearConfig, "mpiLauncher"> {
    const { mpiLauncher: _, ...rules } = this.#parts.config;
    return rules;
  }

  get capacity(): Pick<NodeCapacity, "gpus" | "gpuSlots"> {
    const { config, list } = this.#parts;
    return {
      gpus: list.gpus.length,
      ...(config.gpuSlots > 1 && { gpuSlots: config.gpuSlots }),
    };
  }

  /** What a worker needs that runs functions with these resources. */
  needOf(resources: Resources): GearNeed {
    const { config, cores, limiter } = this.#parts;
    const need = {
      gpuSlots: gpuSlotsOf(resources.gpus ?? 0, config.gpuSlots),
      cores: cores.length > 0 ? Math.max(1, resources.cores ?? 1) : 0,
      memoryMb: limiter === undefined ? 0 : (resources.memoryMb ?? 0),
    };
    return need.gpuSlots + need.cores + need.memoryMb === 0 ? NO_NEED : need;
  }

  /** Whether a node with nothing else to do could start such a worker. */
  canEverMeet(need: GearNeed): boolean {
    const { config, cores, list } = this.#parts;
    const empty = new GearLedger(
      list.gpus.map(({ id }) => id),
      config.gpuSlots,
      cores,
    );
    return empty.shortOf(need) === undefined;
  }

  /** The program as a worker with this gear runs it. Throws where its limit cannot be set. */
  fit(program: WorkerProgram, gear: Gear, worker: string): WorkerProgram {
    const { config, list, limiter } = this.#parts;
    const isShown = gear.gpus.length === 0 && config.showGpus;
    const env = isShown ? program.env : { ...program.env, ...visibleDevices(gear.gpus, list.vendor) };
    let around: string[] = [];
    if (gear.cores.length > 0) around = ["taskset", "-c", gear.cores.join(",")];
    if (gear.memoryMb > 0 && limiter !== undefined) {
      if (limiter.by === "cgroup") {
        const procs = limiter.cgroups.make(worker, gear.memoryMb);
        around = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', procs, ...around];
      } else if (program.runtime !== "node" && gear.gpus.length === 0) {
        // Node and CUDA reserve addresses far beyond what they use: a limit of those would only break them.
        around = ["prlimit", `--as=${gear.memoryMb * 1024 ** 2}`, ...around];
      }
    }
    return { ...program, env, around };
  }

  /** What a call over whole nodes is told of them; its hosts are the agent's word. */
  wholeNodes(hosts: readonly string[], resources: Resources, env: Environment): WholeNodesOption {
    const prefix = launcherPrefix(this.#parts.config.mpiLauncher, { hosts, resources }, env);
    return { nodes: [...hosts], ranks: ranksOf(resources), prefix };
  }

  /** Nothing of the worker is left. */
  gone(gear: Gear, worker: string): void {
    this.ledger.give(gear);
    const { limiter } = this.#parts;
    if (gear.memoryMb > 0 && limiter?.by === "cgroup") limiter.cgroups.drop(worker);
  }
}

/** The cores that this process may use, or why workers cannot be pinned. */
function pinnableCores(): readonly number[] | string {
  try {
    execFileSync("taskset", ["--version"], { stdio: "ignore" });
    const status = readFileSync("/proc/self/status", "utf8");
    const cores = parseCpuList(/^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1] ?? "");
    return cores.length === 0
      ? "the cores of this process are not told"
      : cores.slice(0, availableParallelism());
  } catch (error) {
    return `taskset cannot be used (${(error as Error).message})`;
  }
}

function limiterOf(config: GearConfig): Limiter | string {
  const how = config.limitMemory;
  if (how === "off") return "limit_memory is off";
  if (how === "rlimit") {
    try {
      execFileSync("prlimit", ["--version"], { stdio: "ignore" });
      return { by: "rlimit" };
    } catch (error) {
      return `prlimit cannot be used (${(error as Error).message})`;
    }
  }
  const cgroups = WorkerCgroups.open({ isAskedFor: how === "cgroup" });
  return typeof cgroups === "string" ? cgroups : { by: "cgroup", cgroups };
}
