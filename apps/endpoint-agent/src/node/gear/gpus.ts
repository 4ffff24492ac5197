/**
 * Which GPUs a node has: those that its configuration declares, that the batch system gave, or that the vendor's tool
 * lists. The parsers are pure; what they read was recorded from the tools (gpus.test.ts says from which).
 *
 * A device is named as the variable that hides the others wants it: by UUID where the tool tells one, since CUDA and
 * nvidia-smi number devices in different orders; by number otherwise.
 */
import { printed } from "../../python-version.js";

export interface Gpu {
  readonly id: string;
  readonly name?: string;
  readonly memoryMb?: number;
}

/** Whose they are, which decides the variables; `any` where nobody said. */
export type GpuVendor = "nvidia" | "amd" | "any";

export interface GpuList {
  readonly vendor: GpuVendor;
  readonly gpus: readonly Gpu[];
  /** Where that is known from, for people. */
  readonly from: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** More than any machine has; a list of nonsense is cut here. */
const MAX_GPUS = 256;

/** In this order: what is declared, what the environment says, what a tool lists. Never throws. */
export async function discoverGpus(
  declared: readonly string[] | undefined,
  env: Environment,
): Promise<GpuList> {
  if (declared !== undefined) {
    return { vendor: "any", gpus: declared.map((id) => ({ id })), from: "gpus in agent.toml" };
  }
  const given = gpusOfEnvironment(env);
  if (given !== undefined) return given;
  const [nvidia, amd] = await Promise.all([
    printed("nvidia-smi", ["--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"], env),
    printed("rocm-smi", ["--showproductname", "--showmeminfo", "vram", "--json"], env),
  ]);
  const listed = parseNvidiaSmi(nvidia ?? "");
  if (listed.length > 0) return { vendor: "nvidia", gpus: listed, from: "nvidia-smi" };
  const cards = parseRocmSmi(amd ?? "");
  if (cards.length > 0) return { vendor: "amd", gpus: cards, from: "rocm-smi" };
  return { vendor: "any", gpus: [], from: "neither nvidia-smi nor rocm-smi lists any" };
}

/**
 * What the variables of a batch system, a container or a user leave visible; undefined where none says anything. What is
 * visible counts before what Slurm calls the devices: where Slurm hides devices by cgroup it numbers the rest anew.
 */
export function gpusOfEnvironment(env: Environment): GpuList | undefined {
  const list = (name: string, vendor: GpuVendor): GpuList | undefined => {
    const text = env[name];
    return text === undefined
      ? undefined
      : { vendor, gpus: parseVisible(text).map((id) => ({ id })), from: name };
  };
  const rocr = list("ROCR_VISIBLE_DEVICES", "amd");
  const hip = list("HIP_VISIBLE_DEVICES", "amd");
  if (rocr !== undefined && hip !== undefined) {
    // HIP counts within what ROCr leaves.
    const gpus = hip.gpus.flatMap(({ id }) => rocr.gpus[Number(id)] ?? []);
    return { vendor: "amd", gpus, from: "ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES" };
  }
  const known = list("CUDA_VISIBLE_DEVICES", "nvidia") ?? rocr ?? hip;
  // Slurm sets the variables of both vendors for the same devices.
  if (known !== undefined) return rocr === undefined ? known : { ...known, vendor: "any" };
  const slurm = list("SLURM_STEP_GPUS", "any") ?? list("SLURM_JOB_GPUS", "any");
  if (slurm !== undefined) return slurm;
  const count = Number(env.SLURM_GPUS_ON_NODE ?? 0);
  if (count > 0 && count <= MAX_GPUS) {
    const gpus = Array.from({ length: count }, (_, i) => ({ id: String(i) }));
    return { vendor: "any", gpus, from: "SLURM_GPUS_ON_NODE" };
  }
  // A job that asked for none has none, whatever the machine has.
  return env.SLURM_JOB_ID === undefined
    ? undefined
    : { vendor: "any", gpus: [], from: "Slurm, which gave the job none" };
}

/** `0,2`, `GPU-…,MIG-…`, Slurm's `0-3`. As CUDA does, the list ends at the first that is none. */
export function parseVisible(text: string): string[] {
  const ids: string[] = [];
  for (const part of text.split(",")) {
    const word = part.trim();
    const range = /^(\d{1,4})-(\d{1,4})$/.exec(word);
    if (range !== null) {
      for (let n = Number(range[1]); n <= Number(range[2]) && ids.length < MAX_GPUS; n++) ids.push(String(n));
    } else if (/^(\d{1,4}|(GPU|MIG)-[\w/-]{1,120})$/.test(word)) ids.push(word);
    else break;
  }
  return [...new Set(ids)].slice(0, MAX_GPUS);
}

/** `nvidia-smi --query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits`. */
export function parseNvidiaSmi(text: string): Gpu[] {
  const gpus: Gpu[] = [];
  for (const line of text.split("\n").slice(0, MAX_GPUS)) {
    const fields = line.split(",").map((field) => field.trim());
    const [index, uuid = ""] = fields;
    const memory = Number(fields.at(-1));
    // Where there is no driver or no device it says so in words.
    if (!/^\d+$/.test(index ?? "") || !/^GPU-[\w-]+$/.test(uuid)) continue;
    const name = fields.slice(2, -1).join(", ");
    gpus.push({ id: uuid, ...(name && { name }), ...(memory > 0 && { memoryMb: memory }) });
  }
  return gpus;
}

/** `rocm-smi --showproductname --showmeminfo vram --json`; the names of its fields vary with the version. */
export function parseRocmSmi(text: string): Gpu[] {
  let cards: unknown;
  try {
    // Warnings of the driver may stand before it.
    cards = JSON.parse(text.slice(text.indexOf("{")));
  } catch {
    return [];
  }
  if (typeof cards !== "object" || cards === null) return [];
  const gpus: (Gpu & { readonly number: number })[] = [];
  for (const [card, fields] of Object.entries(cards as Record<string, unknown>)) {
    const number = /^card(\d{1,4})$/.exec(card)?.[1];
    if (number === undefined || typeof fields !== "object" || fields === null) continue;
    const of = (pattern: RegExp): string | undefined => {
      for (const [name, value] of Object.entries(fields)) if (pattern.test(name)) return String(value);
      return undefined;
    };
    const name = of(/^card series$/i) ?? of(/^card model$/i);
    const bytes = Number(of(/^vram total memory \(b\)$/i));
    gpus.push({
      number: Number(number),
      id: String(Number(number)),
      ...(name !== undefined && { name }),
      ...(bytes > 0 && { memoryMb: Math.floor(bytes / 1024 ** 2) }),
    });
  }
  return gpus.sort((a, b) => a.number - b.number).map(({ number: _, ...gpu }) => gpu);
}

/** The variables that leave a worker exactly these devices; none: no device at all. */
export function visibleDevices(ids: readonly string[], vendor: GpuVendor): Record<string, string> {
  const list = ids.join(",");
  // HIP counts within what ROCr leaves, and takes an empty list for no list.
  const within = ids.length === 0 ? "-1" : ids.map((_, i) => i).join(",");
  return {
    // On AMD's runtime it is another name of HIP_VISIBLE_DEVICES.
    CUDA_VISIBLE_DEVICES: vendor === "amd" && ids.length > 0 ? within : list,
    ROCR_VISIBLE_DEVICES: list,
    HIP_VISIBLE_DEVICES: within,
  };
}
