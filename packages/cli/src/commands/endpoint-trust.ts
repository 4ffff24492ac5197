/** `farloom endpoint trust`: whose functions the agent on this machine runs. It changes trust.toml by the agent's program. */
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { CliError, FAILED } from "../exit-codes.js";
import { agentStateDir } from "../local/agent.js";
import { ask } from "../local/apps.js";
import { collect } from "../values.js";

interface LocalFlags {
  readonly stateDir?: string;
}

interface AddFlags extends LocalFlags {
  readonly name?: string;
  readonly function?: string[];
  readonly invoke?: string[];
  readonly notAfter?: string;
}

interface TrustView {
  readonly file: string;
  readonly mode: string;
  readonly invocations: string;
  readonly deny: readonly string[];
  readonly keys: readonly {
    readonly name: string;
    readonly keyId: string;
    readonly functions: readonly string[];
    readonly invokes: readonly string[];
    readonly notAfter?: string;
    readonly isRevoked: boolean;
  }[];
}

export function addEndpointTrust(endpoint: Command, { output, result }: Context): void {
  const trust = endpoint.command("trust").description("whose functions the agent on this machine runs");
  const local = (name: string) =>
    trust.command(name).option("--state-dir <dir>", "the agent's folder (default: ~/.farloom/agent)");

  const show = (view: TrustView): void =>
    output.result(view, () => {
      const rows = view.keys.map((key) => [
        key.name,
        key.keyId,
        key.functions.join(" "),
        key.invokes.join(" "),
        key.isRevoked ? "revoked" : (key.notAfter ?? ""),
      ]);
      return [
        `Mode ${output.style("bold", view.mode)}; calls that must be signed: ${view.invocations}.`,
        rows.length === 0
          ? "No keys. Trust one: farloom endpoint trust add KEY --function OWNER/NAME"
          : output.table(["KEY", "ID", "SIGNS", "CALLS", "UNTIL"], rows),
        ...view.deny.map((id) => `Never ${id}`),
      ].join("\n");
    });

  local("list")
    .description("mode and keys")
    .action(async (flags: LocalFlags) => show((await asked(["list"], flags)) as TrustView));

  local("add <key>")
    .description(
      "trust a key: its line (ed25519:…), or a file with it; a key that is there gets what is said anew",
    )
    .option(
      "--function <ref>",
      "for functions of this name: owner/name, owner/name@version, with * for any letters; may be repeated",
      collect(String),
    )
    .option(
      "--invoke <ref>",
      "whose calls it may sign (default: what it signs); may be repeated",
      collect(String),
    )
    .option("--name <name>", "what to call it (default: the line's comment)")
    .option("--not-after <time>", "until when, e.g. 2027-01-01T00:00:00Z")
    .action(async (key: string, flags: AddFlags) => {
      const args = [
        ...(flags.function ?? []).flatMap((ref) => ["--function", ref]),
        ...(flags.invoke ?? []).flatMap((ref) => ["--invoke", ref]),
        ...(flags.name === undefined ? [] : ["--name", flags.name]),
        ...(flags.notAfter === undefined ? [] : ["--not-after", flags.notAfter]),
      ];
      show((await asked(["add", key, ...args], flags)) as TrustView);
    });

  local("remove <key>")
    .description("trust a key no more, by name, id or line; what waits is asked about again at once")
    .action(async (key: string, flags: LocalFlags) =>
      show((await asked(["remove", key], flags)) as TrustView),
    );

  local("deny <id>")
    .description("never run this function, by its id, whoever signed it")
    .action(async (id: string, flags: LocalFlags) => show((await asked(["deny", id], flags)) as TrustView));

  local("mode <mode>")
    .description("enforce, warn (runs and logs) or off")
    .option("--invocations <rule>", "calls that must be signed: off, code (whose arguments are code) or all")
    .action(async (mode: string, flags: LocalFlags & { invocations?: string }) => {
      const rule = flags.invocations === undefined ? [] : ["--invocations", flags.invocations];
      show((await asked(["mode", mode, ...rule], flags)) as TrustView);
    });

  local("check <ref>")
    .description("whether the agent on this machine would run a function")
    .action((ref: string, flags: LocalFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { id, ref: named } = await farloom.functions.get(ref, { signal });
        const { items } = await farloom.functions.signatures(named, { signal });
        const input = JSON.stringify({ id, envelopes: items.map(({ envelope }) => envelope) });
        const verdict = (await asked(["check"], flags, input)) as {
          isTrusted: boolean;
          why?: string;
          signer?: string;
        };
        if (!verdict.isTrusted) result.code = FAILED;
        output.result({ ref: named, id, ...verdict }, () =>
          verdict.isTrusted
            ? `${named} is trusted: ${verdict.signer} signed it.`
            : `${named} is not trusted: ${verdict.why}.`,
        );
      }),
    );
}

async function asked(words: readonly string[], { stateDir }: LocalFlags, input = ""): Promise<unknown> {
  const args = ["trust", ...words, "--state-dir", agentStateDir(stateDir)];
  const answer = await ask("endpoint-agent", args, { input });
  if (answer.code !== 0) throw new CliError(answer.stderr.split("\n", 1)[0] || "it failed", FAILED);
  return JSON.parse(answer.stdout);
}
