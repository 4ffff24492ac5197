/**
 * Results that came after their task had ended without them (LOST, or cancelled or out of time while its agent was
 * away): kept aside for whoever asks, never the outcome. One for each attempt, and only of the endpoint's own tasks.
 */
import type { IdKey, OutcomeDetail, Slice } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import { planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import { byteaColumn, int2Column, int4Column, jsonbColumn, uuidColumn } from "./pg-columns.js";
import type { TenantPool } from "./tenant-pool.js";

export interface LateResult extends Slice {
  readonly key: IdKey;
  readonly endpointKey: IdKey;
  readonly attempt: number;
  readonly state: number;
  readonly reason: number;
  readonly codec: number;
  readonly detail: OutcomeDetail | undefined;
}

/** A late result as it is read. */
export interface LateRow {
  attempt: number;
  state: number;
  reason: number;
  result: Buffer;
  codec: number;
  detail: OutcomeDetail | null;
  received_at: Date;
}

/** CANCELLED, TIMED_OUT, LOST: what a task can be ended as without its agent. SUCCEEDED, FAILED: what it may tell later. */
const INSERT = {
  name: "insert-late-results",
  text: `INSERT INTO late_result (task_id, owner_id, attempt, state, reason, result, codec, detail)
    SELECT t.id, t.owner_id, u.attempt, u.state, u.reason, u.result, u.codec, u.detail
    FROM unnest($1::uuid[], $2::uuid[], $3::int4[], $4::int2[], $5::int2[], $6::bytea[], $7::int2[], $8::jsonb[])
         AS u (id, endpoint_id, attempt, state, reason, result, codec, detail)
    JOIN task t ON t.id = u.id AND (t.endpoint_id = u.endpoint_id) IS TRUE
    JOIN outcome o ON o.task_id = u.id AND o.state IN (3, 4, 5)
    WHERE u.state IN (1, 2) AND NOT EXISTS (SELECT 1 FROM late_result l WHERE l.task_id = u.id AND l.attempt = u.attempt)`,
};

export async function keepLateResults(pool: Pool, results: readonly LateResult[]): Promise<number> {
  if (results.length === 0) return 0;
  if (planted("outcome-overwritten")) await forgetOutcomes(pool, results);
  const { rowCount } = await pool.query({
    ...INSERT,
    values: [
      uuidColumn(results, (r) => r.key),
      uuidColumn(results, (r) => r.endpointKey),
      int4Column(results, (r) => r.attempt),
      int2Column(results, (r) => r.state),
      int2Column(results, (r) => r.reason),
      byteaColumn(results),
      int2Column(results, (r) => r.codec),
      jsonbColumn(results, (r) => r.detail),
    ],
  });
  return rowCount ?? 0;
}

/** The newest late result of the owner's task. */
export async function readLateResult(
  tenants: TenantPool,
  ownerId: string,
  key: IdKey,
): Promise<LateRow | undefined> {
  const { rows } = await tenants.query<LateRow>(ownerId, {
    name: "late-result",
    text: `SELECT attempt, state, reason, result, codec, detail, received_at FROM late_result
           WHERE task_id = $1 AND owner_id = $2 ORDER BY id DESC LIMIT 1`,
    values: [keyToUuid(key), ownerId],
  });
  return rows[0];
}

/** The planted bug `outcome-overwritten`: the late result takes the place of the outcome that stands. */
async function forgetOutcomes(pool: Pool, results: readonly LateResult[]): Promise<void> {
  for (const { key, state, attempt, source, start, end, codec } of results) {
    await pool.query("DELETE FROM outcome WHERE task_id = $1", [keyToUuid(key)]);
    await pool.query(
      `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb)
       VALUES ($1, $2, 0, $3, $4, $5, 0, 0, 0, 0)`,
      [keyToUuid(key), state, attempt, source.subarray(start, end), codec],
    );
  }
}
