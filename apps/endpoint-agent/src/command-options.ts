/**
 * The options of the agent's commands, and which command takes which: one that another command takes is refused, as
 * whoever gives it means something by it.
 */
import { parseArgs } from "node:util";

/** `value`: what stands for it in a usage line; absent: it is a flag. */
const OPTIONS = {
  "state-dir": { type: "string", value: "DIR" },
  service: { type: "string", value: "URL" },
  code: { type: "string", value: "CODE" },
  "code-file": { type: "string", value: "FILE" },
  name: { type: "string", value: "NAME" },
  workers: { type: "string", value: "N" },
  python: { type: "string", value: "PATH" },
  "log-level": { type: "string", value: "LEVEL" },
  "drain-ms": { type: "string", value: "MS" },
  "kill-grace-ms": { type: "string", value: "MS" },
  "reclaim-ms": { type: "string", value: "MS" },
  "recycle-tasks": { type: "string", value: "N" },
  "recycle-memory-mb": { type: "string", value: "N" },
  "allow-function": { type: "string", multiple: true, value: "REF" },
  isolation: { type: "string", value: "LEVEL" },
  trust: { type: "string", value: "MODE" },
  shared: { type: "boolean" },
  function: { type: "string", multiple: true, value: "REF" },
  invoke: { type: "string", multiple: true, value: "REF" },
  "not-after": { type: "string", value: "TIME" },
  invocations: { type: "string", value: "RULE" },
  "stop-workers": { type: "boolean" },
  parameters: { type: "string", value: "FILE" },
  provider: { type: "string", value: "NAME" },
  json: { type: "boolean" },
  text: { type: "boolean" },
  survive: { type: "string", value: "HOW" },
  "no-checks": { type: "boolean" },
  within: { type: "string", value: "TIME" },
  purge: { type: "boolean" },
  lines: { type: "string", short: "n", value: "N" },
  follow: { type: "boolean", short: "f" },
  verify: { type: "boolean" },
  task: { type: "string", value: "ID" },
  file: { type: "string", value: "PATH" },
  head: { type: "string", value: "N:HASH" },
  audit: { type: "string", value: "WHAT" },
  output: { type: "string", short: "o", value: "FILE" },
  template: { type: "string", value: "NAME" },
  list: { type: "boolean" },
  force: { type: "boolean" },
  set: { type: "string", multiple: true, value: "NAME=VALUE" },
  watch: { type: "boolean" },
  version: { type: "boolean", short: "V" },
  help: { type: "boolean", short: "h" },
} as const;

type OptionName = keyof typeof OPTIONS;

/** What `run` takes beside its folder, and `start` hands on to the agent that it starts. */
export const RUN_FLAGS = [
  "service",
  "workers",
  "provider",
  "python",
  "log-level",
  "drain-ms",
  "kill-grace-ms",
  "reclaim-ms",
  "recycle-tasks",
  "recycle-memory-mb",
  "allow-function",
  "isolation",
  "trust",
  "audit",
  "stop-workers",
] as const satisfies readonly OptionName[];

const PLACE = ["state-dir", "json"] as const;

const TAKES: Readonly<Record<string, readonly OptionName[]>> = {
  enroll: ["state-dir", "service", "code", "code-file", "name", "shared"],
  run: ["state-dir", ...RUN_FLAGS],
  status: [...PLACE, "text"],
  trust: ["state-dir", "trust", "name", "function", "invoke", "not-after", "invocations"],
  rekey: ["state-dir"],
  node: ["parameters"],
  setup: [...PLACE, "service", "code", "code-file", "name", "python", "shared", "survive", "no-checks"],
  start: [...PLACE, ...RUN_FLAGS, "watch"],
  stop: [...PLACE, "within"],
  restart: [...PLACE, "within"],
  drain: [...PLACE, "within"],
  logs: [...PLACE, "lines", "follow"],
  audit: [...PLACE, "lines", "follow", "task", "verify", "head", "file"],
  doctor: [...PLACE, "service", "python"],
  bugreport: [...PLACE, "service", "python", "output"],
  configure: [...PLACE, "template", "set", "list", "force"],
  uninstall: [...PLACE, "within", "purge"],
};

export type Values = ReturnType<typeof parseOptions>["values"];

/** Throws where an option is none of any command's, or lacks its value. */
export function parseOptions(argv: readonly string[]) {
  return parseArgs({ args: [...argv], options: OPTIONS, allowPositionals: true });
}

/** Why these options do not belong to the command, with what does; undefined where they do, or there is no such command. */
export function misplaced(command: string, values: Values): string | undefined {
  const takes = Object.hasOwn(TAKES, command) ? TAKES[command] : undefined;
  if (takes === undefined) return undefined;
  const stray = (Object.keys(values) as OptionName[]).filter((name) => !takes.includes(name));
  if (stray.length === 0) return undefined;
  const usage = takes.map((name) => `[--${name}${placeholderOf(name)}]`).join(" ");
  return `${command} takes no ${stray.map((name) => `--${name}`).join(", ")}\n\n  farloom-endpoint-agent ${command} ${usage}`;
}

function placeholderOf(name: OptionName): string {
  const option = OPTIONS[name];
  return "value" in option ? ` ${option.value}` : "";
}
