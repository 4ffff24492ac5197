/**
 * The part of the configuration that says where nodes come from: `provider` and the table `[blocks]` of agent.toml, and
 * a table of the provider's own, under its name. Without a provider, or with `local`, the one node lives in the agent's
 * process, and nothing here counts.
 */

import { secondsOf } from "./options.js";

/** What `[blocks]` says, with its defaults. Times in milliseconds. */
export interface BlocksConfig {
  readonly provider: string;
  /** The provider's own table, as it stands in the file. */
  readonly providerOptions: Readonly<Record<string, unknown>>;
  readonly nodesPerBlock: number;
  /** Tasks that a node runs at the same time. */
  readonly workersPerNode: number;
  readonly minBlocks: number;
  readonly initBlocks: number;
  readonly maxBlocks: number;
  readonly parallelism: number;
  /** A block that has had nothing to do for so long, and is not needed, is let go. */
  readonly idleMs: number;
  /** Undefined: none that the agent knows of. */
  readonly walltimeMs: number | undefined;
  /** So long before its walltime a block gets nothing more and gives back what has not started. */
  readonly drainBeforeMs: number;
  /** Long tasks that a node asks for beyond those that it runs. */
  readonly prefetch: number;
  /** Lines of bash that run on each node before its workers start. */
  readonly workerInit: string;
  /** Where nodes reach the agent: an address of this machine; 0.0.0.0 for all of them. */
  readonly address: string;
  /** 0: any that is free. */
  readonly port: number;
  /** What nodes are told instead, where they see this machine under other names or ports: `host` or `host:port`. */
  readonly callback: readonly string[];
  /** How long a node may be away before its tasks count as lost. */
  readonly nodeGraceMs: number;
  /** A node that runs nothing and has not reached the agent for so long ends. */
  readonly nodeGiveUpMs: number;
  /** Between two looks at the provider's blocks. */
  readonly statusMs: number;
}

const SECOND = 1_000;
const DAY_S = 86_400;
const MOST_WALLTIME_S = 30 * DAY_S;
/** Longer scripts belong in a file that the lines name. */
const MAX_INIT_CHARS = 64 * 1024;

/** Reads the file's tables; `workers` is the agent's own number. Throws an Error that names what is wrong. */
export function readBlocksConfig(
  file: Readonly<Record<string, unknown>>,
  workers: number,
): BlocksConfig | undefined {
  const provider = file.provider ?? "local";
  if (typeof provider !== "string") throw new Error("provider in agent.toml is not a name");
  if (provider === "local") return undefined;
  const given = tableOf(file, "blocks");
  const known = new Set<string>();
  const number = (name: string, absent: number, least: number, most: number, isWhole = true): number => {
    known.add(name);
    const value = given[name] ?? absent;
    if (typeof value !== "number" || value < least || value > most || (isWhole && !Number.isInteger(value))) {
      const what = isWhole ? "a whole number" : "a number";
      throw new Error(
        `${name} in [blocks] of agent.toml is '${String(value)}', not ${what} from ${least} to ${most}`,
      );
    }
    return value;
  };
  known.add("address");
  const { address = "127.0.0.1" } = given;
  if (typeof address !== "string") throw new Error("address in [blocks] of agent.toml is no address");
  known.add("worker_init");
  const { worker_init: workerInit = "" } = given;
  if (typeof workerInit !== "string" || workerInit.length > MAX_INIT_CHARS || workerInit.includes("\0"))
    throw new Error(
      `worker_init in [blocks] of agent.toml is no text of at most ${MAX_INIT_CHARS} characters`,
    );
  known.add("callback");
  const { callback = [] } = given;
  if (
    !Array.isArray(callback) ||
    !callback.every((one) => typeof one === "string" && /^[^\s:]+(:\d+)?$/.test(one))
  )
    throw new Error("callback in [blocks] of agent.toml is no list of 'host' or 'host:port'");
  const workersPerNode = number("workers_per_node", workers, 1, 1024);
  const maxBlocks = number("max_blocks", 1, 1, 1024);
  const minBlocks = number("min_blocks", 0, 0, maxBlocks);
  const walltimeMs = walltimeOf(given, number("walltime_seconds", 0, 0, MOST_WALLTIME_S)) * SECOND;
  known.add("walltime");
  const config: BlocksConfig = {
    provider,
    providerOptions: tableOf(file, provider),
    nodesPerBlock: number("nodes_per_block", 1, 1, 4096),
    workersPerNode,
    minBlocks,
    initBlocks: number("init_blocks", minBlocks, 0, maxBlocks),
    maxBlocks,
    parallelism: number("parallelism", 1, 0, 1, false),
    idleMs: number("idle_seconds", 120, 0, DAY_S, false) * SECOND,
    walltimeMs: walltimeMs === 0 ? undefined : walltimeMs,
    drainBeforeMs:
      number("drain_before_seconds", Math.min(120, walltimeMs / SECOND / 10), 0, DAY_S, false) * SECOND,
    prefetch: number("prefetch", Math.max(1, Math.ceil(workersPerNode / 4)), 0, 4096),
    workerInit,
    address,
    callback,
    port: number("port", 0, 0, 65_535),
    nodeGraceMs: number("node_grace_seconds", 10, 0, DAY_S, false) * SECOND,
    nodeGiveUpMs: number("node_give_up_seconds", 600, 1, DAY_S, false) * SECOND,
    statusMs: number("status_seconds", 10, 0.1, 3_600, false) * SECOND,
  };
  for (const name of Object.keys(given)) {
    if (!known.has(name))
      throw new Error(
        `[blocks] in agent.toml has no option '${name}'; there are ${[...known].sort().join(", ")}`,
      );
  }
  return Object.freeze(config);
}

/** `walltime`, in seconds or as `HH:MM:SS`; where it is absent, `walltime_seconds`. */
function walltimeOf(
  { walltime, walltime_seconds }: Readonly<Record<string, unknown>>,
  seconds: number,
): number {
  if (walltime === undefined) return seconds;
  if (walltime_seconds !== undefined)
    throw new Error("[blocks] in agent.toml has both walltime and walltime_seconds: one of them, please");
  const read = secondsOf(walltime);
  if (read === undefined || read > MOST_WALLTIME_S)
    throw new Error(
      `walltime in [blocks] of agent.toml is '${String(walltime)}', not a time such as "00:30:00", "1-00:00:00", or seconds, of at most 30 days`,
    );
  return read;
}

function tableOf(file: Readonly<Record<string, unknown>>, name: string): Readonly<Record<string, unknown>> {
  const table = file[name] ?? {};
  if (typeof table !== "object" || table === null || Array.isArray(table))
    throw new Error(`[${name}] in agent.toml is not a table`);
  return table as Record<string, unknown>;
}
