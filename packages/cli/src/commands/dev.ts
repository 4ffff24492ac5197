/** `farloom dev`: everything on this machine, in one terminal, until Ctrl-C. */
import { existsSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { configPath, readConfigFile } from "@farloom/sdk";
import type { Command } from "commander";
import { saveConfig, writeWhole } from "../config-file.js";
import type { Context } from "../context.js";
import { FAILED } from "../exit-codes.js";
import {
  claim,
  type FabricOptions,
  type RunningAgent,
  type RunningService,
  startEndpoint,
  startService,
} from "../local/fabric.js";
import { type LocalState, openState, readSettings, saveSettings } from "../local/state.js";
import { untilTold } from "../local/until-told.js";
import type { Output } from "../output.js";
import { portNumber } from "../values.js";
import { runtimeText } from "./endpoint.js";

interface DevFlags {
  stateDir: string;
  port?: number;
  host: string;
  name?: string;
  readyFile?: string;
  logLevel: string;
}

const HELLO = `"""A first function. In another terminal: farloom run hello.py World"""
import platform


def hello(name="World"):
    return f"Hello {name}, from Python {platform.python_version()} on {platform.node()}"
`;

export function addDev(program: Command, { output, result }: Context): void {
  program
    .command("dev")
    .description("everything on this machine, in one terminal: service, database and one endpoint")
    .option("--state-dir <dir>", "where database, keys and logs are", ".farloom")
    .option(
      "--port <n>",
      "the service's port (default: as last time, or 8722, or the next free one)",
      portNumber,
    )
    .option("--host <address>", "address to listen on; anything but loopback lets others in", "127.0.0.1")
    .option("--name <name>", "the endpoint's name (default: as last time, or laptop)")
    .option("--ready-file <file>", "written when all is up: JSON with url, endpoint and apiKeyFile")
    .option("--log-level <level>", "of the logs in the state folder", "info")
    .action(async (flags: DevFlags) => {
      result.code = await dev(flags, output);
    });
}

async function dev(flags: DevFlags, output: Output): Promise<number> {
  const state = openState(flags.stateDir);
  const lock = claim(state);
  const told = untilTold();
  let service: RunningService | undefined;
  let agent: RunningAgent | undefined;
  try {
    const options: FabricOptions = {
      state,
      host: flags.host,
      port: flags.port,
      logLevel: flags.logLevel,
      tell: (part, { level, text }) => {
        const mark = level === "error" ? output.style("red", "error") : output.style("yellow", "warning");
        if (!told.stopping) output.note(`${mark} ${part}: ${text}`);
      },
      onGivenUp: (message) => told.fail(message),
    };
    output.note(
      output.style(
        "dim",
        existsSync(join(state.service, "postgres"))
          ? "starting …"
          : "starting, the first time makes a database …",
      ),
    );
    service = await told.orStopped(startService(options));
    if (service === undefined) return 0;
    lock.tell(service.url);
    const name = flags.name ?? readSettings(state).endpoint ?? "laptop";
    agent = await told.orStopped(startEndpoint(options, service, name));
    if (agent === undefined) return 0;
    saveSettings(state, { ...readSettings(state), endpoint: agent.endpoint.name });
    const config = { url: service.url, apiKey: service.apiKey, endpoint: agent.endpoint.name };
    saveConfig(state.configFile, config);
    const isDefault = adopt(config, state, output);
    const ready = {
      url: config.url,
      endpoint: config.endpoint,
      endpointId: agent.endpoint.id,
      apiKeyFile: state.apiKeyFile,
    };
    if (flags.readyFile) writeWhole(flags.readyFile, `${JSON.stringify(ready)}\n`);
    if (output.json) output.jsonLine(ready);
    else output.say(banner(output, { state, ready, agent, isDefault }));
    const failure = await told.stopped;
    if (failure !== undefined) output.error(new Error(failure));
    return failure === undefined ? 0 : FAILED;
  } finally {
    if (service) output.note(output.style("dim", "stopping …"));
    await agent?.part.stop();
    await service?.part.stop();
    await told.settled();
    lock.release();
    told.dispose();
  }
}

/** Makes this fabric the user's default, unless the default is another machine's; returns whether it is. */
function adopt(
  config: { url: string; apiKey: string; endpoint: string },
  state: LocalState,
  output: Output,
): boolean {
  const path = configPath();
  const before = readConfigFile(path).url;
  const isLocal = before === undefined || /^https?:\/\/(127\.|localhost|\[::1\])/.test(before);
  if (isLocal) saveConfig(path, config);
  else
    output.note(
      `note: ${path} points to ${before} and stays as it is; for this fabric: export FARLOOM_CONFIG=${state.configFile}`,
    );
  const shell = process.env.FARLOOM_URL;
  if (shell && shell !== config.url)
    output.note(`note: FARLOOM_URL is ${shell} in this terminal, and wins over the configuration`);
  return isLocal;
}

interface BannerParts {
  readonly state: LocalState;
  readonly ready: { readonly url: string; readonly endpoint: string };
  readonly agent: RunningAgent;
  readonly isDefault: boolean;
}

function banner(output: Output, { state, ready, agent, isDefault }: BannerParts): string {
  const hello = join(state.root, "hello.py");
  if (!existsSync(hello)) writeFileSync(hello, HELLO);
  const info = agent.endpoint.agentInfo as
    | { workers?: number; runtimes?: Record<string, string> }
    | undefined;
  const has = [
    info?.workers && `${info.workers} workers`,
    ...Object.entries(info?.runtimes ?? {}).map(runtimeText),
  ];
  const prefix = isDefault ? "" : `FARLOOM_CONFIG=${near(state.configFile)} `;
  return [
    "",
    `${output.style("bold", "Farloom runs on this machine.")} Ctrl-C stops it; nothing is lost.`,
    "",
    `  service    ${output.style("cyan", ready.url)}   API page ${ready.url}/docs`,
    `  endpoint   ${output.style("cyan", ready.endpoint)}   ${has.filter(Boolean).join(", ")}`,
    `  state      ${near(state.root)}   logs in ${near(state.logs)}`,
    "",
    "In another terminal:",
    "",
    `  ${output.style("bold", `${prefix}${ownName()} run ${near(hello)} World`)}`,
    "",
  ].join("\n");
}

/** How this command was called, so that the line can be copied. */
function ownName(): string {
  const script = process.argv[1] ?? "farloom";
  return basename(script) === "farloom" ? "farloom" : `node ${near(script)}`;
}

function near(path: string): string {
  const short = relative(process.cwd(), path) || ".";
  return short.startsWith("..") ? path : short;
}
