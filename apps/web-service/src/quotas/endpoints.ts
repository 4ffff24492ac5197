/** How many endpoints one person may have. Made rarely, so that they are counted each time. */
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";

/** @throws FarloomError QUOTA_EXCEEDED */
export async function requireEndpointRoom(pool: Pool, personId: string, limit: number): Promise<void> {
  const { rows } = await pool.query<{ n: number }>(
    "SELECT count(*)::int4 AS n FROM (SELECT 1 FROM endpoint WHERE owner_id = $1 AND deleted_at IS NULL LIMIT $2) AS had",
    [personId, limit],
  );
  if (rows[0]!.n >= limit) throw new FarloomError("QUOTA_EXCEEDED", { what: `${limit} endpoints`, limit });
}
