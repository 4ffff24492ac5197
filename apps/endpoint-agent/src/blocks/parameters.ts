/**
 * What the nodes of a block are told: a file that only its owner can read, since it has the block's secret. The
 * program that is started with it, and its arguments, are the same for every block.
 *
 * The agent writes it again when it comes back under another address; a node reads it anew before each dial.
 */
import { chmodSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import type { IsolationConfig } from "../isolation/config.js";
import type { EnvironmentsConfig } from "../node/environments/environment-config.js";
import type { GearConfig } from "../node/gear/gear-config.js";

export interface CallbackAddress {
  readonly host: string;
  readonly port: number;
}

export interface BlockParameters {
  readonly version: 1;
  readonly block: string;
  /** Good for one use by each node of the block (P29). */
  readonly secret: string;
  /** Where the agent listens, tried in this order. */
  readonly addresses: readonly CallbackAddress[];
  /** SHA-256 of the agent's certificate, in hex: whoever shows another one is not the agent. */
  readonly fingerprint: string;
  /** Tasks that a node runs at the same time. */
  readonly workersPerNode: number;
  /** Tasks that a node asks for beyond those, where they are long. */
  readonly prefetch: number;
  /** Lines of bash that run before the workers start; empty: none. */
  readonly workerInit: string;
  readonly python: string;
  /** How the node keeps its workers apart; a node that cannot ends. Absent in files of older agents: not at all. */
  readonly isolation?: IsolationConfig;
  readonly killGraceMs: number;
  /** What functions may name as their environment; absent in what an older agent wrote. */
  readonly environments?: EnvironmentsConfig;
  /** GPUs, pinning and limits of its workers; absent in what an older agent wrote. */
  readonly gear?: GearConfig;
  readonly recycle: { readonly tasks: number; readonly memoryKb: number };
  /** The agent's payload files, on a file system that the nodes see. */
  readonly payloadsDir: string;
  /** A node that runs nothing and has not reached the agent for so long ends. */
  readonly giveUpMs: number;
  readonly logLevel: string;
}

/** Written aside and renamed, so that a reader sees the old one or the new one. */
export function writeParameters(path: string, parameters: BlockParameters): void {
  const aside = `${path}.new`;
  writeFileSync(aside, `${JSON.stringify(parameters, null, 2)}\n`, { mode: 0o600, flush: true });
  chmodSync(aside, 0o600);
  renameSync(aside, path);
}

/** Throws where the file is not there, open to others, or makes no sense. */
export function readParameters(path: string): BlockParameters {
  if ((statSync(path).mode & 0o077) !== 0) {
    throw new Error(`others can read ${path}, which has a secret in it; run: chmod 600 '${path}'`);
  }
  const value = JSON.parse(readFileSync(path, "utf8")) as BlockParameters;
  if (value.version !== 1) throw new Error(`${path} has version ${String(value.version)}, not 1`);
  const { addresses, fingerprint, secret, block, workersPerNode } = value;
  const isGood =
    Array.isArray(addresses) &&
    addresses.length > 0 &&
    addresses.every(({ host, port }) => typeof host === "string" && Number.isInteger(port)) &&
    /^[0-9a-f]{64}$/.test(fingerprint) &&
    typeof secret === "string" &&
    typeof block === "string" &&
    workersPerNode >= 1;
  if (!isGood) throw new Error(`${path} is not what an agent writes for its blocks`);
  return value;
}
