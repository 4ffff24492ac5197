/**
 * Submit: one INSERT for everything that arrived meanwhile.
 *
 * The plain INSERT comes first, as ON CONFLICT writes one more WAL record for every row. Only a resubmission
 * meets an id that is there already; then the same rows go again with ON CONFLICT DO NOTHING.
 * What is the same in all rows goes once, not in a column: for PostgreSQL a batch of one caller is half the work.
 */
import { keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { byteaColumn, int2Column, int4Column, jsonbColumn, sealColumn, uuidColumn } from "./pg-columns.js";
import { isUniqueViolation } from "./pg-errors.js";
import type { NewTask } from "./rows.js";

/** A limit of the options in milliseconds; null where there is none. Above some thirty years it is none that matters. */
const limitOf = (option: string): string => `nullif(least((u.options ->> '${option}')::float8, 1e12), 0)`;

/** Each of `columns` of the source `u`, and what is counted of what they made. */
const insert = (columns: Record<string, string>, from: string, onConflict: string): string => `
WITH added AS (
  INSERT INTO task (${Object.keys(columns).join(", ")})
  SELECT ${Object.values(columns).join(", ")}
  FROM ${from}
  ${onConflict}
  RETURNING seq
)
SELECT count(*)::int4 AS added, coalesce(min(seq), 0)::float8 AS first_seq, coalesce(max(seq), 0)::float8 AS last_seq FROM added`;

const GENERAL = {
  id: "u.id",
  args: "u.args",
  args_sha256: "u.args_sha256",
  owner_id: "u.owner_id",
  endpoint_id: "u.endpoint_id",
  function_key: "u.function_key",
  group_id: "u.group_id",
  codec: "u.codec",
  options: "u.options",
  not_before: "CASE WHEN u.delay_ms > 0 THEN now() + u.delay_ms * interval '1 millisecond' END",
  queue_until: `now() + (u.delay_ms + ${limitOf("queueTimeoutMs")}) * interval '1 millisecond'`,
  deadline_at: `now() + ${limitOf("deadlineMs")} * interval '1 millisecond'`,
};
const GENERAL_FROM = `unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::uuid[], $5::uuid[], $6::int4[], $7::uuid[], $8::int2[], $9::jsonb[], $10::int4[])
       AS u (id, args, args_sha256, owner_id, endpoint_id, function_key, group_id, codec, options, delay_ms)`;

/** What most batches are: one caller's calls of one function, without options. */
const ALIKE = {
  id: "u.id",
  args: "u.args",
  args_sha256: "u.args_sha256",
  owner_id: "$4::uuid",
  endpoint_id: "$5::uuid",
  function_key: "$6::int4",
  group_id: "$7::uuid",
  codec: "$8::int2",
};
const ALIKE_FROM = "unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS u (id, args, args_sha256)";

const statements = (name: string, columns: Record<string, string>, from: string) => ({
  plain: { name: `insert-${name}`, text: insert(columns, from, "") },
  careful: { name: `insert-${name}-again`, text: insert(columns, from, "ON CONFLICT (id) DO NOTHING") },
});
const STATEMENTS = {
  general: statements("tasks", GENERAL, GENERAL_FROM),
  alike: statements("tasks-alike", ALIKE, ALIKE_FROM),
};

export interface Inserted {
  /** How many rows are new; fewer than were given where some were there already. */
  readonly added: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** Commits the tasks. Throws what PostgreSQL says. */
export async function insertTasks(pool: Pool, tasks: readonly NewTask[]): Promise<Inserted> {
  const alike = areAlike(tasks);
  const statement = alike ? STATEMENTS.alike : STATEMENTS.general;
  const values = [
    uuidColumn(tasks, (t) => t.key),
    byteaColumn(tasks),
    sealColumn(tasks),
    ...(alike ? valuesOfOne(tasks[0]!) : columnsOfEach(tasks)),
  ];
  let rows: { added: number; first_seq: number; last_seq: number }[];
  try {
    ({ rows } = await pool.query({ ...statement.plain, values }));
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    ({ rows } = await pool.query({ ...statement.careful, values }));
  }
  const row = rows[0]!;
  return { added: row.added, firstSeq: row.first_seq, lastSeq: row.last_seq };
}

/** Whether all go to one endpoint, by one owner, in one group, for one function, in one codec, without options. */
function areAlike(tasks: readonly NewTask[]): boolean {
  const { ownerKey, endpointKey, functionKey, groupKey, codec } = tasks[0]!;
  return tasks.every(
    (t) =>
      t.options === undefined &&
      t.groupKey === groupKey &&
      t.functionKey === functionKey &&
      t.endpointKey === endpointKey &&
      t.ownerKey === ownerKey &&
      t.codec === codec,
  );
}

function valuesOfOne(task: NewTask): (string | number)[] {
  return [
    keyToUuid(task.ownerKey),
    keyToUuid(task.endpointKey),
    task.functionKey,
    keyToUuid(task.groupKey),
    task.codec,
  ];
}

function columnsOfEach(tasks: readonly NewTask[]): Buffer[] {
  return [
    uuidColumn(tasks, (t) => t.ownerKey),
    uuidColumn(tasks, (t) => t.endpointKey),
    int4Column(tasks, (t) => t.functionKey),
    uuidColumn(tasks, (t) => t.groupKey),
    int2Column(tasks, (t) => t.codec),
    jsonbColumn(tasks, (t) => t.options),
    int4Column(tasks, (t) => t.options?.delayMs ?? 0),
  ];
}
