/**
 * Payload files across owners, where an endpoint is shared. A file belongs to whoever put it: arguments to the task's
 * submitter, large results to the endpoint's owner, for whom its agent put them. The two read each other's only as far as
 * a task says so:
 *
 *   1. An agent reads the arguments of the tasks that it leases now, and reads them as their submitter would: the owner of
 *      its endpoint is no exception (P43).
 *   2. A submitter reads the results of their own tasks, whoever owns the endpoint. Asked only where there is no such file
 *      of their own, and along the index that the sweep of unused files has: a reference begins with its file's digest.
 */
import type { TenantPool } from "../store/tenant-pool.js";

export class SharedPayloads {
  readonly #tenants: TenantPool;

  constructor(tenants: TenantPool) {
    this.#tenants = tenants;
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
