/** `farloom webhooks`: be told over HTTP of what has ended. */
import type { WebhookEvent, WebhookSpec } from "@farloom/sdk";
import { type Command, Option } from "commander";
import { type Context, withClient } from "../context.js";
import { ago, collect, wholeNumber } from "../values.js";

interface Flags {
  readonly event?: WebhookEvent[];
  readonly name?: string;
  readonly onlyFailed?: boolean;
  readonly all?: boolean;
  readonly endpoint?: string;
  readonly to?: string;
  readonly enable?: boolean;
  readonly disable?: boolean;
}

const eventOption = (): Option =>
  new Option("--event <event>", "task.done or group.done; may be repeated")
    .choices(["task.done", "group.done"])
    .argParser(collect(String));

/** What is told once of a secret. */
const SECRET_NOTE =
  "The secret is not shown again: the receiver checks signatures with it (docs/webhooks.md).";

export function addWebhooks(program: Command, { output }: Context): void {
  const webhooks = program
    .command("webhooks")
    .alias("webhook")
    .description("be told over HTTP of what has ended");

  webhooks
    .command("create <to>")
    .description("register a URL; prints its secret")
    .addOption(eventOption())
    .option("--name <text>", "what it is for")
    .option("--only-failed", "only what did not succeed")
    .option("--endpoint <name>", "only what ran there")
    .action((to: string, options: Flags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const events = options.event ?? (["group.done"] as const);
        const made = await farloom.webhooks.create({ url: to, events, ...specOf(options) }, { signal });
        output.result(made, () => made.secret);
        if (!output.json) output.note(`Webhook ${made.id}, for ${made.events.join(" and ")}. ${SECRET_NOTE}`);
      }),
    );

  webhooks
    .command("list")
    .description("your webhooks")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.webhooks.list({ signal });
        output.list(
          items,
          ["ID", "NAME", "EVENTS", "HOST", "STATE", "MADE"],
          (hook) => [
            hook.id,
            hook.name,
            hook.events.join(" "),
            new URL(hook.url).host,
            stateOf(hook),
            ago(hook.createdAt),
          ],
          "No webhooks. Register one: farloom webhooks create https://…",
        );
      }),
    );

  webhooks
    .command("show <id>")
    .description("one of them")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const hook = await farloom.webhooks.get(id, { signal });
        output.result(hook, () =>
          output.table(
            ["WHAT", ""],
            Object.entries(hook).map(([what, value]) => [
              what,
              Array.isArray(value) ? value.join(" ") : String(value),
            ]),
          ),
        );
      }),
    );

  webhooks
    .command("change <id>")
    .description("change what is told, to where, or whether at all")
    .addOption(eventOption())
    .option("--to <url>", "another URL")
    .option("--name <text>", "what it is for")
    .option("--only-failed", "only what did not succeed")
    .option("--all", "what succeeded, too")
    .option("--endpoint <name>", "only what ran there; an empty one: anywhere")
    .option("--enable", "tell again of what ends from now on")
    .option("--disable", "tell of nothing")
    .action((id: string, options: Flags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { event, to, all, enable, disable } = options;
        const hook = await farloom.webhooks.change(
          id,
          {
            ...specOf(options),
            ...(event && { events: event }),
            ...(to && { url: to }),
            ...(all && { onlyFailed: false }),
            ...(enable && { enabled: true }),
            ...(disable && { enabled: false }),
          },
          { signal },
        );
        output.result(hook, () => `Changed ${hook.id}: ${stateOf(hook)}.`);
      }),
    );

  webhooks
    .command("rotate <id>")
    .description("another secret; the one before signs beside it for 24 hours")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const made = await farloom.webhooks.rotate(id, { signal });
        output.result(made, () => made.secret);
        if (!output.json) output.note(SECRET_NOTE);
      }),
    );

  webhooks
    .command("test <id>")
    .description("send a ping, and say what came of it")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const sent = await farloom.webhooks.test(id, { signal });
        output.result(sent, () => `${sent.state} in ${sent.ms ?? 0} ms${whyOf(sent)}.`);
      }),
    );

  webhooks
    .command("deliveries <id>")
    .description("what became of the last ones")
    .option("--limit <n>", "how many, at most 200", wholeNumber, 50)
    .action((id: string, { limit }: { limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.webhooks.deliveries(id, { limit, signal });
        output.list(
          items,
          ["WHEN", "EVENT", "OF", "STATE", "TRIES", "LAST TRY"],
          (sent) => [
            ago(sent.createdAt),
            sent.event,
            sent.subject,
            sent.state,
            String(sent.attempts),
            sent.ms === undefined ? "" : `${sent.ms} ms${whyOf(sent)}`,
          ],
          "Nothing was sent yet. Try it: farloom webhooks test ID",
        );
      }),
    );

  webhooks
    .command("delete <id>")
    .description("delete one, and what waits for it")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.webhooks.delete(id, { signal });
        output.result({ deleted: id }, () => `Deleted ${id}.`);
      }),
    );
}

function specOf({ name, onlyFailed, endpoint }: Flags): Partial<WebhookSpec> {
  return {
    ...(name !== undefined && { name }),
    ...(onlyFailed && { onlyFailed }),
    ...(endpoint !== undefined && { endpoint: endpoint === "" ? null : endpoint }),
  };
}

function stateOf({
  enabled,
  disabledReason,
  failingSince,
}: {
  enabled: boolean;
  disabledReason?: string;
  failingSince?: string;
}): string {
  if (!enabled) return disabledReason ? `disabled: ${disabledReason}` : "disabled";
  return failingSince ? `failing for ${ago(failingSince).replace(" ago", "")}` : "enabled";
}

const whyOf = ({ error, status }: { error?: string; status?: number }): string =>
  error ? ` (${error}${status === undefined ? "" : ` ${status}`})` : "";
