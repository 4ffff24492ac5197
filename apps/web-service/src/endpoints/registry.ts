/**
 * Endpoints: named places that run tasks. A record holds what never changes while the endpoint lives; what does
 * (connection, queue) is asked from dispatch and from the row.
 *
 *   1. An endpoint belongs to one owner and is found only within that owner.
 *   2. A deletion is heard everywhere within CACHE_TTL_MS, and at once on the replica that did it.
 */
import { FarloomError, type IdKey, isUuid, keyToUuid, uuidToKey } from "@farloom/protocol";
import { v7 as uuidv7 } from "uuid";
import type { Endpoint, PrismaClient } from "../generated/prisma/client.js";
import type { Principal } from "../identity/principal.js";
import { LruMap } from "../support/lru-map.js";

const CACHE_TTL_MS = 2_000;
const CACHE_ENDPOINTS = 50_000;

export interface EndpointRecord {
  readonly id: string;
  readonly key: IdKey;
  readonly ownerId: string;
  readonly ownerKey: IdKey;
  readonly name: string;
}

/** What of the row people see. */
export type EndpointRow = Pick<
  Endpoint,
  "id" | "name" | "createdAt" | "connectedAt" | "disconnectedAt" | "agentInfo"
> & { readonly enrolled: boolean };

const ROW = {
  id: true,
  name: true,
  createdAt: true,
  connectedAt: true,
  disconnectedAt: true,
  agentInfo: true,
  publicKey: true,
} as const;

interface Cached {
  readonly record: EndpointRecord;
  readonly readAtMs: number;
}

export class EndpointRegistry {
  readonly #prisma: PrismaClient;
  readonly #byKey = new LruMap<string, Cached>(CACHE_ENDPOINTS);
  readonly #byName = new LruMap<string, Cached>(CACHE_ENDPOINTS);

  constructor(prisma: PrismaClient) {
    this.#prisma = prisma;
  }

  /** By id or by name. @throws FarloomError ENDPOINT_NOT_FOUND */
  async resolve(principal: Principal, idOrName: string): Promise<EndpointRecord> {
    const { ownerId, ownerKey } = principal;
    const key = uuidToKey(idOrName);
    if (key !== undefined) {
      const found = this.peek(ownerKey, key) ?? (await this.load(ownerKey, key));
      if (found) return found;
    } else {
      const cached = this.#byName.peek(`${ownerId}/${idOrName}`);
      if (cached && performance.now() - cached.readAtMs < CACHE_TTL_MS) return cached.record;
      const row = await this.#prisma.endpoint.findFirst({
        where: { ownerId, name: idOrName, deletedAt: null },
        select: { id: true, name: true },
      });
      if (row) return this.#remember(ownerKey, row);
    }
    throw new FarloomError("ENDPOINT_NOT_FOUND", { id: idOrName.slice(0, 100) });
  }

  /** From memory alone, where that is fresh: for the hot path. */
  peek(ownerKey: IdKey, endpointKey: IdKey): EndpointRecord | undefined {
    const cached = this.#byKey.peek(ownerKey + endpointKey);
    return cached && performance.now() - cached.readAtMs < CACHE_TTL_MS ? cached.record : undefined;
  }

  /** From the database; undefined where the owner has no such endpoint. */
  async load(ownerKey: IdKey, endpointKey: IdKey): Promise<EndpointRecord | undefined> {
    const row = await this.#prisma.endpoint.findFirst({
      where: { id: keyToUuid(endpointKey), ownerId: keyToUuid(ownerKey), deletedAt: null },
      select: { id: true, name: true },
    });
    return row ? this.#remember(ownerKey, row) : undefined;
  }

  /** @throws FarloomError ENDPOINT_EXISTS */
  async create(principal: Principal, name: string): Promise<EndpointRecord> {
    try {
      const row = await this.#prisma.endpoint.create({
        data: { id: uuidv7(), ownerId: principal.ownerId, name },
        select: { id: true, name: true },
      });
      return this.#remember(principal.ownerKey, row);
    } catch (error) {
      if ((error as { code?: string }).code === "P2002") throw new FarloomError("ENDPOINT_EXISTS", { name });
      throw error;
    }
  }

  async list(
    ownerId: string,
    options: { cursor?: string | undefined; limit: number },
  ): Promise<{ items: EndpointRow[]; nextCursor: string | undefined }> {
    const { cursor, limit } = options;
    const rows = await this.#prisma.endpoint.findMany({
      where: {
        ownerId,
        deletedAt: null,
        ...(cursor !== undefined && isUuid(cursor) ? { id: { gt: cursor } } : {}),
      },
      orderBy: { id: "asc" },
      take: limit + 1,
      select: ROW,
    });
    const items = rows.slice(0, limit).map(toRow);
    return { items, nextCursor: rows.length > limit ? items.at(-1)!.id : undefined };
  }

  /** The row as it is now. @throws FarloomError ENDPOINT_NOT_FOUND where it was deleted meanwhile. */
  async read(record: EndpointRecord): Promise<EndpointRow> {
    const row = await this.#prisma.endpoint.findFirst({
      where: { id: record.id, ownerId: record.ownerId, deletedAt: null },
      select: ROW,
    });
    if (!row) throw new FarloomError("ENDPOINT_NOT_FOUND", { id: record.id });
    return toRow(row);
  }

  /** Takes it away: its agent may not connect again, and its name is free. */
  async remove(record: EndpointRecord): Promise<void> {
    // `~` is in no endpoint's name, so the new one meets nobody's.
    await this.#prisma.endpoint.updateMany({
      where: { id: record.id, ownerId: record.ownerId, deletedAt: null },
      data: {
        deletedAt: new Date(),
        name: `${record.name}~${record.id}`,
        publicKey: null,
        enrolHash: null,
        enrolExpiresAt: null,
      },
    });
    this.#byKey.delete(record.ownerKey + record.key);
    this.#byName.delete(`${record.ownerId}/${record.name}`);
  }

  #remember(ownerKey: IdKey, row: { id: string; name: string }): EndpointRecord {
    const key = uuidToKey(row.id)!;
    const record: EndpointRecord = {
      id: row.id,
      key,
      ownerId: keyToUuid(ownerKey),
      ownerKey,
      name: row.name,
    };
    const cached = { record, readAtMs: performance.now() };
    this.#byKey.set(ownerKey + key, cached);
    this.#byName.set(`${record.ownerId}/${row.name}`, cached);
    return record;
  }
}

function toRow({
  publicKey,
  ...row
}: Omit<EndpointRow, "enrolled"> & { publicKey: Uint8Array | null }): EndpointRow {
  return { ...row, enrolled: publicKey !== null };
}
