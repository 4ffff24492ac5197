/**
 * Task groups. Every task has one: the one it asked for; a new one, where several were submitted together; or its
 * owner's default group, so that a single call costs no row but its own.
 */
import { createHash } from "node:crypto";
import { FarloomError, type IdKey, isUuid, keyAt, keyToUuid, newBatchId, uuidToKey } from "@farloom/protocol";
import { v7 as uuidv7 } from "uuid";
import type { TenantPool } from "../store/tenant-pool.js";
import { LruMap } from "../support/lru-map.js";

const CACHE_GROUPS = 50_000;

export interface GroupRow {
  readonly id: string;
  readonly name: string;
  readonly createdAt: Date;
}

export class TaskGroups {
  readonly #tenants: TenantPool;
  /** Group id to owner: neither ever changes. */
  readonly #owners = new LruMap<string, string>(CACHE_GROUPS);
  /** Owner to default group. */
  readonly #defaults = new LruMap<string, string>(CACHE_GROUPS);

  constructor(tenants: TenantPool) {
    this.#tenants = tenants;
  }

  keyOf(groupId: string): IdKey {
    return uuidToKey(groupId)!;
  }

  /** The group to submit to: the one asked for, if it is the owner's, or a new one. @throws FarloomError GROUP_NOT_FOUND */
  async forSubmission(ownerId: string, groupId: string | undefined, taskCount: number): Promise<string> {
    if (groupId === undefined) {
      return taskCount > 1 ? (await this.create(ownerId, "")).id : this.#defaultOf(ownerId);
    }
    const id = groupId.toLowerCase();
    if (this.#owners.get(id) === ownerId) return id;
    if (!(await this.find(ownerId, id))) throw new FarloomError("GROUP_NOT_FOUND", { id });
    this.#owners.set(id, ownerId);
    return id;
  }

  async create(ownerId: string, name: string): Promise<GroupRow> {
    const id = uuidv7();
    const { rows } = await this.#tenants.query<{ created_at: Date }>(ownerId, {
      name: "group-create",
      text: "INSERT INTO task_group (id, owner_id, name) VALUES ($1, $2, $3) RETURNING created_at",
      values: [id, ownerId, name],
    });
    this.#owners.set(id, ownerId);
    return { id, name, createdAt: rows[0]!.created_at };
  }

  /** The group's row; undefined where there is none, or it is another's. */
  async find(ownerId: string, groupId: string): Promise<GroupRow | undefined> {
    const { rows } = await this.#tenants.query<GroupRow>(ownerId, {
      name: "group-find",
      text: `SELECT id, name, created_at AS "createdAt" FROM task_group WHERE id = $1 AND owner_id = $2`,
      values: [groupId, ownerId],
    });
    return rows[0];
  }

  /** Newest first. */
  async list(
    ownerId: string,
    options: { cursor?: string | undefined; limit: number },
  ): Promise<{ items: GroupRow[]; nextCursor: string | undefined }> {
    const { cursor, limit } = options;
    if (cursor !== undefined && !isUuid(cursor)) {
      throw new FarloomError("REQUEST_INVALID", { detail: "query.cursor is not one of ours" });
    }
    const { rows } = await this.#tenants.query<GroupRow>(ownerId, {
      name: "group-list",
      text: `SELECT id, name, created_at AS "createdAt" FROM task_group
       WHERE owner_id = $1 AND ($2::uuid IS NULL OR (created_at, id) < (SELECT created_at, id FROM task_group WHERE id = $2 AND owner_id = $1))
       ORDER BY created_at DESC, id DESC LIMIT $3`,
      values: [ownerId, cursor ?? null, limit + 1],
    });
    const items = rows.slice(0, limit);
    return { items, nextCursor: rows.length > limit ? items.at(-1)!.id : undefined };
  }

  /**
   * The group of single calls: its id follows from the owner's, so that every replica means the same one. Whoever runs
   * somebody's tasks knows that id, and may have made the group first: then the owner gets another, and is not kept from
   * submitting.
   */
  async #defaultOf(ownerId: string): Promise<string> {
    const known = this.#defaults.get(ownerId);
    if (known !== undefined) return known;
    let id = defaultGroupId(ownerId);
    const { rowCount } = await this.#tenants.query(ownerId, {
      name: "group-default",
      text: "INSERT INTO task_group (id, owner_id, name) VALUES ($1, $2, 'default') ON CONFLICT DO NOTHING",
      values: [id, ownerId],
    });
    if (rowCount === 0 && (await this.find(ownerId, id)) === undefined)
      id = (await this.create(ownerId, "default")).id;
    this.#defaults.set(ownerId, id);
    return id;
  }
}

/** The group of single calls: its id follows from the owner's, so that every replica means the same one. */
export function defaultGroupId(ownerId: string): string {
  const random = createHash("sha256").update(`default group of ${ownerId}`).digest().subarray(0, 10);
  return keyToUuid(keyAt(newBatchId(0, random)));
}
