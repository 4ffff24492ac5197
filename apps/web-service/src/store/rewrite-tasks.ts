/**
 * The rare updates of a task row: another attempt, a cancel request, a start that is worth telling. All are
 * batched; none is on the road of a short task.
 */

import type { IdKey } from "@farloom/protocol";
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
}

/** Raises the attempt of each by one, where it is still the one that ended and the epoch holds. Returns those written. */
export async function writeAttempts(pool: Pool, attempts: readonly NewAttempt[]): Promise<Set<IdKey>> {
  const { rows } = await pool.query<{ id: Buffer }>({
    name: "write-attempts",
    text: `UPDATE task t SET attempt = t.attempt + 1, started_at = NULL,
             not_before = CASE WHEN u.delay_ms > 0 THEN now() + u.delay_ms * interval '1 millisecond' END
           FROM unnest($1::uuid[], $2::uuid[], $3::int4[], $4::int4[], $5::int4[]) AS u (id, endpoint_id, epoch, attempt, delay_ms)
           JOIN endpoint e ON e.id = u.endpoint_id AND e.epoch = u.epoch
           WHERE t.id = u.id AND t.attempt = u.attempt AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)
           RETURNING uuid_send(t.id) AS id`,
    values: [
      uuidColumn(attempts, (a) => a.key),
      uuidColumn(attempts, (a) => a.endpointKey),
      int4Column(attempts, (a) => a.epoch),
      int4Column(attempts, (a) => a.attempt),
      int4Column(attempts, (a) => a.delayMs),
    ],
  });
  return new Set(rows.map((row) => row.id.toString("latin1")));
}

/** Records that these were asked to stop: durable, so that no restart forgets it. */
export async function writeCancelRequests(pool: Pool, keys: readonly IdKey[]): Promise<void> {
  await pool.query(
    `UPDATE task SET cancel_requested_at = now()
     WHERE id = ANY($1::uuid[]) AND cancel_requested_at IS NULL`,
    [uuidColumn(keys, self)],
  );
}

/** Records that these started, as far as nobody has. */
export async function writeStarts(pool: Pool, keys: readonly IdKey[]): Promise<void> {
  await pool.query("UPDATE task SET started_at = now() WHERE id = ANY($1::uuid[]) AND started_at IS NULL", [
    uuidColumn(keys, self),
  ]);
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
  state: number,
  reason: number,
): Promise<Ended[]> {
  const { rows } = await pool.query<{ id: Buffer; group_id: Buffer; attempt: number }>(
    `WITH added AS (
       INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb)
       SELECT t.id, $2, $3, t.attempt, ''::bytea, 1, 0, 0, 0, 0
       FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id
       ON CONFLICT (task_id) DO NOTHING RETURNING task_id)
     SELECT uuid_send(t.id) AS id, uuid_send(t.group_id) AS group_id, t.attempt FROM added a JOIN task t ON t.id = a.task_id`,
    [uuidColumn(keys, self), state, reason],
  );
  return rows.map((row) => ({
    key: row.id.toString("latin1"),
    groupKey: row.group_id.toString("latin1"),
    attempt: row.attempt,
  }));
}
