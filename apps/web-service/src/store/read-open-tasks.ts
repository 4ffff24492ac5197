/**
 * Open tasks of an endpoint: by pages in the order of insertion, by ids, or what a sweep finds. A task is open
 * while it has no outcome.
 */

import type { IdKey, TaskOptions } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { uuidColumn } from "./pg-columns.js";
import type { OpenTask } from "./rows.js";

const COLUMNS = `uuid_send(t.id) AS id, t.seq::float8 AS seq, uuid_send(t.owner_id) AS owner_id, t.function_key,
  uuid_send(t.group_id) AS group_id, t.args, t.args_sha256, t.codec, t.attempt, t.losses, t.options::text AS options, t.cancel_requested_at IS NOT NULL AS cancel_requested, t.not_before IS NOT NULL AS waiting,
  (extract(epoch FROM t.queue_until - now()) * 1000)::float8 AS queue_left_ms, (extract(epoch FROM t.deadline_at - now()) * 1000)::float8 AS life_left_ms`;
const OPEN = "NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)";

// Rows come as text: node-postgres reads every field as UTF-8 first, which is the end of any binary value.
const PAGE = {
  name: "page-open-tasks",
  text: `SELECT ${COLUMNS} FROM task t
    WHERE t.endpoint_id = $1 AND t.seq > $2::float8::bigint AND t.seq <= $3::float8::bigint AND t.not_before IS NULL AND ${OPEN}
    ORDER BY t.endpoint_id, t.seq LIMIT $4`,
};
const BY_IDS = {
  name: "open-tasks-by-ids",
  text: `SELECT ${COLUMNS} FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id WHERE t.endpoint_id = $2 AND ${OPEN}`,
};
const KNOWN = {
  name: "known-tasks-by-ids",
  text: "SELECT uuid_send(t.id) AS id FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id WHERE t.endpoint_id = $2",
};

interface Row {
  id: Buffer;
  seq: number;
  owner_id: Buffer;
  function_key: number;
  group_id: Buffer;
  args: Buffer;
  args_sha256: Buffer | null;
  codec: number;
  attempt: number;
  losses: number;
  options: string | null;
  cancel_requested: boolean;
  waiting: boolean;
  queue_left_ms: number | null;
  life_left_ms: number | null;
}

/** Above every `seq` that float8 holds exactly. */
export const LAST_SEQ = Number.MAX_SAFE_INTEGER;

/** Up to `limit` runnable open tasks with `after < seq ≤ last`, in order. */
export async function pageOpenTasks(
  pool: Pool,
  endpointKey: IdKey,
  after: number,
  limit: number,
  last = LAST_SEQ,
): Promise<OpenTask[]> {
  const { rows } = await pool.query<Row>({ ...PAGE, values: [keyToUuid(endpointKey), after, last, limit] });
  return rows.map(toOpenTask);
}

/** Those of `keys` that are open tasks of the endpoint, also where they wait for a time. */
export async function openTasksByIds(
  pool: Pool,
  endpointKey: IdKey,
  keys: readonly IdKey[],
): Promise<OpenTask[]> {
  if (keys.length === 0) return [];
  const { rows } = await pool.query<Row>({
    ...BY_IDS,
    values: [uuidColumn(keys, self), keyToUuid(endpointKey)],
  });
  return rows.map(toOpenTask);
}

/** Those of `keys` that are tasks of the endpoint at all. */
export async function knownTasks(
  pool: Pool,
  endpointKey: IdKey,
  keys: readonly IdKey[],
): Promise<Set<IdKey>> {
  if (keys.length === 0) return new Set();
  const { rows } = await pool.query<{ id: Buffer }>({
    ...KNOWN,
    values: [uuidColumn(keys, self), keyToUuid(endpointKey)],
  });
  return new Set(rows.map((row) => row.id.toString("latin1")));
}

/** Up to `limit` open tasks of the endpoint, runnable or not, from the oldest. */
export async function openTaskKeys(pool: Pool, endpointKey: IdKey, limit: number): Promise<IdKey[]> {
  const { rows } = await pool.query<{ id: Buffer }>(
    `SELECT uuid_send(t.id) AS id FROM task t WHERE t.endpoint_id = $1 AND ${OPEN} ORDER BY t.endpoint_id, t.seq LIMIT $2`,
    [keyToUuid(endpointKey), limit],
  );
  return rows.map((row) => row.id.toString("latin1"));
}

const self = (key: IdKey): IdKey => key;

function toOpenTask(row: Row): OpenTask {
  return {
    key: row.id.toString("latin1"),
    seq: row.seq,
    ownerKey: row.owner_id.toString("latin1"),
    functionKey: row.function_key,
    groupKey: row.group_id.toString("latin1"),
    args: row.args,
    seal: row.args_sha256 ?? undefined,
    codec: row.codec,
    attempt: row.attempt,
    options: row.options === null ? undefined : (JSON.parse(row.options) as TaskOptions),
    cancelRequested: row.cancel_requested,
    waiting: row.waiting,
    losses: row.losses,
    queueLeftMs: row.queue_left_ms ?? undefined,
    lifeLeftMs: row.life_left_ms ?? undefined,
  };
}
