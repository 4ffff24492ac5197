/**
 * `farloom login`, `logout`, `whoami`, `sessions`: who one is, at which service. People log in by browser: where there is a
 * display it opens by itself, else a code is shown that one types on any machine. An API key comes by standard input or
 * prompt, so that no process list shows it.
 */
import { createRequire } from "node:module";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { type ConfigFile, configPath, Farloom, readConfigFile } from "@farloom/sdk";
import type { Command } from "commander";
import { saveConfig } from "../config-file.js";
import { type Context, withClient } from "../context.js";
import { CliError, NOT_AUTHENTICATED, USAGE } from "../exit-codes.js";
import { hasDisplay, openBrowser } from "../local/browser.js";
import { awaitApproval, beginDeviceLogin, offersLogin, revokeLogin } from "../local/device-login.js";
import type { Output } from "../output.js";
import { ago } from "../values.js";

const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };

interface LoginFlags {
  readonly url?: string;
  readonly key?: string;
  readonly device?: boolean;
  readonly endpoint?: string;
}

interface Me {
  readonly owner: string;
  readonly admin?: boolean;
  readonly keyId?: string;
  readonly scopes: string[];
  readonly expiresAt: string;
}

export function addLogin(program: Command, context: Context): void {
  const { output } = context;
  program
    .command("login")
    .description("log in to a service, by browser or with an API key; commands and SDKs use it by default")
    .option("--url <url>", "the service's address")
    .option("--device", "show a code to type on another machine, and open no browser here")
    .option("--key <key>", "use this API key instead; - reads it from standard input")
    .option("--endpoint <name>", "where calls run that name no endpoint")
    .action(async (options: LoginFlags, command: Command) => {
      const before = readConfigFile();
      const given = command.optsWithGlobals<{ url?: string }>().url ?? before.url;
      if (given === undefined) throw new CliError("which service?", USAGE, "farloom login --url https://…");
      const url = given.replace(/\/+$/, "");
      const endpoint = options.endpoint ?? (before.url === url ? before.endpoint : undefined);
      const place: ConfigFile = { url, ...(endpoint && { endpoint }) };
      if (options.key !== undefined || !(await offersLogin(url)))
        await keepKey(place, await keyFrom(options.key, output), output);
      else await logIn(place, options.device === true, output);
      // The login of before is nobody's any more. Where its service is away, it ends by not being used.
      if (before.login !== undefined && before.url !== undefined)
        await revokeLogin(before.url, before.login.refreshToken).catch(() => undefined);
    });

  program
    .command("logout")
    .description("end the login of this machine, and forget it")
    .action(async () => {
      const path = configPath();
      const { login, apiKey, ...rest } = readConfigFile(path);
      if (login === undefined && apiKey === undefined)
        throw new CliError("nobody is logged in here", NOT_AUTHENTICATED);
      if (login !== undefined && rest.url !== undefined) await revokeLogin(rest.url, login.refreshToken);
      saveConfig(path, rest);
      output.result({ loggedOut: true, revoked: login !== undefined }, () =>
        login === undefined
          ? "Forgot the API key. It is valid still: farloom keys revoke ends one."
          : `Logged out of ${rest.url}.`,
      );
    });

  program
    .command("whoami")
    .description("whose credential is used, at which service, and what it may do")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const me = await farloom.rest.json<Me>({ path: "/v1/me", signal });
        const { url } = farloom.options;
        const by = farloom.options.login === undefined ? "API key" : "login";
        output.result({ url, by, ...me }, () =>
          output.fields([
            ["name", me.owner],
            ["service", url],
            ["by", `${by} ${me.keyId ?? ""}`],
            ["administrator", me.admin ? "yes" : "no"],
            ["scopes", me.scopes.join(" ")],
          ]),
        );
      }),
    );
  addSessions(program, context);
}

interface SessionInfo {
  readonly id: string;
  readonly kind: string;
  readonly client: string;
  readonly origin: string;
  readonly current: boolean;
  readonly lastUsedAt: string;
  readonly expiresAt: string;
}

function addSessions(program: Command, { output }: Context): void {
  const sessions = program.command("sessions").description("your logins, of browsers and programs");
  sessions
    .command("list")
    .description("those that hold")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.rest.json<{ items: SessionInfo[] }>({ path: "/v1/sessions", signal });
        output.list(
          items,
          ["ID", "WHAT", "FROM", "USED", "UNTIL"],
          (item) => [
            item.current ? `${item.id} (this)` : item.id,
            item.client.slice(0, 60),
            item.origin,
            ago(item.lastUsedAt),
            item.expiresAt.slice(0, 10),
          ],
          "No logins.",
        );
      }),
    );
  sessions
    .command("revoke <id>")
    .description("end a login at once")
    .action((id: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.rest.send({
          method: "DELETE",
          path: `/v1/sessions/${encodeURIComponent(id)}`,
          signal,
        });
        output.result({ revoked: id }, () => `Revoked ${id}.`);
      }),
    );
}

async function logIn(place: ConfigFile, isDevice: boolean, output: Output): Promise<void> {
  const url = place.url!;
  const codes = await beginDeviceLogin(url, version);
  const opened = !isDevice && hasDisplay() && (await openBrowser(codes.pageWithCode));
  // Beside results, never among them: with --json too, as somebody has to read it.
  output.note(
    opened
      ? `Your browser opens ${codes.page}. Compare the code there:  ${codes.userCode}`
      : `Open ${codes.page} in any browser, and type the code:  ${codes.userCode}`,
  );
  output.note(`It holds for ${Math.round(codes.expiresInS / 60)} minutes. Waiting …`);
  const abort = new AbortController();
  const onInterrupt = () => abort.abort();
  process.once("SIGINT", onInterrupt);
  try {
    const login = await awaitApproval(url, codes, abort.signal);
    const path = configPath();
    saveConfig(path, { ...place, login });
    const farloom = new Farloom({ url, apiKey: login.accessToken, requestAttempts: 2 });
    try {
      const me = await farloom.rest.json<Me>({ path: "/v1/me" });
      output.result(
        { url, owner: me.owner, scopes: me.scopes, config: path },
        () => `Logged in to ${url} as ${output.style("bold", me.owner)}. Kept in ${path}.`,
      );
    } finally {
      await farloom.close();
    }
  } finally {
    process.removeListener("SIGINT", onInterrupt);
  }
}

async function keepKey(place: ConfigFile, apiKey: string, output: Output): Promise<void> {
  const farloom = new Farloom({ url: place.url!, apiKey, requestAttempts: 2 });
  try {
    const me = await farloom.rest.json<Me>({ path: "/v1/me" });
    const path = configPath();
    const { url } = farloom.options;
    saveConfig(path, { ...place, url, apiKey });
    output.result({ url, owner: me.owner, scopes: me.scopes, config: path }, () =>
      [
        `Logged in to ${url} as ${output.style("bold", me.owner)}.`,
        `Kept in ${path}; the key is valid until ${me.expiresAt.slice(0, 10)}.`,
      ].join("\n"),
    );
  } finally {
    await farloom.close();
  }
}

async function keyFrom(given: string | undefined, output: Output): Promise<string> {
  if (given === undefined || given === "-") return askKey();
  output.note("note: others on this machine can see arguments; '--key -' reads the key from standard input");
  return given;
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
