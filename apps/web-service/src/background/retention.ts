// Deletes what has been kept long enough, in bounded batches: finished tasks with their outcomes, old idempotency
// keys, expired agent challenges, and payload files that nothing refers to any more.
//
// 1. A task and its outcome go in one statement, which leaves the tombstone: an outcome deleted alone would make its
//    task open again.
// 2. No statement deletes more than BATCH_SIZE rows, and between two of them the run may be asked to stop; the next
//    run goes on where this one was.
// 3. A payload's row goes before its file, by a statement that checks again that it is unused: a crash in between
//    leaves a file that nobody sees, never a row whose file is missing. No lock is held while the file is deleted.
import { crashPoint } from "@farloom/protocol/testing";
import type pg from "pg";
import type { Logger } from "pino";

export interface RetentionDeps {
  readonly pool: pg.Pool;
  readonly log: Logger;
  /** Deletes a payload file, whose row is gone by then; a missing file is no error. `digest` is raw, 32 bytes. */
  readonly deletePayload: (ownerId: string, digest: Buffer) => Promise<void>;
}

export interface RetentionLimits {
  /** How long a finished task and its result are kept. */
  readonly retentionMs: number;
  /** How long an unused payload file is kept, so that an upload can come well before the task that needs it. */
  readonly payloadGraceMs: number;
  /** How long an Idempotency-Key is remembered. */
  readonly idempotencyMs: number;
  /** How long it is remembered that a task was, and how it ended, after it was deleted. */
  readonly tombstoneMs: number;
}

/** What one run removed. */
export interface RetentionCounts {
  tasks: number;
  tombstones: number;
  idempotencyKeys: number;
  challenges: number;
  payloads: number;
}

/** Rows in a DELETE: some tens of milliseconds, so that the hot path's statements hardly feel it. */
const BATCH_SIZE = 5_000;
/** Ids read ahead in one scan of the block range index, which has to look at every old range again each time. */
const PAGE_SIZE = 100_000;
const PAYLOAD_PAGE_SIZE = 500;

const OLD_OUTCOMES = `
  SELECT task_id FROM outcome WHERE finished_at < now() - $1 * interval '1 millisecond' LIMIT ${PAGE_SIZE}`;

const DELETE_TASKS = `
  WITH gone AS (DELETE FROM outcome WHERE task_id = ANY($1::uuid[]) RETURNING task_id, state, reason, finished_at),
  late AS (DELETE FROM late_result WHERE task_id = ANY($1::uuid[])),
  told AS (DELETE FROM task_output WHERE task_id = ANY($1::uuid[])),
  buried AS (
    INSERT INTO tombstone (task_id, owner_id, state, reason, finished_at)
    SELECT g.task_id, t.owner_id, g.state, g.reason, g.finished_at FROM gone g JOIN task t ON t.id = g.task_id
    ON CONFLICT DO NOTHING)
  DELETE FROM task WHERE id = ANY($1::uuid[])`;

const DELETE_TOMBSTONES = `
  DELETE FROM tombstone WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM tombstone WHERE expired_at < now() - $1 * interval '1 millisecond' LIMIT ${BATCH_SIZE}))`;

const DELETE_IDEMPOTENCY = `
  DELETE FROM idempotency WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency WHERE created_at < now() - $1 * interval '1 millisecond' LIMIT ${BATCH_SIZE}))`;

const DELETE_CHALLENGES = `
  DELETE FROM agent_challenge WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM agent_challenge WHERE expires_at < now() LIMIT ${BATCH_SIZE}))`;

/** A reference begins with its file's digest, and its size follows in eight bytes. */
const REFERS = (column: string): string =>
  `${column} BETWEEN p.digest AND p.digest || '\\xffffffffffffffff'::bytea`;

/**
 * The literal 128 is what lets PostgreSQL use the partial indexes on references. A result's file belongs to the owner of
 * the endpoint that put it, who need not be the task's.
 */
const IS_UNUSED = `
  p.last_used_at < now() - $1 * interval '1 millisecond'
  AND NOT EXISTS (SELECT FROM task t WHERE ${REFERS("t.args")} AND t.codec >= 128 AND t.owner_id = p.owner_id)
  AND NOT EXISTS (SELECT FROM outcome o JOIN task t ON t.id = o.task_id LEFT JOIN endpoint e ON e.id = t.endpoint_id
                   WHERE ${REFERS("o.result")} AND o.codec >= 128 AND p.owner_id IN (t.owner_id, e.owner_id))
  AND NOT EXISTS (SELECT FROM late_result l WHERE ${REFERS("l.result")} AND l.codec >= 128)`;

const UNUSED_PAYLOADS = `
  SELECT owner_id, digest FROM payload p
   WHERE ${IS_UNUSED} AND (p.owner_id, p.digest) > ($2::uuid, $3::bytea)
   ORDER BY p.owner_id, p.digest LIMIT ${PAYLOAD_PAGE_SIZE}`;

const DELETE_PAYLOAD = `
  DELETE FROM payload p WHERE p.owner_id = $2 AND p.digest = $3 AND ${IS_UNUSED}
  RETURNING size_bytes, created_at, last_used_at`;

const RESTORE_PAYLOAD = `
  INSERT INTO payload (owner_id, digest, size_bytes, created_at, last_used_at) VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT DO NOTHING`;

interface PayloadRow {
  readonly owner_id: string;
  readonly digest: Buffer;
}

/** One whole run, or as much of it as `signal` allows. */
export async function runRetention(
  deps: RetentionDeps,
  limits: RetentionLimits,
  signal: AbortSignal,
): Promise<RetentionCounts> {
  const { pool, log } = deps;
  const counts: RetentionCounts = {
    tasks: await deleteTasks(pool, limits.retentionMs, signal),
    tombstones: await deleteBatches(pool, DELETE_TOMBSTONES, { params: [limits.tombstoneMs], signal }),
    idempotencyKeys: await deleteBatches(pool, DELETE_IDEMPOTENCY, {
      params: [limits.idempotencyMs],
      signal,
    }),
    challenges: await deleteBatches(pool, DELETE_CHALLENGES, { params: [], signal }),
    payloads: await deletePayloads(deps, limits.payloadGraceMs, signal),
  };
  if (Object.values(counts).some((count) => count > 0)) log.info(counts, "retention removed what was old");
  return counts;
}

async function deleteTasks(pool: pg.Pool, retentionMs: number, signal: AbortSignal): Promise<number> {
  let total = 0;
  while (!signal.aborted) {
    const { rows } = await pool.query<{ task_id: string }>(OLD_OUTCOMES, [retentionMs]);
    const ids = rows.map((row) => row.task_id);
    for (let start = 0; start < ids.length && !signal.aborted; start += BATCH_SIZE) {
      crashPoint("service.retention.before-delete");
      const deleted = await pool.query(DELETE_TASKS, [ids.slice(start, start + BATCH_SIZE)]);
      crashPoint("service.retention.after-delete");
      total += deleted.rowCount ?? 0;
    }
    if (ids.length < PAGE_SIZE) break;
  }
  return total;
}

async function deleteBatches(
  pool: pg.Pool,
  sql: string,
  { params, signal }: { params: unknown[]; signal: AbortSignal },
): Promise<number> {
  let total = 0;
  while (!signal.aborted) {
    const { rowCount } = await pool.query(sql, params);
    total += rowCount ?? 0;
    if ((rowCount ?? 0) < BATCH_SIZE) break;
  }
  return total;
}

async function deletePayloads(deps: RetentionDeps, graceMs: number, signal: AbortSignal): Promise<number> {
  let total = 0;
  let after: PayloadRow = { owner_id: "00000000-0000-0000-0000-000000000000", digest: Buffer.alloc(0) };
  while (!signal.aborted) {
    const { rows } = await deps.pool.query<PayloadRow>(UNUSED_PAYLOADS, [
      graceMs,
      after.owner_id,
      after.digest,
    ]);
    for (const row of rows) if (!signal.aborted && (await deletePayload(deps, row, graceMs))) total++;
    const last = rows.at(-1);
    if (!last || rows.length < PAYLOAD_PAGE_SIZE) break;
    after = last;
  }
  return total;
}

/** False when the payload has come into use since it was found, or its file could not be deleted. */
async function deletePayload(deps: RetentionDeps, row: PayloadRow, graceMs: number): Promise<boolean> {
  const { owner_id: ownerId, digest } = row;
  const { rows } = await deps.pool.query(DELETE_PAYLOAD, [graceMs, ownerId, digest]);
  const gone = rows[0];
  if (!gone) return false;
  try {
    await deps.deletePayload(ownerId, digest);
    return true;
  } catch (error) {
    deps.log.warn(
      { err: error, ownerId, digest: digest.toString("hex") },
      "an unused payload could not be deleted",
    );
    // Put back, so that the next run tries again.
    const { size_bytes, created_at, last_used_at } = gone;
    await deps.pool.query(RESTORE_PAYLOAD, [ownerId, digest, size_bytes, created_at, last_used_at]);
    return false;
  }
}
