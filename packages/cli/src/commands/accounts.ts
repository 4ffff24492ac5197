/** `farloom accounts`: for administrators, who has an account and who may log in. */
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { ago } from "../values.js";

interface AccountInfo {
  readonly name: string;
  readonly admin: boolean;
  readonly disabled: boolean;
  readonly createdAt: string;
  readonly logins: string[];
}

export function addAccounts(program: Command, { output }: Context): void {
  const accounts = program.command("accounts").description("for administrators: people and how they log in");

  accounts
    .command("list")
    .description("everybody, by name")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.rest.json<{ items: AccountInfo[] }>({ path: "/v1/accounts", signal });
        output.list(
          items,
          ["NAME", "STATE", "MADE", "LOGS IN BY"],
          (item) => [
            item.name,
            item.disabled ? "disabled" : item.admin ? "administrator" : "",
            ago(item.createdAt),
            item.logins.join(" "),
          ],
          "No accounts.",
        );
      }),
    );

  accounts
    .command("invite <name>")
    .description("a one-time token with which somebody sets the password of a local account")
    .option("--admin", "of an administrator")
    .action((name: string, options: { admin?: boolean }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const made = await farloom.rest.json<{ token: string; url: string; expiresAt: string }>({
          method: "POST",
          path: "/v1/accounts",
          json: { name, ...(options.admin && { admin: true }) },
          signal,
        });
        output.result(made, () => made.token);
        if (!output.json)
          output.note(
            `Good once, until ${made.expiresAt.slice(0, 16)}Z, at ${made.url}. Give it to ${name} alone.`,
          );
      }),
    );

  for (const [verb, what] of [
    ["disable", "take none of somebody's keys and logins any more"],
    ["enable", "let somebody in again"],
  ] as const) {
    accounts
      .command(`${verb} <name>`)
      .description(what)
      .action((name: string, _options: object, command: Command) =>
        withClient(command, async (farloom, signal) => {
          await farloom.rest.send({
            method: "POST",
            path: `/v1/accounts/${encodeURIComponent(name)}/${verb}`,
            json: {},
            signal,
          });
          output.result(
            { [`${verb}d`]: name },
            () => `${verb === "disable" ? "Disabled" : "Enabled"} ${name}.`,
          );
        }),
      );
  }

  accounts
    .command("rotate-signing-key")
    .description(
      "make the next key of access tokens; the one before is believed until its tokens have expired",
    )
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const made = await farloom.rest.json<{ kid: string; activeAt: string }>({
          method: "POST",
          path: "/v1/signing-keys",
          json: {},
          signal,
        });
        output.result(made, () => `Tokens are signed with ${made.kid} from ${made.activeAt} on.`);
      }),
    );
}
