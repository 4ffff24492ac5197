/**
 * The arguments of sbatch for one block. Pure.
 *
 * 1. The batch script is one file that never changes; the same bytes for every block of every endpoint.
 * 2. Each value is within one argument of its own, behind `--name=`: no shell reads it, and none can pass for an option.
 */
import { fileURLToPath } from "node:url";
import { blockLog } from "../block-log.js";
import type { BlockRequest } from "../provider.js";
import type { SlurmOptions } from "./slurm-options.js";

/** Beside this file in the sources; what is built from them is two folders deep in the package as well. */
export const BATCH_SCRIPT = fileURLToPath(new URL("../../../src/blocks/slurm/block.sh", import.meta.url));

export interface BlockJob {
  readonly name: string;
  /** Folder of the block's log; the job starts in it. */
  readonly logDir: string;
  readonly request: BlockRequest;
  readonly options: SlurmOptions;
}

/** All of sbatch's arguments, the script and what it runs included. */
export function sbatchArguments({ name, logDir, request, options }: BlockJob): string[] {
  const named: readonly (readonly [string, string | number | undefined])[] = [
    ["job-name", name],
    ["nodes", request.nodes],
    ["ntasks-per-node", 1],
    ["cpus-per-task", options.coresPerNode ?? request.workersPerNode],
    ["mem", options.memPerNode === undefined ? undefined : `${options.memPerNode}M`],
    ["gpus-per-node", options.gpusPerNode],
    ["time", request.walltimeMs === undefined ? undefined : Math.ceil(request.walltimeMs / 60_000)],
    ["partition", options.partition],
    ["account", options.account],
    ["qos", options.qos],
    ["constraint", options.constraint],
    // sbatch reads % in names of files as the beginning of a pattern.
    ["output", blockLog(logDir, name).replaceAll("%", "%%")],
    // A block that is begun anew goes on in the same log.
    ["open-mode", "append"],
    ["chdir", logDir],
    ["export", "ALL"],
  ];
  return [
    "--parsable",
    ...named.flatMap(([option, value]) => (value === undefined ? [] : `--${option}=${value}`)),
    // A node that dies takes no other with it.
    request.nodes > 1 ? ["--no-kill"] : [],
    options.exclusive ? ["--exclusive"] : [],
    options.requeue ? "--requeue" : "--no-requeue",
    options.schedulerOptions,
    BATCH_SCRIPT,
    request.command,
    request.parametersFile,
  ].flat();
}
