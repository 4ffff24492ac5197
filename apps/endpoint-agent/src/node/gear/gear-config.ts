/** What agent.toml says of GPUs, pinning, limits and launchers: top-level names, the same for the local node and those of blocks. */
import {
  flag,
  list,
  OptionError,
  type OptionSpec,
  type OptionsOf,
  readOptions,
  whole,
} from "../../blocks/options.js";
import { LAUNCHER_PLACES } from "./launcher.js";

const LIMITS = ["auto", "cgroup", "rlimit", "off"] as const;
export type MemoryLimit = (typeof LIMITS)[number];

const MAX_DEVICES = 256;

const GEAR_OPTIONS = {
  gpus: {
    help: "GPUs of a node: how many, or a list of what CUDA_VISIBLE_DEVICES calls them; absent: as found.",
    form: `a number from 0 to ${MAX_DEVICES}, or a list of device numbers or UUIDs`,
    read: devices,
    fallback: { value: undefined },
  } as OptionSpec<readonly string[] | undefined>,
  gpuSlots: whole("Shares that a GPU is divided into: with 4 a function may ask for gpus = 0.25.", 1, 64, 1),
  showGpus: flag("Whether tasks that ask for no GPU see all that there are."),
  pinCores: flag("Whether every worker is pinned to cores of its own."),
  limitMemory: {
    help: "How workers of functions that ask for memory are kept within it.",
    form: `one of ${LIMITS.join(", ")}`,
    read: (value) => LIMITS.find((limit) => limit === value),
    fallback: { value: "auto" },
  } as OptionSpec<MemoryLimit>,
  mpiLauncher: list(
    "What stands before a program that runs over whole nodes; absent: srun in Slurm, otherwise mpiexec.",
    "a word of the command, with {nodes}, {ranks}, {ranks_per_node}, {cores}, {hosts}",
    (word) => {
      const places: readonly string[] = LAUNCHER_PLACES;
      const unknown = [...word.matchAll(/\{(\w+)\}/g)].find(([, place]) => !places.includes(place!));
      const there = LAUNCHER_PLACES.map((place) => `{${place}}`).join(", ");
      return unknown && `there is no ${unknown[0]}; there are ${there}`;
    },
  ),
} as const;

/** The options in force; `gpus` undefined: as found on the node. */
export type GearConfig = OptionsOf<typeof GEAR_OPTIONS>;

/** Reads them from the file's top level. Throws `OptionError`. */
export function readGearConfig(file: Readonly<Record<string, unknown>>): GearConfig {
  const given: Record<string, unknown> = {};
  for (const name of ["gpus", "gpu_slots", "show_gpus", "pin_cores", "limit_memory", "mpi_launcher"]) {
    if (file[name] !== undefined) given[name] = file[name];
  }
  return readOptions(GEAR_OPTIONS, given, "agent.toml");
}

function devices(value: unknown): readonly string[] | undefined {
  if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_DEVICES)
    return Array.from({ length: value as number }, (_, i) => String(i));
  if (!Array.isArray(value) || value.length > MAX_DEVICES) return undefined;
  const ids = value.map(String);
  const bad = ids.find((id) => !/^(\d{1,4}|(GPU|MIG)-[\w/-]{1,120})$/.test(id));
  if (bad !== undefined) throw new OptionError(`${JSON.stringify(bad)} is no device number or UUID`);
  if (new Set(ids).size < ids.length) throw new OptionError("a device stands there twice");
  return ids;
}
