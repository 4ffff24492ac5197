/** The statements between committed outcomes and deliveries that wait. None of them is on a task's road. */
import { type IdKey, keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { STATEMENT_TIMEOUT_MS } from "../store/statement-limits.js";
import type { EndedGroup, EndedTask, NewDelivery, Wish } from "./events.js";

/** An outcome bears the time at which its statement began; after so long it has committed, or never will. */
export const SETTLED_MS = 2 * STATEMENT_TIMEOUT_MS;
/** Outcomes read and deliveries written by one statement. */
export const PAGE = 1_000;
/** Deliveries that wait for one webhook; what comes beyond is counted and not kept. */
export const MAX_WAITING = 100_000;

const CLEAN_ROWS = 5_000;

/** Of everybody who has an account that is not shut. */
export async function readWishes(pool: Pool): Promise<Wish[]> {
  const { rows } = await pool.query<Wish>({
    name: "webhook-wishes",
    text: `SELECT w.id, w.owner_id AS "ownerId", w.events, w.only_failed AS "onlyFailed", w.endpoint_id AS "endpointId",
             (extract(epoch FROM w.active_since) * 1000)::float8 AS "activeSinceMs"
           FROM webhook w JOIN owner p ON p.id = w.owner_id WHERE w.is_enabled AND p.disabled_at IS NULL`,
  });
  return rows;
}

/** What there is to tell of these tasks, as far as they have ended and belong to one of these owners. */
export async function endedTasks(
  pool: Pool,
  ids: readonly string[],
  ownerIds: readonly string[],
): Promise<EndedTask[]> {
  const { rows } = await pool.query<EndedTask>({
    name: "webhook-ended-tasks",
    text: `SELECT t.id, t.owner_id AS "ownerId", t.group_id AS "groupId", t.endpoint_id AS "endpointId",
             e.name AS "endpointName", p.name || '/' || f.name || '@' || f.version AS "functionRef",
             o.state, o.reason, o.attempt, t.submitted_at AS "submittedAt", t.started_at AS "startedAt",
             o.finished_at AS "finishedAt", o.run_us::float8 / 1000 AS "runMs"
           FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id JOIN outcome o ON o.task_id = u.id
           LEFT JOIN endpoint e ON e.id = t.endpoint_id
           LEFT JOIN function f ON f.key = t.function_key LEFT JOIN owner p ON p.id = f.owner_id
           WHERE t.owner_id = ANY($2::uuid[])`,
    values: [ids, ownerIds],
  });
  return rows;
}

/** The group's first open task from `fromSeq` on; undefined where there is none. */
export async function firstOpen(pool: Pool, groupId: string, fromSeq: string): Promise<string | undefined> {
  const { rows } = await pool.query<{ seq: string }>({
    name: "webhook-first-open",
    text: `SELECT t.seq FROM task t WHERE t.group_id = $1 AND t.seq >= $2
             AND NOT EXISTS (SELECT FROM outcome o WHERE o.task_id = t.id) ORDER BY t.seq LIMIT 1`,
    values: [groupId, fromSeq],
  });
  return rows[0]?.seq;
}

/** The whole group, where nothing of it is open. */
export async function endedGroup(
  pool: Pool,
  ownerId: string,
  groupId: string,
): Promise<EndedGroup | undefined> {
  interface Row {
    readonly state: number | null;
    readonly endpointId: string;
    readonly tasks: number;
    readonly lastSeq: string;
    readonly finishedAt: Date;
    readonly name: string | null;
  }
  const { rows } = await pool.query<Row>({
    name: "webhook-ended-group",
    text: `SELECT o.state, t.endpoint_id AS "endpointId", count(*)::int4 AS tasks, max(t.seq) AS "lastSeq",
             max(o.finished_at) AS "finishedAt", (SELECT g.name FROM task_group g WHERE g.id = $1) AS name
           FROM task t LEFT JOIN outcome o ON o.task_id = t.id
           WHERE t.group_id = $1 AND t.owner_id = $2 GROUP BY o.state, t.endpoint_id`,
    values: [groupId, ownerId],
  });
  if (rows.length === 0 || rows.some(({ state }) => state === null)) return undefined;
  const lastSeq = rows.reduce((last, row) => (BigInt(row.lastSeq) > last ? BigInt(row.lastSeq) : last), 0n);
  const finishedAt = new Date(Math.max(...rows.map((row) => row.finishedAt.getTime())));
  const counts = rows.map(({ state, endpointId, tasks }) => ({ state: state!, endpointId, tasks }));
  return { id: groupId, ownerId, name: rows[0]!.name ?? "", lastSeq: String(lastSeq), finishedAt, counts };
}

/** Writes what was not there yet. Returns how many; what goes beyond MAX_WAITING is counted at its webhook. */
export async function addDeliveries(pool: Pool, all: readonly NewDelivery[]): Promise<number> {
  if (all.length === 0) return 0;
  const full = await fullWebhooks(pool, [...new Set(all.map(({ webhookId }) => webhookId))]);
  const news = all.filter(({ webhookId }) => !full.has(webhookId));
  for (const webhookId of full) {
    const lost = all.filter((delivery) => delivery.webhookId === webhookId).length;
    await pool.query("UPDATE webhook SET dropped = dropped + $2 WHERE id = $1", [webhookId, lost]);
  }
  const column = (key: keyof NewDelivery): string[] => news.map((delivery) => delivery[key]);
  const { rowCount } = await pool.query({
    name: "webhook-add-deliveries",
    // Of a webhook that was deleted meanwhile nothing is kept.
    text: `INSERT INTO webhook_delivery (id, webhook_id, owner_id, event, subject_id, body)
           SELECT u.id, u.webhook_id, u.owner_id, u.event, u.subject_id, u.body
           FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::text[])
             AS u (id, webhook_id, owner_id, event, subject_id, body) JOIN webhook w ON w.id = u.webhook_id
           ON CONFLICT (id) DO NOTHING`,
    values: [
      column("id"),
      column("webhookId"),
      column("ownerId"),
      column("event"),
      column("subjectId"),
      column("body"),
    ],
  });
  return rowCount ?? 0;
}

async function fullWebhooks(pool: Pool, ids: readonly string[]): Promise<Set<string>> {
  const { rows } = await pool.query<{ id: string }>({
    name: "webhook-full",
    text: `SELECT u.id FROM unnest($1::uuid[]) AS u (id) WHERE (SELECT count(*) FROM
             (SELECT FROM webhook_delivery d WHERE d.webhook_id = u.id AND d.state = 0 LIMIT ${MAX_WAITING}) x) = ${MAX_WAITING}`,
    values: [ids],
  });
  return new Set(rows.map(({ id }) => id));
}

/** The tasks of these owners that ended since then, page by page; each page is handed over before the next is read. */
export async function eachEndedSince(
  pool: Pool,
  since: { readonly atMs: number; readonly ownerIds: readonly string[] },
  work: (ids: string[]) => Promise<void>,
): Promise<void> {
  const client = await pool.connect();
  let failure: Error | undefined;
  try {
    await client.query("BEGIN READ ONLY");
    await client.query(
      `DECLARE ended NO SCROLL CURSOR FOR SELECT t.id FROM outcome o JOIN task t ON t.id = o.task_id
       WHERE o.finished_at >= to_timestamp($1::float8 / 1000) AND t.owner_id = ANY($2::uuid[])`,
      [since.atMs, since.ownerIds],
    );
    for (;;) {
      const { rows } = await client.query<{ id: string }>(`FETCH ${PAGE} FROM ended`);
      if (rows.length > 0) await work(rows.map(({ id }) => id));
      if (rows.length < PAGE) break;
    }
    await client.query("COMMIT");
  } catch (error) {
    failure = error as Error;
    throw error;
  } finally {
    client.release(failure);
  }
}

/** This replica lives, and what it committed up to then is told. */
export async function settle(pool: Pool, replicaId: string, atMs: number): Promise<void> {
  await pool.query(
    `INSERT INTO webhook_cursor (replica_id, settled_at) VALUES ($1, to_timestamp($2::float8 / 1000))
     ON CONFLICT (replica_id) DO UPDATE
       SET settled_at = GREATEST(webhook_cursor.settled_at, EXCLUDED.settled_at), seen_at = now()`,
    [replicaId, atMs],
  );
}

/** Replicas that were not seen for so long, and up to when what they committed is told. */
export async function leftBehind(
  pool: Pool,
  silentMs: number,
): Promise<{ replicaId: string; atMs: number }[]> {
  const { rows } = await pool.query<{ replicaId: string; atMs: number }>(
    `SELECT replica_id AS "replicaId", (extract(epoch FROM settled_at) * 1000)::float8 AS "atMs" FROM webhook_cursor
     WHERE seen_at < now() - $1 * interval '1 millisecond'`,
    [silentMs],
  );
  return rows;
}

export async function forgetReplicas(pool: Pool, replicaIds: readonly string[]): Promise<void> {
  await pool.query("DELETE FROM webhook_cursor WHERE replica_id = ANY($1::uuid[])", [replicaIds]);
}

/** Gives up what waits for more than a day and deletes what ended long ago: delivered a day, given up seven. */
export async function cleanDeliveries(pool: Pool): Promise<void> {
  await pool.query(
    `UPDATE webhook_delivery SET state = 2, ended_at = now(), last_error = 'expired'
     WHERE state = 0 AND created_at < now() - interval '26 hours'`,
  );
  for (;;) {
    const { rowCount } = await pool.query(
      `DELETE FROM webhook_delivery WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhook_delivery
         WHERE ended_at < now() - interval '1 day' AND (state = 1 OR ended_at < now() - interval '7 days')
         LIMIT ${CLEAN_ROWS}))`,
    );
    if ((rowCount ?? 0) < CLEAN_ROWS) return;
  }
}

export const idsOf = (keys: readonly IdKey[]): string[] => keys.map(keyToUuid);
