/** Outcomes by task ids, for whoever waits for them without having been there when they were committed. */

import type { IdKey, OutcomeDetail, ResultItem } from "@farloom/protocol";
import type { Pool } from "pg";
import { uuidColumn } from "./pg-columns.js";
import type { TenantPool } from "./tenant-pool.js";

const COLUMNS = `uuid_send(o.task_id) AS id, o.state, o.reason, o.attempt, o.result, o.result_sha256, o.codec,
  o.queue_us::float8 AS queue_us, o.run_us::float8 AS run_us, o.cpu_us::float8 AS cpu_us, o.peak_kb, o.detail`;

const STANDING = {
  name: "standing-outcomes",
  text: `SELECT ${COLUMNS} FROM unnest($1::uuid[]) AS u (id) JOIN outcome o ON o.task_id = u.id`,
};

const BY_IDS = {
  name: "outcomes-by-ids",
  text: `SELECT ${COLUMNS}
         FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id JOIN outcome o ON o.task_id = u.id
         WHERE t.owner_id = $2::uuid`,
};

interface Row {
  id: Buffer;
  state: number;
  reason: number;
  attempt: number;
  result: Buffer;
  result_sha256: Buffer | null;
  codec: number;
  queue_us: number;
  run_us: number;
  cpu_us: number;
  peak_kb: number;
  detail: OutcomeDetail | null;
}

/** The outcomes there are among `keys`, of this owner only. */
export async function outcomesByIds(
  tenants: TenantPool,
  ownerId: string,
  keys: readonly IdKey[],
): Promise<ResultItem[]> {
  if (keys.length === 0) return [];
  const { rows } = await tenants.query<Row>(ownerId, {
    ...BY_IDS,
    values: [uuidColumn(keys, (k) => k), ownerId],
  });
  return rows.map(toItem);
}

/** The outcomes there are among `keys`, whoever owns them: for the service's own bookkeeping, never for a reply. */
export async function standingOutcomes(pool: Pool, keys: readonly IdKey[]): Promise<ResultItem[]> {
  if (keys.length === 0) return [];
  const { rows } = await pool.query<Row>({ ...STANDING, values: [uuidColumn(keys, (k) => k)] });
  return rows.map(toItem);
}

function toItem(row: Row): ResultItem {
  return {
    key: row.id.toString("latin1"),
    source: row.result,
    start: 0,
    end: row.result.length,
    seals: row.result_sha256 ?? undefined,
    sealAt: 0,
    codec: row.codec,
    attempt: row.attempt,
    state: row.state,
    reason: row.reason,
    queueUs: row.queue_us,
    runUs: row.run_us,
    cpuUs: row.cpu_us,
    peakKb: row.peak_kb,
    detail: row.detail ?? undefined,
  };
}

/** Whose a task is. */
export interface TaskOwner {
  readonly ownerKey: IdKey;
  readonly groupKey: IdKey;
  readonly endpointKey: IdKey;
  readonly attempt: number;
}

/** Who submitted these tasks, into which group and for which endpoint: for telling a resubmission from a collision. */
export async function taskOwners(pool: Pool, keys: readonly IdKey[]): Promise<Map<IdKey, TaskOwner>> {
  const { rows } = await pool.query<{
    id: Buffer;
    owner_id: Buffer;
    group_id: Buffer;
    endpoint_id: Buffer;
    attempt: number;
  }>(
    `SELECT uuid_send(t.id) AS id, uuid_send(t.owner_id) AS owner_id, uuid_send(t.group_id) AS group_id,
            uuid_send(t.endpoint_id) AS endpoint_id, t.attempt
     FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id`,
    [uuidColumn(keys, (k) => k)],
  );
  return new Map(
    rows.map((row) => [
      row.id.toString("latin1"),
      {
        ownerKey: row.owner_id.toString("latin1"),
        groupKey: row.group_id.toString("latin1"),
        endpointKey: row.endpoint_id.toString("latin1"),
        attempt: row.attempt,
      },
    ]),
  );
}

/** Which of `keys` have an outcome. */
export async function standingKeys(pool: Pool, keys: readonly IdKey[]): Promise<IdKey[]> {
  if (keys.length === 0) return [];
  const { rows } = await pool.query<{ id: Buffer }>({
    name: "standing-keys",
    text: "SELECT uuid_send(o.task_id) AS id FROM unnest($1::uuid[]) AS u (id) JOIN outcome o ON o.task_id = u.id",
    values: [uuidColumn(keys, (k) => k)],
  });
  return rows.map((row) => row.id.toString("latin1"));
}

/** Which tasks of `groupKeys` have ended in the last `sinceMs`. */
export async function recentKeys(
  pool: Pool,
  which: { readonly groupKeys: readonly IdKey[]; readonly sinceMs: number },
): Promise<IdKey[]> {
  const { rows } = await pool.query<{ id: Buffer }>(
    `SELECT uuid_send(o.task_id) AS id FROM outcome o JOIN task t ON t.id = o.task_id
     WHERE o.finished_at > now() - $2 * interval '1 millisecond' AND t.group_id = ANY($1::uuid[])`,
    [uuidColumn(which.groupKeys, (k) => k), which.sinceMs],
  );
  return rows.map((row) => row.id.toString("latin1"));
}

/** The outcomes there are among `keys`, with their groups; only of tasks in one of `groupKeys`. */
export async function recentOutcomes(
  pool: Pool,
  which: { readonly groupKeys: readonly IdKey[]; readonly keys: readonly IdKey[] },
): Promise<(ResultItem & { groupKey: IdKey })[]> {
  const { rows } = await pool.query<Row & { group_id: Buffer }>(
    `SELECT ${COLUMNS}, uuid_send(t.group_id) AS group_id FROM unnest($2::uuid[]) AS u (id)
     JOIN task t ON t.id = u.id JOIN outcome o ON o.task_id = u.id WHERE t.group_id = ANY($1::uuid[])`,
    [uuidColumn(which.groupKeys, (k) => k), uuidColumn(which.keys, (k) => k)],
  );
  return rows.map((row) => ({ ...toItem(row), groupKey: row.group_id.toString("latin1") }));
}
