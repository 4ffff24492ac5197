/**
 * Ownership of an endpoint's queue: an epoch that rises at every accepted connection of its agent. Writes under
 * an older epoch match nothing, so a stale owner can do no harm.
 */

import type { AgentInfo, IdKey } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { jsonbText } from "./pg-columns.js";

export interface Claim {
  readonly epoch: number;
  /** No open task of the endpoint has a smaller seq. */
  readonly floorSeq: number;
  readonly ownerId: string;
}

/** Takes the endpoint over, or gives undefined where it was deleted. */
export async function claimEndpoint(
  pool: Pool,
  endpointKey: IdKey,
  replicaId: string,
  info: AgentInfo | undefined,
): Promise<Claim | undefined> {
  const { rows } = await pool.query<{ epoch: number; floor_seq: number; owner_id: string }>(
    `UPDATE endpoint SET epoch = epoch + 1, owner_replica = $2, connected_at = now(), disconnected_at = NULL, agent_info = $3::jsonb
     WHERE id = $1 AND deleted_at IS NULL RETURNING epoch, floor_seq::float8 AS floor_seq, owner_id`,
    [keyToUuid(endpointKey), replicaId, info ? jsonbText(info) : null],
  );
  const row = rows[0];
  return row && { epoch: row.epoch, floorSeq: row.floor_seq, ownerId: row.owner_id };
}

/** Says that the agent is gone, unless another connection has taken over meanwhile. */
export async function releaseEndpoint(pool: Pool, endpointKey: IdKey, epoch: number): Promise<void> {
  await pool.query(
    "UPDATE endpoint SET owner_replica = NULL, disconnected_at = now() WHERE id = $1 AND epoch = $2",
    [keyToUuid(endpointKey), epoch],
  );
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
