/**
 * `farloom endpoint` on the machine that is one: each command is one of the agent's own program, with the same options, so
 * that a host with nothing but the agent has them all. What is asked and told goes straight through.
 */
import { spawn } from "node:child_process";
import { type Command, Option } from "commander";
import type { Context, GlobalOptions } from "../context.js";
import { FAILED } from "../exit-codes.js";
import { agentStateDir } from "../local/agent.js";
import { mainOf } from "../local/apps.js";
import { collect } from "../values.js";

type Values = Readonly<Record<string, unknown>>;

export function addLocal(endpoint: Command, { output, result }: Context): void {
  /** A command that the agent's program carries out under the name `agentName`. */
  const local = (name: string, description: string, agentName = name): Command =>
    endpoint
      .command(name)
      .description(description)
      .option("--state-dir <dir>", "the agent's folder (default: ~/.farloom/agent)")
      .action(async (values: Values, command: Command) => {
        const args = [agentName, ...argumentsOf(command, values), ...(output.json ? ["--json"] : [])];
        result.code = await runAgent(args, command, values);
      });
  const within = ["--within <time>", "how long what runs may go on: 90s, 10m, 2h"] as const;

  local(
    "enroll",
    "check this machine, make it the endpoint that a code is for, and keep its agent running",
    "setup",
  )
    .option("--service <url>", "the service's address (default: FARLOOM_URL)")
    .option(
      "--code-file <file>",
      "reads the enrolment code from a file, or - (default: FARLOOM_ENROLMENT_CODE)",
    )
    .addOption(new Option("--code <code>", "only -: reads it from standard input").hideHelp())
    .option("--name <name>", "what the endpoint is called, where the code leaves that open")
    .option("--python <path>", "interpreter of Python workers")
    .option("--shared", "others will use it: what no trusted key has signed does not run (endpoint trust)")
    .addOption(
      new Option("--survive <how>", "what brings the agent back (default: the best there is)").choices([
        "auto",
        "systemd",
        "cron",
        "tmux",
        "none",
      ]),
    )
    .option("--no-checks", "enrol without a look at the machine");

  local("configure", "write the agent's configuration for a well-known machine, or for this one")
    .option("--list", "the templates, and what each asks for")
    .option("--template <name>", "which one")
    .option("--set <name=value>", "what it asks for; may be repeated", collect(String))
    .option("--force", "replace the configuration that is there");

  local("start", "run the agent in the background")
    .option("--foreground", "run it here, until Ctrl-C")
    .option("--workers <n>", "worker processes (default: the cores of this machine)")
    .option("--provider <name>", "where nodes come from: local, process, slurm, ssh")
    .option("--python <path>", "interpreter of Python workers")
    .option(
      "--allow-function <ref>",
      "run this function alone, by id, owner/name or owner/name@version, with * for any letters; may be repeated",
      collect(String),
    )
    .option(
      "--isolation <level>",
      "how workers are kept apart: none, limits, namespaces, container or user (default: as agent.toml says)",
    )
    .option(
      "--trust <mode>",
      "whether functions must be signed: enforce, warn or off (default: as trust.toml says)",
    )
    .addHelpText(
      "after",
      "\nThese count for this start alone: what brings the agent back reads agent.toml, trust.toml and the FARLOOM_AGENT_… settings of the installation.",
    );

  local("stop", "end the agent; what runs is finished or kept").option(...within);
  local("restart", "end the agent and start it again").option(...within);
  local("drain", "take no more, finish what runs, and end the agent").option(...within);
  local("status", "what the agent on this machine does");
  local("logs", "what the agent on this machine wrote")
    .option("-n, --lines <n>", "the last so many", "50")
    .option("-f, --follow", "and what comes");
  local("audit", "what this machine was made to do, as its agent wrote it down")
    .option("--task <id>", "what is said of this task")
    .option("-n, --lines <n>", "the last so many", "50")
    .option("-f, --follow", "and what comes")
    .option("--verify", "recompute the chain, and say where it breaks")
    .option("--head <number:hash>", "what an earlier --verify said: the chain must still hold it")
    .option("--file <path>", "a file of it, or a folder with its files, instead of the agent's own");
  local("doctor", "check this machine and its agent, and say how to mend it").option(
    "--python <path>",
    "interpreter of Python workers",
  );
  local("bugreport", "a file to send to whoever helps; secrets are masked").option(
    "-o, --output <file>",
    "where it goes (default: farloom-bugreport-TIME.tar.gz here)",
  );
  local("uninstall", "stop the agent, and undo what brings it back")
    .option(...within)
    .option("--purge", "delete its folder as well");
}

/** The options as the agent's program takes them: the same names, as they were given. */
function argumentsOf(command: Command, values: Values): string[] {
  const args: string[] = [];
  for (const option of command.options) {
    const value = values[option.attributeName()];
    const flag = option.long ?? "";
    if (["--json", "--url", "--foreground"].includes(flag) || value === undefined) continue;
    if (option.negate) args.push(...(value === false ? [flag] : []));
    else if (typeof value === "boolean") args.push(...(value ? [flag] : []));
    else for (const one of [value].flat()) args.push(flag, String(one));
  }
  return args;
}

/** Runs the agent's program with this terminal; its exit code. */
function runAgent(args: readonly string[], command: Command, values: Values): Promise<number> {
  const [name = "", ...rest] = args;
  const { url } = command.optsWithGlobals<GlobalOptions>();
  const folder = values.stateDir === undefined ? ["--state-dir", agentStateDir(undefined)] : [];
  const service =
    name === "setup" && url !== undefined && values.service === undefined ? ["--service", url] : [];
  const all =
    name === "start" && values.foreground
      ? ["run", ...rest]
      : [name, ...rest, ...(name === "status" ? ["--text"] : [])];
  const child = spawn(process.execPath, [mainOf("endpoint-agent"), ...all, ...folder, ...service], {
    stdio: "inherit",
  });
  // A Ctrl-C reaches the child by itself, as it is in the terminal's group; a plain kill does not.
  const ignore = () => {};
  const pass = () => child.kill("SIGTERM");
  process.on("SIGINT", ignore);
  process.on("SIGTERM", pass);
  return new Promise((done, fail) => {
    child.once("error", fail);
    child.once("exit", (code) => {
      process.removeListener("SIGINT", ignore);
      process.removeListener("SIGTERM", pass);
      done(code ?? FAILED);
    });
  });
}
