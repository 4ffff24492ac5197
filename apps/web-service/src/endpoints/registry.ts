/**
 * Endpoints: named places that run tasks. A record holds what hardly ever changes while the endpoint lives, and what
 * one person may do with it; what changes (connection, queue) is asked from dispatch and from the row.
 *
 *   1. An endpoint is found only by those who may view it; for others it does not exist.
 *   2. What is remembered holds as long as the access epoch says (store/access-epoch.ts): a deletion, or a change of
 *      who may do what, is heard everywhere within 5 s, and at once on the replica that did it.
 */
import {
  FarloomError,
  type FunctionMatcher,
  functionMatcher,
  type IdKey,
  isUuid,
  keyToUuid,
  uuidToKey,
} from "@farloom/protocol";
import type pg from "pg";
import { v7 as uuidv7 } from "uuid";
import type { FunctionRecord } from "../functions/registry.js";
import type { Endpoint, PrismaClient } from "../generated/prisma/client.js";
import type { Principal } from "../identity/principal.js";
import { LEVEL_SQL, LEVELS, type Level } from "../sharing/levels.js";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { LruMap } from "../support/lru-map.js";
import { Environments } from "./environment.js";
import { requireIsolation, wantsIsolation } from "./isolation.js";

/** Endpoint and person, together. */
const CACHE_PAIRS = 100_000;
/** How long another replica may still take a name for the endpoint that had it. */
const NAME_TTL_MS = 2_000;

export interface EndpointRecord {
  readonly id: string;
  readonly key: IdKey;
  readonly ownerId: string;
  readonly ownerKey: IdKey;
  readonly ownerName: string;
  readonly name: string;
  /** The functions that it runs; undefined: all. */
  readonly functions: FunctionMatcher | undefined;
}

/** An endpoint, and what the person who asked may do with it. */
export interface EndpointGrant extends EndpointRecord {
  readonly level: Level;
}

/** What of the row people see. */
export type EndpointRow = Pick<
  Endpoint,
  "id" | "name" | "createdAt" | "connectedAt" | "disconnectedAt" | "agentInfo"
> & { readonly enrolled: boolean; readonly ownerName: string; readonly level: Level };

interface Cached {
  /** Undefined: the person may not even view it. */
  readonly grant: EndpointGrant | undefined;
  readonly generation: number;
}

/** Over `endpoint e`: the level of person $1. */
const LEVEL_OF = `CASE WHEN e.owner_id = $1 THEN 4 ELSE (
  SELECT ${LEVEL_SQL} FROM endpoint_access a WHERE a.endpoint_id = e.id AND (a.subject_id = $1 OR a.is_team AND EXISTS
    (SELECT 1 FROM team_member m WHERE m.team_id = a.subject_id AND m.person_id = $1))) END`;
/** Over the same: whether anything is said of the person at all, by indexes. */
const CONCERNS = `(e.owner_id = $1 OR e.id IN (SELECT a.endpoint_id FROM endpoint_access a WHERE a.subject_id = $1
  OR a.subject_id IN (SELECT m.team_id FROM team_member m WHERE m.person_id = $1)))`;
const ROW = `e.id, e.name, e.created_at AS "createdAt", e.connected_at AS "connectedAt", e.disconnected_at AS "disconnectedAt",
  e.agent_info AS "agentInfo", e.public_key IS NOT NULL AS enrolled, farloom_person_name(e.owner_id) AS "ownerName", ${LEVEL_OF} AS level`;

export class EndpointRegistry {
  readonly #prisma: PrismaClient;
  readonly #pool: pg.Pool;
  readonly #environments: Environments;
  readonly #tenants: TenantPool;
  readonly #epoch: AccessEpoch;
  readonly #grants = new LruMap<string, Cached>(CACHE_PAIRS);
  readonly #byName = new LruMap<string, { readonly key: IdKey; readonly readAtMs: number }>(CACHE_PAIRS);

  /** @param database `pool` and `prisma` make endpoints, and ask what no person is told; all else is asked as whoever asks */
  constructor(
    database: { readonly prisma: PrismaClient; readonly pool: pg.Pool; readonly tenants: TenantPool },
    epoch: AccessEpoch,
  ) {
    this.#prisma = database.prisma;
    this.#pool = database.pool;
    this.#tenants = database.tenants;
    this.#environments = new Environments(database.pool);
    this.#epoch = epoch;
  }

  /** By id, by name (one's own), or by owner/name. @throws FarloomError ENDPOINT_NOT_FOUND */
  async resolve(principal: Principal, ref: string): Promise<EndpointGrant> {
    const key = uuidToKey(ref) ?? (await this.#keyOf(principal, ref));
    const grant = key && (this.peek(principal.ownerKey, key) ?? (await this.load(principal.ownerKey, key)));
    if (!grant) throw new FarloomError("ENDPOINT_NOT_FOUND", { id: ref.slice(0, 100) });
    return grant;
  }

  /** From memory alone, where that holds: for the hot path. */
  peek(personKey: IdKey, endpointKey: IdKey): EndpointGrant | undefined {
    return this.verdict(personKey, endpointKey)?.grant;
  }

  /** The same, telling "not known here" (undefined) from "may not view it" (no grant). */
  verdict(personKey: IdKey, endpointKey: IdKey): Cached | undefined {
    const cached = this.#grants.peek(personKey + endpointKey);
    return cached?.generation === this.#epoch.generation && this.#epoch.isFresh ? cached : undefined;
  }

  /** From the database; undefined where there is no such endpoint for the person. */
  async load(personKey: IdKey, endpointKey: IdKey): Promise<EndpointGrant | undefined> {
    const { generation } = this.#epoch;
    const personId = keyToUuid(personKey);
    const { rows } = await this.#tenants.query<{
      name: string;
      owner_id: string;
      owner_name: string;
      functions: string[];
      level: Level;
    }>(personId, {
      name: "endpoint-grant",
      text: `SELECT e.name, e.owner_id, farloom_person_name(e.owner_id) AS owner_name, coalesce(e.allow_functions, '{}') AS functions,
               ${LEVEL_OF} AS level FROM endpoint e WHERE e.id = $2 AND e.deleted_at IS NULL`,
      values: [personId, keyToUuid(endpointKey)],
    });
    const row = rows[0];
    const grant: EndpointGrant | undefined =
      row === undefined || row.level < LEVELS.view
        ? undefined
        : {
            id: keyToUuid(endpointKey),
            key: endpointKey,
            ownerId: row.owner_id,
            ownerKey: uuidToKey(row.owner_id)!,
            ownerName: row.owner_name,
            name: row.name,
            functions: row.functions.length === 0 ? undefined : functionMatcher(row.functions),
            level: row.level,
          };
    this.#grants.set(personKey + endpointKey, { grant, generation });
    return grant;
  }

  /** Whether nothing is to be asked of the endpoint before it is given this function's tasks. */
  suits(endpointKey: IdKey, fn: FunctionRecord): boolean {
    return !wantsIsolation(fn) && this.#environments.isSure(endpointKey, fn);
  }

  /**
   * @throws FarloomError ISOLATION_UNAVAILABLE where a function wants more isolation than the endpoint has,
   * ENVIRONMENT_MISMATCH where its Python cannot run it
   */
  async requireSuiting(endpoint: EndpointRecord, fns: readonly FunctionRecord[]): Promise<void> {
    await requireIsolation(this.#pool, endpoint, fns);
    await this.#environments.require(endpoint, fns);
  }

  /** @throws FarloomError ENDPOINT_EXISTS */
  async create(principal: Principal, name: string): Promise<EndpointGrant> {
    const { ownerId, ownerKey, ownerName } = principal;
    const id = uuidv7();
    try {
      await this.#prisma.endpoint.create({ data: { id, ownerId, name }, select: { id: true } });
    } catch (error) {
      if ((error as { code?: string }).code === "P2002") throw new FarloomError("ENDPOINT_EXISTS", { name });
      throw error;
    }
    const key = uuidToKey(id)!;
    return { id, key, ownerId, ownerKey, ownerName, name, functions: undefined, level: LEVELS.own };
  }

  /** One's own and those that are shared with one, the oldest first. */
  async list(
    personId: string,
    options: { cursor?: string | undefined; limit: number },
  ): Promise<{ items: EndpointRow[]; nextCursor: string | undefined }> {
    const { cursor, limit } = options;
    const { rows } = await this.#tenants.query<EndpointRow>(personId, {
      name: "endpoints-of",
      text: `SELECT * FROM (SELECT ${ROW} FROM endpoint e
               WHERE e.deleted_at IS NULL AND ${CONCERNS} AND ($2::uuid IS NULL OR e.id > $2)) AS seen
             WHERE level > 0 ORDER BY id LIMIT $3`,
      values: [personId, cursor !== undefined && isUuid(cursor) ? cursor : null, limit + 1],
    });
    const items = rows.slice(0, limit);
    return { items, nextCursor: rows.length > limit ? items.at(-1)!.id : undefined };
  }

  /** The row as it is now. @throws FarloomError ENDPOINT_NOT_FOUND where it was deleted meanwhile. */
  async read(principal: Principal, { id }: EndpointRecord): Promise<EndpointRow> {
    const { rows } = await this.#tenants.query<EndpointRow>(principal.ownerId, {
      name: "endpoint-row",
      text: `SELECT ${ROW} FROM endpoint e WHERE e.id = $2 AND e.deleted_at IS NULL`,
      values: [principal.ownerId, id],
    });
    if (!rows[0] || rows[0].level < LEVELS.view) throw new FarloomError("ENDPOINT_NOT_FOUND", { id });
    return rows[0];
  }

  /** Takes one's own away: its agent may not connect again, and its name is free. */
  async remove({ ownerId }: Principal, record: EndpointRecord): Promise<void> {
    await this.#tenants.query(ownerId, {
      // `~` is in no endpoint's name, so the new one meets nobody's.
      text: `UPDATE endpoint SET deleted_at = now(), name = $3, public_key = NULL, enrol_hash = NULL, enrol_expires_at = NULL
             WHERE id = $2 AND owner_id = $1 AND deleted_at IS NULL`,
      values: [ownerId, record.id, `${record.name}~${record.id}`],
    });
    this.#byName.clear();
    this.#epoch.changed();
  }

  async #keyOf({ ownerId, ownerName }: Principal, ref: string): Promise<IdKey | undefined> {
    const parts = /^(?:([^/]{1,63})\/)?([^/]{1,63})$/.exec(ref);
    if (!parts) return undefined;
    const [, owner = ownerName, name] = parts as unknown as [string, string | undefined, string];
    const cached = this.#byName.peek(`${owner}/${name}`);
    if (cached && performance.now() - cached.readAtMs < NAME_TTL_MS) return cached.key;
    const readAtMs = performance.now();
    const { rows } = await this.#tenants.query<{ id: string }>(ownerId, {
      name: "endpoint-named",
      text: "SELECT id FROM endpoint WHERE owner_id = farloom_person_id($1) AND name = $2 AND deleted_at IS NULL",
      values: [owner, name],
    });
    const row = rows[0];
    if (!row) return undefined;
    const key = uuidToKey(row.id)!;
    this.#byName.set(`${owner}/${name}`, { key, readAtMs });
    return key;
  }
}
