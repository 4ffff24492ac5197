/**
 * How many open tasks an owner, and an endpoint, may have. Counted without a count(*) for each submission:
 *
 *   B1  For each there is an upper bound in memory: what was counted last, plus all that was taken here since. It never
 *       falls by itself, so it is never too low for what came by this replica.
 *   B2  When the bound nears the limit the open tasks are counted anew, in the background and only as far as the
 *       limit; a count that runs does not hold up submissions that still fit.
 *   B3  What comes by other replicas is seen at the next count: with n replicas the limit may be passed by what they
 *       take between two counts.
 */
import { FarloomError, type IdKey, keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { LruMap } from "../support/lru-map.js";

/** Owners and endpoints that are counted; one that falls out is counted anew. */
const MAX_COUNTED = 200_000;
/** A bound above this part of the limit is worth a count. */
const NEAR = 0.75;
/** Between two counts of the same: a count of millions takes PostgreSQL seconds. */
const COUNT_PAUSE_MS = 2_000;
const RETRY_MS = 2_000;

export interface OpenLimits {
  readonly perOwner: number;
  readonly perEndpoint: number;
}

interface Counted {
  upper: number;
  counting: boolean;
  countedAtMs: number;
}

/** Open tasks of one endpoint, as far as $2: those above its floor that have no outcome. */
const OF_ENDPOINT = `
  SELECT count(*)::int4 AS n FROM (
    SELECT 1 FROM endpoint e JOIN task t ON t.endpoint_id = e.id AND t.seq > e.floor_seq
    WHERE e.id = $1 AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id) LIMIT $2) AS open`;
/** The same of one submitter, over the endpoints that are theirs or shared with them: only those have tasks of theirs. */
const OF_OWNER = OF_ENDPOINT.replace(
  "e.id = $1",
  `t.owner_id = $1 AND e.deleted_at IS NULL AND (e.owner_id = $1 OR e.id IN (
     SELECT a.endpoint_id FROM endpoint_access a WHERE a.subject_id = $1
       OR a.subject_id IN (SELECT m.team_id FROM team_member m WHERE m.person_id = $1)))`,
);

export class OpenBudget {
  readonly #pool: Pool;
  readonly #log: Logger;
  readonly #limits: OpenLimits;
  readonly #owners = new LruMap<IdKey, Counted>(MAX_COUNTED);
  readonly #endpoints = new LruMap<IdKey, Counted>(MAX_COUNTED);

  constructor(pool: Pool, log: Logger, limits: OpenLimits) {
    this.#pool = pool;
    this.#log = log;
    this.#limits = limits;
  }

  /**
   * Takes `n` tasks into the count. What may be a repetition is refused only far above the limit: refusing it would
   * tell its sender that tasks are not there which are. @throws FarloomError QUEUE_FULL
   */
  take(of: { readonly ownerKey: IdKey; readonly endpointKey: IdKey }, n: number, again: boolean): void {
    const { perOwner, perEndpoint } = this.#limits;
    const owner = this.#counted(this.#owners, of.ownerKey, OF_OWNER, perOwner);
    const endpoint = this.#counted(this.#endpoints, of.endpointKey, OF_ENDPOINT, perEndpoint);
    const factor = again ? 2 : 1;
    if (owner.upper + n > factor * perOwner) throw full("Your account", perOwner);
    if (endpoint.upper + n > factor * perEndpoint) throw full("The endpoint", perEndpoint);
    owner.upper += n;
    endpoint.upper += n;
  }

  #counted(map: LruMap<IdKey, Counted>, key: IdKey, sql: string, limit: number): Counted {
    let counted = map.get(key);
    if (!counted) {
      counted = { upper: 0, counting: false, countedAtMs: Number.NEGATIVE_INFINITY };
      map.set(key, counted);
      this.#count(counted, key, sql, limit);
    } else if (counted.upper > NEAR * limit) this.#count(counted, key, sql, limit);
    return counted;
  }

  #count(counted: Counted, key: IdKey, sql: string, limit: number): void {
    if (counted.counting || performance.now() - counted.countedAtMs < COUNT_PAUSE_MS) return;
    counted.counting = true;
    const before = counted.upper;
    this.#pool
      .query<{ n: number }>(sql, [keyToUuid(key), limit + 1])
      // What was taken while it ran may be in the count or not: it counts twice rather than never (B1).
      .then(({ rows }) => {
        counted.upper = rows[0]!.n + (counted.upper - before);
      })
      .catch((err) => this.#log.warn({ err }, "open tasks could not be counted"))
      .finally(() => {
        counted.counting = false;
        counted.countedAtMs = performance.now();
      });
  }
}

function full(what: string, limit: number): FarloomError {
  return new FarloomError("QUEUE_FULL", { what, limit }, { retryAfterMs: RETRY_MS });
}
