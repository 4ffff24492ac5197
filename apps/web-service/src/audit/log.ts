/**
 * The audit log: who changed what, from where, and what came of it. One chain for the whole service (packages/protocol,
 * audit/chain.ts), which every replica appends to under one lock.
 *
 *   1. An entry is durable before the reply goes that it is of, and names what was changed by its id.
 *   2. What comes while a write is under way goes with the next one: a burst costs a few transactions.
 *   3. What cannot be written is kept and tried again; while too much is kept, changes are refused before they are made.
 *   4. PostgreSQL refuses to change or delete an entry (a trigger).
 */
import { AUDIT_GENESIS, type AuditFields, auditHash, FarloomError } from "@farloom/protocol";
import type pg from "pg";
import type { Logger } from "pino";

/** Of the advisory lock that orders the chain. */
const CHAIN_LOCK = 7_270_736;
/** Entries that wait; each is of a request that waits too, but for those that are told of on links. */
const MAX_WAITING = 10_000;
const MAX_BATCH = 500;
const RETRY_MS = 500;
/** How long a reply waits for its entry. The change is made by then; the entry is tried again for as long as it takes. */
const REPLY_WAIT_MS = 10_000;
/** Longer texts are cut: an entry is small, whatever names a request carries. */
const MAX_TEXT = 400;
const MAX_DETAIL = 4_000;

/** What happened; the log adds number, time and hashes. */
export type AuditEvent = Omit<AuditFields, "seq" | "at">;

interface Waiting {
  readonly event: AuditEvent;
  readonly done: () => void;
}

export class AuditLog {
  readonly #pool: pg.Pool;
  readonly #log: Logger;
  #waiting: Waiting[] = [];
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(pool: pg.Pool, log: Logger) {
    this.#pool = pool;
    this.#log = log;
  }

  /** Refuses a change that could not be recorded (3). @throws FarloomError OVERLOADED */
  requireRoom(): void {
    if (this.#waiting.length >= MAX_WAITING)
      throw new FarloomError(
        "OVERLOADED",
        { detail: "the audit log cannot be written" },
        { retryAfterMs: 5_000 },
      );
  }

  /** Resolves when the entry is durable, or after REPLY_WAIT_MS. */
  async append(event: AuditEvent): Promise<void> {
    if (this.#closed) return;
    let timer: NodeJS.Timeout | undefined;
    const written = new Promise<void>((done) => this.#waiting.push({ event: cut(event), done }));
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, REPLY_WAIT_MS).unref();
    });
    await Promise.race([written, late]);
    clearTimeout(timer);
  }

  /** Resolves when all is written. */
  async idle(): Promise<void> {
    await this.#running;
  }

  /** Gives up on what cannot be written. */
  close(): void {
    this.#closed = true;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 && !this.#closed) {
      const batch = this.#waiting.slice(0, MAX_BATCH);
      try {
        await this.#write(batch.map(({ event }) => event));
        this.#waiting.splice(0, batch.length);
        for (const { done } of batch) done();
      } catch (err) {
        this.#log.error(
          { err, entries: this.#waiting.length },
          "the audit log could not be written; trying again",
        );
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS).unref());
      }
    }
  }

  async #write(events: readonly AuditEvent[]): Promise<void> {
    const client = await this.#pool.connect();
    let failure: Error | undefined;
    try {
      await client.query("BEGIN");
      await client.query("SELECT pg_advisory_xact_lock($1)", [CHAIN_LOCK]);
      // The time is taken under the lock: it never falls along the chain, whoever's clock is ahead.
      const { rows } = await client.query<{ seq: string; hash: string; at: Date }>(
        `SELECT coalesce(max(h.seq), 0) AS seq, coalesce(max(h.hash), $1) AS hash, date_trunc('milliseconds', clock_timestamp()) AS at
         FROM (SELECT seq, encode(hash, 'hex') AS hash FROM audit_entry ORDER BY seq DESC LIMIT 1) AS h`,
        [AUDIT_GENESIS],
      );
      const { at } = rows[0]!;
      let seq = Number(rows[0]!.seq);
      let previous = rows[0]!.hash;
      const entries = events.map((event) => {
        const fields: AuditFields = { ...event, seq: ++seq, at: at.toISOString() };
        const entry = { ...fields, previous, hash: auditHash(previous, fields) };
        previous = entry.hash;
        return entry;
      });
      await client.query(
        `INSERT INTO audit_entry (seq, at, owner_id, actor, credential, action, target, origin, status, code, detail, previous, hash)
         SELECT e.seq, e.at, nullif(e."ownerId", '')::uuid, e.actor, e.credential, e.action, e.target, e.origin, e.status, e.code, e.detail,
                decode(e.previous, 'hex'), decode(e.hash, 'hex')
         FROM jsonb_to_recordset($1::jsonb) AS e (seq bigint, at timestamptz, "ownerId" text, actor text, credential text, action text,
                target text, origin text, status int, code text, detail text, previous text, hash text)`,
        [JSON.stringify(entries)],
      );
      await client.query("COMMIT");
    } catch (error) {
      failure = error as Error;
      throw error;
    } finally {
      // After an error the connection is closed, and the transaction goes with it.
      client.release(failure);
    }
  }
}

/** PostgreSQL has no zero characters, and hashes what it is given. */
function cut(event: AuditEvent): AuditEvent {
  const text = (value: string, max = MAX_TEXT): string =>
    value.replaceAll("\0", "").toWellFormed().slice(0, max).toWellFormed();
  return {
    ...event,
    actor: text(event.actor),
    credential: text(event.credential),
    action: text(event.action),
    target: text(event.target),
    origin: text(event.origin),
    code: text(event.code),
    detail: event.detail.length > MAX_DETAIL ? '{"cut":true}' : text(event.detail, MAX_DETAIL),
  };
}
