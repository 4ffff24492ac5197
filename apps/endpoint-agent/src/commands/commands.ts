/** The commands of a person, by name: each gets its options, and returns its exit code. The agent's own are in main.ts. */
import { createInterface } from "node:readline";
import { doctorChecks } from "../checks/all.js";
import { checkLines, isFailed } from "../checks/check.js";
import { type AgentConfig, resolveConfig } from "../config.js";
import { configure, readPairs } from "../configure/configure.js";
import { listTemplates } from "../configure/template.js";
import { normaliseServiceUrl } from "../service-url.js";
import { readIdentity } from "../state/identity.js";
import { openStateDir } from "../state/state-dir.js";
import { METHODS, type Method } from "../survive/choose.js";
import { readTrust } from "../trust/trust-file.js";
import { audit } from "./audit.js";
import { bugreport } from "./bugreport.js";
import { drain, restart, start, stop, uninstall } from "./life.js";
import { logs, status } from "./look.js";
import { CONFLICT, CommandError, DONE, FAILED, type Place, placeOf } from "./place.js";
import { setup } from "./setup.js";

const USAGE = 2;

/** What may stand behind a command, as parseArgs read it. */
export interface CommandFlags {
  readonly stateDir: string;
  readonly json: boolean;
  readonly service?: string | undefined;
  readonly code?: string | undefined;
  readonly name?: string | undefined;
  readonly python?: string | undefined;
  readonly survive?: string | undefined;
  readonly shared?: boolean | undefined;
  readonly skipChecks?: boolean | undefined;
  readonly watch?: boolean | undefined;
  readonly within?: string | undefined;
  readonly purge?: boolean | undefined;
  readonly lines?: string | undefined;
  readonly follow?: boolean | undefined;
  readonly verify?: boolean | undefined;
  readonly task?: string | undefined;
  readonly file?: string | undefined;
  readonly head?: string | undefined;
  readonly output?: string | undefined;
  readonly template?: string | undefined;
  readonly list?: boolean | undefined;
  readonly force?: boolean | undefined;
  readonly set?: readonly string[] | undefined;
  /** What goes on to the agent's `run`. */
  readonly runArgs: readonly string[];
}

type Command = (place: Place, flags: CommandFlags) => Promise<number>;

export const COMMANDS: Readonly<Record<string, Command>> = {
  setup: (place, flags) => {
    // The interpreter that is checked is the one that the agent runs, now and whenever it is brought back.
    if (flags.python !== undefined) process.env.FARLOOM_AGENT_PYTHON = flags.python;
    return setup(place, {
      serviceUrl: serviceOf(place, flags),
      code: flags.code,
      name: flags.name,
      python: pythonOf(flags),
      skipChecks: flags.skipChecks ?? false,
      isShared: flags.shared ?? false,
      survive: methodOf(flags.survive),
    });
  },
  start: (place, { runArgs, watch = false }) => start(place, { args: runArgs, watch }),
  stop: (place, { within }) => stop(place, durationOf(within)),
  restart: (place, { within }) => restart(place, durationOf(within)),
  drain: (place, { within }) => drain(place, durationOf(within)),
  status: (place) => status(place),
  logs: (place, { lines, follow = false }) => logs(place, { lines: countOf(lines, 50), follow }),
  audit: (place, { lines, follow = false, verify = false, task, file, head }) =>
    audit(place, { lines: countOf(lines, 50), follow, verify, task, file, head }),
  doctor: async (place, flags) => {
    const checks = await doctor(place, flags);
    place.result(checks, checkLines(checks).trimEnd());
    return isFailed(checks) ? FAILED : DONE;
  },
  bugreport: async (place, flags) => {
    return bugreport(place, { output: flags.output, checks: await doctor(place, flags) });
  },
  configure: (place, flags) => configureCommand(place, flags),
  uninstall: (place, { within, purge = false }) => uninstall(place, { withinMs: durationOf(within), purge }),
};

/** Runs one, and tells what went wrong. */
export async function runCommand(name: string, flags: CommandFlags): Promise<number> {
  try {
    return await COMMANDS[name]!(placeOf(flags.stateDir, flags.json), flags);
  } catch (error) {
    const { message } = error as Error;
    const exitCode = error instanceof CommandError ? error.exitCode : FAILED;
    process.stderr.write(flags.json ? `${JSON.stringify({ error: { message } })}\n` : `error: ${message}\n`);
    return exitCode;
  }
}

async function doctor(place: Place, flags: CommandFlags) {
  const { paths, env } = place;
  let serviceUrl: string | undefined;
  try {
    serviceUrl = serviceOf(place, flags);
  } catch {
    // Nothing is enrolled, which a check of its own tells.
  }
  return doctorChecks({ serviceUrl, stateDir: paths.root, python: pythonOf(flags), env }, paths);
}

function configOf({ stateDir, python }: CommandFlags): AgentConfig | undefined {
  try {
    return resolveConfig({ stateDir, python });
  } catch {
    // What is wrong with it is a check's to tell.
    return undefined;
  }
}

const pythonOf = (flags: CommandFlags): string => configOf(flags)?.python ?? flags.python ?? "python3";

function serviceOf({ paths }: Place, flags: CommandFlags): string {
  const url =
    flags.service ??
    configOf(flags)?.serviceUrl ??
    safeIdentity(paths)?.serviceUrl ??
    process.env.FARLOOM_URL;
  if (!url)
    throw new CommandError("which service? farloom endpoint create NAME prints the whole line", USAGE);
  try {
    return normaliseServiceUrl(url);
  } catch (error) {
    throw new CommandError((error as Error).message, USAGE);
  }
}

function safeIdentity(paths: Place["paths"]) {
  try {
    return readIdentity(paths);
  } catch {
    return undefined;
  }
}

function methodOf(text: string | undefined): Method | undefined {
  if (text === undefined || text === "auto") return undefined;
  if ((METHODS as readonly string[]).includes(text)) return text as Method;
  throw new CommandError(`--survive takes auto, ${METHODS.join(", ")}, not '${text}'`, USAGE);
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `10m`, `2h`; seconds without a unit. */
function durationOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const [, number, unit = "s"] = /^(\d{1,9})(ms|s|m|h|d)?$/.exec(text) ?? [];
  if (number === undefined)
    throw new CommandError(`--within takes a time such as 90s, 10m or 2h, not '${text}'`, USAGE);
  return Number(number) * UNITS[unit]!;
}

function countOf(text: string | undefined, absent: number): number {
  const count = text === undefined ? absent : Number(text);
  if (!Number.isSafeInteger(count) || count < 0)
    throw new CommandError(`--lines takes a whole number, not '${text}'`, USAGE);
  return count;
}

/** Asks on the terminal. Lines that were typed, or pasted, before their question are kept for it. */
function questions(): { question(text: string): Promise<string>; close(): void } {
  const reader = createInterface({ input: process.stdin, output: process.stdout });
  const lines = reader[Symbol.asyncIterator]();
  return {
    close: () => reader.close(),
    question: async (text) => {
      process.stdout.write(text);
      const { value, done } = await lines.next();
      if (done) throw new Error("the input ended before everything was answered: nothing was written");
      return value;
    },
  };
}

/** An endpoint with blocks that trusts nobody yet runs nothing. */
function trustAdvice({ paths }: Place): string {
  const { trust } = resolveConfig({ stateDir: paths.root });
  const { mode, keys } = readTrust(paths.trustFile);
  if ((trust.mode ?? mode ?? trust.byDefault) !== "enforce" || keys.length > 0) return "";
  return "\nIt runs only what somebody has signed whom it trusts: farloom endpoint trust add KEY --function OWNER/NAME, or farloom endpoint trust mode off";
}

async function configureCommand(place: Place, flags: CommandFlags): Promise<number> {
  if (flags.list) {
    const templates = listTemplates();
    const lines = templates.map(({ name, title, fields, source, date }) => {
      const asked = fields.map(({ name, isOptional }) => `${name}${isOptional ? "?" : ""}`).join(", ");
      return `${name.padEnd(16)}${title}\n${" ".repeat(16)}asks for ${asked}\n${" ".repeat(16)}${source} (${date})`;
    });
    place.result(
      templates.map(({ body: _body, ...told }) => told),
      lines.join("\n"),
    );
    return DONE;
  }
  openStateDir(place.paths.root);
  const isAsked = process.stdin.isTTY === true && process.stdout.isTTY === true && !place.json;
  const terminal = isAsked ? questions() : undefined;
  try {
    const { stateDir, template, force = false } = flags;
    const made = await configure({ stateDir, template, values: readPairs(flags.set ?? []), force, terminal });
    place.result(
      made,
      `${made.text}\nThis is ${made.path} now. It counts from the agent's next start: farloom endpoint restart${trustAdvice(place)}`,
    );
    return DONE;
  } catch (error) {
    const { message } = error as Error;
    throw new CommandError(message, /is there already/.test(message) ? CONFLICT : USAGE);
  } finally {
    terminal?.close();
  }
}
