/**
 * People's webhooks and what became of their deliveries, as rows: all of it within one owner. Reading is behind the tenants'
 * wall; a change raises the number under which replicas remember things, which the tenants' role may not.
 */
import { FarloomError } from "@farloom/protocol";
import type { Pool } from "pg";
import { v7 as uuidv7 } from "uuid";
import type { TenantPool } from "../store/tenant-pool.js";
import { newNonce } from "./signature.js";

export const EVENTS = ["task.done", "group.done"] as const;
export type WebhookEvent = (typeof EVENTS)[number];

/** How long the secret before the last rotation signs beside the new one. */
const OVERLAP = "interval '24 hours'";
/** Deliveries shown. */
export const MAX_SHOWN = 200;

/** What its owner says of a webhook. */
export interface WebhookFields {
  readonly name: string;
  readonly url: string;
  readonly events: readonly string[];
  readonly onlyFailed: boolean;
  readonly endpointId: string | null;
  readonly enabled: boolean;
}

export interface WebhookRow extends WebhookFields {
  readonly id: string;
  readonly disabledReason: string;
  readonly secretNonce: Buffer;
  readonly createdAt: Date;
  readonly failingSince: Date | null;
  readonly dropped: number;
}

export interface DeliveryRow {
  readonly id: string;
  readonly event: string;
  readonly subjectId: string;
  /** 0 waiting, 1 delivered, 2 given up. */
  readonly state: number;
  readonly attempts: number;
  readonly createdAt: Date;
  readonly nextAt: Date;
  readonly endedAt: Date | null;
  readonly lastStatus: number | null;
  readonly lastMs: number | null;
  readonly lastError: string;
}

const COLUMNS = `id, name, url, events, only_failed AS "onlyFailed", endpoint_id AS "endpointId", is_enabled AS enabled,
  disabled_reason AS "disabledReason", secret_nonce AS "secretNonce", created_at AS "createdAt",
  failing_since AS "failingSince", dropped`;

export class WebhookRows {
  readonly #pool: Pool;
  readonly #tenants: TenantPool;
  readonly #limit: number;

  /** @param limit webhooks of one person */
  constructor(pool: Pool, tenants: TenantPool, limit: number) {
    this.#pool = pool;
    this.#tenants = tenants;
    this.#limit = limit;
  }

  /** @throws FarloomError QUOTA_EXCEEDED */
  async create(ownerId: string, fields: WebhookFields): Promise<WebhookRow> {
    const { name, url, events, onlyFailed, endpointId, enabled } = fields;
    const { rows } = await this.#pool.query<WebhookRow>({
      name: "webhook-create",
      text: `INSERT INTO webhook (id, owner_id, name, url, events, only_failed, endpoint_id, is_enabled, secret_nonce)
             SELECT $1::uuid, $2::uuid, $3, $4, $5::text[], $6::boolean, $7::uuid, $8::boolean, $9::bytea
             WHERE (SELECT count(*) FROM webhook WHERE owner_id = $2) < $10 RETURNING ${COLUMNS}`,
      values: [
        uuidv7(),
        ownerId,
        name,
        url,
        events,
        onlyFailed,
        endpointId,
        enabled,
        newNonce(),
        this.#limit,
      ],
    });
    if (rows[0] === undefined)
      throw new FarloomError("QUOTA_EXCEEDED", { what: `${this.#limit} webhooks`, limit: this.#limit });
    return rows[0];
  }

  /** The newest first. */
  async list(ownerId: string): Promise<WebhookRow[]> {
    const { rows } = await this.#tenants.query<WebhookRow>(ownerId, {
      name: "webhook-list",
      text: `SELECT ${COLUMNS} FROM webhook WHERE owner_id = $1 ORDER BY created_at DESC, id DESC`,
      values: [ownerId],
    });
    return rows;
  }

  /** @throws FarloomError WEBHOOK_NOT_FOUND */
  async get(ownerId: string, id: string): Promise<WebhookRow> {
    const { rows } = await this.#tenants.query<WebhookRow>(ownerId, {
      name: "webhook-get",
      text: `SELECT ${COLUMNS} FROM webhook WHERE owner_id = $1 AND id = $2`,
      values: [ownerId, id],
    });
    return found(rows[0], id);
  }

  /** One that is enabled again begins anew: what ended meanwhile is not told. @throws FarloomError WEBHOOK_NOT_FOUND */
  async change(ownerId: string, id: string, fields: WebhookFields): Promise<WebhookRow> {
    const { name, url, events, onlyFailed, endpointId, enabled } = fields;
    const { rows } = await this.#pool.query<WebhookRow>({
      name: "webhook-change",
      text: `UPDATE webhook SET name = $3, url = $4, events = $5, only_failed = $6, endpoint_id = $7, is_enabled = $8,
               disabled_reason = CASE WHEN $8::boolean THEN '' ELSE disabled_reason END,
               active_since = CASE WHEN $8 AND NOT is_enabled THEN now() ELSE active_since END,
               failing_since = CASE WHEN $8 AND NOT is_enabled THEN NULL ELSE failing_since END
             WHERE owner_id = $1 AND id = $2 RETURNING ${COLUMNS}`,
      values: [ownerId, id, name, url, events, onlyFailed, endpointId, enabled],
    });
    return found(rows[0], id);
  }

  /** Another secret; the one before signs beside it for a day. @throws FarloomError WEBHOOK_NOT_FOUND */
  async rotate(ownerId: string, id: string): Promise<WebhookRow> {
    const { rows } = await this.#pool.query<WebhookRow>({
      name: "webhook-rotate",
      text: `UPDATE webhook SET secret_nonce = $3, previous_nonce = secret_nonce, previous_until = now() + ${OVERLAP}
             WHERE owner_id = $1 AND id = $2 RETURNING ${COLUMNS}`,
      values: [ownerId, id, newNonce()],
    });
    return found(rows[0], id);
  }

  /** With its deliveries. @throws FarloomError WEBHOOK_NOT_FOUND */
  async remove(ownerId: string, id: string): Promise<void> {
    const { rows } = await this.#pool.query<{ id: string }>({
      name: "webhook-delete",
      text: "DELETE FROM webhook WHERE owner_id = $1 AND id = $2 RETURNING id",
      values: [ownerId, id],
    });
    found(rows[0], id);
  }

  /** The newest first, at most MAX_SHOWN; or the one of this id. */
  async deliveries(
    ownerId: string,
    webhookId: string,
    which: { readonly limit: number; readonly id?: string },
  ): Promise<DeliveryRow[]> {
    const { rows } = await this.#tenants.query<DeliveryRow>(ownerId, {
      name: "webhook-deliveries",
      text: `SELECT id, event, subject_id AS "subjectId", state, attempts, created_at AS "createdAt", next_at AS "nextAt",
               ended_at AS "endedAt", last_status AS "lastStatus", last_ms AS "lastMs", last_error AS "lastError"
             FROM webhook_delivery WHERE owner_id = $1 AND webhook_id = $2 AND ($4::uuid IS NULL OR id = $4)
             ORDER BY created_at DESC, id DESC LIMIT $3`,
      values: [ownerId, webhookId, which.limit, which.id ?? null],
    });
    return rows;
  }

  /** How many tests of theirs were begun in the last minute. */
  async recentTests(ownerId: string): Promise<number> {
    const { rows } = await this.#tenants.query<{ n: number }>(ownerId, {
      name: "webhook-tests",
      text: `SELECT count(*)::int4 AS n FROM webhook w JOIN webhook_delivery d ON d.webhook_id = w.id
             WHERE w.owner_id = $1 AND d.event = 'ping' AND d.created_at > now() - interval '1 minute'`,
      values: [ownerId],
    });
    return rows[0]!.n;
  }
}

function found<T>(row: T | undefined, id: string): T {
  if (row === undefined) throw new FarloomError("WEBHOOK_NOT_FOUND", { id });
  return row;
}
