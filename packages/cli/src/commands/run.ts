/**
 * `farloom run FILE`: registers the file's function and calls it. One call prints its result; many print a line of
 * JSON each, as they end.
 */
import { createReadStream, existsSync } from "node:fs";
import { createInterface } from "node:readline";
import type { CallOptions, Completed, Farloom, RemoteFunction } from "@farloom/sdk";
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { CliError, exitCodeOf, isUserFileError, NOT_FOUND, USAGE } from "../exit-codes.js";
import type { Output } from "../output.js";
import { ProgressBar } from "../progress.js";
import { argumentList, collect, jsonValue, looseValue } from "../values.js";
import { WaitNotes } from "../wait-notes.js";
import { type DefinitionFlags, definitionOptions, specOf } from "./functions.js";

interface RunFlags extends DefinitionFlags {
  endpoint?: string;
  args?: unknown[];
  kwargs?: unknown;
  map?: string;
  ordered?: boolean;
  detach?: boolean;
}

const HELP = `
Arguments are JSON where they are JSON, and text otherwise:
  $ farloom run hello.py World
  $ farloom run model.py 3 '{"seed": 1}'
  $ farloom run model.py --args '[3]' --args '[4]'     two calls
  $ farloom run model.py --map inputs.jsonl            a call for each line: [arguments], or the one argument
  $ farloom run me/model@2 3                           what is registered already`;

export function addRun(program: Command, { output, result }: Context): void {
  const run = program
    .command("run <file> [values...]")
    .description("register the file's function and call it")
    .option("--endpoint <name>", "where to run (default: FARLOOM_ENDPOINT, then what dev or login wrote)")
    .option("--args <json>", "arguments of one call; may be repeated, a call each", collect(jsonValue))
    .option("--kwargs <json>", "named arguments, of every call", jsonValue)
    .option("--map <file>", "a call for each line of this file; - for standard input")
    .option("--ordered", "results in the order of the calls, not of their ends")
    .option("--detach", "print the tasks' ids once they are safe with the service, and do not wait")
    .addHelpText("after", HELP);
  definitionOptions(run).action((file: string, values: string[], flags: RunFlags, command: Command) =>
    withClient(command, async (farloom, signal) => {
      const calls = callsOf(values, flags);
      const fn = await functionOf(farloom, file, flags, signal);
      const options = callOptions(flags, signal);
      if (calls.length === 1 && flags.map === undefined) {
        result.code = await one(fn, calls[0]!, { options, output, detach: flags.detach === true });
      } else
        result.code = await many(fn, flags.map === undefined ? calls : lines(flags.map), {
          options,
          output,
          flags,
        });
    }),
  );
}

function callsOf(values: readonly string[], flags: RunFlags): unknown[][] {
  const ways = [values.length > 0, flags.args !== undefined, flags.map !== undefined].filter(Boolean).length;
  if (ways > 1)
    throw new CliError("arguments come after the file, by --args or by --map: one of them", USAGE);
  if (flags.args !== undefined) return flags.args.map(argumentList);
  return [values.map(looseValue)];
}

function callOptions(flags: RunFlags, signal: AbortSignal): CallOptions {
  const { endpoint, kwargs } = flags;
  if (kwargs !== undefined && (typeof kwargs !== "object" || kwargs === null || Array.isArray(kwargs))) {
    throw new CliError("--kwargs is a JSON object, e.g. '{\"seed\": 1}'", USAGE);
  }
  return {
    signal,
    ...(endpoint && { endpoint }),
    ...(kwargs !== undefined && { kwargs: kwargs as Record<string, unknown> }),
  };
}

/** The file's function; what is no file and has no extension is a reference to a registered one. */
async function functionOf(
  farloom: Farloom,
  file: string,
  flags: RunFlags,
  signal: AbortSignal,
): Promise<RemoteFunction> {
  if (!existsSync(file) && /^[\w.-]+(\/[\w.-]+)?(@\d+)?$/.test(file) && !/\.(py|js|mjs|ts)$/.test(file)) {
    const { ref } = await farloom.functions.get(file, { signal });
    return farloom.function(ref);
  }
  try {
    return await farloom.register(specOf(file, flags), { signal });
  } catch (error) {
    if (isUserFileError(error)) throw new CliError(`${file} is not there`, NOT_FOUND);
    throw error;
  }
}

interface How {
  readonly options: CallOptions;
  readonly output: Output;
}

async function one(fn: RemoteFunction, args: unknown[], how: How & { detach: boolean }): Promise<number> {
  const { options, output } = how;
  const handle = fn.submit(args, options);
  if (how.detach) {
    await handle.durable();
    output.result({ id: handle.id }, () => handle.id);
    return 0;
  }
  const notes = new WaitNotes(handle, output);
  try {
    const value = await handle.result();
    notes.stop();
    const { stdout, stderr } = handle.outcome ?? {};
    // What the function printed is about the result, not the result.
    if (stdout) process.stderr.write(withNewline(stdout));
    if (stderr) process.stderr.write(withNewline(stderr));
    output.result({ id: handle.id, result: value ?? null }, () => shown(value));
    return 0;
  } catch (error) {
    notes.stop();
    if (!output.json) output.note(`task ${handle.id}`);
    output.error(error);
    return exitCodeOf(error);
  }
}

async function many(
  fn: RemoteFunction,
  input: Iterable<unknown[]> | AsyncIterable<unknown[]>,
  { options, output, flags }: How & { flags: RunFlags },
): Promise<number> {
  const group = fn.map(input, { ...options, keepResults: false });
  const bar = new ProgressBar();
  group.onProgress((progress) => bar.update(progress));
  let code = 0;
  try {
    for await (const item of flags.ordered ? group.results() : group.asCompleted()) {
      bar.clear();
      output.jsonLine(lineOf(item));
      if (item.error && code === 0) code = exitCodeOf(item.error);
    }
  } finally {
    bar.clear();
  }
  output.note(bar.summary(group.progress));
  return code;
}

function lineOf(item: Completed<unknown>): object {
  const { index, handle, error } = item;
  if (error === undefined) return { index, id: handle.id, result: item.value ?? null };
  const { remoteType, remoteTraceback } = error as { remoteType?: string; remoteTraceback?: string };
  return {
    index,
    id: handle.id,
    error: { code: error.code, message: error.message, type: remoteType, traceback: remoteTraceback },
  };
}

/** A call for each line; empty lines are skipped. Read as the fabric takes them. */
async function* lines(file: string): AsyncGenerator<unknown[]> {
  const input = file === "-" ? process.stdin : createReadStream(file);
  let number = 0;
  for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
    number++;
    if (line.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      throw new CliError(`line ${number} of ${file} is not JSON: ${(error as Error).message}`, USAGE);
    }
    yield argumentList(value);
  }
}

function shown(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value ?? null, null, 2);
}

function withNewline(text: string): string {
  return text.endsWith("\n") ? text : `${text}\n`;
}
