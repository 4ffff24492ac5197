/** Blocks on a test's cluster: providers as an agent makes them, requests whose nodes leave word, and waiting for a state. */
import { mkdirSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import { expect, vi } from "vitest";
import { readOptions } from "../../../apps/endpoint-agent/src/blocks/options.js";
import type {
  BlockRequest,
  BlockStatus,
  Provider,
} from "../../../apps/endpoint-agent/src/blocks/provider.js";
import { SLURM_OPTIONS } from "../../../apps/endpoint-agent/src/blocks/slurm/slurm-options.js";
import {
  SlurmProvider,
  type SlurmProviderOptions,
} from "../../../apps/endpoint-agent/src/blocks/slurm/slurm-provider.js";
import type { SlurmCluster } from "./cluster.js";

const NODE_PROGRAM = join(import.meta.dirname, "node-program.sh");

let endpoints = 0;
/** An endpoint that no other provider of this file has. */
export function newEndpoint(): string {
  return `e${++endpoints}`;
}

/** A provider of a new endpoint, with options as a configuration file gives them. */
export function slurmProvider(
  cluster: SlurmCluster,
  given: Record<string, unknown> = {},
  more: Partial<SlurmProviderOptions> = {},
): SlurmProvider {
  return new SlurmProvider({
    endpointId: newEndpoint(),
    options: readOptions(SLURM_OPTIONS, given, "[slurm]"),
    logDir: join(cluster.home, "logs"),
    log: pino({ level: "silent" }),
    env: cluster.env,
    // Sooner than in life, so that tests wait less.
    lookEveryMs: 300,
    ...more,
  });
}

export interface TestRequest extends BlockRequest {
  /** Where each node leaves a file, `<node>.<how often the job was begun anew>`. */
  readonly folder: string;
}

/** A block whose nodes do what `act` says (node-program.sh). */
export function blockRequest(
  home: string,
  act: "stay" | "succeed" | "fail",
  more: Partial<BlockRequest> = {},
): TestRequest {
  const place = mkdtempSync(join(home, "block-"));
  const folder = join(place, "nodes");
  mkdirSync(folder);
  const parametersFile = join(place, "parameters");
  writeFileSync(parametersFile, `${folder}\n${act}\n`, { mode: 0o600 });
  return { nodes: 1, workersPerNode: 1, command: ["/bin/sh", NODE_PROGRAM], parametersFile, ...more, folder };
}

/** The nodes that were there. */
export function nodesOf({ folder }: TestRequest): string[] {
  return readdirSync(folder).sort();
}

/** Waits until the provider tells this of the block; all that it tells then. */
export async function becomes(
  provider: Provider,
  id: string,
  expected: Partial<BlockStatus>,
  timeout = 60_000,
): Promise<BlockStatus> {
  let status: BlockStatus | undefined;
  const isSo = async () => {
    [status] = await provider.status([id]);
    expect(status).toMatchObject(expected);
  };
  await vi.waitFor(isSo, { timeout, interval: 100 });
  return status!;
}

/** `<number> <state>` of the jobs of that name, those that have ended included. */
export async function jobsNamed(cluster: SlurmCluster, name: string): Promise<string[]> {
  const rows = await cluster.run("squeue", "--noheader", "--states=all", `--name=${name}`, "--format=%i %T");
  return rows.split("\n").filter(Boolean);
}
