/** `farloom login`: which service, with which key. The key comes by standard input or prompt, so that no process list shows it. */
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { configPath, Farloom, readConfigFile } from "@farloom/sdk";
import type { Command } from "commander";
import { saveConfig } from "../config-file.js";
import type { Context } from "../context.js";
import { CliError, USAGE } from "../exit-codes.js";

export function addLogin(program: Command, { output }: Context): void {
  program
    .command("login")
    .description("set the service and the API key that commands and SDKs use by default")
    .option("--url <url>", "the service's address")
    .option("--key <key>", "the API key; - reads it from standard input (default: asks)")
    .option("--endpoint <name>", "where calls run that name no endpoint")
    .action(async (options: { url?: string; key?: string; endpoint?: string }, command: Command) => {
      const url = command.optsWithGlobals<{ url?: string }>().url ?? readConfigFile().url;
      if (url === undefined) throw new CliError("which service?", USAGE, "farloom login --url https://…");
      if (options.key !== undefined && options.key !== "-") {
        output.note(
          "note: others on this machine can see arguments; '--key -' reads the key from standard input",
        );
      }
      const apiKey = options.key === undefined || options.key === "-" ? await askKey() : options.key;
      const farloom = new Farloom({ url, apiKey, requestAttempts: 2 });
      try {
        const me = await farloom.rest.json<{ owner: string; scopes: string[]; expiresAt: string }>({
          path: "/v1/me",
        });
        const path = configPath();
        saveConfig(path, {
          url: farloom.options.url,
          apiKey,
          ...(options.endpoint && { endpoint: options.endpoint }),
        });
        output.result({ url, owner: me.owner, scopes: me.scopes, config: path }, () =>
          [
            `Logged in to ${url} as ${output.style("bold", me.owner)}.`,
            `Kept in ${path}; the key is valid until ${me.expiresAt.slice(0, 10)}.`,
          ].join("\n"),
        );
      } finally {
        await farloom.close();
      }
    });
}

async function askKey(): Promise<string> {
  const isTerminal = process.stdin.isTTY === true;
  // What is typed is not shown.
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  if (isTerminal) process.stderr.write("API key: ");
  const lines = createInterface({ input: process.stdin, output: silent, terminal: isTerminal });
  try {
    for await (const line of lines) {
      if (isTerminal) process.stderr.write("\n");
      if (line.trim() !== "") return line.trim();
    }
  } finally {
    lines.close();
  }
  throw new CliError("no key was given", USAGE, "farloom login --url URL --key - < key-file");
}
