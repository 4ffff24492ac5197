/**
 * The embedded PostgreSQL for as long as the service lives: where it ends without our doing (killed, out of memory), it
 * is started again on its data, under the same address. Statements wait meanwhile as they do for any database that is away.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
} from "./embedded-postgres.js";

/** Before the first try, and at most between later ones: what it left is gone by then, and a full disk is not hammered. */
const FIRST_DELAY_MS = 100;
const MOST_DELAY_MS = 5_000;

/** Starts (or adopts) it, and keeps it running until `stop`. */
export async function keepEmbeddedPostgres(
  options: Omit<EmbeddedPostgresOptions, "onExit">,
): Promise<EmbeddedPostgres> {
  const { log } = options;
  const stopped = new AbortController();
  let restarting: Promise<void> = Promise.resolve();
  const start = (): Promise<EmbeddedPostgres> =>
    startEmbeddedPostgres({
      ...options,
      onExit: () => {
        if (!stopped.signal.aborted) restarting = restart();
      },
    });

  const first = await start();
  let current = first;
  async function restart(): Promise<void> {
    for (let delayMs = FIRST_DELAY_MS; ; delayMs = Math.min(MOST_DELAY_MS, 2 * delayMs)) {
      await sleep(delayMs, undefined, { signal: stopped.signal }).catch(() => undefined);
      if (stopped.signal.aborted) return;
      try {
        const next = await start();
        if (next.url === first.url) {
          current = next;
          return;
        }
        // Somebody has its port for now; everything that is open to it knows no other.
        await next.stop();
        log.warn({ retryMs: delayMs }, "embedded PostgreSQL cannot have its port yet; trying again");
      } catch (error) {
        log.error({ err: error, retryMs: delayMs }, "embedded PostgreSQL cannot be started again yet");
      }
    }
  }

  return {
    url: first.url,
    tenantUrl: first.tenantUrl,
    get pid() {
      return current.pid;
    },
    adopted: first.adopted,
    async stop() {
      stopped.abort();
      await restarting;
      await current.stop();
    },
  };
}
