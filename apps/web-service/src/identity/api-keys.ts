/**
 * API keys: `fl_<id>_<secret>`. The id is public; the secret is 256 random bits of which only the SHA-256 is
 * kept, so it is shown once. Every key expires, after MAX_KEY_DAYS at the latest. One may be for some endpoints or
 * functions alone (narrow.ts).
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import { v7 as uuidv7 } from "uuid";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { Clock } from "../store/database-clock.js";
import { fromBuffer, toBuffer } from "../support/bytes.js";
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
  readonly owner: { readonly name: string; readonly isAdmin: boolean; readonly disabledAt: Date | null };
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
const ROW = {
  ...INFO,
  ownerId: true,
  secretHash: true,
  owner: { select: { name: true, isAdmin: true, disabledAt: true } },
} as const;

export class ApiKeys {
  readonly #prisma: PrismaClient;
  readonly #clock: Clock;

  constructor(prisma: PrismaClient, clock: Clock) {
    this.#prisma = prisma;
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
    const row = await this.#prisma.apiKey.findUnique({ where: { id: match[1]! }, select: ROW });
    const equal = timingSafeEqual(hashOf(match[2]!), row ? toBuffer(row.secretHash) : NO_HASH);
    return row && equal && isLive(row, this.#clock) ? row : undefined;
  }

  /** The row of a key whose holder is known otherwise (by a token); undefined where the key holds no more. */
  async find(id: string): Promise<KeyRow | undefined> {
    const row = await this.#prisma.apiKey.findUnique({ where: { id }, select: ROW });
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
    return this.#prisma.apiKey.findMany({
      where: { ownerId },
      orderBy: { createdAt: "desc" },
      take: 1_000,
      select: INFO,
    });
  }

  /** Ends a key for good. @throws FarloomError KEY_NOT_FOUND */
  async revoke(ownerId: string, id: string): Promise<void> {
    const { count } = await this.#prisma.apiKey.updateMany({
      where: { id, ownerId, revokedAt: null },
      data: { revokedAt: new Date() },
    });
    if (count === 0) throw new FarloomError("KEY_NOT_FOUND", { id: id.slice(0, 40) });
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
  row: { expiresAt: Date; revokedAt: Date | null; owner: { disabledAt: Date | null } },
  clock: Clock,
): boolean {
  return row.revokedAt === null && row.owner.disabledAt === null && row.expiresAt.getTime() > clock.nowMs();
}
