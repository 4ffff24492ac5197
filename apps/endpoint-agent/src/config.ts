/**
 * The agent's configuration, parsed once into a frozen value: option, then environment, then
 * `<stateDir>/agent.toml`, then the default. A value that cannot be used is an error that names where it came from.
 */
import { readFileSync } from "node:fs";
import { availableParallelism, homedir, totalmem } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { checkFunctionPattern } from "@farloom/protocol";
import { parse as parseToml } from "smol-toml";
import { AUDIT_MODES, type AuditMode } from "./audit/audit-log.js";
import { type BlocksConfig, readBlocksConfig } from "./blocks/blocks-config.js";
import { checkProvider } from "./blocks/providers.js";
import { type IsolationConfig, readIsolationConfig } from "./isolation/config.js";
import { type EnvironmentsConfig, readEnvironments } from "./node/environments/environment-config.js";
import { type GearConfig, readGearConfig } from "./node/gear/gear-config.js";
import { normaliseServiceUrl } from "./service-url.js";
import { statePaths } from "./state/state-dir.js";
import { TRUST_MODES, type TrustMode } from "./trust/trust-file.js";
import type { TrustConfig } from "./trust/trust-source.js";

/** What may be given; everything is optional. In agent.toml the same names in snake_case. */
export interface AgentOptions {
  /** Where everything durable lies. Environment FARLOOM_AGENT_STATE_DIR; default ~/.farloom/agent. */
  readonly stateDir?: string | undefined;
  /** Overrides the service that the agent enrolled with. Environment FARLOOM_SERVICE_URL. */
  readonly serviceUrl?: string | undefined;
  /** Worker processes. Environment FARLOOM_AGENT_WORKERS; default: the cores of this machine. */
  readonly workers?: number | undefined;
  /** Where nodes come from: local, process, slurm, ssh. Environment FARLOOM_AGENT_PROVIDER; default local. */
  readonly provider?: string | undefined;
  /** The Python interpreter of workers. Environment FARLOOM_AGENT_PYTHON; default python3. */
  readonly python?: string | undefined;
  /** Environment FARLOOM_LOG_LEVEL; default info. */
  readonly logLevel?: string | undefined;
  /** Between SIGTERM and SIGKILL when a running task is stopped. Environment FARLOOM_AGENT_KILL_GRACE_MS; default 5,000. */
  readonly killGraceMs?: number | undefined;
  /**
   * How long a stop waits for what runs. Environment FARLOOM_AGENT_DRAIN_MS; default 9,000, so that the whole stop
   * takes no more than ten seconds.
   */
  readonly drainMs?: number | undefined;
  /** Whether a stop ends the workers and what they run. Default false: they outlive the agent for a minute. */
  readonly stopWorkers?: boolean | undefined;
  /** Tasks accepted and not yet done with. Environment FARLOOM_AGENT_WINDOW_TASKS; default 4,096. */
  readonly windowTasks?: number | undefined;
  /**
   * How long the service keeps this agent's leases while it is away, before it counts what may have started as lost;
   * 0: for ever. Environment FARLOOM_AGENT_RECLAIM_MS; default 60,000.
   */
  readonly reclaimMs?: number | undefined;
  /** A Python worker is replaced after so many tasks; 0: never. Environment FARLOOM_AGENT_RECYCLE_TASKS; default 0. */
  readonly recycleTasks?: number | undefined;
  /**
   * A Python worker that holds more than this between tasks, after whatever nobody refers to was given back to the
   * system, is replaced; 0: never. Environment FARLOOM_AGENT_RECYCLE_MEMORY_MB; default: half of the machine's memory,
   * divided among the workers, and at least 512.
   */
  readonly recycleMemoryMb?: number | undefined;
  /**
   * The functions that this agent runs: ids, or `owner/name`, `owner/name@version` with `*` for any letters. Environment
   * FARLOOM_AGENT_ALLOW_FUNCTIONS, with commas; default: all.
   */
  readonly allowFunctions?: readonly string[] | undefined;
  /**
   * How workers are kept apart: none, limits, namespaces, container or user. Environment FARLOOM_AGENT_ISOLATION; in
   * agent.toml perhaps a table (isolation/config.ts); default none.
   */
  readonly isolation?: string | undefined;
  /**
   * Whether unsigned functions run, for this start: `enforce`, `warn` or `off`. Environment FARLOOM_AGENT_TRUST; default:
   * what trust.toml says, then `enforce` where agent.toml has `shared = true`, `commands = true` or a provider of blocks.
   */
  readonly trust?: string | undefined;
  /**
   * What the agent's own audit tells: `tasks`, `decisions` or `off`. Environment FARLOOM_AGENT_AUDIT; default tasks. The
   * service has no say in it.
   */
  readonly audit?: string | undefined;
  /** Room for the audit's files, in MB. Environment FARLOOM_AGENT_AUDIT_KEEP_MB; default 256. */
  readonly auditKeepMb?: number | undefined;
  /** Payload files kept that no task here refers to. Environment FARLOOM_AGENT_PAYLOAD_CACHE_MB; default 1,024. */
  readonly payloadCacheMb?: number | undefined;
  /** Instead of what stands in agent.toml. */
  readonly file?: Readonly<Record<string, unknown>> | undefined;
}

/** The configuration in force. */
export interface AgentConfig {
  readonly stateDir: string;
  /** Undefined: the one in identity.json. */
  readonly serviceUrl: string | undefined;
  readonly workers: number;
  readonly python: string;
  readonly logLevel: LogLevel;
  readonly killGraceMs: number;
  readonly drainMs: number;
  readonly stopWorkers: boolean;
  readonly windowTasks: number;
  readonly reclaimMs: number;
  readonly recycleTasks: number;
  readonly recycleMemoryMb: number;
  readonly allowFunctions: readonly string[];
  readonly isolation: IsolationConfig;
  readonly trust: TrustConfig;
  readonly audit: AuditMode;
  readonly auditKeepBytes: number;
  readonly windowBytes: number;
  readonly payloadCacheBytes: number;
  /** Where nodes come from; undefined: the one node lives in the agent's process. */
  readonly blocks: BlocksConfig | undefined;
  /** What functions may name as their environment; in agent.toml alone. */
  readonly environments: EnvironmentsConfig;
  /** GPUs, pinning and limits; in agent.toml alone. */
  readonly gear: GearConfig;
}

const LOG_LEVELS = ["fatal", "error", "warn", "info", "debug", "trace", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Argument bytes held at once. With the results' own bound it keeps the process near 200 MB at worst. */
const WINDOW_BYTES = 64 * 1024 * 1024;

/** Thirty days: longer than any walltime. */
const MOST_RECLAIM_MS = 30 * 24 * 3_600_000;

/** Resolves the configuration. Throws an Error that names the offending source. */
export function resolveConfig(
  options: AgentOptions = {},
  env: Readonly<Record<string, string | undefined>> = process.env,
): AgentConfig {
  const stateDir = stateDirOf(options.stateDir, env);
  const file = options.file ?? readConfigFile(statePaths(stateDir).configFile);
  const chosen = (option: keyof AgentOptions, variable: string): Picked | undefined => {
    const given = options[option];
    if (given !== undefined) return { value: given, from: `option ${option}` };
    const set = nonEmpty(env[variable]);
    return set === undefined ? undefined : { value: set, from: variable };
  };
  const pick = (option: keyof AgentOptions, variable: string): Picked | undefined => {
    const picked = chosen(option, variable);
    if (picked !== undefined) return picked;
    const name = option.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    return file[name] === undefined ? undefined : { value: file[name], from: `${name} in agent.toml` };
  };
  const serviceUrl = pick("serviceUrl", "FARLOOM_SERVICE_URL");
  const workers = integer(pick("workers", "FARLOOM_AGENT_WORKERS"), availableParallelism(), 1, 1024);
  // A container may have less than its machine.
  const memoryBytes = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  const blocks = readBlocksConfig(
    { ...file, provider: pick("provider", "FARLOOM_AGENT_PROVIDER")?.value },
    workers,
  );
  const restMb = Math.max(512, Math.floor(memoryBytes / 2 / workers / 1024 ** 2));
  return Object.freeze({
    stateDir,
    serviceUrl: serviceUrl && normaliseServiceUrl(String(serviceUrl.value)),
    workers,
    python: String(pick("python", "FARLOOM_AGENT_PYTHON")?.value ?? "python3"),
    logLevel: oneOf(pick("logLevel", "FARLOOM_LOG_LEVEL"), LOG_LEVELS, "info"),
    killGraceMs: integer(pick("killGraceMs", "FARLOOM_AGENT_KILL_GRACE_MS"), 5000, 0, 600_000),
    drainMs: integer(pick("drainMs", "FARLOOM_AGENT_DRAIN_MS"), 9_000, 0, 3_600_000),
    stopWorkers: flag(pick("stopWorkers", "FARLOOM_AGENT_STOP_WORKERS")),
    windowTasks: integer(pick("windowTasks", "FARLOOM_AGENT_WINDOW_TASKS"), 4096, 1, 65_536),
    reclaimMs: integer(pick("reclaimMs", "FARLOOM_AGENT_RECLAIM_MS"), 60_000, 0, MOST_RECLAIM_MS),
    recycleTasks: integer(pick("recycleTasks", "FARLOOM_AGENT_RECYCLE_TASKS"), 0, 0, 1 << 30),
    recycleMemoryMb: integer(pick("recycleMemoryMb", "FARLOOM_AGENT_RECYCLE_MEMORY_MB"), restMb, 0, 1 << 24),
    allowFunctions: functionPatterns(pick("allowFunctions", "FARLOOM_AGENT_ALLOW_FUNCTIONS")),
    isolation: readIsolationConfig(file, chosen("isolation", "FARLOOM_AGENT_ISOLATION")),
    trust: trustConfig(pick("trust", "FARLOOM_AGENT_TRUST"), file, blocks !== undefined),
    audit: oneOf(pick("audit", "FARLOOM_AGENT_AUDIT"), AUDIT_MODES, "tasks"),
    auditKeepBytes:
      integer(pick("auditKeepMb", "FARLOOM_AGENT_AUDIT_KEEP_MB"), 256, 32, 1 << 20) * 1024 * 1024,
    windowBytes: WINDOW_BYTES,
    payloadCacheBytes:
      integer(pick("payloadCacheMb", "FARLOOM_AGENT_PAYLOAD_CACHE_MB"), 1024, 0, 1 << 20) * 1024 * 1024,
    blocks,
    environments: readEnvironments(file),
    gear: readGearConfig(file),
  });
}

/** The state folder that counts: the option, FARLOOM_AGENT_STATE_DIR, or ~/.farloom/agent. */
export function stateDirOf(
  option: string | undefined,
  env: Readonly<Record<string, string | undefined>> = process.env,
): string {
  return resolve(expandHome(option ?? nonEmpty(env.FARLOOM_AGENT_STATE_DIR) ?? "~/.farloom/agent"));
}

/** Whether the agent could start with this as its agent.toml, its provider's options included. Throws what is wrong. */
export function checkConfigFile(file: Readonly<Record<string, unknown>>, stateDir: string): AgentConfig {
  const config = resolveConfig({ stateDir, file }, {});
  if (config.blocks !== undefined) checkProvider(config.blocks.provider, config.blocks.providerOptions);
  return config;
}

interface Picked {
  readonly value: unknown;
  readonly from: string;
}

function integer(picked: Picked | undefined, absent: number, least: number, most: number): number {
  if (picked === undefined) return absent;
  const n = typeof picked.value === "string" ? Number(picked.value) : (picked.value as number);
  if (!Number.isInteger(n) || n < least || n > most) {
    throw new Error(
      `${picked.from} is '${String(picked.value)}', not a whole number from ${least} to ${most}`,
    );
  }
  return n;
}

function functionPatterns(picked: Picked | undefined): readonly string[] {
  if (picked === undefined) return [];
  const list = typeof picked.value === "string" ? picked.value.split(",") : (picked.value as unknown[]);
  const texts = Array.isArray(list) ? list.map((text) => String(text).trim()) : [String(list)];
  for (const text of texts) {
    const bad = checkFunctionPattern(text);
    if (bad !== undefined) throw new Error(`${picked.from}: ${bad}`);
  }
  // An empty list would allow everything, and nobody writes one for that.
  if (texts.length === 0) throw new Error(`${picked.from} names no function`);
  return Object.freeze(texts);
}

/** Others' work is to be expected where the owner of this machine has said so, by one word or another. */
function trustConfig(
  picked: Picked | undefined,
  file: Readonly<Record<string, unknown>>,
  hasBlocks: boolean,
): TrustConfig {
  const mode = picked === undefined ? undefined : (String(picked.value) as TrustMode);
  if (mode !== undefined && !TRUST_MODES.includes(mode))
    throw new Error(`${picked?.from} is '${mode}', not one of ${TRUST_MODES.join(", ")}`);
  const said = (name: string): boolean =>
    flag(file[name] === undefined ? undefined : { value: file[name], from: `${name} in agent.toml` });
  const isOpen = said("shared") || said("commands") || hasBlocks;
  return Object.freeze({ mode, byDefault: isOpen ? "enforce" : "off" });
}

function flag(picked: Picked | undefined): boolean {
  if (picked === undefined) return false;
  if (picked.value === true || picked.value === "true" || picked.value === "1") return true;
  if (picked.value === false || picked.value === "false" || picked.value === "0") return false;
  throw new Error(`${picked.from} is '${String(picked.value)}', not true or false`);
}

function oneOf<T extends string>(picked: Picked | undefined, words: readonly T[], absent: T): T {
  const word = String(picked?.value ?? absent) as T;
  if (!words.includes(word)) throw new Error(`${picked?.from} is '${word}', not one of ${words.join(", ")}`);
  return word;
}

/** agent.toml as it stands, or nothing where there is none. Throws where it cannot be read, or is no TOML. */
export function readConfigFile(path: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw new Error(`${path} cannot be read`, { cause: error });
  }
  try {
    return parseToml(text);
  } catch (error) {
    throw new Error(`${path} is not TOML: ${(error as Error).message}`, { cause: error });
  }
}

function expandHome(path: string): string {
  if (path === "~" || path.startsWith("~/")) return join(homedir(), path.slice(1));
  return isAbsolute(path) ? path : resolve(path);
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === "" ? undefined : text;
}
