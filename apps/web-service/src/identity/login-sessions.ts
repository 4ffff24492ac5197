/**
 * Logins that hold: of a browser, by a cookie; of a program, by a family of refresh tokens. Both are rows, and end in a row.
 *
 *     cookie          fls_<id>_<secret>
 *     refresh token   flr_<id>_<family>_<secret>
 *
 *   1. Secrets are 256 random bits, kept as SHA-256.
 *   2. A refresh token is good once: it is exchanged for its successor. Who shows the family's part without the newest
 *      secret has an old one, so it was copied: the whole family ends.
 *   3. The successor follows from the old secret and a nonce that the program made. So an answer that was lost can be asked
 *      for again, with the same nonce, until the successor has been used; and nobody who copied the token alone knows it.
 *   4. A login ends when it is revoked, when it was not used for a while, and after its whole life, by PostgreSQL's clock.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";
import type { TenantPool } from "../store/tenant-pool.js";
import type { Scope } from "./principal.js";

export const SESSION_KINDS = { browser: 1, program: 2 } as const;
export type SessionKind = keyof typeof SESSION_KINDS;

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** How long a login holds that is not used, and at all. A browser stands open to whoever sits down before it. */
export const LIFE: Readonly<Record<SessionKind, { readonly idleMs: number; readonly lifeMs: number }>> = {
  browser: { idleMs: 8 * HOUR_MS, lifeMs: 7 * DAY_MS },
  program: { idleMs: 30 * DAY_MS, lifeMs: 180 * DAY_MS },
};
/** A cookie that is used moves its idle end so often: not at every request. */
const TOUCH_MS = 5 * 60_000;
/** Rows that have ended are kept so long, for whoever looks who was logged in. */
const KEPT = "30 days";

const COOKIE = /^fls_(ses-[0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
const REFRESH = /^flr_(ses-[0-9a-f]{16})_([A-Za-z0-9_-]{22})_([A-Za-z0-9_-]{43})$/;
const NONCE = /^[A-Za-z0-9_-]{22,86}$/;
const NO_HASH = Buffer.alloc(32);

/** A login with what a principal needs of its owner. */
export interface SessionRow {
  readonly id: string;
  readonly kind: number;
  readonly ownerId: string;
  readonly ownerName: string;
  readonly isAdmin: boolean;
  readonly scopes: readonly string[];
  readonly expiresAtMs: number;
}

/** A login in lists. */
export interface SessionInfo {
  readonly id: string;
  readonly kind: SessionKind;
  readonly client: string;
  readonly origin: string;
  readonly scopes: string[];
  readonly createdAt: Date;
  readonly lastUsedAt: Date;
  readonly expiresAt: Date;
}

export type Refreshed =
  | { readonly kind: "fresh"; readonly session: SessionRow; readonly refreshToken: string }
  /** The family has ended with this (2). */
  | { readonly kind: "reused"; readonly sessionId: string; readonly ownerId: string; readonly owner: string }
  | { readonly kind: "refused" };

interface Row {
  id: string;
  kind: number;
  owner_id: string;
  name: string;
  is_admin: boolean;
  scopes: string[];
  ends_at: Date;
  secret_hash: Buffer;
  family_hash: Buffer | null;
  last_used_at: Date;
  is_live: boolean;
}

const SELECT = `SELECT s.id, s.kind, s.owner_id, o.name, o.is_admin, s.scopes, least(s.expires_at, s.idle_until) AS ends_at,
    s.secret_hash, s.family_hash, s.last_used_at,
    s.revoked_at IS NULL AND s.expires_at > now() AND s.idle_until > now() AND o.disabled_at IS NULL AS is_live
  FROM login_session s JOIN owner o ON o.id = s.owner_id`;

export class LoginSessions {
  readonly #pool: Pool;
  readonly #tenants: TenantPool;

  /** @param pool for logins whose holder is not known yet */
  constructor(pool: Pool, tenants: TenantPool) {
    this.#pool = pool;
    this.#tenants = tenants;
  }

  /** A new login; `secret` is the cookie's or the refresh token's whole text, and is not kept. */
  async open(
    kind: SessionKind,
    login: {
      readonly ownerId: string;
      readonly scopes: readonly Scope[];
      readonly client: string;
      readonly origin: string;
    },
  ): Promise<{ id: string; secret: string }> {
    const id = `ses-${randomBytes(8).toString("hex")}`;
    const random = randomBytes(32).toString("base64url");
    const family = kind === "program" ? randomBytes(16).toString("base64url") : undefined;
    const { idleMs, lifeMs } = LIFE[kind];
    await this.#pool.query(
      `INSERT INTO login_session (id, owner_id, kind, secret_hash, family_hash, scopes, client, origin, expires_at, idle_until)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + $9 * interval '1 millisecond', now() + $10 * interval '1 millisecond')`,
      [
        id,
        login.ownerId,
        SESSION_KINDS[kind],
        sha256(random),
        family === undefined ? null : sha256(family),
        [...login.scopes],
        login.client.slice(0, 200),
        login.origin.slice(0, 100),
        lifeMs,
        idleMs,
      ],
    );
    // Asked first: a DELETE, of nothing too, is a change of access that every replica hears of.
    const { rows: old } = await this.#pool.query<{ id: string }>(
      `SELECT id FROM login_session WHERE expires_at < now() - interval '${KEPT}' LIMIT 100`,
    );
    if (old.length > 0)
      await this.#pool.query("DELETE FROM login_session WHERE id = ANY($1)", [old.map((row) => row.id)]);
    return { id, secret: family === undefined ? `fls_${id}_${random}` : `flr_${id}_${family}_${random}` };
  }

  /** The login of a cookie, while it holds. Using it moves its idle end. */
  async verifyCookie(text: string): Promise<SessionRow | undefined> {
    const match = COOKIE.exec(text);
    if (!match) return undefined;
    const row = await this.#row(match[1]!);
    const equal = timingSafeEqual(sha256(match[2]!), row?.secret_hash ?? NO_HASH);
    if (row === undefined || !equal || !row.is_live || row.kind !== SESSION_KINDS.browser) return undefined;
    if (Date.now() - row.last_used_at.getTime() > TOUCH_MS) {
      await this.#pool.query(
        "UPDATE login_session SET last_used_at = now(), idle_until = now() + $2 * interval '1 millisecond' WHERE id = $1",
        [row.id, LIFE.browser.idleMs],
      );
    }
    return toSession(row);
  }

  /** The login that a token was made from; undefined where it holds no more. */
  async find(id: string): Promise<SessionRow | undefined> {
    const row = await this.#row(id);
    return row?.is_live ? toSession(row) : undefined;
  }

  /** Exchanges a refresh token (2, 3). */
  async refresh(token: string, nonce: string | undefined): Promise<Refreshed> {
    const match = REFRESH.exec(token);
    if (!match) return { kind: "refused" };
    if (nonce !== undefined && !NONCE.test(nonce))
      throw new FarloomError("REQUEST_INVALID", { detail: "nonce has 22 to 86 letters of base64url" });
    const [, id, family, secret] = match as unknown as [string, string, string, string];
    const next = successor(secret, nonce ?? randomBytes(32).toString("base64url"));
    const refreshToken = `flr_${id}_${family}_${next}`;
    // One statement: of several that bring the same token, one exchanges it.
    await this.#pool.query(
      `UPDATE login_session s SET secret_hash = $4, last_used_at = now(), idle_until = now() + $5 * interval '1 millisecond'
       FROM owner o WHERE o.id = s.owner_id AND o.disabled_at IS NULL
       AND s.id = $1 AND s.kind = 2 AND s.family_hash = $2 AND s.secret_hash = $3
       AND s.revoked_at IS NULL AND s.expires_at > now() AND s.idle_until > now()`,
      [id, sha256(family), sha256(secret), sha256(next), LIFE.program.idleMs],
    );
    const row = await this.#row(id);
    const isFamily = timingSafeEqual(sha256(family), row?.family_hash ?? NO_HASH);
    if (row === undefined || !isFamily || !row.is_live) return { kind: "refused" };
    // Exchanged just now; or by a request whose answer was lost, with the same nonce (3).
    if (timingSafeEqual(row.secret_hash, sha256(next)))
      return { kind: "fresh", session: toSession(row), refreshToken };
    await this.revoke(row.owner_id, id);
    return { kind: "reused", sessionId: id, ownerId: row.owner_id, owner: row.name };
  }

  /** The id of the login whose refresh token this is, or was; undefined where it is none. */
  async ofRefreshToken(token: string): Promise<{ id: string; ownerId: string; owner: string } | undefined> {
    const match = REFRESH.exec(token);
    if (!match) return undefined;
    const row = await this.#row(match[1]!);
    const isFamily = timingSafeEqual(sha256(match[2]!), row?.family_hash ?? NO_HASH);
    return row && isFamily ? { id: row.id, ownerId: row.owner_id, owner: row.name } : undefined;
  }

  /** Ends a login for good; false where there is none that holds. */
  async revoke(ownerId: string, id: string): Promise<boolean> {
    const { rowCount } = await this.#tenants.query(ownerId, {
      text: "UPDATE login_session SET revoked_at = now() WHERE id = $1 AND owner_id = $2 AND revoked_at IS NULL",
      values: [id, ownerId],
    });
    return rowCount === 1;
  }

  /** Ends all of somebody's logins; how many those were. */
  async revokeAll(ownerId: string): Promise<number> {
    const { rowCount } = await this.#pool.query(
      "UPDATE login_session SET revoked_at = now() WHERE owner_id = $1 AND revoked_at IS NULL",
      [ownerId],
    );
    return rowCount ?? 0;
  }

  /** Those of `ids` that hold no more. */
  async ended(ids: readonly string[]): Promise<string[]> {
    const { rows } = await this.#pool.query<{ id: string }>(
      `SELECT s.id FROM login_session s JOIN owner o ON o.id = s.owner_id WHERE s.id = ANY($1)
       AND s.revoked_at IS NULL AND s.expires_at > now() AND s.idle_until > now() AND o.disabled_at IS NULL`,
      [ids],
    );
    const live = new Set(rows.map((row) => row.id));
    return ids.filter((id) => !live.has(id));
  }

  /** Somebody's logins that hold, the newest first, at most 1,000. */
  async list(ownerId: string): Promise<SessionInfo[]> {
    const { rows } = await this.#tenants.query<
      Omit<SessionInfo, "kind"> & { kind: number; createdAt: Date; lastUsedAt: Date }
    >(ownerId, {
      text: `SELECT id, kind, client, origin, scopes, created_at AS "createdAt", last_used_at AS "lastUsedAt",
              least(expires_at, idle_until) AS "expiresAt" FROM login_session
       WHERE owner_id = $1 AND revoked_at IS NULL AND expires_at > now() AND idle_until > now()
       ORDER BY created_at DESC LIMIT 1000`,
      values: [ownerId],
    });
    return rows.map((row) => ({
      ...row,
      kind: row.kind === SESSION_KINDS.browser ? "browser" : "program",
    }));
  }

  async #row(id: string): Promise<Row | undefined> {
    const { rows } = await this.#pool.query<Row>({
      name: "login-session",
      text: `${SELECT} WHERE s.id = $1`,
      values: [id],
    });
    return rows[0];
  }
}

/** The secret after `secret` (3); exported for its test. */
export function successor(secret: string, nonce: string): string {
  return createHmac("sha256", secret).update(`farloom-refresh\n${nonce}`).digest("base64url");
}

function toSession(row: Row): SessionRow {
  return {
    id: row.id,
    kind: row.kind,
    ownerId: row.owner_id,
    ownerName: row.name,
    isAdmin: row.is_admin,
    scopes: row.scopes,
    expiresAtMs: row.ends_at.getTime(),
  };
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
