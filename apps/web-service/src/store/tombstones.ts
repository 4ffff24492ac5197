/** What remains of a task after its retention: that it was, and how it ended. */
import type { IdKey } from "@farloom/protocol";
import { uuidColumn } from "./pg-columns.js";
import type { TenantPool } from "./tenant-pool.js";

export interface TombstoneRow {
  task_id: string;
  state: number;
  reason: number;
  finished_at: Date;
}

/** The owner's tasks among `keys` that were deleted when their retention ended. */
export async function readTombstones(
  tenants: TenantPool,
  ownerId: string,
  keys: readonly IdKey[],
): Promise<TombstoneRow[]> {
  const { rows } = await tenants.query<TombstoneRow>(ownerId, {
    name: "tombstones",
    text: `SELECT b.task_id, b.state, b.reason, b.finished_at FROM unnest($1::uuid[]) AS u (id)
           JOIN tombstone b ON b.task_id = u.id WHERE b.owner_id = $2`,
    values: [uuidColumn(keys, (key) => key), ownerId],
  });
  return rows;
}
