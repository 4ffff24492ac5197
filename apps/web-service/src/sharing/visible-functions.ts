/**
 * Whether somebody else's function may be used: its owner shares it with a team, or with everybody. What is found holds
 * as long as the access epoch says (store/access-epoch.ts).
 */
import type { IdKey } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { LruMap } from "../support/lru-map.js";

/** Function and person, together. */
const CACHE_PAIRS = 200_000;

export const VISIBILITIES = ["private", "team", "public"] as const;
export type Visibility = (typeof VISIBILITIES)[number];

/** For a WHERE over `function f`: what person `$n` may use that is not their own. */
export const sharedWith = (n: number): string =>
  `(f.visibility = 2 OR f.visibility = 1 AND EXISTS
     (SELECT 1 FROM team_member m WHERE m.team_id = f.team_id AND m.person_id = $${n}))`;

export class VisibleFunctions {
  /** How long what is found holds. */
  readonly epoch: AccessEpoch;
  readonly #tenants: TenantPool;
  readonly #known = new LruMap<string, { readonly visible: boolean; readonly generation: number }>(
    CACHE_PAIRS,
  );

  constructor(tenants: TenantPool, epoch: AccessEpoch) {
    this.#tenants = tenants;
    this.epoch = epoch;
  }

  /** From memory alone; undefined where that does not know, or holds no more. */
  peek(functionKey: number, personKey: IdKey): boolean | undefined {
    const known = this.#known.peek(`${functionKey}/${personKey}`);
    if (known === undefined || known.generation !== this.epoch.generation || !this.epoch.isFresh)
      return undefined;
    return known.visible;
  }

  async load(functionKey: number, personKey: IdKey): Promise<boolean> {
    const { generation } = this.epoch;
    const personId = keyToUuid(personKey);
    const { rowCount } = await this.#tenants.query(personId, {
      name: "function-visible",
      text: `SELECT 1 FROM function f WHERE f.key = $1 AND (f.owner_id = $2 OR ${sharedWith(2)})`,
      values: [functionKey, personId],
    });
    const visible = rowCount === 1;
    this.#known.set(`${functionKey}/${personKey}`, { visible, generation });
    return visible;
  }

  /** It was found to be visible by a reading that began in this generation. */
  learn(functionKey: number, personKey: IdKey, generation: number): void {
    this.#known.set(`${functionKey}/${personKey}`, { visible: true, generation });
  }
}
