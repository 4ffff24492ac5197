/** What this node has for tasks: as much as the batch system gave, where it says so, and otherwise what the machine has. */
import { availableParallelism, totalmem } from "node:os";
import type { NodeCapacity } from "@farloom/protocol";

/** Cores by the affinity of this process, memory and GPUs by Slurm's variables or the machine. */
export function measureCapacity(
  places: number,
  env: Readonly<Record<string, string | undefined>>,
): NodeCapacity {
  const memoryBytes = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return {
    places,
    cores: availableParallelism(),
    memoryMb: countIn(env.SLURM_MEM_PER_NODE) ?? Math.floor(memoryBytes / 1024 ** 2),
    gpus: countIn(env.SLURM_GPUS_ON_NODE) ?? listLength(env.CUDA_VISIBLE_DEVICES) ?? 0,
  };
}

function countIn(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

function listLength(text: string | undefined): number | undefined {
  return text === undefined ? undefined : text.split(",").filter((name) => name.trim() !== "").length;
}
