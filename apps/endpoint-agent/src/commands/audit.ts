/** `audit`: what the agent on this machine did, in its own words, and whether they are whole. */
import { createReadStream, existsSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type AgentAuditEntry, isUuid, parseAgentAuditLine } from "@farloom/protocol";
import { agentStatus } from "../agent.js";
import { auditFiles } from "../audit/audit-files.js";
import { verifyAudit } from "../audit/verify-audit.js";
import { CommandError, DONE, FAILED, NOT_THERE, type Place } from "./place.js";

/** Between two looks at files that are followed: shared file systems tell of no changes. */
const FOLLOW_MS = 250;
const ID_DIGITS = 32;
/** Tasks of one entry that are named to people; the rest is counted. */
const SHOWN_IDS = 3;
const USAGE = 2;
const HEAD = /^\d+:[0-9a-f]{64}$/;

export interface AuditFlags {
  readonly lines: number;
  readonly follow: boolean;
  readonly verify: boolean;
  /** Entries that name this task alone. */
  readonly task?: string | undefined;
  /** A file, or a folder of them, instead of the agent's own. */
  readonly file?: string | undefined;
  readonly head?: string | undefined;
}

export async function audit(place: Place, flags: AuditFlags): Promise<number> {
  const path = flags.file ?? place.paths.audit;
  if (!existsSync(path)) throw new CommandError(`there is no audit ${path}`, NOT_THERE);
  return flags.verify ? verify(place, path, flags) : list(place, path, flags);
}

/** A running agent remembers how far it has written: what was cut off the end since then shows. */
async function verify(place: Place, path: string, { file, head: given }: AuditFlags): Promise<number> {
  if (given !== undefined && !HEAD.test(given))
    throw new CommandError("--head is like 42:<64 hexadecimal digits>", USAGE);
  const own = file === undefined ? await agentStatus(place.paths.root) : undefined;
  const head = given ?? (own?.running ? own.status.audit : undefined);
  const verdict = await verifyAudit(path, { head: head || undefined });
  const { whole, why, file: where, head: holds, cutBytes, from } = verdict;
  const lines = whole
    ? [
        `The chain is whole, from entry ${from}. Keep this, and give it as --head the next time: ${holds}`,
        ...(cutBytes === undefined
          ? []
          : [`Its last record was cut (${cutBytes} bytes), as a crash does; the next start takes that off.`]),
      ]
    : [`The chain is broken: ${why}${where === undefined ? "" : ` (${where})`}. It holds up to ${holds}.`];
  place.result(verdict, lines.join("\n"));
  return whole ? DONE : FAILED;
}

async function list(place: Place, path: string, flags: AuditFlags): Promise<number> {
  const task = flags.task?.toLowerCase().replaceAll("-", "");
  if (flags.task !== undefined && !isUuid(flags.task) && !/^[0-9a-f]{32}$/.test(task ?? ""))
    throw new CommandError(`--task takes a task's id, not '${flags.task}'`, USAGE);
  const print = (told: Told): void =>
    void process.stdout.write(`${place.json ? JSON.stringify(told) : textOf(told)}\n`);
  const cursor: Cursor = { path, number: 0, at: 0, rest: "" };
  let last: Told[] = [];
  for await (const told of news(cursor, task)) {
    last.push(told);
    if (last.length > 2 * flags.lines) last = last.slice(-flags.lines);
  }
  if (flags.lines > 0) for (const told of last.slice(-flags.lines)) print(told);
  const ended = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => ended.abort());
  while (flags.follow && !ended.signal.aborted) {
    await sleep(FOLLOW_MS, undefined, { signal: ended.signal }).catch(() => undefined);
    for await (const told of news(cursor, task)) print(told);
  }
  return DONE;
}

interface Told extends AgentAuditEntry {
  readonly seq: number;
  readonly at: string;
}

/** How far the files have been read. */
interface Cursor {
  readonly path: string;
  number: number;
  at: number;
  rest: string;
}

/** The entries since the last call, of one task where it is named. */
async function* news(cursor: Cursor, task: string | undefined): AsyncGenerator<Told> {
  const files = statSync(cursor.path).isDirectory()
    ? auditFiles(cursor.path)
    : [{ number: 1, path: cursor.path }];
  for (const { number, path } of files) {
    if (number < cursor.number) continue;
    if (number > cursor.number) Object.assign(cursor, { number, at: 0, rest: "" });
    const { size } = statSync(path);
    if (size <= cursor.at) continue;
    const stream = createReadStream(path, { start: cursor.at, end: size - 1, encoding: "utf8" });
    cursor.at = size;
    for await (const piece of stream) {
      const lines = `${cursor.rest}${piece as string}`.split("\n");
      cursor.rest = lines.pop() ?? "";
      for (const line of lines) yield* entriesOf(line, task);
    }
  }
}

function* entriesOf(line: string, task: string | undefined): Generator<Told> {
  if (task !== undefined && !line.includes(task)) return;
  const record = parseAgentAuditLine(line);
  if (record === undefined)
    throw new CommandError("a line is no record: farloom endpoint audit --verify", FAILED);
  const { seq, at } = record;
  for (const entry of record.entries) {
    if (task === undefined) yield { seq, at, ...entry };
    else if (idsOf(entry).includes(task)) yield { seq, at, ...entry, ids: task };
  }
}

function idsOf({ ids }: AgentAuditEntry): string[] {
  const all: string[] = [];
  const text = typeof ids === "string" ? ids : "";
  for (let from = 0; from < text.length; from += ID_DIGITS) all.push(text.slice(from, from + ID_DIGITS));
  return all;
}

function textOf({ seq: _seq, at, what, ids, ...rest }: Told): string {
  const named = idsOf({ what, ids });
  const more = named.length > SHOWN_IDS ? ` and ${named.length - SHOWN_IDS} more` : "";
  const uuids = named
    .slice(0, SHOWN_IDS)
    .map((id) => id.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"));
  const words = Object.entries(rest).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return [at, what.padEnd(14), ...(named.length > 0 ? [`${uuids.join(" ")}${more}`] : []), ...words].join(
    "  ",
  );
}
