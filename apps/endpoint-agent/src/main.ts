#!/usr/bin/env node
/**
 * The agent as a program: arguments, signals, the log and the exit code. Everything else lies in the library.
 *
 * Exit codes (those of `node` stand in node/program.ts): 0 done; 1 failed; 2 wrong usage; 3 `status` of an agent that does not run; 4 another agent has this
 * one's identity now; 5 this version cannot speak to the service.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { beginPrivately } from "@farloom/protocol/process";
import { type Logger, pino } from "pino";
import pretty from "pino-pretty";
import { SOFTWARE } from "./agent-info.js";
import { misplaced, parseOptions, RUN_FLAGS, type Values } from "./command-options.js";
import { stateDirOf } from "./config.js";
import { CODE_AMONG_ARGUMENTS, enrolmentCode, isCodeAmongArguments } from "./enrolment-code.js";
import {
  type Agent,
  type AgentConfig,
  type AgentOptions,
  agentStatus,
  enroll,
  rekey,
  resolveConfig,
  startAgent,
} from "./index.js";
import { runNodeProgram } from "./node/program.js";
import { takeDrainRequest } from "./state/drain-request.js";
import { statePaths } from "./state/state-dir.js";
import { enforceFromNowOn, runTrustCommand, TRUST_USAGE } from "./trust/command.js";

const USAGE = `Runs tasks on this machine for a Farloom service.

  farloom-endpoint-agent setup  --service URL     checks this machine, enrols it, and keeps the agent running
  farloom-endpoint-agent enroll --service URL [--name NAME] [--state-dir DIR]      enrols it, no more
  farloom-endpoint-agent run    [--state-dir DIR] [options]
  farloom-endpoint-agent status [--state-dir DIR]
  farloom-endpoint-agent trust  list|add|remove|deny|mode|check …   whose functions it runs
  farloom-endpoint-agent rekey  [--state-dir DIR]      another key, signed by the one before; the agent must not run
  farloom-endpoint-agent node   --parameters FILE      on a node of a block; started by the agent's provider

  farloom-endpoint-agent start|stop|restart|drain|logs|audit|doctor|bugreport|configure|uninstall     see below

Options of run (environment variable in brackets; all may stand in agent.toml of the state folder)
  --state-dir DIR       where everything durable lies [FARLOOM_AGENT_STATE_DIR]  ~/.farloom/agent
  --service URL         instead of the service that it enrolled with [FARLOOM_SERVICE_URL]
  --workers N           worker processes [FARLOOM_AGENT_WORKERS]  the cores of this machine
  --provider NAME       where nodes come from: local, process, slurm, ssh [FARLOOM_AGENT_PROVIDER]  local
  --python PATH         interpreter of Python workers [FARLOOM_AGENT_PYTHON]  python3
  --log-level LEVEL     fatal, error, warn, info, debug, trace or silent [FARLOOM_LOG_LEVEL]  info
  --drain-ms MS         how long a stop waits for running tasks [FARLOOM_AGENT_DRAIN_MS]  9000
  --kill-grace-ms MS    between SIGTERM and SIGKILL of a stopped task [FARLOOM_AGENT_KILL_GRACE_MS]  5000
  --reclaim-ms MS       how long the service waits for this agent before its tasks count as lost; 0: for ever
                        [FARLOOM_AGENT_RECLAIM_MS]  60000
  --recycle-tasks N     a Python worker is replaced after so many tasks; 0: never [FARLOOM_AGENT_RECYCLE_TASKS]  0
  --recycle-memory-mb N a Python worker that holds more between tasks is replaced; 0: never
                        [FARLOOM_AGENT_RECYCLE_MEMORY_MB]  half of the machine's memory, divided among the workers
  --allow-function REF  runs this function alone, by id, owner/name or owner/name@version, with * for any letters; may be
                        repeated [FARLOOM_AGENT_ALLOW_FUNCTIONS, with commas]  all functions
  --isolation LEVEL     how workers are kept apart: none, limits, namespaces, container or user; a table in agent.toml has
                        the rest [FARLOOM_AGENT_ISOLATION]  none
  --trust MODE          whether functions must be signed by keys of trust.toml: enforce, warn or off
                        [FARLOOM_AGENT_TRUST]  as trust.toml says; enforce for a shared endpoint or one with blocks
  --audit WHAT          what its own record tells: tasks, decisions or off [FARLOOM_AGENT_AUDIT]  tasks
  --stop-workers        a stop ends the workers and what they run
Options of enroll and setup
  --shared              others will use it: what no trusted key has signed does not run (writes trust.toml)
  --code-file FILE      reads the enrolment code from a file (- for standard input)  FARLOOM_ENROLMENT_CODE
Options of setup
  --survive HOW         what brings the agent back: auto, systemd, cron, tmux or none  auto: the best there is
  --no-checks           enrols without a look at the machine
Options of the other commands
  --json                results as JSON
  --within TIME         stop, restart, drain, uninstall: how long what runs may go on, such as 90s, 10m, 2h
  --lines N, --follow   logs: the last N lines (50), and what comes
  --task ID, --lines N, --follow, --verify, --head N:HASH, --file PATH
                        audit: entries of one task, the last N, and what comes; or whether the record is whole
  --output FILE         bugreport: where the .tar.gz goes
  --template NAME, --set NAME=VALUE, --list, --force       configure: writes agent.toml from a template
  --purge               uninstall: deletes the state folder as well
  --watch               start: silent; nothing where the agent runs, or was stopped on purpose
Their exit codes: 0 done; 1 failed, or a check did; 2 wrong usage; 3 not there; 4 refused; 5 service unreachable; 7 conflict
`;

async function main(argv: readonly string[]): Promise<number> {
  beginPrivately();
  let parsed: ReturnType<typeof parseOptions>;
  try {
    parsed = parseOptions(argv);
  } catch (error) {
    return usage((error as Error).message);
  }
  const { values, positionals } = parsed;
  if (values.help) return print(USAGE);
  if (values.version) return print(`${SOFTWARE}\n`);
  const [command = "run", ...rest] = positionals;
  const stray = misplaced(command, values);
  if (stray !== undefined) return usage(stray, "");
  if (isCodeAmongArguments(values)) return usage(CODE_AMONG_ARGUMENTS, "");
  if (command === "trust") return runTrust(values, rest);
  if (rest.length > 0) return usage(`unexpected argument ${rest[0]}`);
  switch (command) {
    case "enroll":
      return runEnroll(values);
    case "run":
      return runAgentProcess(resolveConfig(optionsOf(values)));
    case "status":
      if (values.text) return runForPerson(command, values);
      return runStatus(resolveConfig(optionsOf(values)));
    case "rekey":
      return print(`${JSON.stringify(await rekey(resolveConfig(optionsOf(values)).stateDir))}\n`);
    case "node":
      return runNodeProgram(values.parameters, process.env);
    default:
      return runForPerson(command, values);
  }
}

/** The commands that have an output for people. Loaded only for them: `run` and `node` start without. */
async function runForPerson(command: string, values: Values): Promise<number> {
  const { COMMANDS, runCommand } = await import("./commands/commands.js");
  if (!Object.hasOwn(COMMANDS, command)) return usage(`no command ${command}`);
  const { "no-checks": skipChecks, ...flags } = values;
  return runCommand(command, {
    ...flags,
    json: flags.json ?? false,
    code: command === "setup" ? enrolmentCode(values) : undefined,
    skipChecks,
    stateDir: stateDirOf(values["state-dir"]),
    runArgs: RUN_FLAGS.flatMap((flag) =>
      [values[flag] ?? []]
        .flat()
        .flatMap((value) => (value === true ? [`--${flag}`] : [`--${flag}`, `${value}`])),
    ),
  });
}

function optionsOf(values: Values): AgentOptions {
  return {
    stateDir: values["state-dir"],
    serviceUrl: values.service,
    workers: numberOf(values.workers),
    provider: values.provider,
    python: values.python,
    logLevel: values["log-level"],
    drainMs: numberOf(values["drain-ms"]),
    killGraceMs: numberOf(values["kill-grace-ms"]),
    reclaimMs: numberOf(values["reclaim-ms"]),
    recycleTasks: numberOf(values["recycle-tasks"]),
    recycleMemoryMb: numberOf(values["recycle-memory-mb"]),
    allowFunctions: values["allow-function"],
    isolation: values.isolation,
    trust: values.trust,
    audit: values.audit,
    stopWorkers: values["stop-workers"],
  };
}

/** NaN for what is no number: the configuration names it and refuses. */
function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text);
}

async function runEnroll(values: Values): Promise<number> {
  const config = resolveConfig(optionsOf(values));
  if (config.serviceUrl === undefined) return usage("enroll needs --service URL");
  const code = enrolmentCode(values);
  if (code === undefined) return usage("enroll needs a code: FARLOOM_ENROLMENT_CODE or --code-file");
  const { serviceUrl, stateDir } = config;
  const { name } = values;
  const identity = await enroll({ serviceUrl, code, stateDir, ...(name === undefined ? {} : { name }) });
  if (values.shared) enforceFromNowOn(statePaths(stateDir).trustFile);
  return print(`${JSON.stringify({ ...identity, stateDir })}\n`);
}

function runTrust(values: Values, words: readonly string[]): number {
  const { name, function: functions, invoke, invocations, "not-after": notAfter } = values;
  const flags = { name, function: functions, invoke, invocations, notAfter };
  try {
    return print(`${JSON.stringify(runTrustCommand(resolveConfig(optionsOf(values)), words, flags))}\n`);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${TRUST_USAGE}\n`);
    return 1;
  }
}

async function runStatus(config: AgentConfig): Promise<number> {
  const answer = await agentStatus(config.stateDir);
  print(`${JSON.stringify(answer)}\n`);
  return answer.running ? 0 : 3;
}

/** Between two looks whether a full disk has room again. */
const FULL_DISK_WAIT_MS = 1_000;

/** What a person is told, and a supervisor of processes sees, when the service shuts this agent out. */
const SHUT_OUT: Readonly<Record<string, { readonly exitCode: number; readonly advice: string }>> = {
  LINK_REPLACED: {
    exitCode: 4,
    advice:
      "Another agent runs with this endpoint's identity: it connected later, so it is the one that works now. " +
      "Stop it before you start this one again, or enrol one of them as an endpoint of its own (farloom endpoint create NAME).",
  },
  VERSION_UNSUPPORTED: {
    exitCode: 5,
    advice: `This is ${SOFTWARE}. Install the version of the agent that fits the service, and start it on the same state folder: it takes up all that is in the journal.`,
  },
};

/** Runs until a signal. The first SIGTERM or SIGINT drains, the second stops at once. */
async function runAgentProcess(config: AgentConfig): Promise<number> {
  const log = makeLogger(config);
  let agent: Agent | undefined;
  let signals = 0;
  const ended = new Promise<void>((resolve, reject) => {
    const onSignal = (signal: NodeJS.Signals): void => {
      signals++;
      log.info({ signal }, signals === 1 ? "draining" : "stopping");
      const withinMs = takeDrainRequest(statePaths(config.stateDir)) ?? config.drainMs;
      if (agent) (signals === 1 ? agent.drain(withinMs) : agent.close()).then(resolve, reject);
      else process.exit(1);
    };
    process.on("SIGTERM", onSignal);
    process.on("SIGINT", onSignal);
    process.on("SIGHUP", () => agent?.rereadTrust());
  });
  agent = await startOnceThereIsRoom(config, log);
  const { endpointId, name, service } = agent.status();
  log.info(
    { endpoint: endpointId, name, service, stateDir: config.stateDir, workers: config.workers },
    "agent started",
  );
  const shutOut = await Promise.race([ended.then(() => undefined), agent.shutOut]);
  if (shutOut === undefined) {
    log.info("agent stopped");
    return 0;
  }
  const { exitCode, advice } = SHUT_OUT[shutOut.code] ?? { exitCode: 1, advice: "" };
  log.fatal({ code: shutOut.code, reason: shutOut.message, exitCode }, "the service has shut this agent out");
  await agent.drain();
  process.stderr.write(`${shutOut.message}\n${advice}\n`);
  return exitCode;
}

/** A full disk is no reason to end: the workers of the last agent, and what they have finished, wait for this one. */
async function startOnceThereIsRoom(config: AgentConfig, log: Logger): Promise<Agent> {
  for (;;) {
    try {
      return await startAgent(config, log);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOSPC" && code !== "EDQUOT") throw error;
      log.warn(
        { err: error, waitMs: FULL_DISK_WAIT_MS },
        "the disk is full; the agent starts when there is room",
      );
      await sleep(FULL_DISK_WAIT_MS);
    }
  }
}

function makeLogger(config: Pick<AgentConfig, "logLevel">): Logger {
  const options = { level: config.logLevel, base: { pid: process.pid } };
  return process.stderr.isTTY
    ? pino(options, pretty({ destination: 2, sync: true, ignore: "pid,hostname" }))
    : pino(options, pino.destination({ dest: 2, sync: true }));
}

function print(text: string): 0 {
  process.stdout.write(text);
  return 0;
}

/** `all`: what there is to know of every command. */
function usage(message: string, all = `\n${USAGE}`): 2 {
  process.stderr.write(`${message}\n${all}`);
  return 2;
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error: Error) => {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  },
);
