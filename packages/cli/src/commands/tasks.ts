/** `farloom tasks`: what was submitted, from wherever. */
import { errorOf, type TaskInfo } from "@farloom/sdk";
import type { Command } from "commander";
import { type Context, take, withClient } from "../context.js";
import { CliError, exitCodeOf, USAGE } from "../exit-codes.js";
import { ago, wholeNumber } from "../values.js";
import { pageOf } from "./functions.js";
import { addTaskLogs } from "./task-logs.js";

interface ListFlags {
  state?: string;
  endpoint?: string;
  function?: string;
  group?: string;
  limit: number;
}

export function addTasks(program: Command, context: Context): void {
  const { output, result } = context;
  const tasks = program.command("tasks").alias("task").description("what was submitted");

  tasks
    .command("list")
    .description("your tasks, the newest first")
    .option(
      "--state <states>",
      "QUEUED, LEASED, STARTED, SUCCEEDED, FAILED, CANCELLED, TIMED_OUT or LOST; several with commas",
    )
    .option("--endpoint <name>", "on this endpoint")
    .option("--function <ref>", "of this function")
    .option("--group <id>", "of this group")
    .option("--limit <n>", "at most so many", wholeNumber, 30)
    .action((options: ListFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { limit, state, ...filter } = options;
        const where = { ...pick(filter), ...(state && { state: state.toUpperCase() }) };
        const items = await take(farloom.tasks.all({ ...where, limit: pageOf(limit), signal }), limit);
        output.list(
          items,
          ["ID", "STATE", "FUNCTION", "ENDPOINT", "SUBMITTED", "RAN"],
          (task) => [
            task.id,
            coloured(task),
            task.function ?? "",
            task.endpointName ?? task.endpoint,
            ago(task.submittedAt),
            task.times === undefined ? "" : `${task.times.runMs} ms`,
          ],
          "No tasks.",
        );
      }),
    );

  tasks
    .command("show <id>")
    .description("one task: its state, result, error and output")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => show(await farloom.tasks.get(id, { signal }))),
    );

  addTaskLogs(tasks, context);

  tasks
    .command("wait <ids...>")
    .description("until all have ended; the exit code is that of the first that did not succeed")
    .action((ids: string[], _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        for (const id of ids) {
          const info = await farloom.task(id).ended({ signal });
          output.result(info, () => `${info.id}  ${coloured(info)}`);
          if (info.state !== "SUCCEEDED" && result.code === 0) result.code = exitCodeOf(errorOf(info));
        }
      }),
    );

  tasks
    .command("result <id>")
    .description("its result, once it has one: waits for it")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const value = await farloom.task(id).result({ signal });
        output.result(value ?? null, () =>
          typeof value === "string" ? value : JSON.stringify(value ?? null, null, 2),
        );
      }),
    );

  tasks
    .command("cancel [ids...]")
    .description("end tasks, running ones too")
    .option("--group <id>", "all open tasks of this group")
    .action((ids: string[], options: { group?: string }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        if ((ids.length === 0) === (options.group === undefined)) {
          throw new CliError("which tasks? Name their ids, or --group", USAGE);
        }
        const what = options.group === undefined ? { ids } : { group: options.group };
        const told = await farloom.tasks.cancelAll(what, { signal });
        output.result(told, () => {
          const missing = told.missing.length > 0 ? `, ${told.missing.length} not found` : "";
          return `${told.requested} asked to end, ${told.finished} had ended before${missing}.`;
        });
      }),
    );

  function coloured(task: TaskInfo): string {
    const colour =
      task.state === "SUCCEEDED"
        ? "green"
        : ["QUEUED", "LEASED", "STARTED"].includes(task.state)
          ? "yellow"
          : "red";
    return output.style(colour, task.state);
  }

  function show(task: TaskInfo): void {
    output.result(task, () => {
      const head = output.fields([
        ["id", task.id],
        ["state", coloured(task) + (task.reason ? ` (${task.reason})` : "")],
        [
          "left over",
          task.confirmed === undefined
            ? undefined
            : task.confirmed
              ? "nothing: no process of it runs"
              : "perhaps: nobody could look",
        ],
        [
          "told late",
          task.late &&
            `${task.late.state} at ${task.late.receivedAt}, after the task had ended; it changes nothing`,
        ],
        ["waiting", task.waiting?.message],
        ["function", task.function],
        ["endpoint", task.endpointName ?? task.endpoint],
        ["group", task.group],
        ["attempt", task.attempt],
        ["submitted", task.submittedAt],
        ["finished", task.finishedAt],
        ["ran", task.times && `${task.times.runMs} ms (of ${task.times.totalMs} ms in all)`],
        ["exit code", task.exitCode],
        ["result", task.result === undefined ? undefined : JSON.stringify(task.result)],
        [
          "large result",
          task.resultPayload && `${task.resultPayload.sizeBytes} bytes; farloom tasks result ${task.id}`,
        ],
        ["error", task.error && `${task.error.type}: ${task.error.message}`],
      ]);
      const parts = [
        ["traceback", task.error?.traceback],
        ["standard output", task.stdout],
        ["standard error", task.stderr],
      ]
        .filter(([, text]) => text)
        .map(([title, text]) => `\n${output.style("bold", title!)}\n${text!.trimEnd()}`);
      return [head, ...parts].join("\n");
    });
  }
}

function pick<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as Partial<T>;
}
