/**
 * What stands before a program that is to run as many processes on whole nodes: srun in a job of Slurm, `mpiexec`
 * elsewhere, or what `mpi_launcher` says. Pure.
 */
import type { Resources } from "@farloom/protocol";
import { ranksPerNode } from "../../scheduler/node-state.js";

/** Hydra's words: those of MPICH and Intel MPI. */
const MPIEXEC = ["mpiexec", "-n", "{ranks}", "-hosts", "{hosts}"];
/** All said, as srun would take what is not from the variables of the step that it is called in. */
const SRUN = [
  "srun",
  "--overlap",
  "--nodes={nodes}",
  "--ntasks={ranks}",
  "--ntasks-per-node={ranks_per_node}",
  "--cpus-per-task={cores}",
  "--nodelist={hosts}",
];

export const LAUNCHER_PLACES = ["nodes", "ranks", "ranks_per_node", "cores", "hosts"] as const;

/** Options of the srun that started the node (block.sh), which one that a task calls would take for its own. */
const OF_THE_NODES_STEP = /^SLURM_(LABELIO|NTASKS_PER_NODE|CPU_BIND(_LIST|_TYPE|_VERBOSE)?)$/;

/** The environment of a node's workers: without what was meant for the node alone. */
export function withoutStepOptions<T>(env: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !OF_THE_NODES_STEP.test(name)));
}

/** Processes over all nodes together. */
export function ranksOf(resources: Resources): number {
  return resources.ranks ?? (resources.nodes ?? 1) * ranksPerNode(resources);
}

/** The words of the launcher for a call over these hosts. */
export function launcherPrefix(
  configured: readonly string[],
  call: { readonly hosts: readonly string[]; readonly resources: Resources },
  env: Readonly<Record<string, string | undefined>>,
): string[] {
  const { hosts, resources } = call;
  const values: Record<(typeof LAUNCHER_PLACES)[number], string> = {
    nodes: String(hosts.length),
    ranks: String(ranksOf(resources)),
    ranks_per_node: String(ranksPerNode(resources)),
    cores: String(resources.cores ?? 1),
    hosts: hosts.join(","),
  };
  const template = configured.length > 0 ? configured : env.SLURM_JOB_ID === undefined ? MPIEXEC : SRUN;
  return template.map((word) =>
    word.replace(/\{(\w+)\}/g, (whole, place: string) =>
      Object.hasOwn(values, place) ? values[place as keyof typeof values] : whole,
    ),
  );
}
