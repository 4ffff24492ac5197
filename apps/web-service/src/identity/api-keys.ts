/**
 * API keys: `fl_<id>_<secret>`. The id is public; the secret is 256 random bits of which only the SHA-256 is
 * kept, so it is shown once. Every key expires, after MAX_KEY_DAYS at the latest. One may be for some endpoints or
 * functions alone (narrow.ts).
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";
import { v7 as uuidv7 } from "uuid";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { Clock } from "../store/database-clock.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { fromBuffer } from "../support/bytes.js";
import type { Scope } from "./principal.js";

const KEY = /^fl_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
/** How long a key lives where nobody says, and at most: a year, and a day to make the next one. */
export const DEFAULT_KEY_DAYS = 90;
export const MAX_KEY_DAYS = 366;

/** What an unknown id's secret is compared with, so that it costs what a wrong secret costs. */
const NO_HASH = Buffer.alloc(32);

/** A key in lists: never its secret. */
export interface ApiKeyInfo {
  readonly id: string;
  readonly label: string;
  readonly scopes: string[];
  /** Ids of endpoints, and functions, that it is for alone; empty: everything of its owner's. */
  readonly endpoints: string[];
  readonly functions: string[];
  readonly createdAt: Date;
  readonly expiresAt: Date;
  readonly revokedAt: Date | null;
}

/** A key's row with what a principal needs of its owner. */
export interface KeyRow extends ApiKeyInfo {
  readonly ownerId: string;
  readonly owner: {
    readonly name: string;
    readonly isAdmin: boolean;
    readonly disabledAt: Date | string | null;
  };
}

interface HeldRow extends KeyRow {
  readonly secretHash: Buffer;
}

const INFO = {
  id: true,
  label: true,
  scopes: true,
  endpoints: true,
  functions: true,
  createdAt: true,
  expiresAt: true,
  revokedAt: true,
} as const;
const COLUMNS = `k.id, k.label, k.scopes, coalesce(k.only_endpoints, '{}') AS endpoints, coalesce(k.only_functions, '{}') AS functions,
  k.created_at AS "createdAt", k.expires_at AS "expiresAt", k.revoked_at AS "revokedAt"`;
/** One statement, whether or not there is such a key: how long a refusal takes tells nobody which ids there are. */
const HELD = `SELECT ${COLUMNS}, k.owner_id AS "ownerId", k.secret_hash AS "secretHash",
    json_build_object('name', o.name, 'isAdmin', o.is_admin, 'disabledAt', o.disabled_at) AS owner
  FROM api_key k JOIN owner o ON o.id = k.owner_id WHERE k.id = $1`;

export class ApiKeys {
  readonly #prisma: PrismaClient;
  readonly #pool: Pool;
  readonly #tenants: TenantPool;
  readonly #clock: Clock;

  /** @param database `prisma` and `pool` for new keys, and for keys whose holder is not known yet */
  constructor(
    database: { readonly prisma: PrismaClient; readonly pool: Pool; readonly tenants: TenantPool },
    clock: Clock,
  ) {
    this.#prisma = database.prisma;
    this.#pool = database.pool;
    this.#tenants = database.tenants;
    this.#clock = clock;
  }

  /** Makes a key; `secret` is the whole text to send as bearer, and is not kept. */
  async create(
    ownerId: string,
    options: {
      label: string;
      scopes: readonly Scope[];
      endpoints?: readonly string[];
      functions?: readonly string[];
      expiresAt: Date;
    },
  ): Promise<{ info: ApiKeyInfo; secret: string }> {
    const id = randomBytes(8).toString("hex");
    const random = randomBytes(32).toString("base64url");
    const info = await this.#prisma.apiKey.create({
      data: {
        id,
        ownerId,
        secretHash: fromBuffer(hashOf(random)),
        label: options.label,
        expiresAt: options.expiresAt,
        scopes: [...options.scopes],
        endpoints: [...(options.endpoints ?? [])],
        functions: [...(options.functions ?? [])],
      },
      select: INFO,
    });
    return { info, secret: `fl_${id}_${random}` };
  }

  /** The row of the key in `text`, if its secret is right and it still holds; else undefined, at the same cost. */
  async verify(text: string): Promise<KeyRow | undefined> {
    const match = KEY.exec(text);
    if (!match) return undefined;
    const row = await this.#row(match[1]!);
    const equal = timingSafeEqual(hashOf(match[2]!), row?.secretHash ?? NO_HASH);
    return row && equal && isLive(row, this.#clock) ? row : undefined;
  }

  /** The row of a key whose holder is known otherwise (by a token); undefined where the key holds no more. */
  async find(id: string): Promise<KeyRow | undefined> {
    const row = await this.#row(id);
    return row && isLive(row, this.#clock) ? row : undefined;
  }

  /** Those of `ids` that hold no more. */
  async ended(ids: readonly string[]): Promise<Set<string>> {
    const live = await this.#prisma.apiKey.findMany({
      where: { id: { in: [...ids] }, revokedAt: null },
      select: { id: true, expiresAt: true, revokedAt: true, owner: { select: { disabledAt: true } } },
    });
    const good = new Set(live.filter((row) => isLive(row, this.#clock)).map((row) => row.id));
    return new Set(ids.filter((id) => !good.has(id)));
  }

  async list(ownerId: string): Promise<ApiKeyInfo[]> {
    const { rows } = await this.#tenants.query<ApiKeyInfo>(ownerId, {
      text: `SELECT ${COLUMNS} FROM api_key k WHERE k.owner_id = $1 ORDER BY k.created_at DESC LIMIT 1000`,
      values: [ownerId],
    });
    return rows;
  }

  /** Ends a key for good. @throws FarloomError KEY_NOT_FOUND */
  async revoke(ownerId: string, id: string): Promise<void> {
    const { rowCount } = await this.#tenants.query(ownerId, {
      text: "UPDATE api_key SET revoked_at = now() WHERE id = $2 AND owner_id = $1 AND revoked_at IS NULL",
      values: [ownerId, id],
    });
    if (rowCount === 0) throw new FarloomError("KEY_NOT_FOUND", { id: id.slice(0, 40) });
  }

  async #row(id: string): Promise<HeldRow | undefined> {
    const { rows } = await this.#pool.query<HeldRow>({ name: "api-key", text: HELD, values: [id] });
    return rows[0];
  }

  /** The owner of that name, made where there is none; an existing one keeps being admin or not. */
  async ensureOwner(name: string, isAdmin = false): Promise<string> {
    const owner = await this.#prisma.owner.upsert({
      where: { name },
      create: { id: uuidv7(), name, isAdmin },
      update: isAdmin ? { isAdmin: true } : {},
      select: { id: true },
    });
    return owner.id;
  }
}

function hashOf(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}

function isLive(
  row: { expiresAt: Date; revokedAt: Date | null; owner: { disabledAt: Date | string | null } },
  clock: Clock,
): boolean {
  return row.revokedAt === null && row.owner.disabledAt === null && row.expiresAt.getTime() > clock.nowMs();
}
