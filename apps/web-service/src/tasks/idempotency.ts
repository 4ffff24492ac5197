/**
 * What an Idempotency-Key was first used for. The record is committed before the tasks are, so whoever comes again
 * with the key gets the same ids, whatever became of the first request.
 */
import { FarloomError, keyAt, keyToBytes, keyToUuid, uuidToKey } from "@farloom/protocol";
import type { TenantPool } from "../store/tenant-pool.js";

export interface IdempotencyRecord {
  readonly baseId: Buffer;
  readonly groupId: string;
  readonly taskCount: number;
}

interface Use {
  readonly key: string;
  readonly bodyDigest: Buffer;
}

interface Row {
  body_digest: Buffer;
  group_id: string;
  base_id: string;
  task_count: number;
}

export class Idempotency {
  readonly #tenants: TenantPool;

  constructor(tenants: TenantPool) {
    this.#tenants = tenants;
  }

  /** The record of this key, or undefined where it is new. @throws FarloomError IDEMPOTENCY_MISMATCH */
  async find(ownerId: string, use: Use): Promise<IdempotencyRecord | undefined> {
    const { rows } = await this.#tenants.query<Row>(ownerId, {
      name: "idempotency-find",
      text: "SELECT body_digest, group_id, base_id, task_count FROM idempotency WHERE owner_id = $1 AND key = $2",
      values: [ownerId, use.key],
    });
    const row = rows[0];
    if (!row) return undefined;
    if (!row.body_digest.equals(use.bodyDigest)) throw new FarloomError("IDEMPOTENCY_MISMATCH");
    return {
      baseId: keyToBytes(uuidToKey(row.base_id)!),
      groupId: row.group_id,
      taskCount: row.task_count,
    };
  }

  /** Keeps the record, or returns the one that another request with the same key kept first. */
  async record(ownerId: string, use: Use, record: IdempotencyRecord): Promise<IdempotencyRecord> {
    const { baseId, groupId, taskCount } = record;
    const { rowCount } = await this.#tenants.query(ownerId, {
      name: "idempotency-record",
      text: `INSERT INTO idempotency (owner_id, key, body_digest, group_id, base_id, task_count)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
      values: [ownerId, use.key, use.bodyDigest, groupId, keyToUuid(keyAt(baseId)), taskCount],
    });
    if (rowCount === 1) return record;
    const first = await this.find(ownerId, use);
    if (!first) throw new Error("an idempotency record vanished while it was used");
    return first;
  }
}
