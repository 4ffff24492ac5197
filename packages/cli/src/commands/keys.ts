/** `farloom keys`: API keys. */
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { ago, collect, wholeNumber } from "../values.js";
import { addSignKeys } from "./sign-keys.js";

interface CreateFlags {
  readonly label: string;
  readonly scope?: string[];
  readonly endpoint?: string[];
  readonly function?: string[];
  readonly days: number;
}

export function addKeys(program: Command, context: Context): void {
  const { output } = context;
  const keys = program.command("keys").alias("key").description("API keys, and keys to sign with");

  keys
    .command("create")
    .description("make a key; it is shown once")
    .option("--label <text>", "what it is for", "made by farloom keys create")
    .option(
      "--scope <scope>",
      "what it may do, e.g. tasks:submit; may be repeated (default: all that you may)",
      collect(String),
    )
    .option(
      "--endpoint <name>",
      "for this endpoint alone, by id or name; may be repeated (default: all of yours)",
      collect(String),
    )
    .option(
      "--function <ref>",
      "for this function alone, by id, name or owner/name, with * for any letters; may be repeated",
      collect(String),
    )
    .option("--days <n>", "how long it is valid, at most 366", wholeNumber, 90)
    .action((options: CreateFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { label, scope, endpoint, function: fn, days } = options;
        const key = await farloom.keys.create(
          {
            label,
            expiresInDays: days,
            ...(scope && { scopes: scope }),
            ...(endpoint && { endpoints: endpoint }),
            ...(fn && { functions: fn }),
          },
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
          ["ID", "LABEL", "MADE", "VALID UNTIL", "SCOPES", "ONLY"],
          (key) => [
            key.id,
            key.label,
            ago(key.createdAt),
            key.revokedAt ? "revoked" : key.expiresAt?.slice(0, 10),
            key.scopes.join(" "),
            [...(key.endpoints ?? []), ...(key.functions ?? [])].join(" "),
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

  addSignKeys(keys, context);
}
