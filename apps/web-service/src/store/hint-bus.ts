/**
 * What carries hints: Redis pub/sub where there is Redis, else LISTEN/NOTIFY on a connection of its own. It
 * reconnects by itself; what was said meanwhile is lost, as hints may be.
 *
 * It also keeps this replica's row alive and knows whether others are: alone, nothing is published at all.
 */
import pg from "pg";
import type { Logger } from "pino";
import { type HintHandlers, HintSender, receiveHint } from "./hints.js";

const CHANNEL = "farloom_hints";
const BEAT_MS = 5_000;
/** A replica that has not been seen for this long is gone. */
const GONE_MS = 20_000;
/** Before a lost connection is made again, and before one that failed is tried again. */
const RELISTEN_MS = 500;
const RELISTEN_FAILED_MS = 2_000;
/** A connection that does not answer for so long is given up. */
const ANSWER_MS = 4_000;
/** Messages waiting for the connection; beyond, hints are dropped. */
const MAX_WAITING = 10_000;

export interface HintBusOptions {
  readonly pool: pg.Pool;
  readonly databaseUrl: string;
  readonly redisUrl: string | undefined;
  readonly replicaId: string;
  readonly log: Logger;
  readonly handlers: HintHandlers;
  /** Others came or went. */
  readonly onAlone: (alone: boolean) => void;
}

export interface HintBus {
  readonly hints: HintSender;
  /** From here on hints are followed; before, this replica holds nothing that one could be about. */
  follow(): void;
  close(): Promise<void>;
}

/** Joins the replicas: resolves once it listens, so that no hint after this is missed by being late. */
export async function joinHintBus(options: HintBusOptions): Promise<HintBus> {
  const { pool, replicaId, log, handlers } = options;
  let isFollowed = false;
  const receive = (text: string): void => {
    if (isFollowed) receiveHint(text, replicaId, handlers);
  };
  const carrier = options.redisUrl
    ? await openRedis(options.redisUrl, receive, log)
    : await openNotify(options.databaseUrl, pool, receive, log);
  const hints = new HintSender(replicaId, carrier.publish);

  const beat = async (): Promise<void> => {
    await pool.query("INSERT INTO replica (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET seen_at = now()", [
      replicaId,
    ]);
    const { rows } = await pool.query<{ others: number }>(
      `SELECT count(*)::int4 AS others FROM replica
       WHERE id <> $1 AND seen_at > now() - $2 * interval '1 millisecond'`,
      [replicaId, GONE_MS],
    );
    const alone = rows[0]!.others === 0;
    if (alone !== hints.alone) {
      hints.alone = alone;
      log.info({ others: rows[0]!.others }, "the replicas have changed");
      options.onAlone(alone);
    }
  };
  await pool.query("DELETE FROM replica WHERE seen_at < now() - interval '1 hour'");
  await beat();
  // Those who are there learn of this replica now, not at their next beat.
  carrier.publish(JSON.stringify({ from: replicaId, kind: "joined" }));
  const timer = setInterval(() => {
    carrier.check();
    beat().catch((err) => {
      // Not knowing is not being alone.
      hints.alone = false;
      log.warn({ err: err.message }, "this replica's heartbeat could not be written");
    });
  }, BEAT_MS);
  carrier.onJoined(() => void beat().catch(() => undefined));

  return {
    hints,
    follow() {
      isFollowed = true;
    },
    async close() {
      clearInterval(timer);
      await pool.query("DELETE FROM replica WHERE id = $1", [replicaId]).catch(() => undefined);
      await carrier.close();
    },
  };
}

interface Carrier {
  publish(message: string): void;
  onJoined(listener: () => void): void;
  /** Asks whether the connections still are, and makes those anew that do not answer. */
  check(): void;
  close(): Promise<void>;
}

async function openRedis(url: string, receive: (text: string) => void, log: Logger): Promise<Carrier> {
  // A tenth of a second to load, and only some have a Redis.
  const { Redis } = await import("ioredis");
  const options = {
    maxRetriesPerRequest: null,
    commandTimeout: ANSWER_MS,
    retryStrategy: (n: number) => Math.min(2000, n * 100),
  };
  const publisher = new Redis(url, { ...options, enableOfflineQueue: false });
  const subscriber = new Redis(url, options);
  let joined = (): void => undefined;
  let closed = false;
  const renew = (client: typeof publisher): void => {
    if (!closed) client.disconnect(true);
  };
  for (const client of [publisher, subscriber]) {
    client.on("error", (err: Error) =>
      log.warn({ err: err.message }, "Redis does not answer; hints are lost meanwhile"),
    );
  }
  subscriber.on("message", (_channel: string, text: string) => {
    if (text.includes('"joined"')) joined();
    else receive(text);
  });
  // Redis may be away, or go away in the middle: the service starts without it, and subscribes whenever it is there.
  const subscribed = new Promise<void>((resolve) => {
    subscriber.on(
      "ready",
      () =>
        void subscriber.subscribe(CHANNEL).then(
          () => resolve(),
          () => renew(subscriber),
        ),
    );
  });
  await Promise.race([subscribed, new Promise((resolve) => setTimeout(resolve, 2000))]);
  return {
    publish: (message) => void publisher.publish(CHANNEL, message).catch(() => undefined),
    onJoined: (listener) => {
      joined = listener;
    },
    check() {
      for (const client of [publisher, subscriber]) {
        if (client.status === "ready") client.ping().catch(() => renew(client));
      }
    },
    async close() {
      closed = true;
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
}

async function openNotify(
  databaseUrl: string,
  pool: pg.Pool,
  receive: (text: string) => void,
  log: Logger,
): Promise<Carrier> {
  let joined = (): void => undefined;
  let closed = false;
  let client: pg.Client | undefined;
  let waiting: string[] = [];
  let sending = false;

  /** Resolves once it hears; `ended` is called when a connection that was heard is gone. */
  const listen = async (ended: () => void): Promise<void> => {
    const next = new pg.Client({ connectionString: databaseUrl, application_name: "farloom hints" });
    next.on("error", () => undefined);
    next.on("notification", ({ payload }) => {
      if (!payload) return;
      if (payload.includes('"joined"')) joined();
      else receive(payload);
    });
    // A connection that never came tells of its end too, and before it rejects: who called hears of that by the rejection.
    next.once("end", () => {
      if (client === next) ended();
    });
    try {
      await next.connect();
      await next.query(`LISTEN ${CHANNEL}`);
      client = next;
    } catch (error) {
      void next.end().catch(() => undefined);
      throw error;
    }
  };
  /** The one loop that keeps listening. */
  const relisten = (afterMs: number): void => {
    client = undefined;
    if (closed) return;
    setTimeout(() => {
      if (closed) return;
      listen(() => relisten(RELISTEN_MS)).catch((err: Error) => {
        log.warn({ err: err.message }, "hints cannot be heard; the sweep finds what they would have told");
        relisten(RELISTEN_FAILED_MS);
      });
    }, afterMs).unref();
  };
  const send = async (): Promise<void> => {
    sending = true;
    while (waiting.length > 0) {
      const messages = waiting;
      waiting = [];
      await pool
        .query(`SELECT pg_notify('${CHANNEL}', m) FROM unnest($1::text[]) AS m`, [messages])
        .catch((err: Error) => log.debug({ err: err.message }, "hints were lost"));
    }
    sending = false;
  };
  await listen(() => relisten(RELISTEN_MS));
  return {
    publish: (message) => {
      if (closed || waiting.length >= MAX_WAITING) return;
      waiting.push(message);
      if (!sending) void send();
    },
    onJoined: (listener) => {
      joined = listener;
    },
    check() {
      // Its end is told like that of any other (`ended`).
      const asked = client;
      asked?.query({ text: "SELECT 1", query_timeout: ANSWER_MS } as pg.QueryConfig).catch(() => asked.end());
    },
    async close() {
      closed = true;
      await client?.end().catch(() => undefined);
    },
  };
}
