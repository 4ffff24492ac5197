/**
 * Finish: one statement for everything that came back meanwhile. It writes an outcome only where the task is
 * there, belongs to the endpoint, is at that attempt, and the endpoint is still owned under that epoch. A task
 * that has an outcome keeps it: the first commit wins.
 *
 * The joins must run in the order they are written, by primary key: HOT_PLANNER in service.ts sees to the order, and
 * IS TRUE keeps the planner from walking all tasks of the endpoint instead. What is the same in all rows goes once, not
 * in a column.
 */
import { keyToUuid } from "@farloom/protocol";
import { planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import {
  byteaColumn,
  int2Column,
  int4Column,
  int8Column,
  jsonbColumn,
  sealColumn,
  uuidColumn,
} from "./pg-columns.js";
import { isUniqueViolation } from "./pg-errors.js";
import type { NewOutcome } from "./rows.js";

/** The planted bug: whoever comes may write, not only what holds the lease. */
const ANYBODY = planted("outcome-without-fence");

const general = (onConflict: string): string => `
INSERT INTO outcome (task_id, result, result_sha256, queue_us, run_us, cpu_us, peak_kb, state, reason, attempt, codec, detail)
  SELECT u.task_id, u.result, u.result_sha256, u.queue_us, u.run_us, u.cpu_us, u.peak_kb, u.state, u.reason, u.attempt, u.codec, u.detail
  FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::int8[], $5::int8[], $6::int8[], $7::int4[], $8::uuid[],
              $9::int4[], $10::int4[], $11::int2[], $12::int2[], $13::int2[], $14::jsonb[])
       AS u (task_id, result, result_sha256, queue_us, run_us, cpu_us, peak_kb, endpoint_id,
             epoch, attempt, state, reason, codec, detail)
  JOIN task t ON t.id = u.task_id AND (t.endpoint_id = u.endpoint_id) IS TRUE
  ${ANYBODY ? "" : "AND t.attempt = u.attempt JOIN endpoint e ON e.id = u.endpoint_id AND e.epoch = u.epoch"}
  ${onConflict}`;

/** What most batches are: results of one endpoint under one lease that succeeded at the same attempt and have no detail. */
const alike = (onConflict: string): string => `
INSERT INTO outcome (task_id, result, result_sha256, queue_us, run_us, cpu_us, peak_kb, state, reason, attempt, codec)
  SELECT u.task_id, u.result, u.result_sha256, u.queue_us, u.run_us, u.cpu_us, u.peak_kb, $11::int2, $12::int2, $10::int4, $13::int2
  FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::int8[], $5::int8[], $6::int8[], $7::int4[])
       AS u (task_id, result, result_sha256, queue_us, run_us, cpu_us, peak_kb)
  JOIN task t ON t.id = u.task_id AND (t.endpoint_id = $8::uuid) IS TRUE ${ANYBODY ? "" : "AND t.attempt = $10::int4"}
  WHERE ${ANYBODY ? "$9::int4 IS NOT NULL AND $10::int4 IS NOT NULL" : "EXISTS (SELECT FROM endpoint e WHERE e.id = $8::uuid AND e.epoch = $9::int4)"}
  ${onConflict}`;

const statements = (name: string, text: (onConflict: string) => string) => ({
  plain: { name, text: text("") },
  careful: { name: `${name}-again`, text: text("ON CONFLICT (task_id) DO NOTHING") },
});
const STATEMENTS = {
  general: statements("insert-outcomes", general),
  alike: statements("insert-outcomes-alike", alike),
};

/** Commits the outcomes and says how many were written. */
export async function insertOutcomes(pool: Pool, outcomes: readonly NewOutcome[]): Promise<number> {
  const isOneKind = areAlike(outcomes);
  const statement = isOneKind ? STATEMENTS.alike : STATEMENTS.general;
  const values = [
    uuidColumn(outcomes, (o) => o.key),
    byteaColumn(outcomes),
    sealColumn(outcomes),
    int8Column(outcomes, (o) => o.queueUs),
    int8Column(outcomes, (o) => o.runUs),
    int8Column(outcomes, (o) => o.cpuUs),
    int4Column(outcomes, (o) => o.peakKb),
    ...(isOneKind ? valuesOfOne(outcomes[0]!) : columnsOfEach(outcomes)),
  ];
  try {
    return (await pool.query({ ...statement.plain, values })).rowCount ?? 0;
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    return (await pool.query({ ...statement.careful, values })).rowCount ?? 0;
  }
}

function areAlike(outcomes: readonly NewOutcome[]): boolean {
  const { endpointKey, epoch, attempt, state, reason, codec } = outcomes[0]!;
  return outcomes.every(
    (o) =>
      o.detail === undefined &&
      o.endpointKey === endpointKey &&
      o.epoch === epoch &&
      o.attempt === attempt &&
      o.state === state &&
      o.reason === reason &&
      o.codec === codec,
  );
}

function valuesOfOne(o: NewOutcome): (string | number)[] {
  return [keyToUuid(o.endpointKey), o.epoch, o.attempt, o.state, o.reason, o.codec];
}

function columnsOfEach(outcomes: readonly NewOutcome[]): Buffer[] {
  return [
    uuidColumn(outcomes, (o) => o.endpointKey),
    int4Column(outcomes, (o) => o.epoch),
    int4Column(outcomes, (o) => o.attempt),
    int2Column(outcomes, (o) => o.state),
    int2Column(outcomes, (o) => o.reason),
    int2Column(outcomes, (o) => o.codec),
    jsonbColumn(outcomes, (o) => o.detail),
  ];
}
