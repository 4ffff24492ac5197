/**
 * One look at the queue for all blocks of an endpoint, and what Slurm tells of a job that is no longer in it.
 *
 * squeue is asked for the user's jobs, which the controller sorts out itself; those of other endpoints and of the user are
 * left out here.
 */
import { type Environment, runSlurm, type SlurmFailure } from "./slurm-command.js";

/** A job as Slurm describes it. */
export interface JobRow {
  readonly jobId: string;
  readonly name: string;
  readonly state: string;
  readonly reason: string;
  /** In Slurm's short form; empty where there are none. */
  readonly nodeList: string;
  /** Begun, or expected to: milliseconds since 1970 by the controller's clock. */
  readonly startMs?: number;
  readonly restarts: number;
}

export type QueueLook =
  | { readonly ok: true; readonly rows: ReadonlyMap<string, readonly JobRow[]>; readonly askedAtMs: number }
  | { readonly ok: false; readonly failure: SlurmFailure };

/** The name comes last: of all fields, only names of other jobs may hold any character. */
const FIELDS = ["JobID", "State", "Reason", "NodeList", "StartTime", "RestartCnt", "Name"];
const ROW = /^(\d+)\|([A-Z_]+)\|([^|]*)\|([^|]*)\|([^|]*)\|(\d+)\|(.*)\|$/;

/** Jobs of this user whose name begins with `prefix`, by name, those that ended lately included. Never rejects. */
export async function lookAtQueue(prefix: string, env: Environment): Promise<QueueLook> {
  const askedAtMs = performance.now();
  const format = FIELDS.map((field) => `${field}:|`).join(",");
  const args = ["--noheader", "--states=all", `--user=${process.getuid?.()}`, `--Format=${format}`];
  const answer = await runSlurm("squeue", args, { env: readingEnvironment(env) });
  if (!answer.ok) return answer;
  return { ok: true, rows: parseQueue(answer.output, prefix), askedAtMs };
}

/** Lines that are no job of this endpoint are passed over. */
export function parseQueue(output: string, prefix: string): Map<string, JobRow[]> {
  const rows = new Map<string, JobRow[]>();
  for (const line of output.split("\n")) {
    const [, jobId, state, reason, nodeList, start, restarts, name] = ROW.exec(line) ?? [];
    if (!name?.startsWith(prefix)) continue;
    const row: JobRow = {
      jobId: jobId!,
      name,
      state: state!,
      reason: reason === "None" ? "" : reason!.trim(),
      nodeList: nodeList!.trim(),
      ...epochOf(start!),
      restarts: Number(restarts),
    };
    rows.set(name, [...(rows.get(name) ?? []), row]);
  }
  return rows;
}

function epochOf(seconds: string): { startMs?: number } {
  return /^\d{1,12}$/.test(seconds.trim()) ? { startMs: Number(seconds) * 1000 } : {};
}

/** `none`: whoever was asked answered, and knows no such job. */
export type JobLookup =
  | { readonly found: "job"; readonly row: JobRow }
  | { readonly found: "none" }
  | { readonly found: "failure"; readonly failure: SlurmFailure };

/** The controller's own record of one job. It outlives a change of the job's name. Never rejects. */
export async function showJob(jobId: string, env: Environment): Promise<JobLookup> {
  const answer = await runSlurm("scontrol", ["--oneliner", "show", "job", jobId], {
    env: readingEnvironment(env),
  });
  if (!answer.ok) {
    if (/Invalid job id/i.test(answer.failure.message)) return { found: "none" };
    return { found: "failure", failure: answer.failure };
  }
  const field = (name: string) => new RegExp(`(?:^| )${name}=(\\S*)`).exec(answer.output)?.[1] ?? "";
  const row: JobRow = {
    jobId,
    name: field("JobName"),
    state: field("JobState"),
    reason: field("Reason") === "None" ? "" : field("Reason"),
    nodeList: field("NodeList") === "(null)" ? "" : field("NodeList"),
    ...epochOf(field("StartTime")),
    restarts: Number(field("Restarts")) || 0,
  };
  return { found: "job", row };
}

/** How far back accounting is asked: longer than a block lives and its agent is away. */
const ACCOUNTING_SINCE = "now-60days";

/** What accounting knows of the last job of that name; `none` as well where there is no accounting. Never rejects. */
export async function accountedJob(name: string, env: Environment): Promise<JobLookup> {
  const args = [
    "--noheader",
    "--parsable2",
    "--allocations",
    `--user=${process.getuid?.()}`,
    `--name=${name}`,
    `--starttime=${ACCOUNTING_SINCE}`,
    "--format=JobIDRaw,State,Reason,NodeList,Start",
  ];
  const answer = await runSlurm("sacct", args, { env: readingEnvironment(env) });
  if (!answer.ok) {
    const { kind, message } = answer.failure;
    if (kind === "missing" || /accounting storage is disabled/i.test(message)) return { found: "none" };
    return { found: "failure", failure: answer.failure };
  }
  return parseAccounting(answer.output, name);
}

/** The last line is the latest job. */
export function parseAccounting(output: string, name: string): JobLookup {
  const fields = output.trim().split("\n").at(-1)!.split("|");
  if (fields.length < 5) return { found: "none" };
  const [jobId, state, reason, nodeList, start] = fields as [string, string, string, string, string];
  const row: JobRow = {
    jobId,
    name,
    state,
    reason: reason === "None" ? "" : reason,
    nodeList: nodeList === "None assigned" ? "" : nodeList,
    ...epochOf(start),
    restarts: 0,
  };
  return { found: "job", row };
}

/** Times as seconds since 1970, whatever the time zones of agent and cluster; words as Slurm has them. */
function readingEnvironment(env: Environment): Environment {
  return { ...env, SLURM_TIME_FORMAT: "%s", LC_ALL: "C" };
}
