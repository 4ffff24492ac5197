/**
 * Sends what waits. A delivery is claimed by moving the time of its next try ahead, so that one whose sender dies comes up
 * again; what was sent and not recorded is sent again, under the same id.
 *
 *   S1  One receiver that is slow holds nobody else up: so many at once to a host, of a person, in all.
 *   S2  A delivery is tried MAX_TRIES times within a day; a webhook that has failed for DISABLE_AFTER is disabled.
 *   S3  Nothing polls: what is added here wakes it, what is to be tried again has a timer, and beats find what others left.
 */
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { NewDelivery } from "./events.js";
import { post, TIMEOUT_MS } from "./post.js";
import type { WebhookSettings } from "./settings.js";
import { type Derive, signatureHeaders } from "./signature.js";

/** Tries at once, at one replica (S1). */
const MOST = 64;
const MOST_OF_PERSON = 8;
const MOST_TO_HOST = 4;
/** 5 s, 30 s, 3, 18 and 108 minutes, 8 hours, 8 hours: 18 hours in all, up to 22 by chance. */
export const MAX_TRIES = 8;
const RETRY_FACTOR = 6;
const MAX_RETRY_MS = 8 * 3_600_000;
/** Each wait is up to this much shorter or longer, so that those that failed together do not come back together. */
const JITTER = 0.2;
const DISABLE_AFTER = "interval '3 days'";
/** A claim ends by itself: later than any try. */
const LEASE_MS = TIMEOUT_MS + 20_000;
/** Candidates of one round. */
const PAGE = 256;
/** A timer that is too early finds nothing; the beat is never far. */
const LONGEST_TIMER_MS = 60_000;

/** HTTP's word for "not any more". */
const GONE = 410;

export interface SenderDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly settings: WebhookSettings;
  readonly derive: Derive;
  /** A webhook was disabled here. */
  readonly onDisabled: () => void;
}

interface Candidate {
  readonly id: string;
  readonly webhookId: string;
  readonly ownerId: string;
  readonly url: string;
}

interface Claimed extends Candidate {
  readonly event: string;
  readonly body: string;
  readonly attempts: number;
  readonly nonce: Buffer;
  readonly previousNonce: Buffer | null;
}

const ENABLED =
  "w.is_enabled AND EXISTS (SELECT FROM owner p WHERE p.id = w.owner_id AND p.disabled_at IS NULL)";
const OF_WEBHOOK = `w.id AS "webhookId", w.owner_id AS "ownerId", w.url, w.secret_nonce AS nonce,
  CASE WHEN w.previous_until > now() THEN w.previous_nonce END AS "previousNonce"`;

const DUE = `SELECT d.id, w.id AS "webhookId", w.owner_id AS "ownerId", w.url
  FROM webhook w CROSS JOIN LATERAL (SELECT id, next_at FROM webhook_delivery d
    WHERE d.webhook_id = w.id AND d.state = 0 AND d.next_at <= now() ORDER BY d.next_at LIMIT ${MOST_TO_HOST}) d
  WHERE ${ENABLED} AND NOT w.id = ANY($1::uuid[]) ORDER BY d.next_at LIMIT ${PAGE}`;

const CLAIM = `UPDATE webhook_delivery d
  SET attempts = d.attempts + 1, next_at = now() + ${LEASE_MS} * interval '1 millisecond' FROM webhook w
  WHERE d.id = ANY($1::uuid[]) AND d.state = 0 AND d.next_at <= now() AND w.id = d.webhook_id AND ${ENABLED}
  RETURNING d.id, d.event, d.body, d.attempts, ${OF_WEBHOOK}`;

const TEST = `WITH d AS (
    INSERT INTO webhook_delivery (id, webhook_id, owner_id, event, subject_id, body, attempts, next_at)
    SELECT $1::uuid, id, $3::uuid, $4, $5::uuid, $6, 1, now() + ${LEASE_MS} * interval '1 millisecond' FROM webhook WHERE id = $2
    RETURNING id, webhook_id, event, body, attempts)
  SELECT d.id, d.event, d.body, d.attempts, ${OF_WEBHOOK} FROM d JOIN webhook w ON w.id = d.webhook_id`;

const NEXT_MS = `SELECT (extract(epoch FROM min(d.next_at) - now()) * 1000)::float8 AS ms
  FROM webhook w CROSS JOIN LATERAL (SELECT next_at FROM webhook_delivery d
    WHERE d.webhook_id = w.id AND d.state = 0 AND d.next_at > now() ORDER BY d.next_at LIMIT 1) d WHERE ${ENABLED}`;

const RECORD = `WITH tried AS (
    UPDATE webhook_delivery SET state = $2::int2, last_status = $3, last_ms = $4, last_error = $5,
      next_at = now() + $6 * interval '1 millisecond', ended_at = CASE WHEN $2::int2 = 0 THEN NULL ELSE now() END
    WHERE id = $1 AND state = 0 RETURNING webhook_id)
  UPDATE webhook w SET failing_since = CASE WHEN $5 = '' THEN NULL ELSE coalesce(w.failing_since, now()) END
  FROM tried WHERE w.id = tried.webhook_id AND (w.failing_since IS NULL) <> ($5 = '')`;

const DISABLE = `UPDATE webhook SET is_enabled = false, disabled_reason = $2
  WHERE id = $1 AND is_enabled AND ($3 OR failing_since < now() - ${DISABLE_AFTER}) RETURNING id`;

export class Sender {
  readonly #deps: SenderDeps;
  readonly #inFlight = new Map<string, Candidate & { readonly host: string }>();
  readonly #sending = new Set<Promise<unknown>>();
  /** Tries that a stop has cut. */
  readonly #cut: string[] = [];
  readonly #stop = new AbortController();
  #round: Promise<void> | undefined;
  #isWoken = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(deps: SenderDeps) {
    this.#deps = deps;
  }

  /** There may be something to send. */
  wake(): void {
    this.#isWoken = true;
    if (this.#round || this.#stop.signal.aborted) return;
    this.#round = this.#rounds().finally(() => {
      this.#round = undefined;
    });
  }

  /** One try, at once, whatever else waits and whether or not the webhook is enabled; what comes of it is recorded. */
  async test(delivery: NewDelivery): Promise<void> {
    const { id, webhookId, ownerId, event, subjectId, body } = delivery;
    const { rows } = await this.#deps.pool.query<Claimed>(TEST, [
      id,
      webhookId,
      ownerId,
      event,
      subjectId,
      body,
    ]);
    // Deleted meanwhile: there is nothing to tell of it.
    if (rows[0] !== undefined) await this.#try(rows[0]);
  }

  /** What is under way is given up, and due at once for whoever comes next. */
  async close(): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#timer);
    await this.#round;
    await Promise.all(this.#sending);
    if (this.#cut.length === 0) return;
    const again = "UPDATE webhook_delivery SET next_at = now() WHERE id = ANY($1::uuid[]) AND state = 0";
    // Where that fails, the claims end by themselves.
    await this.#deps.pool.query(again, [this.#cut]).catch(() => {});
  }

  async #rounds(): Promise<void> {
    try {
      while (this.#isWoken && !this.#stop.signal.aborted) {
        this.#isWoken = false;
        await this.#claim();
      }
      await this.#plan();
    } catch (err) {
      this.#deps.log.warn({ err }, "what waits for webhooks could not be read; the next beat does");
    }
  }

  async #claim(): Promise<void> {
    if (this.#inFlight.size >= MOST) return;
    const { pool } = this.#deps;
    const busy = [...this.#inFlight.values()].filter((one) => !this.#hasRoom(one, []));
    const { rows } = await pool.query<Candidate>({
      name: "webhook-due",
      text: DUE,
      values: [[...new Set(busy.map(({ webhookId }) => webhookId))]],
    });
    const picked: (Candidate & { host: string })[] = [];
    for (const row of rows) {
      const candidate = { ...row, host: hostOf(row.url) };
      if (this.#hasRoom(candidate, picked)) picked.push(candidate);
    }
    if (picked.length === 0) return;
    const claimed = await pool.query<Claimed>(CLAIM, [picked.map(({ id }) => id)]);
    for (const one of claimed.rows) {
      this.#inFlight.set(one.id, { ...one, host: hostOf(one.url) });
      const sending = this.#try(one)
        .catch((err) =>
          this.#deps.log.warn({ err }, "a delivery's end could not be recorded; it comes again"),
        )
        .finally(() => {
          this.#inFlight.delete(one.id);
          this.#sending.delete(sending);
          this.wake();
        });
      this.#sending.add(sending);
    }
    // There may be more than a round takes.
    if (picked.length === rows.length) this.#isWoken = true;
  }

  #hasRoom(
    one: { host: string; ownerId: string },
    picked: readonly { host: string; ownerId: string }[],
  ): boolean {
    const all = [...this.#inFlight.values(), ...picked];
    return (
      all.length < MOST &&
      all.filter(({ host }) => host === one.host).length < MOST_TO_HOST &&
      all.filter(({ ownerId }) => ownerId === one.ownerId).length < MOST_OF_PERSON
    );
  }

  async #try(one: Claimed): Promise<void> {
    const { settings, derive, pool, log } = this.#deps;
    const { webhookId, id: deliveryId, body, url } = one;
    const nonces = [one.nonce, ...(one.previousNonce ? [one.previousNonce] : [])];
    const headers = signatureHeaders(derive, { webhookId, nonces, deliveryId, body }, Date.now());
    const { error, status, ms } = await post({ url, headers, body }, settings, this.#stop.signal);
    // A stop cuts what is under way: that says nothing of the receiver.
    if (this.#stop.signal.aborted && error !== "") {
      this.#cut.push(deliveryId);
      return;
    }
    const isGone = status === GONE;
    const isOver = error === "" || isGone || one.attempts >= MAX_TRIES || one.event === "ping";
    const state = error === "" ? 1 : isOver ? 2 : 0;
    const waitMs = isOver ? 0 : retryMs(settings.retryMs, one.attempts);
    await pool.query(RECORD, [deliveryId, state, status ?? null, ms, error, waitMs]);
    if (error === "") return;
    log.debug(
      { webhook: webhookId, delivery: deliveryId, error, status, attempts: one.attempts },
      "a delivery failed",
    );
    const why = isGone ? "the receiver answered 410 Gone" : "every try of three days has failed";
    const disabled = await pool.query(DISABLE, [webhookId, why, isGone]);
    if (disabled.rowCount) this.#deps.onDisabled();
  }

  /** A timer for what is to be tried next (S3). */
  async #plan(): Promise<void> {
    const { rows } = await this.#deps.pool.query<{ ms: number | null }>({
      name: "webhook-next",
      text: NEXT_MS,
    });
    const ms = rows[0]?.ms;
    clearTimeout(this.#timer);
    if (ms == null || this.#stop.signal.aborted) return;
    this.#timer = setTimeout(() => this.wake(), Math.min(LONGEST_TIMER_MS, Math.max(20, ms + 5)));
    this.#timer.unref();
  }
}

const hostOf = (url: string): string => new URL(url).hostname;

function retryMs(firstMs: number, attempts: number): number {
  const wholeMs = Math.min(MAX_RETRY_MS, firstMs * RETRY_FACTOR ** (attempts - 1));
  return Math.round(wholeMs * (1 - JITTER + 2 * JITTER * Math.random()));
}
