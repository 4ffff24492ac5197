/** `farloom tasks logs` and `farloom tasks why`: what a task writes, and why it does not run yet. */
import type { OutputChunk, RemoteTask } from "@farloom/sdk";
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import type { Output } from "../output.js";
import { wholeNumber } from "../values.js";

type Stream = "stdout" | "stderr";

interface LogFlags {
  follow?: boolean;
  stream?: string;
  offset?: number;
}

const STREAMS: readonly Stream[] = ["stdout", "stderr"];

export function addTaskLogs(tasks: Command, { output }: Context): void {
  tasks
    .command("logs <id>")
    .description(
      "what it has written: its standard output here on standard output, its standard error on the other",
    )
    .option("-f, --follow", "as it comes, until the task has ended")
    .option("--stream <name>", "stdout or stderr alone")
    .option("--offset <bytes>", "from this byte on; with --stream", wholeNumber)
    .addHelpText(
      "after",
      "\nWhat a task writes in its first 200 ms comes a little later. Of a long stream the first 256 KiB and the last 768 KiB are kept.",
    )
    .action((id: string, flags: LogFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const wanted = streamsOf(flags, command);
        const task = farloom.task(id);
        await Promise.all(wanted.map((stream) => print(task, stream, { flags, output, signal })));
      }),
    );

  tasks
    .command("why <id>")
    .description("why it does not run yet, in a sentence")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const info = await farloom.tasks.get(id, { signal });
        const { waiting, state } = info;
        const sentence =
          waiting?.message ??
          (state === "STARTED"
            ? "It runs."
            : `It has ended: ${state}${info.reason ? ` (${info.reason})` : ""}.`);
        output.result({ id, state, waiting: waiting ?? null }, () => sentence);
      }),
    );
}

function streamsOf({ stream, offset }: LogFlags, command: Command): readonly Stream[] {
  if (stream === undefined && offset !== undefined) command.error("error: --offset goes with --stream");
  if (stream === undefined) return STREAMS;
  const known = STREAMS.find((name) => name === stream);
  return known === undefined ? command.error("error: --stream is stdout or stderr") : [known];
}

async function print(
  task: RemoteTask,
  stream: Stream,
  {
    flags,
    output,
    signal,
  }: { readonly flags: LogFlags; readonly output: Output; readonly signal: AbortSignal },
): Promise<void> {
  const options = { stream, follow: flags.follow === true, offset: flags.offset ?? 0, signal };
  let attempt: number | undefined;
  for await (const chunk of task.output(options)) {
    if (output.json) output.jsonLine(lineOf(chunk, stream));
    else {
      if (attempt !== undefined && chunk.attempt !== attempt) output.note(`attempt ${chunk.attempt}:`);
      if (chunk.skipped > 0) output.note(`(${chunk.skipped} bytes of ${stream} were not kept)`);
      // The bytes as they are: colours and half characters alike.
      (stream === "stdout" ? process.stdout : process.stderr).write(chunk.bytes);
    }
    attempt = chunk.attempt;
  }
}

function lineOf({ attempt, offset, skipped, text }: OutputChunk, stream: Stream): object {
  return { stream, attempt, offset, skipped, text };
}
