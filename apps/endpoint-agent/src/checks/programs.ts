/** What is on this machine for tasks: Pythons, a Slurm, GPUs. The readers of other programs' output are pure. */
import { readdirSync, realpathSync } from "node:fs";
import { delimiter, join } from "node:path";
import { discoverGpus } from "../node/gear/gpus.js";
import { printed, pythonVersion } from "../python-version.js";
import type { Check, Environment } from "./check.js";

/** Interpreters that are asked for their version: a site may have dozens on its PATH. */
const MOST_PYTHONS = 16;
const LEAST_PYTHON = [3, 8] as const;

export interface FoundPython {
  readonly path: string;
  readonly version: string;
}

/** Every python3 on the PATH, each file once, in the PATH's order. */
export async function findPythons(env: Environment): Promise<FoundPython[]> {
  const paths = new Map<string, string>();
  for (const folder of (env.PATH ?? "").split(delimiter)) {
    for (const name of namesIn(folder)) {
      if (!/^python3(\.\d+)?$/.test(name)) continue;
      try {
        const real = realpathSync(join(folder, name));
        if (!paths.has(real)) paths.set(real, join(folder, name));
      } catch {
        // A link that leads nowhere.
      }
    }
  }
  const asked = [...paths.values()].slice(0, MOST_PYTHONS).map(async (path) => {
    const version = await pythonVersion(path, env);
    return version === undefined ? [] : [{ path, version }];
  });
  return (await Promise.all(asked)).flat();
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

/** `program` is the interpreter that workers will use. */
export async function checkPythons(program: string, env: Environment): Promise<Check> {
  const pythons = await findPythons(env);
  const chosen = await printed(
    program,
    ["-I", "-S", "-c", "import sys;print('%d.%d.%d'%sys.version_info[:3])"],
    env,
  );
  const others = pythons.map(({ path, version }) => `${version} (${path})`).join(", ");
  const facts = { chosen: program, version: chosen, pythons };
  const name = "Python";
  if (chosen === undefined) {
    const detail = `${program} does not run${others && `; there are ${others}`}`;
    const cure = others
      ? 'name one: python = "/path/python3" in agent.toml, or --python'
      : "load a module that brings Python 3.8 or newer before you enrol; only Python functions and commands need it";
    return { name, state: others ? "failed" : "warning", detail, cure, facts };
  }
  if (!isNewEnough(chosen)) {
    const cure = 'workers need Python 3.8 or newer: python = "/path/python3" in agent.toml, or --python';
    return { name, state: "failed", detail: `${program} is ${chosen}; there are ${others}`, cure, facts };
  }
  return { name, state: "ok", detail: `${chosen} (${program})${others && `; found ${others}`}`, facts };
}

function isNewEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > LEAST_PYTHON[0] || (major === LEAST_PYTHON[0] && minor >= LEAST_PYTHON[1]);
}

export interface SlurmPartition {
  readonly name: string;
  readonly isDefault: boolean;
  readonly isUp: boolean;
  readonly nodes: number;
  readonly coresPerNode: string;
  readonly memoryMb: string;
  readonly gres: string;
  /** `1-00:00:00`, `infinite`. */
  readonly timeLimit: string;
  readonly maxNodes?: string;
  readonly allowAccounts?: string;
  readonly allowQos?: string;
}

/** What `sinfo` prints in this form, a partition may stand in several lines: nodes of different kinds. */
export const SINFO_FORMAT = "%P|%a|%l|%D|%c|%m|%G";

/** Reads `sinfo -h -o SINFO_FORMAT`, and `scontrol show partition --oneliner` for what only that tells. */
export function readPartitions(sinfo: string, scontrol = ""): SlurmPartition[] {
  const details = new Map(
    scontrol
      .split("\n")
      .map(
        (line) => new Map([...line.matchAll(/(\w+)=(\S+)/g)].map(([, key = "", value = ""]) => [key, value])),
      )
      .map((fields) => [fields.get("PartitionName") ?? "", fields]),
  );
  const found = new Map<string, SlurmPartition>();
  for (const line of sinfo.split("\n")) {
    const [written = "", up, timeLimit = "", nodes, coresPerNode = "", memoryMb = "", gres = ""] = line
      .trim()
      .split("|");
    if (written === "" || up === undefined) continue;
    const name = written.replace(/\*$/, "");
    const before = found.get(name);
    const told = (key: string): string | undefined => {
      const value = details.get(name)?.get(key);
      return value === undefined || value === "ALL" || value === "UNLIMITED" || value === "N/A"
        ? undefined
        : value;
    };
    const maxNodes = told("MaxNodes");
    const allowAccounts = told("AllowAccounts");
    const allowQos = told("AllowQos");
    found.set(name, {
      name,
      isDefault: written.endsWith("*"),
      isUp: up === "up",
      nodes: (before?.nodes ?? 0) + Number(nodes),
      coresPerNode: before?.coresPerNode ?? coresPerNode,
      memoryMb: before?.memoryMb ?? memoryMb,
      gres: gres === "(null)" ? (before?.gres ?? "") : gres,
      timeLimit,
      ...(maxNodes && { maxNodes }),
      ...(allowAccounts && { allowAccounts }),
      ...(allowQos && { allowQos }),
    });
  }
  return [...found.values()];
}

export async function checkSlurm(env: Environment): Promise<Check> {
  const name = "Slurm";
  const sinfo = await printed("sinfo", ["-h", "-o", SINFO_FORMAT], env);
  if (sinfo === undefined) {
    const isThere = (await printed("sinfo", ["--version"], env)) !== undefined;
    if (!isThere) return { name, state: "skip", detail: "not here: tasks run on this machine alone" };
    const cure = "ask the site's support, or try later; 'sinfo' shows the same";
    return { name, state: "warning", detail: "sinfo is here, and its controller does not answer", cure };
  }
  const partitions = readPartitions(
    sinfo,
    (await printed("scontrol", ["show", "partition", "--oneliner"], env)) ?? "",
  );
  const version = (await printed("sinfo", ["--version"], env)) ?? "";
  const listed = partitions.map(
    (one) =>
      `${one.name}${one.isDefault ? " (default)" : ""}: ${one.isUp ? "" : "down, "}${one.nodes} nodes of ${one.coresPerNode} cores` +
      `${one.gres && `, ${one.gres}`}, at most ${one.timeLimit}`,
  );
  const detail = `${version}; ${listed.join("; ")}`;
  const isUsable = partitions.some((one) => one.isUp);
  if (isUsable)
    return {
      name,
      state: "ok",
      detail,
      cure: "use it: farloom endpoint configure",
      facts: { version, partitions },
    };
  return {
    name,
    state: "warning",
    detail,
    cure: "no partition is up: ask the site's support",
    facts: { version, partitions },
  };
}

/** As an agent finds them whose configuration declares none. */
export async function checkGpus(env: Environment): Promise<Check> {
  const { gpus, from } = await discoverGpus(undefined, env);
  if (gpus.length === 0) return { name: "GPUs", state: "skip", detail: `none: ${from}` };
  const counts = new Map<string, number>();
  for (const { name = "GPU", memoryMb } of gpus) {
    const label = `${name}${memoryMb === undefined ? "" : ` (${Math.round(memoryMb / 1024)} GB)`}`;
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const listed = [...counts].map(([label, count]) => `${count} × ${label}`).join(", ");
  return { name: "GPUs", state: "ok", detail: `${listed}; told by ${from}`, facts: { gpus, from } };
}
