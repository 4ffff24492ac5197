/** `farloom functions`: what is registered. */
import { ISOLATION_LEVELS, type IsolationLevel } from "@farloom/protocol";
import type { FunctionInfo, RegisterSpec } from "@farloom/sdk";
import { type Command, Option } from "commander";
import { type Context, take, withClient } from "../context.js";
import { ago, collect, durationMs, wholeNumber } from "../values.js";
import { addFunctionSigning } from "./function-signing.js";

export interface DefinitionFlags {
  name?: string;
  entry?: string;
  runtime?: "python" | "node" | "command";
  mode?: "at_most_once" | "at_least_once";
  timeout?: number;
  retries?: number;
  description?: string;
  cores?: number;
  memoryMb?: number;
  gpus?: number;
  nodes?: number;
  ranks?: number;
  ranksPerNode?: number;
  env?: string[];
  isolation?: IsolationLevel;
  network?: boolean;
  environment?: string;
  requires?: string[];
  secret?: string[];
}

/** The options that say what a function is, for `register` and `run`. */
export function definitionOptions(command: Command): Command {
  return command
    .option("--name <name>", "the function's name (default: the entry's)")
    .option("--entry <name>", "which function in the file is called (default: the only one, or main)")
    .option("--runtime <runtime>", "python, node or command (default: by the file's extension)")
    .option("--mode <mode>", "at_most_once or at_least_once")
    .option("--timeout <duration>", "run time limit of one call, e.g. 90s, 5m", durationMs)
    .option("--retries <n>", "how often a failed call is tried again", wholeNumber)
    .option("--cores <n>", "cores that a call needs", wholeNumber)
    .option("--memory-mb <n>", "memory that a call needs", wholeNumber)
    .option("--gpus <n>", "GPUs that a call needs, or a share of one such as 0.25", Number)
    .option("--nodes <n>", "whole nodes of one block that a call needs", wholeNumber)
    .option("--ranks <n>", "processes of a parallel program over those nodes", wholeNumber)
    .option("--ranks-per-node <n>", "the same, for each of them", wholeNumber)
    .option(
      "--environment <name>",
      "the endpoint's environment that it runs in (default: the endpoint's own)",
    )
    .option(
      "--requires <package>",
      "package that it imports, as pip names it; may be repeated",
      collect(String),
    )
    .option(
      "--secret <name>",
      "secret of yours that a call is given; may be repeated (farloom secrets set NAME)",
      collect(String),
    )
    .option("--env <NAME=VALUE>", "environment variable of the call; may be repeated", collect(String))
    .addOption(
      new Option("--isolation <level>", "the least isolation that a call wants of its endpoint").choices(
        ISOLATION_LEVELS,
      ),
    )
    .option("--network", "a call wants the network, where its endpoint leaves that to functions")
    .option("--description <text>", "what it does");
}

/** A registration from the options. */
export function specOf(file: string, flags: DefinitionFlags): RegisterSpec {
  const { name, entry, runtime, mode, retries, description } = flags;
  const { cores, memoryMb, gpus, nodes, ranks, ranksPerNode } = flags;
  const resources = {
    ...(cores && { cores }),
    ...(memoryMb && { memoryMb }),
    ...(gpus && { gpus }),
    ...(nodes && { nodes }),
    ...(ranks && { ranks }),
    ...(ranksPerNode && { ranksPerNode }),
  };
  const env = {
    ...(flags.environment && { interpreter: flags.environment }),
    ...(flags.requires && { requires: flags.requires }),
    ...(flags.env && { vars: Object.fromEntries(flags.env.map(pairOf)) }),
  };
  return {
    file,
    ...(name && { name }),
    ...(entry && { entry }),
    ...(runtime && { runtime }),
    ...(mode && { mode }),
    ...(flags.timeout !== undefined && { timeoutMs: flags.timeout }),
    ...(retries !== undefined && { retries }),
    ...(description && { description }),
    ...(Object.keys(resources).length > 0 && { resources }),
    ...(Object.keys(env).length > 0 && { env }),
    ...(flags.isolation && { isolation: flags.isolation }),
    ...(flags.network && { network: true }),
    ...(flags.secret && { secrets: flags.secret }),
  };
}

function pairOf(text: string): [string, string] {
  const at = text.indexOf("=");
  return at < 0 ? [text, process.env[text] ?? ""] : [text.slice(0, at), text.slice(at + 1)];
}

export function addFunctions(program: Command, context: Context): void {
  const { output } = context;
  const functions = program.command("functions").alias("function").description("what is registered");
  const head = ["NAME", "RUNTIME", "REGISTERED", "DESCRIPTION"];
  const row = (fn: FunctionInfo) => [fn.ref, fn.runtime, ago(fn.createdAt), shortened(fn.description ?? "")];

  functions
    .command("list")
    .description("your functions, the newest first")
    .option("--limit <n>", "at most so many", wholeNumber, 50)
    .action((options: { limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const items = await take(
          farloom.functions.all({ limit: pageOf(options.limit), signal }),
          options.limit,
        );
        output.list(items, head, row, "No functions yet. Register one: farloom functions register FILE");
      }),
    );

  functions
    .command("search <text>")
    .description("look into names and descriptions")
    .option("--limit <n>", "at most so many", wholeNumber, 50)
    .action((q: string, options: { limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const items = await take(
          farloom.functions.all({ q, limit: pageOf(options.limit), signal }),
          options.limit,
        );
        output.list(items, head, row, `Nothing is found for "${q}".`);
      }),
    );

  functions
    .command("show <ref>")
    .description("one function: owner/name@version, name, or id")
    .option("--code", "its code alone")
    .action((ref: string, options: { code?: boolean }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        if (options.code) {
          const path = `/v1/functions/${encodeURIComponent(ref)}/code`;
          process.stdout.write((await farloom.rest.send({ path, signal })).body);
          return;
        }
        const fn = await farloom.functions.get(ref, { signal });
        output.result(fn, () =>
          output.fields([
            ["name", fn.ref],
            ["id", fn.id],
            ["runtime", fn.runtime],
            ["entry", fn.entry],
            ["mode", fn.mode],
            ["time limit", fn.timeoutMs ? `${fn.timeoutMs / 1000} s` : "none"],
            ["retries", fn.retries],
            ["resources", compact(fn.resources)],
            ["environment", compact(fn.env)],
            ["command", fn.command && JSON.stringify(fn.command.argv)],
            ["registered", fn.createdAt],
            ["description", fn.description],
          ]),
        );
      }),
    );

  definitionOptions(functions.command("register <file>").description("register the file's function"))
    .option("--sign [key]", "and sign it, by name or file of the key (default: the key named default)")
    .action((file: string, options: DefinitionFlags & { sign?: string | true }, command: Command) =>
      withClient(
        command,
        async (farloom, signal) => {
          const fn = await farloom.register(specOf(file, options), { signal });
          const { signKey } = farloom.options;
          output.result(
            { ref: fn.ref, id: fn.id, ...(signKey && { signedBy: signKey.keyId }) },
            () =>
              `Registered ${output.style("bold", fn.ref)}${signKey ? `, signed by ${signKey.keyId}` : ""}\n${output.style("dim", fn.id ?? "")}`,
          );
        },
        options.sign === undefined ? {} : { signKey: options.sign === true ? "default" : options.sign },
      ),
    );
  addFunctionSigning(functions, context);

  functions
    .command("share <ref>")
    .description("let a team, or everybody, use one version; without an option: nobody else any more")
    .option("--team <name>", "the members of this team, by name or owner/name")
    .option("--public", "everybody")
    .action((ref: string, options: { team?: string; public?: boolean }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { team } = options;
        const visibility = team ? "team" : options.public ? "public" : "private";
        const fn = await farloom.functions.share(ref, { visibility, ...(team && { team }) }, { signal });
        output.result(fn, () => `${fn.ref} is ${team ? `shared with ${team}` : visibility}.`);
      }),
    );

  functions
    .command("delete <ref>")
    .description("remove one version; tasks that were submitted still run")
    .action((ref: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const fn = await farloom.functions.get(ref, { signal });
        await farloom.functions.delete(fn.ref, { signal });
        output.result({ deleted: fn.ref }, () => `Deleted ${fn.ref}.`);
      }),
    );
}

/** Pages no larger than what is asked for. */
export function pageOf(limit: number): number {
  return Math.max(1, Math.min(limit, 1000));
}

function shortened(text: string): string {
  const line = text.split("\n", 1)[0]!;
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

function compact(value: object | undefined): string | undefined {
  return value === undefined || Object.keys(value).length === 0 ? undefined : JSON.stringify(value);
}
