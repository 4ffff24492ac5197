/** Open tasks whose time in the queue, or whose life, is over by PostgreSQL's clock. */
import type { IdKey } from "@farloom/protocol";
import type { Pool } from "pg";

export interface ExpiredTask {
  readonly key: IdKey;
  readonly endpointKey: IdKey;
  readonly epoch: number;
  /** The replica that has not said that the endpoint's agent left, and whether it lives. */
  readonly ownerReplica: string | undefined;
  readonly ownerLives: boolean;
  /** Its life is over; else its time in the queue. */
  readonly dead: boolean;
}

/** Which limit: of the time in the queue, or of the whole life. */
export type Limit = "queue_until" | "deadline_at";

/** A place in the order of a limit: PostgreSQL's time as text, and the id of the task there. */
export interface ExpiryPlace {
  readonly at: string;
  readonly id: string;
}

export interface ExpiredPage {
  readonly tasks: ExpiredTask[];
  /** Where the next page begins, if there is one. */
  readonly next: ExpiryPlace | undefined;
}

interface Row {
  id: Buffer;
  id_text: string;
  at: string;
  endpoint_id: Buffer;
  epoch: number;
  owner_replica: string | null;
  owner_lives: boolean;
}

const page = (column: Limit): { name: string; text: string } => ({
  name: `expired-${column}`,
  text: `
  SELECT uuid_send(t.id) AS id, t.id::text AS id_text, t.${column}::text AS at, uuid_send(t.endpoint_id) AS endpoint_id,
         e.epoch, e.owner_replica, r.id IS NOT NULL AS owner_lives
  FROM task t JOIN endpoint e ON e.id = t.endpoint_id
  LEFT JOIN replica r ON r.id = e.owner_replica AND r.seen_at > now() - interval '20 seconds'
  WHERE t.${column} >= $1::timestamptz AND (t.${column}, t.id) > ($1::timestamptz, $2::uuid) AND t.${column} <= now()
    AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)
  ORDER BY t.${column}, t.id LIMIT $3`,
});

const PAGES = { queue_until: page("queue_until"), deadline_at: page("deadline_at") };

/** At most `count` of those whose limit came after this place, in order. */
export async function expiredTasks(
  pool: Pool,
  limit: Limit,
  after: ExpiryPlace,
  count: number,
): Promise<ExpiredPage> {
  const { rows } = await pool.query<Row>({ ...PAGES[limit], values: [after.at, after.id, count] });
  const last = rows.length < count ? undefined : rows.at(-1);
  const tasks = rows.map((row) => ({
    key: row.id.toString("latin1"),
    endpointKey: row.endpoint_id.toString("latin1"),
    epoch: row.epoch,
    ownerReplica: row.owner_replica ?? undefined,
    ownerLives: row.owner_lives,
    dead: limit === "deadline_at",
  }));
  return { tasks, next: last && { at: last.at, id: last.id_text } };
}

/** PostgreSQL's time as text, and how long it is until the next limit of any task, if there is one. */
export async function nextExpiry(pool: Pool): Promise<{ now: string; inMs: number | undefined }> {
  const { rows } = await pool.query<{ now: string; in_ms: number | null }>({
    name: "next-expiry",
    text: `SELECT now()::text AS now, (extract(epoch FROM least(
        (SELECT queue_until FROM task WHERE queue_until > now() ORDER BY queue_until LIMIT 1),
        (SELECT deadline_at FROM task WHERE deadline_at > now() ORDER BY deadline_at LIMIT 1)) - now()) * 1000)::float8 AS in_ms`,
  });
  return { now: rows[0]!.now, inMs: rows[0]!.in_ms ?? undefined };
}
