/** Task groups: made by the first submission that names them, and never another owner's. */
import { FarloomError, type IdKey, keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { LruMap } from "../support/lru-map.js";

/** Groups whose owner is remembered. */
const CACHE_GROUPS = 100_000;

export class Groups {
  readonly #pool: Pool;
  readonly #owners = new LruMap<IdKey, IdKey>(CACHE_GROUPS);

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Whether the group is known here to be the owner's: the quick way past `ensure`. */
  isKnown(ownerKey: IdKey, groupKey: IdKey): boolean {
    return this.#owners.get(groupKey) === ownerKey;
  }

  /** Makes the group if there is none. @throws FarloomError GROUP_NOT_FOUND where it is another owner's. */
  async ensure(ownerKey: IdKey, groupKey: IdKey): Promise<void> {
    if (this.isKnown(ownerKey, groupKey)) return;
    const { rows } = await this.#pool.query<{ owner_id: Buffer }>(
      `WITH made AS (INSERT INTO task_group (id, owner_id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING RETURNING owner_id)
       SELECT uuid_send(owner_id) AS owner_id FROM made
       UNION ALL SELECT uuid_send(owner_id) FROM task_group WHERE id = $1`,
      [keyToUuid(groupKey), keyToUuid(ownerKey)],
    );
    // A concurrent insert that has not committed when the statement began is seen by neither half.
    const owner = rows[0]?.owner_id.toString("latin1") ?? (await this.#read(groupKey));
    if (owner !== ownerKey) throw new FarloomError("GROUP_NOT_FOUND", { id: keyToUuid(groupKey) });
    this.#owners.set(groupKey, ownerKey);
  }

  async #read(groupKey: IdKey): Promise<IdKey | undefined> {
    const { rows } = await this.#pool.query<{ owner_id: Buffer }>(
      "SELECT uuid_send(owner_id) AS owner_id FROM task_group WHERE id = $1",
      [keyToUuid(groupKey)],
    );
    return rows[0]?.owner_id.toString("latin1");
  }
}
