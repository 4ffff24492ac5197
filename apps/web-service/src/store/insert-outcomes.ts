/**
 * Finish: one statement for everything that came back meanwhile. It writes an outcome only where the task is
 * there, belongs to the endpoint, is at that attempt, and the endpoint is still owned under that epoch. A task
 * that has an outcome keeps it: the first commit wins.
 *
 * The joins must run in the order they are written, by primary key: HOT_PLANNER in service.ts sees to the order, and
 * IS TRUE keeps the planner from walking all tasks of the endpoint instead.
 */
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

/** What holds the lease, and nothing else, may write. */
const FENCE = planted("outcome-without-fence")
  ? ""
  : "AND t.attempt = u.attempt JOIN endpoint e ON e.id = u.endpoint_id AND e.epoch = u.epoch";

const insert = (onConflict: string) => `
INSERT INTO outcome (task_id, state, reason, attempt, result, result_sha256, codec, queue_us, run_us, cpu_us, peak_kb, detail)
  SELECT u.task_id, u.state, u.reason, u.attempt, u.result, u.result_sha256, u.codec, u.queue_us, u.run_us, u.cpu_us, u.peak_kb, u.detail
  FROM unnest($1::uuid[], $2::uuid[], $3::int4[], $4::int2[], $5::int2[], $6::int4[], $7::bytea[], $8::int2[],
              $9::int8[], $10::int8[], $11::int8[], $12::int4[], $13::jsonb[], $14::bytea[])
       AS u (task_id, endpoint_id, epoch, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb, detail, result_sha256)
  JOIN task t ON t.id = u.task_id AND (t.endpoint_id = u.endpoint_id) IS TRUE ${FENCE}
  ${onConflict}`;

const PLAIN = { name: "insert-outcomes", text: insert("") };
const CAREFUL = { name: "insert-outcomes-again", text: insert("ON CONFLICT (task_id) DO NOTHING") };

/** Commits the outcomes and says how many were written. */
export async function insertOutcomes(pool: Pool, outcomes: readonly NewOutcome[]): Promise<number> {
  const values = [
    uuidColumn(outcomes, (o) => o.key),
    uuidColumn(outcomes, (o) => o.endpointKey),
    int4Column(outcomes, (o) => o.epoch),
    int2Column(outcomes, (o) => o.state),
    int2Column(outcomes, (o) => o.reason),
    int4Column(outcomes, (o) => o.attempt),
    byteaColumn(outcomes),
    int2Column(outcomes, (o) => o.codec),
    int8Column(outcomes, (o) => o.queueUs),
    int8Column(outcomes, (o) => o.runUs),
    int8Column(outcomes, (o) => o.cpuUs),
    int4Column(outcomes, (o) => o.peakKb),
    jsonbColumn(outcomes, (o) => o.detail),
    sealColumn(outcomes),
  ];
  try {
    return (await pool.query({ ...PLAIN, values })).rowCount ?? 0;
  } catch (error) {
    if (!isUniqueViolation(error)) throw error;
    return (await pool.query({ ...CAREFUL, values })).rowCount ?? 0;
  }
}
