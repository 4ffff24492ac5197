/**
 * The rare updates of a task row: another attempt, a cancel request, a start that is worth telling. All are
 * batched; none is on the road of a short task.
 */

import type { IdKey } from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import { int4Column, uuidColumn } from "./pg-columns.js";

const self = (key: IdKey): IdKey => key;

/** A new attempt of a task: at once, or after `delayMs`. */
export interface NewAttempt {
  readonly key: IdKey;
  readonly endpointKey: IdKey;
  readonly epoch: number;
  /** The attempt that ended. */
  readonly attempt: number;
  readonly delayMs: number;
  /** Whose loss ended it, where one did. */
  readonly loss?: "worker" | "agent" | undefined;
}

/** In `task.losses` the deaths of workers are counted in the low byte, the losses of agents above it. */
const AGENT_LOSS = 256;

/** Takes the two counts of the column `losses` apart. */
export function lossesOf(column: number): { readonly worker: number; readonly agent: number } {
  return { worker: column % AGENT_LOSS, agent: Math.floor(column / AGENT_LOSS) };
}

/** Raises the attempt of each by one, where it is still the one that ended and the epoch holds. Returns those written. */
export async function writeAttempts(pool: Pool, attempts: readonly NewAttempt[]): Promise<Set<IdKey>> {
  const { rows } = await pool.query<{ id: Buffer }>({
    name: "write-attempts",
    text: `UPDATE task t SET attempt = t.attempt + ${planted("attempt-not-raised") ? 0 : 1}, started_at = NULL, losses = t.losses + u.loss,
             not_before = CASE WHEN u.delay_ms > 0 THEN now() + u.delay_ms * interval '1 millisecond' END,
             queue_until = now() + (u.delay_ms + nullif(least((t.options ->> 'queueTimeoutMs')::float8, 1e12), 0)) * interval '1 millisecond'
           FROM unnest($1::uuid[], $2::uuid[], $3::int4[], $4::int4[], $5::int4[], $6::int4[]) AS u (id, endpoint_id, epoch, attempt, delay_ms, loss)
           JOIN endpoint e ON e.id = u.endpoint_id AND e.epoch = u.epoch
           WHERE t.id = u.id AND t.attempt = u.attempt AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)
           RETURNING uuid_send(t.id) AS id`,
    values: [
      uuidColumn(attempts, (a) => a.key),
      uuidColumn(attempts, (a) => a.endpointKey),
      int4Column(attempts, (a) => a.epoch),
      int4Column(attempts, (a) => a.attempt),
      int4Column(attempts, (a) => a.delayMs),
      int4Column(attempts, (a) => (a.loss === "worker" ? 1 : a.loss === "agent" ? AGENT_LOSS : 0)),
    ],
  });
  return new Set(rows.map((row) => row.id.toString("latin1")));
}

/** Records that these were asked to stop: durable, so that no restart forgets it. */
export async function writeCancelRequests(pool: Pool, keys: readonly IdKey[]): Promise<void> {
  crashPoint("service.cancel.before-write");
  await pool.query(
    `UPDATE task SET cancel_requested_at = now()
     WHERE id = ANY($1::uuid[]) AND cancel_requested_at IS NULL`,
    [uuidColumn(keys, self)],
  );
  crashPoint("service.cancel.after-write");
}

/** An open task whose end somebody has asked for, and who may have it. */
export interface Unwanted {
  readonly key: IdKey;
  readonly endpointKey: IdKey;
  readonly epoch: number;
  /** The replica that has not said that the endpoint's agent left. */
  readonly ownerReplica: string | undefined;
}

/** Those of `keys` that are open, with whoever may have them; asked after the request is durable. */
export async function unwantedTasks(pool: Pool, keys: readonly IdKey[]): Promise<Unwanted[]> {
  const { rows } = await pool.query<UnwantedRow>({
    name: "unwanted-tasks",
    text: `SELECT ${UNWANTED} FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id JOIN endpoint e ON e.id = t.endpoint_id
           WHERE NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)`,
    values: [uuidColumn(keys, self)],
  });
  return rows.map(toUnwanted);
}

/** Open tasks of these endpoints that somebody asked to cancel in the last `sinceMs`: what hints may have failed to tell. */
export async function cancelRequestsOf(
  pool: Pool,
  endpointKeys: readonly IdKey[],
  sinceMs: number,
): Promise<IdKey[]> {
  if (endpointKeys.length === 0) return [];
  const { rows } = await pool.query<{ id: Buffer }>({
    name: "cancel-requests-of",
    text: `SELECT uuid_send(t.id) AS id FROM unnest($1::uuid[]) AS u (id)
           JOIN task t ON t.endpoint_id = u.id AND t.cancel_requested_at IS NOT NULL
           WHERE t.cancel_requested_at > now() - $2 * interval '1 millisecond'
             AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)`,
    values: [uuidColumn(endpointKeys, self), sinceMs],
  });
  return rows.map((row) => row.id.toString("latin1"));
}

const UNWANTED = "uuid_send(t.id) AS id, uuid_send(t.endpoint_id) AS endpoint_id, e.epoch, e.owner_replica";
interface UnwantedRow {
  id: Buffer;
  endpoint_id: Buffer;
  epoch: number;
  owner_replica: string | null;
}
const toUnwanted = (row: UnwantedRow): Unwanted => ({
  key: row.id.toString("latin1"),
  endpointKey: row.endpoint_id.toString("latin1"),
  epoch: row.epoch,
  ownerReplica: row.owner_replica ?? undefined,
});

/** Records that these started, as far as nobody has. */
export async function writeStarts(pool: Pool, keys: readonly IdKey[]): Promise<void> {
  await pool.query("UPDATE task SET started_at = now() WHERE id = ANY($1::uuid[]) AND started_at IS NULL", [
    uuidColumn(keys, self),
  ]);
}

/** Those of these tasks that are known to have started. */
export async function startedAmong(pool: Pool, keys: readonly IdKey[]): Promise<Set<IdKey>> {
  const { rows } = await pool.query<{ id: Buffer }>(
    "SELECT uuid_send(id) AS id FROM task WHERE id = ANY($1::uuid[]) AND started_at IS NOT NULL",
    [uuidColumn(keys, self)],
  );
  return new Set(rows.map((row) => row.id.toString("latin1")));
}

/** A task that was ended here. */
export interface Ended {
  readonly key: IdKey;
  readonly groupKey: IdKey;
  readonly attempt: number;
}

/** Ends what is open among `keys`, whoever owns its queue. Returns those that this call ended. */
export async function endOpen(
  pool: Pool,
  keys: readonly IdKey[],
  how: { readonly state: number; readonly reason: number; readonly confirmed?: boolean | undefined },
): Promise<Ended[]> {
  const { rows } = await pool.query<{ id: Buffer; group_id: Buffer; attempt: number }>(
    `WITH added AS (
       INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb, detail)
       SELECT t.id, $2, $3, t.attempt, ''::bytea, 1, 0, 0, 0, 0, $4::jsonb
       FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id
       ON CONFLICT (task_id) DO NOTHING RETURNING task_id)
     SELECT uuid_send(t.id) AS id, uuid_send(t.group_id) AS group_id, t.attempt FROM added a JOIN task t ON t.id = a.task_id`,
    [
      uuidColumn(keys, self),
      how.state,
      how.reason,
      how.confirmed === undefined ? null : JSON.stringify({ confirmed: how.confirmed }),
    ],
  );
  crashPoint("service.cancel.after-end");
  return rows.map((row) => ({
    key: row.id.toString("latin1"),
    groupKey: row.group_id.toString("latin1"),
    attempt: row.attempt,
  }));
}
