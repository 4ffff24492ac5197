/**
 * A function's definition as it travels and as it is hashed. The digest is its identity: the SHA-256 of the
 * canonical JSON of everything that changes what a call does. Names, versions and descriptions are not part
 * of it, so the same code under two names is one function to an agent's cache.
 */
import { createHash } from "node:crypto";
import { MAX_CODE_BYTES } from "../limits.js";
import type { Mode } from "../task/machine.js";
import type { IsolationLevel } from "./isolation.js";

export const RUNTIMES = ["python", "node", "command"] as const;
export type Runtime = (typeof RUNTIMES)[number];

/** What a call needs of a node. Absent: one core, no promise of memory, no GPU. With `nodes`, of whole nodes (P34c). */
export interface Resources {
  /** Of a node; with `nodes`, of each rank. */
  cores?: number;
  /** Of a node. */
  memoryMb?: number;
  /** Whole ones, or a share of one: 0.25. */
  gpus?: number;
  /** Whole nodes of one block, which the call has for itself. */
  nodes?: number;
  /** Processes over those nodes together; absent: `ranksPerNode` on each. */
  ranks?: number;
  /** Absent, without `ranks`: 1. */
  ranksPerNode?: number;
}

/** Where and with what a function runs. */
export interface EnvironmentSpec {
  /**
   * The environment's name at the endpoint, or, where that allows it, a path of an interpreter, `venv:PATH`, `conda:NAME`,
   * `module:NAME NAME`, `apptainer:IMAGE`, `podman:IMAGE`. Absent: the endpoint's default.
   */
  interpreter?: string;
  /** Packages that the code imports, as pip names them: `numpy>=2`. Compared when tasks are submitted (P35a). */
  requires?: string[];
  /** Environment variables set for the call. */
  vars?: Record<string, string>;
  /** `3.11`: the Python minor version that pickled code needs. */
  python?: string;
  /** The least isolation that a call wants of its endpoint (P36). Absent: none. */
  isolation?: IsolationLevel;
  /** A call wants the network, where its endpoint's isolation leaves that to functions. */
  network?: boolean;
  /** Names of secrets that a call is given, of whoever submits it (P40); at most MAX_FUNCTION_SECRETS. */
  secrets?: string[];
}

/** For runtime `command`: what to run. `{0}`, `{name}` in `argv` and `stdin` are replaced by arguments. */
export interface CommandSpec {
  argv: string[];
  /** Template of the standard input; absent: empty. */
  stdin?: string;
  /** Files, relative to the working directory, whose contents come back in the result. */
  outputs?: string[];
  /** Exit codes that count as success. Default: [0]. */
  okExitCodes?: number[];
}

/** What the wire carries, and what is hashed (all but `digest`). */
export interface FunctionDefinition {
  digest: Buffer;
  runtime: Runtime;
  /** `source`: UTF-8 text. `pickle`: by cloudpickle, Python only. Commands have no code. */
  format: "source" | "pickle";
  code: Buffer;
  /** The name in the code that is called; for `pickle`, unused. */
  entry: string;
  mode: Mode;
  /** Run time limit of one attempt; 0 for none. */
  timeoutMs: number;
  /** How often a failed call is tried again. */
  retries: number;
  /** Wait before the first retry; doubled for each further one. */
  backoffMs: number;
  env: EnvironmentSpec;
  resources: Resources;
  command?: CommandSpec | undefined;
}

/** Sorted keys, no undefined, no spaces: the same value gives the same text in every language. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value))
    return `[${value.map((v) => canonicalJson(v === undefined ? null : v)).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value)
      .filter(([, v]) => v !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonicalJson(v)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/** The identity of a definition: 32 bytes. */
export function functionDigest(def: Omit<FunctionDefinition, "digest">): Buffer {
  const { code, runtime, format, entry, mode, timeoutMs, retries, backoffMs, env, resources, command } = def;
  const text = canonicalJson({
    v: 1,
    codeSha256: createHash("sha256").update(code).digest("hex"),
    runtime,
    format,
    entry,
    mode,
    timeoutMs,
    retries,
    backoffMs,
    env,
    resources,
    command,
  });
  return createHash("sha256").update(text).digest();
}

/** Why a decoded value is no definition, or undefined where it is one whose digest is true. */
export function checkDefinition(value: unknown): string | undefined {
  if (typeof value !== "object" || value === null) return "a definition is a map";
  const d = value as Record<string, unknown>;
  if (!Buffer.isBuffer(d.digest) || d.digest.length !== 32) return "a definition has a digest of 32 bytes";
  if (!RUNTIMES.includes(d.runtime as Runtime)) return `no runtime ${String(d.runtime).slice(0, 20)}`;
  if (d.format !== "source" && d.format !== "pickle") return "format is source or pickle";
  if (!Buffer.isBuffer(d.code) || d.code.length > MAX_CODE_BYTES)
    return `code is at most ${MAX_CODE_BYTES} bytes`;
  if (typeof d.entry !== "string") return "entry is a string";
  if (d.mode !== "at_most_once" && d.mode !== "at_least_once") return "mode is at_most_once or at_least_once";
  for (const field of ["timeoutMs", "retries", "backoffMs"] as const) {
    if (!Number.isSafeInteger(d[field]) || (d[field] as number) < 0)
      return `${field} is a non-negative integer`;
  }
  for (const field of ["env", "resources"] as const) {
    if (typeof d[field] !== "object" || d[field] === null) return `${field} is a map`;
  }
  if (d.command === null) d.command = undefined;
  const command = d.command as CommandSpec | undefined;
  if (d.runtime === "command" && !(Array.isArray(command?.argv) && command.argv.length > 0))
    return "a command has an argv";
  if (!functionDigest(d as unknown as FunctionDefinition).equals(d.digest))
    return "the digest does not match the definition";
  return undefined;
}
