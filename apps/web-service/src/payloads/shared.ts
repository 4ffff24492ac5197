/**
 * Payload files across owners, where an endpoint is shared. A file belongs to whoever put it: arguments to the task's
 * submitter, large results to the endpoint's owner, for whom its agent put them. The two read each other's only as far as
 * a task says so:
 *
 *   1. An agent reads the arguments of the tasks that it leases now, whoever submitted them. The replica that has its
 *      connection knows which those are; any other one, and this one before the agent's first credit, takes those that
 *      are open at its endpoint.
 *   2. A submitter reads the results of their own tasks, whoever owns the endpoint.
 *
 * Asked only where the reader has no such file of their own. Both questions go along the indexes that the sweep of unused
 * files has: a reference begins with its file's digest.
 */
import type pg from "pg";
import type { TenantPool } from "../store/tenant-pool.js";

/** What agents have been sent and have not answered. */
export interface AgentLeases {
  /** Whose arguments of such a task refer to the file, if anybody's do; undefined where this replica cannot say. */
  ownerOfReference(endpointId: string, digest: Buffer): { readonly ownerId: string | undefined } | undefined;
}

export class SharedPayloads {
  readonly #pool: pg.Pool;
  readonly #tenants: TenantPool;
  readonly #leases: AgentLeases;

  constructor(pool: pg.Pool, tenants: TenantPool, leases: AgentLeases) {
    this.#pool = pool;
    this.#tenants = tenants;
    this.#leases = leases;
  }

  /** Whose file the agent of this endpoint may read by that digest (1). */
  async ownerForAgent(endpointId: string, digest: Buffer): Promise<string | undefined> {
    const leased = this.#leases.ownerOfReference(endpointId, digest);
    if (leased !== undefined) return leased.ownerId;
    const { rows } = await this.#pool.query<{ owner_id: string }>({
      name: "payload-for-agent",
      text: `SELECT t.owner_id FROM task t
             WHERE t.codec >= 128 AND t.args >= $1 AND t.args <= $2 AND t.endpoint_id = $3
               AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id) LIMIT 1`,
      values: [digest, lastOf(digest), endpointId],
    });
    return rows[0]?.owner_id;
  }

  /** Whose file this submitter may read by that digest (2). */
  async ownerForSubmitter(ownerId: string, digest: Buffer): Promise<string | undefined> {
    const { rows } = await this.#tenants.query<{ owner_id: string }>(ownerId, {
      name: "payload-for-submitter",
      text: `SELECT n.endpoint_owner_id AS owner_id
             FROM outcome o JOIN task t ON t.id = o.task_id JOIN task_names n ON n.task_id = t.id
             WHERE o.codec >= 128 AND o.result >= $1 AND o.result <= $2 AND t.owner_id = $3
               AND n.endpoint_owner_id <> $3 LIMIT 1`,
      values: [digest, lastOf(digest), ownerId],
    });
    return rows[0]?.owner_id;
  }
}

/** Above every reference to the file: the digest and eight bytes of its size. */
function lastOf(digest: Buffer): Buffer {
  return Buffer.concat([digest, Buffer.alloc(8, 0xff)]);
}
