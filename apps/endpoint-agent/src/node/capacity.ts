/** What this node has for tasks: as much as the batch system gave, where it says so, and otherwise what the machine has. */
import { availableParallelism, hostname, totalmem } from "node:os";
import type { NodeCapacity } from "@farloom/protocol";

/** Cores by the affinity of this process, memory by Slurm's variables or the machine, GPUs as its gear has them. */
export function measureCapacity(
  places: number,
  env: Readonly<Record<string, string | undefined>>,
  gpus: Pick<NodeCapacity, "gpus" | "gpuSlots"> = {},
): NodeCapacity {
  const memoryBytes = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return {
    places,
    cores: availableParallelism(),
    memoryMb: countIn(env.SLURM_MEM_PER_NODE) ?? Math.floor(memoryBytes / 1024 ** 2),
    ...gpus,
    host: env.SLURMD_NODENAME ?? hostname(),
  };
}

/** Of the one node that there is. Whoever lets more tasks run than there are cores has said that they share them. */
export function localCapacity(
  places: number,
  env: Readonly<Record<string, string | undefined>>,
  gpus: Pick<NodeCapacity, "gpus" | "gpuSlots">,
): NodeCapacity {
  const measured = measureCapacity(places, env, gpus);
  return { ...measured, cores: Math.max(places, measured.cores ?? 1), alone: true };
}

function countIn(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}
