/**
 * People: how one comes to have an account, and proves to be its owner. A local account has a password, set with a one-time
 * token; everybody else is known to an OpenID provider, by issuer and subject and nothing else (an e-mail address changes
 * hands). Names are chosen once, and never lead from one to the other.
 */
import { createHash, randomBytes } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import type { Pool, PoolClient } from "pg";
import { v7 as uuidv7 } from "uuid";
import type { TenantPool } from "../store/tenant-pool.js";
import { checkPassword, hashPassword, verifyPassword } from "./passwords.js";

/** What an account is called: as API keys' owners are. */
export const ACCOUNT_NAME = "^[a-z0-9][a-z0-9._-]{0,62}$";
const NAME = new RegExp(ACCOUNT_NAME);
const MAX_NAME_CHARS = 63;
/** How long somebody has to set a password. */
export const LINK_LIFE_HOURS = 24;
/** Names tried for somebody whose own one is taken. */
const NAME_TRIES = 100;

export interface Account {
  readonly ownerId: string;
  readonly name: string;
  readonly isAdmin: boolean;
}

export interface AccountInfo {
  readonly name: string;
  readonly admin: boolean;
  readonly disabled: boolean;
  readonly createdAt: Date;
  /** How they log in: `password`, and issuers. */
  readonly logins: string[];
}

/** What a provider says of somebody, verified. */
export interface ExternalClaims {
  readonly issuer: string;
  readonly subject: string;
  readonly email: string;
  readonly preferredName: string;
  readonly isAdmin: boolean;
}

interface OwnerRow {
  id: string;
  name: string;
  is_admin: boolean;
  disabled_at: Date | null;
}

export class Accounts {
  readonly #pool: Pool;
  readonly #tenants: TenantPool;

  constructor(pool: Pool, tenants: TenantPool) {
    this.#pool = pool;
    this.#tenants = tenants;
  }

  /** Whether anybody can log in by browser at all. */
  async hasPeople(): Promise<boolean> {
    const { rows } = await this.#pool.query<{ has: boolean }>(
      "SELECT EXISTS (SELECT 1 FROM local_password) OR EXISTS (SELECT 1 FROM external_identity) AS has",
    );
    return rows[0]!.has;
  }

  /**
   * A one-time token with which the account `name` gets a password, or, where the name is empty, the first administrator
   * gets name and password. One that was made before for the same name is void; those of the first administrator are of
   * several replicas, and hold until somebody has an account.
   */
  async makeLink(name: string, isAdmin: boolean): Promise<{ token: string; expiresAt: Date }> {
    const token = `fla_${randomBytes(32).toString("base64url")}`;
    await this.#pool.query(
      "DELETE FROM account_link WHERE (name = $1 AND name <> '') OR expires_at < now()",
      [name],
    );
    const { rows } = await this.#pool.query<{ expires_at: Date }>(
      `INSERT INTO account_link (token_hash, name, is_admin, expires_at)
       VALUES ($1, $2, $3, now() + $4 * interval '1 hour') RETURNING expires_at`,
      [sha256(token), name, isAdmin, LINK_LIFE_HOURS],
    );
    return { token, expiresAt: rows[0]!.expires_at };
  }

  /** Uses up a one-time token. @throws FarloomError ACCOUNT_LINK_INVALID, ACCOUNT_EXISTS, PASSWORD_WEAK, REQUEST_INVALID */
  async redeemLink(
    token: string,
    chosenName: string,
    password: string,
  ): Promise<Account & { isNew: boolean }> {
    checkPassword(password, chosenName);
    const known = await this.#pool.query("SELECT 1 FROM account_link WHERE token_hash = $1", [sha256(token)]);
    if (known.rowCount === 0) throw new FarloomError("ACCOUNT_LINK_INVALID");
    const hash = await hashPassword(password);
    return this.#transaction(async (client) => {
      // Deleting is using: of two that bring the same token, one deletes it.
      const { rows } = await client.query<{ name: string; is_admin: boolean }>(
        "DELETE FROM account_link WHERE token_hash = $1 AND expires_at > now() RETURNING name, is_admin",
        [sha256(token)],
      );
      const link = rows[0];
      if (link === undefined) throw new FarloomError("ACCOUNT_LINK_INVALID");
      const name = link.name === "" ? chosenName : link.name;
      if (!NAME.test(name))
        throw new FarloomError("REQUEST_INVALID", {
          detail: "a name has lower-case letters, digits and . _ -, at most 63",
        });
      const owner = await ownerNamed(client, name, link.is_admin);
      // Whoever reads the console may take the account that the first API key was made for, and nobody else's.
      if (link.name === "" && !owner.isNew && !owner.is_admin)
        throw new FarloomError("ACCOUNT_EXISTS", { name });
      await client.query(
        `INSERT INTO local_password (owner_id, hash) VALUES ($1, $2)
         ON CONFLICT (owner_id) DO UPDATE SET hash = $2, changed_at = now()`,
        [owner.id, hash],
      );
      // There is somebody now: nobody becomes the first any more.
      await client.query("DELETE FROM account_link WHERE name = ''");
      // Whoever knew the password of before is out.
      await client.query(
        "UPDATE login_session SET revoked_at = now() WHERE owner_id = $1 AND revoked_at IS NULL",
        [owner.id],
      );
      return { ownerId: owner.id, name: owner.name, isAdmin: owner.is_admin, isNew: owner.isNew };
    });
  }

  /** By name and password. A refusal says whose account it is, where there is one: for the audit log alone. */
  async logIn(
    name: string,
    password: string,
  ): Promise<({ ok: true } & Account) | { ok: false; ownerId: string | undefined }> {
    const { rows } = await this.#pool.query<OwnerRow & { hash: string }>(
      "SELECT o.id, o.name, o.is_admin, o.disabled_at, p.hash FROM owner o JOIN local_password p ON p.owner_id = o.id WHERE o.name = $1",
      [name.slice(0, MAX_NAME_CHARS + 1)],
    );
    const row = rows[0];
    const isRight = await verifyPassword(password, row?.hash);
    if (row === undefined || !isRight || row.disabled_at !== null) return { ok: false, ownerId: row?.id };
    return { ok: true, ownerId: row.id, name: row.name, isAdmin: row.is_admin };
  }

  /** The account of somebody a provider knows, made at the first login. @throws FarloomError LOGIN_NOT_ALLOWED */
  async ofExternal(claims: ExternalClaims): Promise<Account & { isNew: boolean }> {
    const { issuer, subject, email, isAdmin } = claims;
    return this.#transaction(async (client) => {
      // Two first logins of one person at once make one account.
      await client.query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", [`${issuer}\n${subject}`]);
      const { rows } = await client.query<OwnerRow>(
        `SELECT o.id, o.name, o.is_admin, o.disabled_at FROM external_identity e JOIN owner o ON o.id = e.owner_id
         WHERE e.issuer = $1 AND e.subject = $2`,
        [issuer, subject],
      );
      const known = rows[0];
      if (known?.disabled_at)
        throw new FarloomError("LOGIN_NOT_ALLOWED", { detail: `the account ${known.name} is disabled` });
      const owner = known ?? (await freeOwner(client, claims));
      if (known === undefined)
        await client.query(
          "INSERT INTO external_identity (issuer, subject, owner_id, email) VALUES ($1, $2, $3, $4)",
          [issuer, subject, owner.id, email.slice(0, 320)],
        );
      if (isAdmin && !owner.is_admin)
        await client.query("UPDATE owner SET is_admin = true WHERE id = $1", [owner.id]);
      return {
        ownerId: owner.id,
        name: owner.name,
        isAdmin: isAdmin || owner.is_admin,
        isNew: known === undefined,
      };
    });
  }

  /** Closes or opens an account; its owner's id. @throws FarloomError PERSON_NOT_FOUND */
  async setDisabled(name: string, isDisabled: boolean): Promise<string> {
    const { rows } = await this.#pool.query<{ id: string }>(
      "UPDATE owner SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE name = $1 RETURNING id",
      [name, isDisabled],
    );
    if (!rows[0]) throw new FarloomError("PERSON_NOT_FOUND", { name });
    return rows[0].id;
  }

  /** Everybody, by name, at most 10,000: for an administrator, as PostgreSQL checks. */
  async list(adminId: string): Promise<AccountInfo[]> {
    const { rows } = await this.#tenants.query<AccountInfo>(adminId, {
      text: `SELECT o.name, o.is_admin AS admin, o.disabled_at IS NOT NULL AS disabled, o.created_at AS "createdAt",
        array_remove(array_prepend(CASE WHEN p.owner_id IS NOT NULL THEN 'password' END,
          (SELECT array_agg(e.issuer ORDER BY e.issuer) FROM external_identity e WHERE e.owner_id = o.id)), NULL) AS logins
       FROM owner o LEFT JOIN local_password p ON p.owner_id = o.id ORDER BY o.name LIMIT 10000`,
    });
    return rows;
  }

  async #transaction<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect();
    let failure: Error | undefined;
    try {
      await client.query("BEGIN");
      const result = await work(client);
      await client.query("COMMIT");
      return result;
    } catch (error) {
      failure = error as Error;
      await client.query("ROLLBACK").then(
        () => {
          failure = undefined;
        },
        () => undefined,
      );
      throw error;
    } finally {
      client.release(failure);
    }
  }
}

async function ownerNamed(
  client: PoolClient,
  name: string,
  isAdmin: boolean,
): Promise<OwnerRow & { isNew: boolean }> {
  const made = await insertOwner(client, name, isAdmin);
  if (made) return { ...made, isNew: true };
  const { rows } = await client.query<OwnerRow>(
    "SELECT id, name, is_admin, disabled_at FROM owner WHERE name = $1",
    [name],
  );
  return { ...rows[0]!, isNew: false };
}

/** A new account under the name that somebody would like, or one that is free. */
async function freeOwner(client: PoolClient, { preferredName, isAdmin }: ExternalClaims): Promise<OwnerRow> {
  const base = accountNameFrom(preferredName);
  for (let n = 1; n <= NAME_TRIES; n++) {
    const suffix = n === 1 ? "" : `-${n}`;
    const made = await insertOwner(client, base.slice(0, MAX_NAME_CHARS - suffix.length) + suffix, isAdmin);
    if (made) return made;
  }
  const made = await insertOwner(client, `${base.slice(0, 40)}-${randomBytes(6).toString("hex")}`, isAdmin);
  return made!;
}

async function insertOwner(
  client: PoolClient,
  name: string,
  isAdmin: boolean,
): Promise<OwnerRow | undefined> {
  const { rows } = await client.query<OwnerRow>(
    `INSERT INTO owner (id, name, is_admin) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING
     RETURNING id, name, is_admin, disabled_at`,
    [uuidv7(), name, isAdmin],
  );
  return rows[0];
}

/** What a provider calls somebody, as one of our names. */
export function accountNameFrom(preferred: string): string {
  const plain = preferred
    .split("@", 1)[0]!
    .normalize("NFKD")
    .replace(/\p{M}+/gu, "")
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, "-")
    .replace(/^[^a-z0-9]+/, "")
    .replace(/[-._]+$/, "")
    .slice(0, MAX_NAME_CHARS);
  return NAME.test(plain) ? plain : "person";
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
