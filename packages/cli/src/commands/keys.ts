/** `farloom keys`: API keys. */
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { ago, collect, wholeNumber } from "../values.js";

export function addKeys(program: Command, { output }: Context): void {
  const keys = program.command("keys").alias("key").description("API keys");

  keys
    .command("create")
    .description("make a key; it is shown once")
    .option("--label <text>", "what it is for", "made by farloom keys create")
    .option(
      "--scope <scope>",
      "what it may do, e.g. tasks:submit; may be repeated (default: all that you may)",
      collect(String),
    )
    .option("--days <n>", "how long it is valid", wholeNumber, 90)
    .action((options: { label: string; scope?: string[]; days: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { label, scope, days } = options;
        const key = await farloom.keys.create(
          { label, expiresInDays: days, ...(scope && { scopes: scope }) },
          { signal },
        );
        output.result(key, () => key.key);
        if (!output.json)
          output.note(
            `It is not shown again. Valid until ${key.expiresAt?.slice(0, 10)}; scopes: ${key.scopes.join(", ")}.`,
          );
      }),
    );

  keys
    .command("list")
    .description("your keys, without their secrets")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.keys.list({ signal });
        output.list(
          items,
          ["ID", "LABEL", "MADE", "VALID UNTIL", "SCOPES"],
          (key) => [
            key.id,
            key.label,
            ago(key.createdAt),
            key.revokedAt ? "revoked" : key.expiresAt?.slice(0, 10),
            key.scopes.join(" "),
          ],
          "No keys.",
        );
      }),
    );

  keys
    .command("revoke <id>")
    .description("end a key at once")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.keys.revoke(id, { signal });
        output.result({ revoked: id }, () => `Revoked ${id}.`);
      }),
    );
}
