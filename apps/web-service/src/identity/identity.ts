/**
 * From an Authorization header (or a browser's cookie, http/browser.ts) to who is asking: the one place that knows every
 * credential: API keys, access tokens, logins of browsers, tokens of running tasks; and those of agents and for objects.
 *
 *   1. A credential that was good is trusted for TRUST_MS, by the SHA-256 of its whole text, and no longer than
 *      until access has changed anywhere (store/access-epoch.ts); a wrong secret never meets the cache.
 *   2. An access token holds no longer than the API key or the login that it was made from.
 *   3. Every refusal looks the same, whichever part was wrong.
 */
import { hash } from "node:crypto";
import { FarloomError, isUuid, uuidToKey } from "@farloom/protocol";
import type pg from "pg";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { Clock } from "../store/database-clock.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { toBuffer } from "../support/bytes.js";
import { LruMap } from "../support/lru-map.js";
import { ApiKeys, type KeyRow } from "./api-keys.js";
import type { KeyRing } from "./key-ring.js";
import { LoginSessions, type SessionRow } from "./login-sessions.js";
import { narrowOf } from "./narrow.js";
import { NESTED_SCOPES, NestedTokens, nestedGrantOf } from "./nested.js";
import { type Grantor, grantOf, type ObjectTokenSpec } from "./object-tokens.js";
import { type AgentPrincipal, isScope, type ObjectGrant, type Principal, personScopes } from "./principal.js";
import { Tokens } from "./tokens.js";

const TRUST_MS = 4_000;
/** Credentials remembered at once. */
const CACHE_CREDENTIALS = 20_000;
const BEARER = /^bearer +([\x21-\x7e]{1,8192})$/i;

interface Trusted<T> {
  readonly who: T;
  readonly provedAtMs: number;
  readonly expiresAtMs: number;
}

export class Identity {
  readonly keys: ApiKeys;
  readonly sessions: LoginSessions;
  readonly tokens: Tokens;
  readonly nested: NestedTokens;
  /** What credentials expire by. */
  readonly clock: Clock;
  readonly #prisma: PrismaClient;
  readonly #principals = new LruMap<string, Trusted<Principal>>(CACHE_CREDENTIALS);
  readonly #agents = new LruMap<string, Trusted<AgentPrincipal>>(CACHE_CREDENTIALS);
  readonly #grants = new LruMap<string, Trusted<ObjectGrant>>(CACHE_CREDENTIALS);
  /** Credentials that were good when they were last proved; it outlives what is trusted, and lets nobody in by itself. */
  readonly #wereGood = new LruMap<string, true>(CACHE_CREDENTIALS);
  /** Proofs under way, so that a burst with one credential asks the database once. */
  readonly #proving = new Map<string, Promise<Principal>>();

  readonly #epoch: AccessEpoch;

  constructor(
    database: { readonly prisma: PrismaClient; readonly pool: pg.Pool; readonly tenants: TenantPool },
    keyRing: KeyRing,
    { clock, epoch }: { readonly clock: Clock; readonly epoch: AccessEpoch },
  ) {
    const { prisma, pool, tenants } = database;
    this.#prisma = prisma;
    this.#epoch = epoch;
    epoch.onChange(() => {
      this.#principals.clear();
      this.#agents.clear();
      this.#grants.clear();
      void keyRing.load();
    });
    this.clock = clock;
    this.keys = new ApiKeys(database, clock);
    this.sessions = new LoginSessions(pool, tenants);
    this.tokens = new Tokens(keyRing, clock);
    this.nested = new NestedTokens(pool, this.tokens);
  }

  /** By API key, access token, a browser's cookie, or the token of a running task. @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED */
  async authenticate(authorization: string | undefined): Promise<Principal> {
    const credential = bearer(authorization);
    const id = hash("sha256", credential, "base64");
    const trusted = fresh(this.#principals.peek(id), this.clock);
    if (trusted) return trusted;
    let proof = this.#proving.get(id);
    if (!proof) {
      proof = this.#noting(id, this.#prove(id, credential)).finally(() => this.#proving.delete(id));
      this.#proving.set(id, proof);
    }
    return proof;
  }

  /** By an agent's session token. @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED */
  async authenticateAgent(authorization: string | undefined): Promise<AgentPrincipal> {
    const credential = bearer(authorization);
    const id = hash("sha256", credential, "base64");
    return fresh(this.#agents.peek(id), this.clock) ?? this.#noting(id, this.#proveAgent(id, credential));
  }

  async #proveAgent(id: string, credential: string): Promise<AgentPrincipal> {
    const provedAtMs = performance.now();
    const { generation } = this.#epoch;
    const { subject, claims, expiresAtMs } = await this.tokens.verify("agent", credential);
    if (!isUuid(subject)) throw new FarloomError("UNAUTHENTICATED");
    const row = await this.#prisma.endpoint.findFirst({
      where: { id: subject, deletedAt: null, publicKey: { not: null } },
      select: { id: true, ownerId: true, publicKey: true, owner: { select: { disabledAt: true } } },
    });
    const print = row ? keyPrint(toBuffer(row.publicKey!)) : undefined;
    // A token that was made for a key that is no longer the endpoint's ends with it. (A replica of the version before names none.)
    if (!row || row.owner.disabledAt !== null || (claims.key !== undefined && claims.key !== print))
      throw new FarloomError("UNAUTHENTICATED");
    const epoch = typeof claims.epoch === "number" || claims.epoch === null ? claims.epoch : undefined;
    const who = { endpointId: row.id, ownerId: row.ownerId, keyPrint: print!, epoch };
    if (generation === this.#epoch.generation) this.#agents.set(id, { who, provedAtMs, expiresAtMs });
    return who;
  }

  /** By an object token. @throws FarloomError UNAUTHENTICATED, TOKEN_EXPIRED */
  async authenticateObjects(authorization: string | undefined): Promise<ObjectGrant> {
    const credential = bearer(authorization);
    const id = hash("sha256", credential, "base64");
    return fresh(this.#grants.peek(id), this.clock) ?? this.#noting(id, this.#proveGrant(id, credential));
  }

  async #proveGrant(id: string, credential: string): Promise<ObjectGrant> {
    const provedAtMs = performance.now();
    const { generation } = this.#epoch;
    const { subject, claims, expiresAtMs } = await this.tokens.verify("object", credential);
    const row = typeof claims.key === "string" ? await this.#grantor(claims.key) : undefined;
    const who = row?.ownerId === subject ? grantOf(row, claims) : undefined;
    if (who === undefined) throw new FarloomError("UNAUTHENTICATED");
    if (generation === this.#epoch.generation) this.#grants.set(id, { who, provedAtMs, expiresAtMs });
    return who;
  }

  /** Whether the header holds an object token, unverified. */
  isObjectToken(authorization: string | undefined): boolean {
    const match = authorization === undefined ? null : BEARER.exec(authorization);
    if (match === null || isOpaque(match[1]!)) return false;
    return Tokens.claimedKind(match[1]!) === "object";
  }

  /** A token for some objects of the principal, at most as long as its own credential holds (2). */
  async issueObjectToken(
    principal: Principal,
    spec: ObjectTokenSpec,
    lifeMs: number,
  ): Promise<{ token: string; expiresInMs: number }> {
    const leftMs = Math.min(lifeMs, principal.expiresAtMs - this.clock.nowMs());
    return this.tokens.sign("object", principal.ownerId, { key: principal.keyId, ...spec }, leftMs);
  }

  /** Whether the header holds an agent's session token, unverified. */
  isAgentToken(authorization: string | undefined): boolean {
    const match = authorization === undefined ? null : BEARER.exec(authorization);
    if (match === null || isOpaque(match[1]!)) return false;
    // An agent sends the same token with every file; reading a token's header costs ten times a look-up.
    if (this.#agents.peek(hash("sha256", match[1]!, "base64")) !== undefined) return true;
    return Tokens.claimedKind(match[1]!) === "agent";
  }

  /** Whether this credential was good a while ago: such a caller is not one who guesses. */
  wasTrusted(authorization: string | undefined): boolean {
    const match = authorization === undefined ? null : BEARER.exec(authorization);
    if (!match) return false;
    const id = hash("sha256", match[1]!, "base64");
    return this.#wereGood.peek(id) !== undefined;
  }

  async #noting<T>(id: string, proof: Promise<T>): Promise<T> {
    try {
      const who = await proof;
      this.#wereGood.set(id, true);
      return who;
    } catch (error) {
      // A database that does not answer says nothing of it.
      if (error instanceof FarloomError) this.#wereGood.delete(id);
      throw error;
    }
  }

  /** Ends a key: here at once, on other replicas within 5 s, on open connections too. @throws FarloomError KEY_NOT_FOUND */
  async revokeKey(ownerId: string, keyId: string): Promise<void> {
    await this.keys.revoke(ownerId, keyId);
    this.#epoch.changed();
  }

  /** An access token with the scopes of a key or a login, at most as long as that holds (2). */
  async issueAccessToken(of: {
    ownerId: string;
    keyId: string;
  }): Promise<{ token: string; expiresInMs: number }> {
    return this.tokens.sign("access", of.ownerId, { key: of.keyId });
  }

  /** Ends a login, heard like the end of a key. @throws FarloomError SESSION_NOT_FOUND */
  async revokeSession(ownerId: string, id: string): Promise<void> {
    if (!(await this.sessions.revoke(ownerId, id)))
      throw new FarloomError("SESSION_NOT_FOUND", { id: id.slice(0, 40) });
    this.#epoch.changed();
  }

  /** Something about access has changed in the database: heard here at once, elsewhere within 5 s. */
  changed(): void {
    this.#epoch.changed();
  }

  /** Those of the keys and logins that hold no more. */
  async ended(ids: readonly string[]): Promise<Set<string>> {
    const sessions = ids.filter(isSessionId);
    const keys = ids.filter((id) => !isSessionId(id));
    const [a, b] = await Promise.all([
      keys.length === 0 ? [] : this.keys.ended(keys),
      sessions.length === 0 ? [] : this.sessions.ended(sessions),
    ]);
    return new Set([...a, ...b]);
  }

  /** Of `endpoint keyPrint`, those whose key is the endpoint's no longer. */
  async endedAgents(ids: readonly string[]): Promise<Set<string>> {
    const rows = await this.#prisma.endpoint.findMany({
      where: {
        id: { in: ids.map((id) => id.split(" ", 1)[0]!) },
        deletedAt: null,
        owner: { disabledAt: null },
      },
      select: { id: true, publicKey: true },
    });
    const good = new Set(
      rows.flatMap(({ id, publicKey }) => (publicKey ? [`${id} ${keyPrint(toBuffer(publicKey))}`] : [])),
    );
    return new Set(ids.filter((id) => !good.has(id)));
  }

  async #grantor(id: string): Promise<Grantor | undefined> {
    return isSessionId(id) ? this.sessions.find(id) : this.keys.find(id);
  }

  async #prove(id: string, credential: string): Promise<Principal> {
    const provedAtMs = performance.now();
    const { generation } = this.#epoch;
    const who = credential.startsWith("fl_")
      ? await this.#byKey(credential)
      : credential.startsWith("fls_")
        ? await this.#byCookie(credential)
        : Tokens.claimedKind(credential) === "nested"
          ? await this.#byTask(credential)
          : await this.#byToken(credential);
    // What changed while it was read is read again the next time.
    if (generation === this.#epoch.generation)
      this.#principals.set(id, { who, provedAtMs, expiresAtMs: who.expiresAtMs });
    return who;
  }

  async #byKey(credential: string): Promise<Principal> {
    const row = await this.keys.verify(credential);
    if (!row) throw new FarloomError("UNAUTHENTICATED");
    return toPrincipal(row, "key", row.expiresAt.getTime());
  }

  async #byCookie(credential: string): Promise<Principal> {
    const session = await this.sessions.verifyCookie(credential);
    if (!session) throw new FarloomError("UNAUTHENTICATED");
    return sessionPrincipal(session, "session", session.expiresAtMs);
  }

  async #byToken(credential: string): Promise<Principal> {
    const token = await this.tokens.verify("access", credential);
    const keyId = token.claims.key;
    if (typeof keyId === "string" && isSessionId(keyId)) {
      const session = await this.sessions.find(keyId);
      if (session?.ownerId !== token.subject) throw new FarloomError("UNAUTHENTICATED");
      return sessionPrincipal(session, "token", Math.min(token.expiresAtMs, session.expiresAtMs));
    }
    const row = typeof keyId === "string" ? await this.keys.find(keyId) : undefined;
    if (row?.ownerId !== token.subject) throw new FarloomError("UNAUTHENTICATED");
    return toPrincipal(row, "token", Math.min(token.expiresAtMs, row.expiresAt.getTime()));
  }

  /** Whether its task is still open is asked at every use, not here. */
  async #byTask(credential: string): Promise<Principal> {
    const { subject, claims, expiresAtMs } = await this.tokens.verify("nested", credential);
    const nested = nestedGrantOf(claims);
    const owner = isUuid(subject)
      ? await this.#prisma.owner.findUnique({
          where: { id: subject, disabledAt: null },
          select: { name: true },
        })
      : undefined;
    if (!owner || nested === undefined) throw new FarloomError("UNAUTHENTICATED");
    return {
      ownerId: subject,
      ownerKey: uuidToKey(subject)!,
      ownerName: owner.name,
      scopes: new Set(NESTED_SCOPES),
      isAdmin: false,
      via: "task",
      keyId: nested.taskId,
      expiresAtMs,
      nested,
    };
  }
}

/** Keys and cookies are no signed tokens. */
function isOpaque(credential: string): boolean {
  return credential.startsWith("fl_") || credential.startsWith("fls_");
}

/** What an agent's token says of the key that its challenge was signed with. */
export function keyPrint(publicKey: Buffer): string {
  return hash("sha256", publicKey, "base64url");
}

/** Ids of logins are told from those of API keys by how they begin. */
function isSessionId(id: string): boolean {
  return id.startsWith("ses-");
}

function sessionPrincipal(session: SessionRow, via: "session" | "token", expiresAtMs: number): Principal {
  const allowed = new Set(personScopes(session.isAdmin));
  return {
    ownerId: session.ownerId,
    ownerKey: uuidToKey(session.ownerId)!,
    ownerName: session.ownerName,
    scopes: new Set(session.scopes.filter(isScope).filter((scope) => allowed.has(scope))),
    isAdmin: session.isAdmin,
    via,
    keyId: session.id,
    expiresAtMs,
  };
}

function bearer(authorization: string | undefined): string {
  const match = authorization === undefined ? null : BEARER.exec(authorization);
  if (!match) throw new FarloomError("UNAUTHENTICATED");
  return match[1]!;
}

function fresh<T>(trusted: Trusted<T> | undefined, clock: Clock): T | undefined {
  if (!trusted || performance.now() - trusted.provedAtMs > TRUST_MS) return undefined;
  return trusted.expiresAtMs > clock.nowMs() ? trusted.who : undefined;
}

function toPrincipal(row: KeyRow, via: "key" | "token", expiresAtMs: number): Principal {
  const narrow = narrowOf(row);
  return {
    ownerId: row.ownerId,
    ownerKey: uuidToKey(row.ownerId)!,
    ownerName: row.owner.name,
    scopes: new Set(row.scopes.filter(isScope)),
    isAdmin: row.owner.isAdmin && narrow === undefined,
    via,
    keyId: row.id,
    expiresAtMs,
    narrow,
  };
}
