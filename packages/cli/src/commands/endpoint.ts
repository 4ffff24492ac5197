/** `farloom endpoint`: the service's endpoints, and the agent on this machine. */
import { spawn } from "node:child_process";
import {
  createReadStream,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  unwatchFile,
  watchFile,
} from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { AgentInfo } from "@farloom/protocol";
import type { AccessLevel, EndpointAccess, EndpointInfo } from "@farloom/sdk";
import { type Command, Option } from "commander";
import { type Context, take, withClient } from "../context.js";
import { CliError, CONFLICT, FAILED, NOT_FOUND, USAGE } from "../exit-codes.js";
import { gearFields } from "../gear-fields.js";
import { agentLogFile, agentStateDir, agentStatus, enrolAgent, stopAgent } from "../local/agent.js";
import { mainOf } from "../local/apps.js";
import { prepareLog, prettyLine } from "../local/log.js";
import type { Output } from "../output.js";
import { ago, collect, wholeNumber } from "../values.js";
import { pageOf } from "./functions.js";

/** Until an agent that was started is connected; beyond that it goes on trying by itself. */
const START_MS = 15_000;
/** A stop waits for running tasks as long as the agent does, and some. */
const STOP_MS = 60_000;

export function addEndpoint(program: Command, context: Context): void {
  const endpoint = program
    .command("endpoint")
    .alias("endpoints")
    .description("places that run tasks, and the agent on this machine");
  addRemote(endpoint, context);
  addSharing(endpoint, context);
  addLocal(endpoint, context);
}

function addRemote(endpoint: Command, { output }: Context): void {
  endpoint
    .command("create <name>")
    .description("make an endpoint; prints what to run on the machine that shall be it")
    .option("--renew", "it exists: only make a new enrolment code")
    .action((name: string, options: { renew?: boolean }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const made = options.renew
          ? await farloom.endpoints.newCode(name, { signal })
          : await farloom.endpoints.create(name, { signal });
        output.result(made, () =>
          [
            `Endpoint ${output.style("bold", made.name)} is there. On the machine that shall be it:`,
            "",
            `  ${output.style("bold", made.command ?? "")}`,
            `  ${output.style("bold", "farloom endpoint start")}`,
            "",
            `The code is good once, until ${made.enrolmentExpiresAt ?? "soon"}.`,
          ].join("\n"),
        );
      }),
    );

  endpoint
    .command("list")
    .description("your endpoints")
    .option("--limit <n>", "at most so many", wholeNumber, 100)
    .action((options: { limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const items = await take(
          farloom.endpoints.all({ limit: pageOf(options.limit), signal }),
          options.limit,
        );
        output.list(
          items,
          ["NAME", "STATE", "HOST", "RUNTIMES", "WORKERS", "QUEUED", "RUNNING"],
          (item) => {
            const { host, runtimes, workers } = infoOf(item);
            return [item.name, stateOf(output, item), host, runtimes, workers, item.queued, item.leased];
          },
          "No endpoints yet. Make one: farloom endpoint create NAME",
        );
      }),
    );

  endpoint
    .command("show <name>")
    .description("one endpoint, by name or id")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const item = await farloom.endpoints.get(name, { signal });
        const { host, runtimes, workers } = infoOf(item);
        output.result(item, () =>
          output.fields([
            ["name", item.name],
            ["id", item.id],
            ["state", stateOf(output, item)],
            ["host", host],
            ["runtimes", runtimes],
            ["workers", workers],
            ["queued", item.queued],
            ["with the agent", item.leased],
            ["connected", item.connectedAt && ago(item.connectedAt)],
            ["made", item.createdAt],
          ]),
        );
      }),
    );

  endpoint
    .command("delete <name>")
    .description("remove an endpoint; its open tasks end")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.endpoints.delete(name, { signal });
        output.result({ deleted: name }, () => `Deleted ${name}.`);
      }),
    );
}

interface ShareFlags {
  readonly person?: string;
  readonly team?: string;
  readonly allow?: AccessLevel;
  readonly deny?: AccessLevel;
}

function addSharing(endpoint: Command, { output }: Context): void {
  const level = (flags: string, text: string) =>
    new Option(flags, text).choices(["view", "invoke", "manage"]);
  const show = (access: EndpointAccess): void =>
    output.result(access, () => {
      const rows = access.entries.map((e) => [e.person ?? `team ${e.team}`, e.allow ?? "", e.deny ?? ""]);
      const who =
        rows.length === 0 ? "Shared with nobody." : output.table(["WHO", "ALLOWED", "DENIED"], rows);
      const what = access.functions.length === 0 ? "all functions" : access.functions.join(", ");
      return `${who}\nRuns ${what}.`;
    });

  endpoint
    .command("access <name>")
    .description("who may do what with an endpoint, and which functions it runs")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => show(await farloom.endpoints.access(name, { signal }))),
    );

  endpoint
    .command("share <name>")
    .description(
      "say what a person, or the members of a team, may do; neither --allow nor --deny: nothing more",
    )
    .option("--person <name>", "whom")
    .option("--team <name>", "or which team, by name or owner/name")
    .addOption(level("--allow <level>", "view, invoke (includes view) or manage (includes both)"))
    .addOption(level("--deny <level>", "this and what is above it; wins over whatever allows it"))
    .action((name: string, flags: ShareFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { person, team, allow, deny } = flags;
        const entry = {
          ...(person && { person }),
          ...(team && { team }),
          ...(allow && { allow }),
          ...(deny && { deny }),
        };
        show(await farloom.endpoints.share(name, entry, { signal }));
      }),
    );

  endpoint
    .command("functions <name> [refs...]")
    .description("run these functions alone, by id, name or owner/name, with * for any letters; none: all")
    .action((name: string, refs: string[], _options: object, command: Command) =>
      withClient(command, async (farloom, signal) =>
        show(await farloom.endpoints.allowFunctions(name, refs, { signal })),
      ),
    );
}

interface LocalFlags {
  stateDir?: string;
}

interface StartFlags extends LocalFlags {
  foreground?: boolean;
  workers?: number;
  python?: string;
  allowFunction?: string[];
}

function addLocal(endpoint: Command, { output, result }: Context): void {
  const local = (name: string) =>
    endpoint.command(name).option("--state-dir <dir>", "the agent's folder (default: ~/.farloom/agent)");

  local("enroll")
    .description("make this machine the endpoint that a code is for")
    .option("--service <url>", "the service's address (default: what login wrote)")
    .option("--code <code>", "the enrolment code; - reads standard input (default: FARLOOM_ENROLMENT_CODE)")
    .action(async (flags: LocalFlags & { service?: string; code?: string }, command: Command) => {
      const service =
        flags.service ?? command.optsWithGlobals<{ url?: string }>().url ?? process.env.FARLOOM_URL;
      if (!service)
        throw new CliError("which service?", USAGE, "farloom endpoint create NAME prints the whole line");
      const code = (
        flags.code === "-" ? readFileSync(0, "utf8") : (flags.code ?? process.env.FARLOOM_ENROLMENT_CODE)
      )?.trim();
      if (!code) throw new CliError("no code: set FARLOOM_ENROLMENT_CODE or pass --code", USAGE);
      const stateDir = agentStateDir(flags.stateDir);
      const made = await enrolAgent(stateDir, service, code);
      output.result(
        { ...made, stateDir },
        () =>
          `This machine is endpoint ${output.style("bold", made.name)} now. Start it: farloom endpoint start`,
      );
    });

  local("start")
    .description("run the agent in the background")
    .option("--foreground", "run it here, until Ctrl-C")
    .option("--workers <n>", "worker processes (default: the cores of this machine)", wholeNumber)
    .option("--python <path>", "interpreter of Python workers")
    .option(
      "--allow-function <ref>",
      "run this function alone, by id, owner/name or owner/name@version, with * for any letters; may be repeated",
      collect(String),
    )
    .action(async (flags: StartFlags) => {
      const stateDir = agentStateDir(flags.stateDir);
      await checkStartable(stateDir);
      const args = [
        mainOf("endpoint-agent"),
        "run",
        "--state-dir",
        stateDir,
        ...(flags.workers === undefined ? [] : ["--workers", String(flags.workers)]),
        ...(flags.python === undefined ? [] : ["--python", flags.python]),
        ...(flags.allowFunction ?? []).flatMap((ref) => ["--allow-function", ref]),
      ];
      result.code = flags.foreground ? await foreground(args) : await background(args, stateDir, output);
    });

  local("stop")
    .description("end the agent; what runs is finished or kept")
    .action(async (flags: LocalFlags) => {
      const stopped = await stopAgent(agentStateDir(flags.stateDir), STOP_MS);
      output.result({ stopped }, () => (stopped ? "Stopped." : "No agent was running."));
    });

  local("status")
    .description("what the agent on this machine does")
    .action(async (flags: LocalFlags) => {
      const stateDir = agentStateDir(flags.stateDir);
      const answer = await agentStatus(stateDir);
      const { running, status, identity } = answer;
      if (!running) result.code = NOT_FOUND;
      output.result(answer, () => {
        if (!running) {
          if (identity === undefined) return `No endpoint is enrolled in ${stateDir}.`;
          return `The agent of endpoint ${identity.name} is not running. Start it: farloom endpoint start`;
        }
        const link = status?.link as { phase: string; reason?: unknown } | undefined;
        return output.fields([
          ["endpoint", status?.name],
          ["service", status?.service],
          [
            "link",
            link?.phase === "open"
              ? output.style("green", "connected")
              : output.style("yellow", JSON.stringify(link)),
          ],
          ["tasks", status?.tasks && JSON.stringify(status.tasks)],
          ["results to deliver", status?.unackedResults],
          ...gearFields(status?.agent as Partial<AgentInfo> | undefined),
          ["process", status?.pid],
          ["folder", stateDir],
        ]);
      });
    });

  local("logs")
    .description("what the agent on this machine wrote")
    .option("-n, --lines <n>", "the last so many", wholeNumber, 50)
    .option("-f, --follow", "and what comes")
    .action(async (flags: LocalFlags & { lines: number; follow?: boolean }) => {
      const path = agentLogFile(agentStateDir(flags.stateDir));
      if (!existsSync(path))
        throw new CliError(
          `there is no log ${path}`,
          NOT_FOUND,
          "the agent writes one when it is started with 'farloom endpoint start'",
        );
      const print = (line: string) => output.say(output.json ? line : prettyLine(line));
      const last: string[] = [];
      const size = statSync(path).size;
      for await (const line of createInterface({
        input: createReadStream(path, { end: Math.max(0, size - 1) }),
      })) {
        last.push(line);
        if (last.length > flags.lines) last.shift();
      }
      if (size > 0) for (const line of last) print(line);
      if (flags.follow) await follow(path, size, print);
    });
}

async function checkStartable(stateDir: string): Promise<void> {
  const { running, identity, status, pid } = await agentStatus(stateDir);
  if (running || pid !== undefined)
    throw new CliError(`the agent runs already: process ${status?.pid ?? pid}`, CONFLICT);
  if (identity === undefined) {
    throw new CliError(
      `no endpoint is enrolled in ${stateDir}`,
      NOT_FOUND,
      "farloom endpoint create NAME, then run what it prints here",
    );
  }
}

async function foreground(args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, args, { stdio: "inherit" });
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

/** Starts it detached, and waits until it is connected. */
async function background(args: readonly string[], stateDir: string, output: Output): Promise<number> {
  const logFile = agentLogFile(stateDir);
  prepareLog(logFile);
  const log = openSync(logFile, "a", 0o600);
  const child = spawn(process.execPath, args, { stdio: ["ignore", log, log], detached: true });
  let ended = false;
  child.once("exit", () => {
    ended = true;
  });
  child.unref();
  const endMs = performance.now() + START_MS;
  let name = "";
  while (performance.now() < endMs && !ended) {
    const { running, status } = await agentStatus(stateDir);
    if (running) {
      name = String(status?.name ?? "");
      if ((status?.link as { phase?: string } | undefined)?.phase === "open") {
        output.result(
          { running: true, connected: true, pid: child.pid, name },
          () => `Endpoint ${output.style("bold", name)} is connected (process ${child.pid}).`,
        );
        return 0;
      }
    }
    await sleep(100);
  }
  if (!ended) {
    output.result(
      { running: true, connected: false, pid: child.pid, name },
      () =>
        `The agent runs (process ${child.pid}) but is not connected yet; it goes on trying. farloom endpoint logs`,
    );
    return 0;
  }
  const tail = readFileSync(logFile, "utf8").trimEnd().split("\n").slice(-5).map(prettyLine).join("\n");
  throw new CliError(`the agent ended at its start:\n${tail}`, FAILED, `the whole log: ${logFile}`);
}

function follow(path: string, from: number, print: (line: string) => void): Promise<void> {
  let at = from;
  let rest = "";
  return new Promise((done) => {
    watchFile(path, { interval: 250 }, (now) => {
      if (now.size < at) at = 0;
      if (now.size === at) return;
      const stream = createReadStream(path, { start: at, end: now.size - 1, encoding: "utf8" });
      at = now.size;
      stream.on("data", (chunk) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) print(line);
      });
    });
    process.once("SIGINT", () => {
      unwatchFile(path);
      done();
    });
  });
}

function infoOf(item: EndpointInfo): { host: string; runtimes: string; workers: string } {
  const info = (item.agentInfo ?? {}) as {
    host?: string;
    runtimes?: Record<string, string>;
    workers?: number;
  };
  const runtimes = Object.entries(info.runtimes ?? {}).map(runtimeText);
  return {
    host: info.host ?? "",
    runtimes: runtimes.join(", "),
    workers: info.workers === undefined ? "" : String(info.workers),
  };
}

/** Commands have no version that would say anything. */
export function runtimeText([name, version]: readonly [string, string]): string {
  return name === "command" ? "commands" : `${name} ${version}`.trim();
}

function stateOf(output: Output, item: EndpointInfo): string {
  if (item.connected) return output.style("green", "connected");
  return item.enrolled === false ? output.style("yellow", "not enrolled") : output.style("red", "away");
}
