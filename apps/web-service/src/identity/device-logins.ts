/**
 * Programs that wait for a person to approve them in a browser (RFC 8628). The program has a long code and asks with it;
 * the person has a short one. Both are kept as SHA-256, for ten minutes, and the long one is good for one login.
 */
import { createHash, randomBytes } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Scope } from "./principal.js";
import { newUserCode } from "./user-code.js";

export const DEVICE_LIFE_S = 600;
/** Between two questions of a program, in seconds; and what each adds that comes too soon (slow_down). */
export const DEVICE_INTERVAL_S = 2;
const SLOWER_S = 5;
const MAX_INTERVAL_S = 60;
/** What is asked a little early, as clocks and networks are, is not too soon. */
const GRACE_S = 0.5;
/** Programs that wait at once: each is a small row that anybody may make. */
const MAX_WAITING = 10_000;

/** What is shown to the person who is to approve. */
export interface DeviceRequest {
  readonly client: string;
  readonly origin: string;
  readonly scopes: Scope[];
}

export type DeviceAnswer =
  | ({ readonly kind: "approved"; readonly ownerId: string } & DeviceRequest)
  | { readonly kind: "pending" | "denied" | "expired" }
  | { readonly kind: "slow_down"; readonly intervalS: number };

export class DeviceLogins {
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** @throws FarloomError OVERLOADED */
  async open(request: DeviceRequest): Promise<{ deviceCode: string; userCode: string }> {
    await this.#pool.query("DELETE FROM device_login WHERE expires_at < now()");
    const deviceCode = `fld_${randomBytes(32).toString("base64url")}`;
    const userCode = newUserCode();
    const { rowCount } = await this.#pool.query(
      `INSERT INTO device_login (device_hash, user_code_hash, client, origin, scopes, interval_s, expires_at)
       SELECT $1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second'
       WHERE (SELECT count(*) FROM device_login) < $8 ON CONFLICT (user_code_hash) DO NOTHING`,
      [
        sha256(deviceCode),
        sha256(userCode),
        request.client.slice(0, 200),
        request.origin.slice(0, 100),
        request.scopes,
        DEVICE_INTERVAL_S,
        DEVICE_LIFE_S,
        MAX_WAITING,
      ],
    );
    if (rowCount === 0)
      throw new FarloomError(
        "OVERLOADED",
        { detail: "many programs wait to be approved" },
        { retryAfterMs: 10_000 },
      );
    return { deviceCode, userCode };
  }

  /** What waits with this code, undecided. */
  async describe(userCode: string): Promise<DeviceRequest | undefined> {
    const { rows } = await this.#pool.query<DeviceRequest>(
      `SELECT client, origin, scopes FROM device_login
       WHERE user_code_hash = $1 AND expires_at > now() AND is_approved IS NULL`,
      [sha256(userCode)],
    );
    return rows[0];
  }

  /** Decides once; undefined where nothing waits with this code any more. */
  async decide(userCode: string, ownerId: string, isApproved: boolean): Promise<DeviceRequest | undefined> {
    const { rows } = await this.#pool.query<DeviceRequest>(
      `UPDATE device_login SET owner_id = $2, is_approved = $3
       WHERE user_code_hash = $1 AND expires_at > now() AND is_approved IS NULL RETURNING client, origin, scopes`,
      [sha256(userCode), ownerId, isApproved],
    );
    return rows[0];
  }

  /** The program asks. What was approved is handed out once: of two that ask at once, one deletes it. */
  async ask(deviceCode: string): Promise<DeviceAnswer> {
    const hash = sha256(deviceCode);
    const { rows: approved } = await this.#pool.query<DeviceRequest & { ownerId: string }>(
      `DELETE FROM device_login WHERE device_hash = $1 AND is_approved AND expires_at > now()
       RETURNING client, origin, scopes, owner_id AS "ownerId"`,
      [hash],
    );
    if (approved[0]) return { kind: "approved", ...approved[0] };
    const { rows } = await this.#pool.query<{
      soon: boolean;
      live: boolean;
      is_approved: boolean | null;
      interval_s: number;
    }>(
      `WITH before AS (
         SELECT device_hash, coalesce(asked_at > now() - make_interval(secs => interval_s - $2::float8), false) AS soon
         FROM device_login WHERE device_hash = $1 FOR UPDATE)
       UPDATE device_login d SET asked_at = now(),
         interval_s = CASE WHEN b.soon THEN least($3, d.interval_s + $4) ELSE d.interval_s END
       FROM before b WHERE d.device_hash = b.device_hash
       RETURNING b.soon, d.expires_at > now() AS live, d.is_approved, d.interval_s`,
      [hash, GRACE_S, MAX_INTERVAL_S, SLOWER_S],
    );
    const row = rows[0];
    if (row === undefined || !row.live) return { kind: "expired" };
    if (row.is_approved === false) return { kind: "denied" };
    return row.soon ? { kind: "slow_down", intervalS: row.interval_s } : { kind: "pending" };
  }
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
