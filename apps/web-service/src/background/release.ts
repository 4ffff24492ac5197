// Tasks that wait for a time: a delay asked for, or the backoff before a retry. Both are one mechanism: `not_before`
// in the task's row says that it waits and until when; a release job clears it when the time has come.
//
// 1. The row is the truth. A job names tasks, and releases those of them that are due by PostgreSQL's clock.
// 2. The sweep releases what is overdue by itself, without any job, and makes the jobs of what is due soon again.
//    So losing every job costs at most one sweep interval.
// 3. Jobs exist only for the near future; what is due later waits in its row for a sweep. However many tasks are
//    delayed, the backend holds few jobs.

import { createHash } from "node:crypto";
import { crashPoint } from "@farloom/protocol/testing";
import type pg from "pg";
import type { Logger } from "pino";
import type { JobKind, JobRequest } from "./queues.js";

/** What a release job carries. */
export interface ReleaseJob {
  readonly taskIds: readonly string[];
}

export interface ReleaseDeps {
  readonly pool: pg.Pool;
  readonly log: Logger;
  /** These tasks of the endpoint are runnable; called after the commit. */
  readonly onReleased: (endpointId: string, taskIds: readonly string[]) => void | Promise<void>;
}

/** Ids in a job and in a statement: 36 KB of JSON, a few milliseconds of PostgreSQL. */
const BATCH_SIZE = 1_000;
/** At most this many tasks get their jobs in one sweep; the next one takes the rest. */
const SWEEP_LIMIT = 50_000;
/** A job may fire a moment before the row is due, as delays are measured by two clocks. */
const TOLERANCE_MS = 50;
/** A job that finds its tasks not yet due comes again no sooner than this. */
const MIN_DELAY_MS = 20;

/** A released task takes its place at the end of the queue: an owner has read past the place it was drawn for. */
const RELEASE = "UPDATE task SET not_before = NULL, seq = nextval('task_seq_seq')";

const RELEASE_IDS = `
  ${RELEASE}
   WHERE id = ANY($1::uuid[]) AND not_before <= now() + $2 * interval '1 millisecond'
  RETURNING id, endpoint_id`;

const RELEASE_OVERDUE = `
  ${RELEASE}
   WHERE id = ANY(ARRAY(
     SELECT id FROM task WHERE not_before <= now() ORDER BY not_before LIMIT $1 FOR UPDATE SKIP LOCKED))
  RETURNING id, endpoint_id`;

/** Delays are computed by PostgreSQL, whose clock wrote and judges not_before. */
const STILL_WAITING = `
  SELECT id, (extract(epoch FROM not_before - now()) * 1000)::float8 AS delay_ms
    FROM task WHERE id = ANY($1::uuid[]) AND not_before IS NOT NULL`;

const DUE_SOON = `
  SELECT id, (extract(epoch FROM not_before - now()) * 1000)::float8 AS delay_ms,
         extract(epoch FROM not_before)::text AS due
    FROM task WHERE not_before > now() AND not_before <= now() + $1 * interval '1 millisecond'
   ORDER BY not_before, id LIMIT $2`;

interface ReleasedRow {
  readonly id: string;
  readonly endpoint_id: string;
}

interface WaitingRow {
  readonly id: string;
  readonly delay_ms: number;
}

/** Runs one release job. What is not due yet (another clock, a longer backoff since) gets a new job. */
export async function runRelease(
  deps: ReleaseDeps,
  kind: JobKind<ReleaseJob>,
  job: ReleaseJob,
): Promise<void> {
  crashPoint("service.release.before-write");
  const released = await deps.pool.query<ReleasedRow>(RELEASE_IDS, [job.taskIds, TOLERANCE_MS]);
  crashPoint("service.release.after-write");
  await notify(deps, released.rows);
  if (released.rows.length === job.taskIds.length) return;
  const { rows } = await deps.pool.query<WaitingRow>(STILL_WAITING, [job.taskIds]);
  if (rows.length === 0) return;
  const soonest = Math.min(...rows.map((row) => row.delay_ms));
  // Under another id than the one that runs now, which BullMQ still holds.
  const again = { taskIds: rows.map((row) => row.id) };
  await kind.add([
    { id: jobId(again.taskIds, `again-${Date.now()}`), data: again, delayMs: atLeast(soonest) },
  ]);
}

/** The jobs for tasks that have just been delayed, in batches. */
export function releaseJobs(taskIds: readonly string[], delayMs: number): JobRequest<ReleaseJob>[] {
  const due = Math.ceil((Date.now() + delayMs) / 1_000);
  return batches(taskIds).map((batch) => ({
    id: jobId(batch, String(due)),
    data: { taskIds: batch },
    delayMs: atLeast(delayMs),
  }));
}

/** Releases whatever is overdue, whichever job was meant to do it. Returns how many tasks. */
export async function releaseOverdue(deps: ReleaseDeps): Promise<number> {
  let total = 0;
  for (;;) {
    const { rows } = await deps.pool.query<ReleasedRow>(RELEASE_OVERDUE, [BATCH_SIZE]);
    total += rows.length;
    await notify(deps, rows);
    if (rows.length < BATCH_SIZE) return total;
  }
}

/** Makes again the jobs of the tasks that are due within the horizon. Returns how many jobs it asked for. */
export async function rebuildJobs(
  deps: ReleaseDeps,
  kind: JobKind<ReleaseJob>,
  horizonMs: number,
): Promise<number> {
  const { rows } = await deps.pool.query<WaitingRow & { due: string }>(DUE_SOON, [horizonMs, SWEEP_LIMIT]);
  const jobs: JobRequest<ReleaseJob>[] = [];
  // The tasks of one second go together, so that the next sweep finds the same batches and thus the same ids.
  for (const group of groupBySecond(rows)) {
    const last = group.rows.at(-1) as WaitingRow;
    for (const batch of batches(group.rows.map((row) => row.id)))
      jobs.push({
        id: jobId(batch, group.second),
        data: { taskIds: batch },
        delayMs: atLeast(last.delay_ms),
      });
  }
  if (jobs.length > 0) await kind.add(jobs);
  return jobs.length;
}

function groupBySecond(
  rows: readonly (WaitingRow & { due: string })[],
): { second: string; rows: WaitingRow[] }[] {
  const groups: { second: string; rows: WaitingRow[] }[] = [];
  for (const row of rows) {
    const second = String(Math.ceil(Number(row.due)));
    const current = groups.at(-1);
    if (current?.second === second) current.rows.push(row);
    else groups.push({ second, rows: [row] });
  }
  return groups;
}

/** The same tasks at the same second have the same job, whoever asks for it. */
function jobId(taskIds: readonly string[], due: string): string {
  const digest = createHash("sha256")
    .update([...taskIds].sort().join())
    .digest("base64url");
  return `release-${due}-${digest.slice(0, 22)}`;
}

function batches(ids: readonly string[]): string[][] {
  const result: string[][] = [];
  for (let start = 0; start < ids.length; start += BATCH_SIZE)
    result.push(ids.slice(start, start + BATCH_SIZE));
  return result;
}

const atLeast = (delayMs: number): number => Math.max(MIN_DELAY_MS, Math.ceil(delayMs));

async function notify({ onReleased, log }: ReleaseDeps, rows: readonly ReleasedRow[]): Promise<void> {
  if (rows.length === 0) return;
  log.debug({ tasks: rows.length }, "delayed tasks are runnable");
  const byEndpoint = new Map<string, string[]>();
  for (const row of rows) {
    const ids = byEndpoint.get(row.endpoint_id);
    if (ids) ids.push(row.id);
    else byEndpoint.set(row.endpoint_id, [row.id]);
  }
  for (const [endpointId, ids] of byEndpoint) {
    try {
      await onReleased(endpointId, ids);
    } catch (error) {
      // The rows say that these tasks are runnable, so the dispatcher's own sweep finds them.
      log.warn({ err: error, endpointId, tasks: ids.length }, "released tasks could not be handed over");
    }
  }
}
