/**
 * What agent.toml says of isolation: `isolation = "namespaces"`, or a table with that level and what belongs to it.
 *
 *     [isolation]
 *     level = "namespaces"
 *     network = "functions"          # true, false (the default), or for functions that ask for it
 *     read_only = ["/software"]      # what workers see besides the system's programs
 *     bind = ["/scratch/shared"]     # what they may write
 *     env = ["LICENSE_SERVER"]       # variables of the agent's that they get besides the usual ones; PREFIX_* too
 *     limits = { processes = 1024, file_mb = 0, memory_mb = 0, disk_mb = 0 }      # of one worker; 0: none
 *     image = "/images/tools.sif"    # container
 *     runner = "apptainer"           # container: or podman
 *     user = "farloom-tasks"         # user
 */
import { isAbsolute } from "node:path";
import {
  ISOLATION_LEVELS,
  type IsolationLevel,
  isIsolationLevel,
  type NetworkPolicy,
} from "@farloom/protocol";

/** Of one worker and what its tasks start; 0: no bound. */
export interface TaskLimits {
  /** Processes and threads. Of all of the user's at level `limits`, as the kernel counts there by user. */
  readonly processes: number;
  readonly fileMb: number;
  /** Address space of each process. */
  readonly memoryMb: number;
  /** Its working and temporary folder together, looked at four times a second. */
  readonly diskMb: number;
}

export interface IsolationConfig {
  readonly level: IsolationLevel;
  readonly network: NetworkPolicy;
  readonly readOnly: readonly string[];
  readonly bind: readonly string[];
  readonly env: readonly string[];
  readonly limits: TaskLimits;
  readonly image: string | undefined;
  readonly runner: "apptainer" | "podman";
  readonly user: string | undefined;
}

/** As many as a busy user's machine has room for, and a fork bomb does not. */
const DEFAULT_PROCESSES = 1_024;
const MOST = 1 << 30;

export const NO_ISOLATION: IsolationConfig = Object.freeze({
  level: "none",
  network: false,
  readOnly: [],
  bind: [],
  env: [],
  limits: { processes: DEFAULT_PROCESSES, fileMb: 0, memoryMb: 0, diskMb: 0 },
  image: undefined,
  runner: "apptainer",
  user: undefined,
});

/**
 * Reads `isolation` of agent.toml; `chosen` is a level that was given elsewhere and wins over the file's. Throws an
 * Error that names what is wrong.
 */
export function readIsolationConfig(
  file: Readonly<Record<string, unknown>>,
  chosen?: { readonly value: unknown; readonly from: string },
): IsolationConfig {
  const given = file.isolation ?? {};
  const table = new Table(typeof given === "string" ? { level: given } : given);
  const own = table.take("level");
  const level = chosen?.value ?? own ?? "none";
  if (!isIsolationLevel(level)) {
    const from = chosen?.from ?? "isolation in agent.toml";
    throw new Error(`${from} is '${String(level)}', not one of ${ISOLATION_LEVELS.join(", ")}`);
  }
  const limits = new Table(table.take("limits") ?? {}, "isolation.limits");
  const config: IsolationConfig = {
    level,
    network: network(table.take("network")),
    readOnly: table.paths("read_only"),
    bind: table.paths("bind"),
    env: table.texts("env"),
    limits: {
      processes: limits.number("processes", DEFAULT_PROCESSES),
      fileMb: limits.number("file_mb", 0),
      memoryMb: limits.number("memory_mb", 0),
      diskMb: limits.number("disk_mb", 0),
    },
    image: table.text("image"),
    runner: runner(table.take("runner")),
    user: table.text("user"),
  };
  table.end();
  limits.end();
  return Object.freeze(config);
}

function network(value: unknown): NetworkPolicy {
  if (value === undefined) return false;
  if (value === true || value === false || value === "functions") return value;
  throw new Error(`isolation.network in agent.toml is '${String(value)}', not true, false or "functions"`);
}

function runner(value: unknown): "apptainer" | "podman" {
  if (value === undefined || value === "apptainer" || value === "podman") return value ?? "apptainer";
  throw new Error(`isolation.runner in agent.toml is '${String(value)}', not apptainer or podman`);
}

/** A table of which every entry is to be understood: a misspelt bound would be none. */
class Table {
  readonly #rest: Record<string, unknown>;
  readonly #name: string;

  constructor(value: unknown, name = "isolation") {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw new Error(`${name} in agent.toml is neither a level nor a table`);
    this.#rest = { ...value };
    this.#name = name;
  }

  take(key: string): unknown {
    const value = this.#rest[key];
    delete this.#rest[key];
    return value;
  }

  text(key: string): string | undefined {
    const value = this.take(key);
    if (value === undefined || (typeof value === "string" && value !== "")) return value;
    throw new Error(`${this.#name}.${key} in agent.toml is no text`);
  }

  texts(key: string): readonly string[] {
    const value = this.take(key) ?? [];
    if (Array.isArray(value) && value.every((one) => typeof one === "string" && one !== "")) return value;
    throw new Error(`${this.#name}.${key} in agent.toml is no list of texts`);
  }

  paths(key: string): readonly string[] {
    const paths = this.texts(key);
    for (const path of paths) {
      if (!isAbsolute(path))
        throw new Error(`${this.#name}.${key} in agent.toml: ${path} is not a full path`);
    }
    return paths;
  }

  number(key: string, absent: number): number {
    const value = this.take(key) ?? absent;
    if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MOST)
      return value as number;
    throw new Error(`${this.#name}.${key} in agent.toml is '${String(value)}', not a whole number from 0`);
  }

  end(): void {
    const unknown = Object.keys(this.#rest)[0];
    if (unknown !== undefined) throw new Error(`${this.#name}.${unknown} in agent.toml is not known`);
  }
}
