/**
 * Registered functions: immutable, content-addressed, named `owner/name@version`.
 *
 *   1. A record never changes once it exists, so caches by digest and by key need no expiry; only what a name
 *      means moves, and that is cached for NAME_TTL_MS at most.
 *   2. A function belongs to one owner. Others find it where it is shared with them, by its id or by owner/name; for
 *      everybody else it does not exist. What is remembered of that holds as long as the access epoch says.
 *   3. Registering what a name already has returns that version, and makes it the one the bare name means.
 */
import {
  canonicalJson,
  FarloomError,
  type FunctionDefinition,
  functionDigest,
  type IdKey,
  uuidToKey,
} from "@farloom/protocol";
import type { Prisma, PrismaClient } from "../generated/prisma/client.js";
import type { Principal } from "../identity/principal.js";
import { VISIBILITIES, type Visibility, type VisibleFunctions } from "../sharing/visible-functions.js";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { fromBuffer, toBuffer } from "../support/bytes.js";
import { LruMap } from "../support/lru-map.js";
import type { FunctionInput, StoredDefinition } from "./definition-input.js";
import { type FunctionRow, FunctionRows } from "./rows.js";

/** How long another replica may still take a bare name for what it meant before. */
const NAME_TTL_MS = 2_000;
/** Functions kept in memory; also bounded by MAX_CODE_BYTES each and CACHE_BYTES in all. */
const CACHE_FUNCTIONS = 10_000;
const CACHE_CODE_BYTES = 256 * 1024 * 1024;

export interface FunctionRecord {
  /** The small number that task rows carry. */
  readonly key: number;
  readonly ownerId: string;
  /** The digest in hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly version: number;
  /** `owner/name@version`. */
  readonly ref: string;
  readonly definition: FunctionDefinition;
  readonly description: string;
  /** JSON Schema of the positional (type array) or named (type object) arguments. */
  readonly argsSchema?: unknown;
  readonly resultSchema?: unknown;
  readonly createdAtMs: number;
}

/** A function in lists: without its code. */
export interface FunctionSummary {
  readonly key: number;
  readonly digest: Buffer;
  readonly name: string;
  readonly version: number;
  readonly ref: string;
  readonly runtime: string;
  readonly description: string;
  readonly createdAtMs: number;
  readonly sharing: FunctionSharing;
}

/** Who else may use a function. */
export interface FunctionSharing {
  readonly visibility: Visibility;
  /** As owner/name. */
  readonly team: string | undefined;
}

export interface FunctionPage {
  readonly items: FunctionSummary[];
  /** Give it back as `cursor` for what follows; undefined at the end. */
  readonly nextCursor: string | undefined;
}

const WITH_OWNER = { owner: { select: { name: true } } } as const;
type PrismaRow = Prisma.FunctionGetPayload<{ include: typeof WITH_OWNER }>;

interface Shared {
  readonly record: FunctionRecord;
  readonly generation: number;
  readonly readAtMs: number;
}

export class FunctionRegistry {
  readonly #prisma: PrismaClient;
  readonly #byKey = new LruMap<number, FunctionRecord>(CACHE_FUNCTIONS);
  readonly #byDigest = new LruMap<string, FunctionRecord>(CACHE_FUNCTIONS);
  readonly #byName = new LruMap<string, { record: FunctionRecord; readAtMs: number }>(CACHE_FUNCTIONS);
  /** Others' functions, by person and digest or name. */
  readonly #shared = new LruMap<string, Shared>(CACHE_FUNCTIONS);
  readonly #visible: VisibleFunctions;
  readonly #epoch: AccessEpoch;
  readonly #rows: FunctionRows;
  #cachedCodeBytes = 0;

  /** @param prisma for new functions, and for tasks' functions by key: nobody asks for those */
  constructor(prisma: PrismaClient, tenants: TenantPool, visible: VisibleFunctions) {
    this.#prisma = prisma;
    this.#rows = new FunctionRows(tenants);
    this.#visible = visible;
    this.#epoch = visible.epoch;
  }

  /**
   * The function that `ref` means to this principal: a digest (64 hexadecimal digits), `name`, `name@version`,
   * `owner/name` or `owner/name@version`. A bare name means the version registered last.
   * @throws FarloomError FUNCTION_NOT_FOUND
   */
  async resolve(principal: Principal, ref: string): Promise<FunctionRecord> {
    const { ownerId, ownerKey, ownerName } = principal;
    if (/^[0-9a-f]{64}$/i.test(ref)) {
      const digest = Buffer.from(ref, "hex");
      const found = this.peekByDigest(ownerKey, digest) ?? (await this.byDigest(ownerId, digest));
      if (found) return found;
    } else {
      const parts = /^(?:([^/@]{1,63})\/)?([^/@]{1,128})(?:@(\d{1,9}))?$/.exec(ref);
      const version = parts?.[3] === undefined ? undefined : Number(parts[3]);
      if (parts) {
        const isOwn = parts[1] === undefined || parts[1] === ownerName;
        const found = isOwn
          ? await this.#byNameOf(ownerId, parts[2]!, version)
          : await this.#sharedByName(principal, { owner: parts[1]!, name: parts[2]!, version });
        if (found) return found;
      }
    }
    throw new FarloomError("FUNCTION_NOT_FOUND", { id: ref.slice(0, 200) });
  }

  /** The person's own function of that digest, or one that is shared with them; of several the newest. */
  async byDigest(personId: string, digest: Buffer): Promise<FunctionRecord | undefined> {
    const { generation } = this.#epoch;
    const readAtMs = performance.now();
    const row = await this.#rows.ofDigest(personId, digest);
    if (row === undefined || row.ownerId === personId) return row && this.#remember(row);
    const personKey = uuidToKey(personId)!;
    const shared = { record: this.#remember(row), generation, readAtMs };
    this.#shared.set(personKey + digest.toString("latin1"), shared);
    this.#visible.learn(row.key, personKey, generation);
    return shared.record;
  }

  /** From memory alone: for the hot path. */
  peekByDigest(personKey: IdKey, digest: Buffer): FunctionRecord | undefined {
    const key = personKey + digest.toString("latin1");
    return this.#byDigest.peek(key) ?? this.#peekShared(key, Number.POSITIVE_INFINITY);
  }

  #peekShared(key: string, ttlMs: number): FunctionRecord | undefined {
    const shared = this.#shared.peek(key);
    if (!shared || shared.generation !== this.#epoch.generation || !this.#epoch.isFresh) return undefined;
    return performance.now() - shared.readAtMs < ttlMs ? shared.record : undefined;
  }

  async #sharedByName(
    { ownerId, ownerKey }: Principal,
    { owner, name, version }: { owner: string; name: string; version: number | undefined },
  ): Promise<FunctionRecord | undefined> {
    const key = `${ownerKey}/${owner}/${name}@${version ?? ""}`;
    const known = this.#peekShared(key, NAME_TTL_MS);
    if (known) return known;
    const { generation } = this.#epoch;
    const readAtMs = performance.now();
    const row = await this.#rows.sharedByName(ownerId, { owner, name, version });
    if (!row) return undefined;
    const record = this.#remember(row);
    this.#shared.set(key, { record, generation, readAtMs });
    this.#visible.learn(row.key, ownerKey, generation);
    return record;
  }

  /** By the number in task rows; deleted functions too, as their tasks still run. */
  async byKey(key: number): Promise<FunctionRecord | undefined> {
    const cached = this.#byKey.get(key);
    if (cached) return cached;
    const row = await this.#prisma.function.findUnique({ where: { key }, include: WITH_OWNER });
    return row ? this.#remember(ofPrisma(row)) : undefined;
  }

  peekByKey(key: number): FunctionRecord | undefined {
    return this.#byKey.peek(key);
  }

  /** Keeps a checked definition; `created` is false where the name already has exactly this one (3). */
  async register(
    principal: Principal,
    input: FunctionInput,
  ): Promise<{ record: FunctionRecord; created: boolean }> {
    const { ownerId } = principal;
    const digest = functionDigest(input.definition);
    const { code, ...rest } = input.definition;
    const stored: StoredDefinition = {
      ...rest,
      argsSchema: input.argsSchema,
      resultSchema: input.resultSchema,
    };
    const definition = JSON.parse(JSON.stringify(stored)) as Prisma.InputJsonObject;

    for (let attempt = 0; ; attempt++) {
      const same = await this.#findSame(ownerId, digest, input);
      if (same) return { record: same, created: false };
      const last = await this.#prisma.function.aggregate({
        where: { ownerId, name: input.name },
        _max: { version: true },
      });
      try {
        const row = await this.#prisma.function.create({
          data: {
            ownerId,
            digest: fromBuffer(digest),
            name: input.name,
            version: (last._max.version ?? 0) + 1,
            runtime: input.definition.runtime,
            description: input.description,
            definition,
            code: fromBuffer(code),
          },
          include: WITH_OWNER,
        });
        this.#byName.delete(nameKey(ownerId, input.name, undefined));
        return { record: this.#remember(ofPrisma(row)), created: true };
      } catch (error) {
        // Someone registered under the same name in between: look again.
        if ((error as { code?: string }).code !== "P2002" || attempt >= 20) throw error;
      }
    }
  }

  /** One's own and what is shared with one's teams, and where `isPublic` what everybody may use; newest first. */
  async list(
    personId: string,
    options: { query?: string | undefined; cursor?: number | undefined; limit: number; isPublic?: boolean },
  ): Promise<FunctionPage> {
    const { query, cursor, limit, isPublic = false } = options;
    const rows = await this.#rows.list(personId, {
      text: query === undefined ? undefined : escapeLike(query),
      before: cursor,
      limit: limit + 1,
      isPublic,
    });
    const items = rows.slice(0, limit).map((row) => ({
      key: row.key,
      digest: row.digest,
      name: row.name,
      version: row.version,
      ref: `${row.ownerName}/${row.name}@${row.version}`,
      runtime: row.runtime,
      description: row.description,
      createdAtMs: row.createdAt.getTime(),
      sharing: sharingOf(row),
    }));
    return { items, nextCursor: rows.length > limit ? String(items.at(-1)!.key) : undefined };
  }

  /** Takes it out of lists and names; tasks that were submitted with it still run. */
  async remove(principal: Principal, record: FunctionRecord): Promise<void> {
    await this.#rows.remove(principal.ownerId, record.key);
    this.#epoch.changed();
    this.#byDigest.delete(principal.ownerKey + record.definition.digest.toString("latin1"));
    this.#byName.delete(nameKey(record.ownerId, record.name, undefined));
    this.#byName.delete(nameKey(record.ownerId, record.name, record.version));
  }

  /** Who else may use it. Only its owner is told, and changes it. */
  async sharing({ ownerId }: Principal, record: FunctionRecord): Promise<FunctionSharing> {
    const row = await this.#rows.sharing(ownerId, record.key);
    return row ? sharingOf(row) : { visibility: "private", team: undefined };
  }

  /** Shares one version with a team or with everybody, or with nobody any more; heard everywhere within 5 s. */
  async share(
    { ownerId }: Principal,
    record: FunctionRecord,
    to: { readonly visibility: Visibility; readonly teamId: string | undefined },
  ): Promise<void> {
    await this.#rows.share(ownerId, record.key, VISIBILITIES.indexOf(to.visibility), to.teamId);
    this.#epoch.changed();
  }

  async #findSame(
    ownerId: string,
    digest: Buffer,
    input: FunctionInput,
  ): Promise<FunctionRecord | undefined> {
    const rows = await this.#rows.same(ownerId, input.name, digest);
    const row = rows.find((r) => {
      const { argsSchema, resultSchema } = r.definition;
      return (
        r.description === input.description &&
        sameJson(argsSchema, input.argsSchema) &&
        sameJson(resultSchema, input.resultSchema)
      );
    });
    if (!row) return undefined;
    if (await this.#rows.makeNewest(ownerId, row))
      this.#byName.delete(nameKey(ownerId, input.name, undefined));
    return this.#remember(row);
  }

  async #byNameOf(
    ownerId: string,
    name: string,
    version: number | undefined,
  ): Promise<FunctionRecord | undefined> {
    const cacheKey = nameKey(ownerId, name, version);
    const cached = this.#byName.get(cacheKey);
    if (cached && performance.now() - cached.readAtMs < NAME_TTL_MS) return cached.record;
    const readAtMs = performance.now();
    const row = await this.#rows.ownByName(ownerId, name, version);
    if (!row) return undefined;
    const record = this.#remember(row);
    this.#byName.set(cacheKey, { record, readAtMs });
    return record;
  }

  #remember(row: FunctionRow): FunctionRecord {
    const cached = this.#byKey.get(row.key);
    const record = cached ?? toRecord(row);
    if (!cached) {
      this.#cachedCodeBytes += record.definition.code.length;
      if (this.#cachedCodeBytes > CACHE_CODE_BYTES) {
        // Rare: starting empty costs one read per function, and keeps the bookkeeping to this line.
        this.#byKey.clear();
        this.#byDigest.clear();
        this.#byName.clear();
        this.#cachedCodeBytes = record.definition.code.length;
      }
      this.#byKey.set(row.key, record);
    }
    if (row.deletedAt === null) {
      const digestKey = uuidToKey(row.ownerId)! + record.definition.digest.toString("latin1");
      const known = this.#byDigest.peek(digestKey);
      if (!known || known.key < record.key) this.#byDigest.set(digestKey, record);
    }
    return record;
  }
}

function sharingOf(row: { visibility: number; team: string | null }): FunctionSharing {
  return { visibility: VISIBILITIES[row.visibility] ?? "private", team: row.team ?? undefined };
}

function ofPrisma({ owner, definition, code, digest, ...row }: PrismaRow): FunctionRow {
  return {
    ...row,
    ownerName: owner.name,
    definition: definition as unknown as StoredDefinition,
    code: toBuffer(code),
    digest: toBuffer(digest),
  };
}

function toRecord(row: FunctionRow): FunctionRecord {
  const { argsSchema, resultSchema, ...rest } = row.definition;
  const definition: FunctionDefinition = { ...rest, code: row.code, digest: row.digest };
  return {
    key: row.key,
    ownerId: row.ownerId,
    id: definition.digest.toString("hex"),
    name: row.name,
    version: row.version,
    ref: `${row.ownerName}/${row.name}@${row.version}`,
    definition,
    description: row.description,
    ...(argsSchema === undefined ? {} : { argsSchema }),
    ...(resultSchema === undefined ? {} : { resultSchema }),
    createdAtMs: row.createdAt.getTime(),
  };
}

function nameKey(ownerId: string, name: string, version: number | undefined): string {
  return `${ownerId}/${name}@${version ?? ""}`;
}

function sameJson(a: unknown, b: unknown): boolean {
  return canonicalJson(a ?? null) === canonicalJson(b ?? null);
}

/** So that `100%` finds itself and not everything that begins with 100. */
function escapeLike(text: string): string {
  return text.replace(/[\\%_]/g, "\\$&");
}
