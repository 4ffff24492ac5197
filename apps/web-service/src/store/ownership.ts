/**
 * Ownership of an endpoint's queue: an epoch that rises at every accepted connection of its agent. Writes under
 * an older epoch match nothing, so a stale owner can do no harm. What its agent had when a connection ended is
 * written in endpoint-leases.ts.
 */

import type { AgentInfo, HelloFrame, IdKey } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { jsonbText, uuidColumn } from "./pg-columns.js";

export interface Claim {
  readonly epoch: number;
  /** No open task of the endpoint has a smaller seq. */
  readonly floorSeq: number;
  readonly ownerId: string;
  /** How it stood before this claim. */
  readonly before: {
    /** The replica that has not said that its agent left; undefined where it has, or where there was none. */
    readonly replicaId: string | undefined;
    readonly bootId: string | undefined;
    /** How many tasks its agent was ready to hold; 0 where that is not known. */
    readonly window: number;
  };
}

/**
 * Takes the endpoint over, or gives undefined where it was deleted. A connection that was opened with a token of
 * `tokenEpoch` takes it over from that epoch alone: so each token opens one, and a recorded upgrade none. Where another
 * has come since, it is "used".
 */
export async function claimEndpoint(
  pool: Pool,
  endpointKey: IdKey,
  replicaId: string,
  hello: Pick<HelloFrame, "agent" | "reclaimMs">,
  tokenEpoch?: number,
): Promise<Claim | "used" | undefined> {
  const info: AgentInfo | undefined = hello.agent;
  const { rows } = await pool.query<{
    epoch: number;
    floor_seq: number;
    owner_id: string;
    before_replica: string | null;
    before_boot: string | null;
    before_window: number;
  }>(
    `UPDATE endpoint e SET epoch = e.epoch + 1, owner_replica = $2, connected_at = now(), disconnected_at = NULL,
       agent_info = $3::jsonb || jsonb_build_object('window', b.lease_window), reclaim_ms = $4
     FROM (SELECT id, owner_replica, boot_id, coalesce((agent_info ->> 'window')::int4, 0) AS lease_window
           FROM endpoint WHERE id = $1 FOR UPDATE) AS b
     WHERE e.id = b.id AND e.deleted_at IS NULL AND e.epoch = coalesce($5, e.epoch)
     RETURNING e.epoch, e.floor_seq::float8 AS floor_seq, e.owner_id, b.owner_replica AS before_replica,
       b.boot_id AS before_boot, b.lease_window AS before_window`,
    [
      keyToUuid(endpointKey),
      replicaId,
      info ? jsonbText(info) : "{}",
      hello.reclaimMs === undefined ? null : Math.min(hello.reclaimMs, 0x7fffffff),
      tokenEpoch ?? null,
    ],
  );
  const row = rows[0];
  if (row === undefined) return (await isThere(pool, endpointKey)) ? "used" : undefined;
  return {
    epoch: row.epoch,
    floorSeq: row.floor_seq,
    ownerId: row.owner_id,
    before: {
      replicaId: row.before_replica ?? undefined,
      bootId: row.before_boot ?? undefined,
      window: row.before_window,
    },
  };
}

async function isThere(pool: Pool, endpointKey: IdKey): Promise<boolean> {
  const { rowCount } = await pool.query("SELECT 1 FROM endpoint WHERE id = $1 AND deleted_at IS NULL", [
    keyToUuid(endpointKey),
  ]);
  return rowCount === 1;
}

/** The epochs of these endpoints, as far as they are there: whether they are still one's own. */
export async function epochsOf(pool: Pool, endpointKeys: readonly IdKey[]): Promise<Map<IdKey, number>> {
  const { rows } = await pool.query<{ id: Buffer; epoch: number }>({
    name: "epochs-of",
    text: "SELECT uuid_send(e.id) AS id, e.epoch FROM unnest($1::uuid[]) AS u (id) JOIN endpoint e ON e.id = u.id",
    values: [uuidColumn(endpointKeys, (key) => key)],
  });
  return new Map(rows.map((row) => [row.id.toString("latin1"), row.epoch]));
}

/**
 * Whether a replica's hot connections are there: it lives, as far as PostgreSQL can see. One that was killed has none
 * from the same moment on.
 */
export async function isReplicaConnected(pool: Pool, replicaId: string): Promise<boolean> {
  const { rowCount } = await pool.query(
    "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database() LIMIT 1",
    [hotName(replicaId)],
  );
  return rowCount === 1;
}

/** How the hot path's connections of a replica are named. */
export function hotName(replicaId: string): string {
  return `farloom hot ${replicaId}`;
}

/** Where the next owner may begin to read. Only ever rises. */
export async function raiseFloor(
  pool: Pool,
  endpointKey: IdKey,
  epoch: number,
  floorSeq: number,
): Promise<void> {
  await pool.query(
    "UPDATE endpoint SET floor_seq = $3::float8::bigint WHERE id = $1 AND epoch = $2 AND floor_seq < $3::float8::bigint",
    [keyToUuid(endpointKey), epoch, floorSeq],
  );
}

/** Whether no other connection has taken the endpoint over since. */
export async function isEpochCurrent(pool: Pool, endpointKey: IdKey, epoch: number): Promise<boolean> {
  const { rowCount } = await pool.query("SELECT 1 FROM endpoint WHERE id = $1 AND epoch = $2", [
    keyToUuid(endpointKey),
    epoch,
  ]);
  return rowCount === 1;
}
