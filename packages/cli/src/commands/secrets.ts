/**
 * `farloom secrets`: what functions are given by name. A value comes by standard input or a prompt that shows nothing, never
 * as an argument, which others on the machine could see.
 */
import { MIN_MASKED_BYTES } from "@farloom/protocol";
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { CliError, USAGE } from "../exit-codes.js";
import { askHidden } from "../local/ask-hidden.js";
import type { Output } from "../output.js";
import { ago, collect } from "../values.js";

const MANY_ENDPOINTS = "all of yours";

export function addSecrets(program: Command, { output }: Context): void {
  const secrets = program.command("secrets").alias("secret").description("what functions are given by name");

  secrets
    .command("set <name>")
    .description(
      "store a secret, or another value for it; the value comes by standard input, or is asked for",
    )
    .option(
      "--endpoint <name>",
      "it may go to this endpoint alone, by id, name or owner/name; may be repeated (default: all of yours)",
      collect(String),
    )
    .addHelpText("after", HELP)
    .action((name: string, options: { endpoint?: string[] }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const value = await readValue(name);
        const { endpoint: endpoints } = options;
        const secret = await farloom.secrets.set(name, value, { ...(endpoints && { endpoints }), signal });
        output.result(
          secret,
          () => `Stored ${output.style("bold", name)}, for ${placesOf(secret.endpoints)}.`,
        );
        warnOfShort(value, output);
      }),
    );

  secrets
    .command("list")
    .description("your secrets by name, without their values")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.secrets.list({ signal });
        output.list(
          items,
          ["NAME", "SET", "LAST USED", "ENDPOINTS"],
          (secret) => [
            secret.name,
            ago(secret.updatedAt),
            ago(secret.lastUsedAt) || "never",
            placesOf(secret.endpoints),
          ],
          "No secrets. Store one: farloom secrets set NAME",
        );
      }),
    );

  secrets
    .command("remove <name>")
    .alias("delete")
    .description("remove a secret; tasks that begin from now on are not given it")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.secrets.remove(name, { signal });
        output.result({ removed: name }, () => `Removed ${name}.`);
      }),
    );
}

const HELP = `
  $ farloom secrets set DB_PASSWORD              asks for it
  $ farloom secrets set DB_PASSWORD < file       one newline at its end is left out
  $ farloom functions register f.py --secret DB_PASSWORD`;

async function readValue(name: string): Promise<string> {
  const value = process.stdin.isTTY ? await askHidden(`Value of ${name}: `) : await readAll();
  if (value === "") throw new CliError("no value was given", USAGE, `farloom secrets set ${name} < file`);
  return value;
}

async function readAll(): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of process.stdin as AsyncIterable<Buffer>) pieces.push(piece);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces)).replace(/\r?\n$/, "");
  } catch {
    throw new CliError("a secret is text in UTF-8", USAGE, "put bytes into it as base64");
  }
}

function warnOfShort(value: string, output: Output): void {
  if (Buffer.byteLength(value) < MIN_MASKED_BYTES && !output.json)
    output.note(`note: a value shorter than ${MIN_MASKED_BYTES} bytes is not masked in what functions write`);
}

function placesOf(endpoints: readonly string[]): string {
  return endpoints.length === 0 ? MANY_ENDPOINTS : endpoints.join(" ");
}
