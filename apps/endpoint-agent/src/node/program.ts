/**
 * The node program: the node manager as a process of its own, on a node of a block. It dials the agent back, runs what
 * it is given, and ends when it is told to, when the agent does not know it any more, or when there is nothing left to
 * do and nobody to ask (`giveUpMs`).
 *
 * A stop (SIGTERM, as a batch system sends before a walltime, a preemption or a cancel) drains: what has not started
 * goes back to the agent, what runs goes on for TERM_GRACE_MS; a second one ends at once.
 *
 * Exit codes: 0 drained, or given up with nothing in hand; 1 failed, or stopped with tasks running; 4 the agent does
 * not take this node; 2 no parameters.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { limits } from "@farloom/protocol";
import { type Logger, pino } from "pino";
import { type BlockParameters, readParameters } from "../blocks/parameters.js";
import { NO_ISOLATION } from "../isolation/config.js";
import { prepareIsolation } from "../isolation/probe.js";
import { pythonVersion } from "../python-version.js";
import { measureCapacity } from "./capacity.js";
import { dialAgent } from "./dial.js";
import { readGearConfig } from "./gear/gear-config.js";
import { withoutStepOptions } from "./gear/launcher.js";
import { NodeGear } from "./gear/node-gear.js";
import { NodeManager } from "./node-manager.js";
import { Uplink } from "./uplink.js";
import { environmentAfter } from "./worker-init.js";

/** Slurm sends SIGKILL 30 s after SIGTERM (KillWait); this leaves time to tell the agent. */
const TERM_GRACE_MS = 25_000;

export interface NodeProgramOptions {
  readonly parametersFile: string;
  /** Unique in the block. Default: FARLOOM_NODE_NAME, Slurm's number of the node, or the host's name. */
  readonly name?: string | undefined;
  readonly log: (level: string) => Logger;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** The program as it is started: `parametersFile` is what stood behind `--parameters`. Returns the exit code. */
export async function runNodeProgram(
  parametersFile: string | undefined,
  env: NodeProgramOptions["env"],
): Promise<number> {
  if (parametersFile === undefined) {
    process.stderr.write("the node program needs --parameters FILE; an agent's provider starts it\n");
    return 2;
  }
  const log = (level: string) =>
    pino({ level, base: { pid: process.pid } }, pino.destination({ dest: 2, sync: true }));
  return runNode({ parametersFile, log, env });
}

/** Runs until the node's work is over. Returns the exit code. */
export async function runNode(options: NodeProgramOptions): Promise<number> {
  const { parametersFile } = options;
  let parameters = readParameters(parametersFile);
  const log = options.log(parameters.logLevel).child({ block: parameters.block });
  const env = parameters.workerInit
    ? await environmentAfter(parameters.workerInit, options.env)
    : options.env;
  const node = options.name ?? env.FARLOOM_NODE_NAME ?? slurmNode(env) ?? hostname();
  const isolation = parameters.isolation ?? NO_ISOLATION;
  const { sandbox } = await prepareIsolation(isolation, parameters.python, { all: false, env });
  const gear = await NodeGear.open(parameters.gear ?? readGearConfig({}), env);
  const hasPython = (await pythonVersion(parameters.python, env)) !== undefined;
  // From here to where signals are heard nothing waits: a stop finds nothing to tidy up, or somebody who does.
  // On the node's own disk: sockets do not work on every shared file system.
  const stateDir = mkdtempSync(join(tmpdir(), "farloom-node-"));
  const capacity = measureCapacity(parameters.workersPerNode, env, gear.capacity);
  const token = randomBytes(32).toString("base64url");
  let secret: string | undefined = parameters.secret;
  const uplink = new Uplink({
    log,
    giveUpMs: parameters.giveUpMs,
    dial: (signal) => {
      parameters = readAgain(parametersFile, parameters);
      return dialAgent(parameters.addresses, parameters.fingerprint, signal);
    },
    identity: () => ({
      versions: [...limits.SUPPORTED_VERSIONS],
      caps: ["ref", "stream", "cancel-running", "progress"],
      software: "farloom-node",
      block: parameters.block,
      node,
      restart: Number(env.FARLOOM_NODE_RESTART ?? env.SLURM_RESTART_COUNT ?? 0),
      token,
      ...(secret === undefined ? {} : { secret }),
      capacity,
    }),
    resume: () => manager.resume(),
    onWelcome: () => {
      secret = undefined;
    },
  });
  const manager = new NodeManager({
    port: uplink,
    log,
    stateDir,
    payloadsDir: parameters.payloadsDir,
    workers: parameters.workersPerNode,
    prefetch: parameters.prefetch,
    runtimes: {
      ...(hasPython ? { python: { default: parameters.python } } : {}),
      command: hasPython,
      ...(parameters.environments && { environments: parameters.environments }),
    },
    sandbox,
    killGraceMs: parameters.killGraceMs,
    recycle: parameters.recycle,
    env: withoutStepOptions(env),
    gear,
  });
  // Heard to the very end: a signal that comes while the workers are let go must not leave them behind.
  const unhook = onSignals((first) => {
    log.info(first ? "draining" : "stopping");
    if (first) uplink.drain();
    if (first) return setTimeout(() => uplink.stop("the node was stopped"), TERM_GRACE_MS);
    void uplink.stop("the node was stopped");
    return undefined;
  });
  try {
    await manager.start();
    log.info({ node, ...capacity, gear: gear.info }, "node started");
    const end = await uplink.run();
    log.info(end, "the node ends");
    if (end.why === "refused") process.stderr.write(`${end.message}\n`);
    return end.why === "refused" ? 4 : end.why === "stopped" ? 1 : 0;
  } finally {
    await manager.close({ leaveWorkers: false });
    rmSync(stateDir, { recursive: true, force: true });
    unhook();
  }
}

function slurmNode(env: Readonly<Record<string, string | undefined>>): string | undefined {
  return env.SLURM_NODEID === undefined ? undefined : `node${env.SLURM_NODEID}`;
}

/** The agent may have come back under another address. Where the file cannot be read now, the last one stands. */
function readAgain(path: string, before: BlockParameters): BlockParameters {
  try {
    return readParameters(path);
  } catch {
    return before;
  }
}

/** `onStop` may return a timer that is cleared when the signals are of no concern any more. */
function onSignals(onStop: (first: boolean) => NodeJS.Timeout | undefined): () => void {
  let count = 0;
  let timer: NodeJS.Timeout | undefined;
  const hear = (): void => {
    timer = onStop(++count === 1) ?? timer;
  };
  process.on("SIGTERM", hear).on("SIGINT", hear);
  return () => {
    clearTimeout(timer);
    process.off("SIGTERM", hear).off("SIGINT", hear);
  };
}
