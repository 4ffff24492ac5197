/**
 * Submit: one INSERT for everything that arrived meanwhile.
 *
 * The plain INSERT comes first, as ON CONFLICT writes one more WAL record for every row. Only a resubmission
 * meets an id that is there already; then the same rows go again with ON CONFLICT DO NOTHING.
 */
import type { Pool } from "pg";
import { byteaColumn, int2Column, int4Column, jsonbColumn, sealColumn, uuidColumn } from "./pg-columns.js";
import { isUniqueViolation } from "./pg-errors.js";
import type { NewTask } from "./rows.js";

/** A limit of the options in milliseconds; null where there is none. Above some thirty years it is none that matters. */
const limitOf = (option: string): string => `nullif(least((u.options ->> '${option}')::float8, 1e12), 0)`;

const insert = (onConflict: string) => `
WITH added AS (
  INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, args_sha256, codec, options, not_before, queue_until, deadline_at)
  SELECT u.id, u.owner_id, u.endpoint_id, u.function_key, u.group_id, u.args, u.args_sha256, u.codec, u.options,
         CASE WHEN u.delay_ms > 0 THEN now() + u.delay_ms * interval '1 millisecond' END,
         now() + (u.delay_ms + ${limitOf("queueTimeoutMs")}) * interval '1 millisecond',
         now() + ${limitOf("deadlineMs")} * interval '1 millisecond'
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int4[], $5::uuid[], $6::bytea[], $7::int2[], $8::jsonb[], $9::int4[], $10::bytea[])
       AS u (id, owner_id, endpoint_id, function_key, group_id, args, codec, options, delay_ms, args_sha256)
  ${onConflict}
  RETURNING seq
)
SELECT count(*)::int4 AS added, coalesce(min(seq), 0)::float8 AS first_seq, coalesce(max(seq), 0)::float8 AS last_seq FROM added`;

const PLAIN = { name: "insert-tasks", text: insert("") };
const CAREFUL = { name: "insert-tasks-again", text: insert("ON CONFLICT (id) DO NOTHING") };

export interface Inserted {
  /** How many rows are new; fewer than were given where some were there already. */
  readonly added: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** Commits the tasks. Throws what PostgreSQL says. */
export async function insertTasks(pool: Pool, tasks: readonly NewTask[]): Promise<Inserted> {
  const values = [
    uuidColumn(tasks, (t) => t.key),
    uuidColumn(tasks, (t) => t.ownerKey),
    uuidColumn(tasks, (t) => t.endpointKey),
    int4Column(tasks, (t) => t.functionKey),
    uuidColumn(tasks, (t) => t.groupKey),
    byteaColumn(tasks),
    int2Column(tasks, (t) => t.codec),
    jsonbColumn(tasks, (t) => t.options),
    int4Column(tasks, (t) => t.options?.delayMs ?? 0),
    sealColumn(tasks),
  ];
  let rows: { added: number; first_seq: number; last_seq: number }[];
  try {
    ({ rows } = await pool.query({ ...PLAIN, values }));
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    ({ rows } = await pool.query({ ...CAREFUL, values }));
  }
  const row = rows[0]!;
  return { added: row.added, firstSeq: row.first_seq, lastSeq: row.last_seq };
}
