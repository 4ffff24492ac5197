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

interface Row {
  id: Buffer;
  endpoint_id: Buffer;
  epoch: number;
  owner_replica: string | null;
  owner_lives: boolean;
}

const expired = (column: string): string => `
  SELECT uuid_send(t.id) AS id, uuid_send(t.endpoint_id) AS endpoint_id, e.epoch, e.owner_replica, r.id IS NOT NULL AS owner_lives
  FROM task t JOIN endpoint e ON e.id = t.endpoint_id
  LEFT JOIN replica r ON r.id = e.owner_replica AND r.seen_at > now() - interval '20 seconds'
  WHERE t.${column} > $1::timestamptz AND t.${column} <= now() AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)
  ORDER BY t.${column} LIMIT $2`;

const QUEUE = { name: "expired-in-queue", text: expired("queue_until") };
const LIFE = { name: "expired-in-life", text: expired("deadline_at") };

/** Those that expired after `since` (PostgreSQL's time, as text). */
export async function expiredTasks(pool: Pool, since: string, limit: number): Promise<ExpiredTask[]> {
  const [queue, life] = [
    await pool.query<Row>({ ...QUEUE, values: [since, limit] }),
    await pool.query<Row>({ ...LIFE, values: [since, limit] }),
  ];
  const of = (dead: boolean) => (row: Row) => ({
    key: row.id.toString("latin1"),
    endpointKey: row.endpoint_id.toString("latin1"),
    epoch: row.epoch,
    ownerReplica: row.owner_replica ?? undefined,
    ownerLives: row.owner_lives,
    dead,
  });
  return [...life.rows.map(of(true)), ...queue.rows.map(of(false))];
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
