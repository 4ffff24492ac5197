/** `farloom audit`: who changed what, and whether the record of it is whole. */
import { createReadStream, createWriteStream, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { pipeline } from "node:stream/promises";
import { type AuditEntry, AuditVerifier } from "@farloom/protocol";
import type { Farloom } from "@farloom/sdk";
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { CliError, FAILED, USAGE } from "../exit-codes.js";
import { agentStateDir } from "../local/agent.js";
import { ask } from "../local/apps.js";
import { ago, wholeNumber } from "../values.js";

const PAGE = 1_000;
const HEAD = /^(\d+):([0-9a-f]{64})$/;

export function addAudit(program: Command, { output, result }: Context): void {
  const audit = program.command("audit").description("who changed what");

  audit
    .command("list")
    .description("the last changes; administrators see everybody's")
    .option("--limit <n>", "at most so many", wholeNumber, 50)
    .action((options: { limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const limit = Math.max(1, Math.min(options.limit, PAGE));
        const { items } = await farloom.audit.list({ order: "desc", limit, signal });
        output.list(
          items,
          ["NUMBER", "WHEN", "WHO", "KEY", "WHAT", "ON", "FROM", "OUTCOME"],
          (e) => [e.seq, ago(e.at), e.actor, e.credential, e.action, e.target, e.origin, e.code || e.status],
          "Nothing yet.",
        );
      }),
    );

  audit
    .command("export <file>")
    .description("write the whole chain to a file, a line of JSON for each entry")
    .action((file: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        let entries = 0;
        const lines = async function* () {
          for await (const entry of wholeChain(farloom, signal)) {
            entries++;
            yield `${JSON.stringify(entry)}\n`;
          }
        };
        await pipeline(lines, createWriteStream(file, { mode: 0o600, flags: "wx" }));
        output.result({ file, entries }, () => `Wrote ${entries} entries to ${file}.`);
      }),
    );

  audit
    .command("verify")
    .description("recompute the chain, and say where it breaks")
    .option("--file <path>", "what export wrote, or an agent's audit, instead of asking the service")
    .option("--agent", "the audit of the agent on this machine")
    .option("--state-dir <dir>", "with --agent: its folder (default: ~/.farloom/agent)")
    .option("--head <number:hash>", "what an earlier verify said: the chain must still hold it")
    .action(async (options: VerifyFlags, command: Command) => {
      if (options.agent || (options.file !== undefined && (await isAgents(options.file)))) {
        result.code = await askAgent(options, output);
        return;
      }
      const expected = options.head === undefined ? undefined : HEAD.exec(options.head);
      if (expected === null) throw new CliError("--head is like 42:<64 hexadecimal digits>", USAGE);
      const check = (entries: AsyncIterable<AuditEntry>) => verify(entries, expected);
      const { why, head } =
        options.file === undefined
          ? await withClient(command, (farloom, signal) => check(wholeChain(farloom, signal)))
          : await check(fromFile(options.file));
      if (why !== undefined) result.code = FAILED;
      output.result(
        { whole: why === undefined, ...(why && { why }), head: `${head.seq}:${head.hash}` },
        () =>
          why === undefined
            ? `The chain of ${head.seq} entries is whole. Keep this, and give it as --head the next time: ${head.seq}:${head.hash}`
            : `${output.style("red", "The chain is broken:")} ${why}. It holds up to entry ${head.seq}.`,
      );
    });
}

interface VerifyFlags {
  readonly file?: string;
  readonly head?: string;
  readonly agent?: boolean;
  readonly stateDir?: string;
}

/** Whether a file was written by an agent: its records have entries, several to a line. */
async function isAgents(path: string): Promise<boolean> {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return true;
  for await (const line of createInterface({ input: createReadStream(path) })) return AGENTS_LINE.test(line);
  return false;
}
const AGENTS_LINE = /^\{"at":"[^"]{0,40}","entries":\[/;

/** The agent's own program knows its files; its exit code. */
async function askAgent(
  { agent, file, head, stateDir }: VerifyFlags,
  output: Context["output"],
): Promise<number> {
  const args = ["audit", "--verify", "--state-dir", agentStateDir(stateDir)];
  if (!agent && file !== undefined) args.push("--file", file);
  if (head !== undefined) args.push("--head", head);
  if (output.json) args.push("--json");
  const { code, stdout, stderr } = await ask("endpoint-agent", args);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  return code;
}

interface Verdict {
  readonly why: string | undefined;
  readonly head: { readonly seq: number; readonly hash: string };
}

async function verify(
  entries: AsyncIterable<AuditEntry>,
  expected: RegExpExecArray | undefined,
): Promise<Verdict> {
  const verifier = new AuditVerifier();
  const seq = Number(expected?.[1] ?? 0);
  for await (const entry of entries) {
    const why = verifier.add(entry);
    if (why !== undefined) return { why, head: verifier.head };
    if (entry.seq === seq && entry.hash !== expected![2])
      return { why: `entry ${seq} is not the one of before: the chain was made anew`, head: verifier.head };
  }
  const { head } = verifier;
  return { why: head.seq < seq ? `it ends before entry ${seq}: its end was cut off` : undefined, head };
}

async function* wholeChain(farloom: Farloom, signal: AbortSignal): AsyncGenerator<AuditEntry> {
  let cursor: string | undefined;
  do {
    const { items, nextCursor, whole } = await farloom.audit.list({ cursor, limit: PAGE, signal });
    if (!whole) throw new CliError("only an administrator sees the whole chain", FAILED);
    yield* items;
    cursor = nextCursor ?? undefined;
  } while (cursor !== undefined);
}

async function* fromFile(file: string): AsyncGenerator<AuditEntry> {
  for await (const line of createInterface({ input: createReadStream(file) })) {
    if (line.trim() === "") continue;
    try {
      yield JSON.parse(line) as AuditEntry;
    } catch {
      throw new CliError(`${file} has a line that is not JSON: ${line.slice(0, 60)}`, FAILED);
    }
  }
}
