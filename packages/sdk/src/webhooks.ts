/** Webhooks over REST: where the service tells of what has ended (docs/webhooks.md). */
import type { Page } from "./resources.js";
import type { Rest } from "./rest.js";

export type WebhookEvent = "task.done" | "group.done";

export interface WebhookSpec {
  /** https, without user, password or fragment. */
  readonly url: string;
  readonly events: readonly WebhookEvent[];
  readonly name?: string;
  /** Only what did not succeed. */
  readonly onlyFailed?: boolean;
  /** Only what ran at this endpoint, by id or name; null: at any. */
  readonly endpoint?: string | null;
  /** Default: true. */
  readonly enabled?: boolean;
}

export interface WebhookInfo {
  readonly id: string;
  readonly url: string;
  readonly events: readonly WebhookEvent[];
  readonly name: string;
  readonly onlyFailed: boolean;
  readonly endpoint?: string;
  readonly enabled: boolean;
  /** Why the service disabled it. */
  readonly disabledReason?: string;
  readonly createdAt: string;
  readonly failingSince?: string;
  /** Events that were not kept, as too many waited. */
  readonly dropped: number;
}

/** With what signatures are checked: shown once. */
export interface NewWebhook extends WebhookInfo {
  readonly secret: string;
}

export interface WebhookDelivery {
  /** The `webhook-id` that the receiver got. */
  readonly id: string;
  readonly event: WebhookEvent | "ping";
  /** The task or the group. */
  readonly subject: string;
  readonly state: "waiting" | "delivered" | "failed";
  readonly attempts: number;
  readonly createdAt: string;
  readonly nextAt?: string;
  readonly endedAt?: string;
  /** Of the last try: HTTP status, milliseconds, what went wrong. */
  readonly status?: number;
  readonly ms?: number;
  readonly error?: string;
}

interface Signal {
  readonly signal?: AbortSignal | undefined;
}

const pathOf = (id: string, rest = ""): string => `/v1/webhooks/${encodeURIComponent(id)}${rest}`;

export class WebhooksApi {
  readonly #rest: Rest;
  constructor(rest: Rest) {
    this.#rest = rest;
  }

  create(spec: WebhookSpec, { signal }: Signal = {}): Promise<NewWebhook> {
    return this.#rest.json({ method: "POST", path: "/v1/webhooks", json: spec, signal });
  }
  list({ signal }: Signal = {}): Promise<Page<WebhookInfo>> {
    return this.#rest.json({ path: "/v1/webhooks", signal });
  }
  get(id: string, { signal }: Signal = {}): Promise<WebhookInfo> {
    return this.#rest.json({ path: pathOf(id), signal });
  }
  change(id: string, changes: Partial<WebhookSpec>, { signal }: Signal = {}): Promise<WebhookInfo> {
    return this.#rest.json({ method: "PATCH", path: pathOf(id), json: changes, signal, idempotent: true });
  }
  async delete(id: string, { signal }: Signal = {}): Promise<void> {
    await this.#rest.send({ method: "DELETE", path: pathOf(id), signal });
  }
  /** Another secret; the one before signs beside it for 24 hours. */
  rotate(id: string, { signal }: Signal = {}): Promise<NewWebhook> {
    return this.#rest.json({ method: "POST", path: pathOf(id, "/rotate"), signal });
  }
  /** Sends a ping and tells what came of it. */
  test(id: string, { signal }: Signal = {}): Promise<WebhookDelivery> {
    return this.#rest.json({ method: "POST", path: pathOf(id, "/test"), signal });
  }
  /** The newest first. */
  deliveries(
    id: string,
    { limit, signal }: Signal & { readonly limit?: number } = {},
  ): Promise<Page<WebhookDelivery>> {
    return this.#rest.json({ path: pathOf(id, "/deliveries"), query: { limit }, signal });
  }
}
