/**
 * The background of a service that is starting. Its library takes half a second to load, and where its jobs live may be
 * away: neither keeps the service's doors closed. Until it runs no job is made, which loses nothing: its first act is
 * to make all of them from PostgreSQL.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Background, BackgroundDeps, BackgroundOptions } from "./background.js";

const FIRST_WAIT_MS = 500;
const MOST_WAIT_MS = 15_000;

export interface LateBackground extends Pick<Background, "scheduleRelease" | "close"> {
  /** Begins to start it; again and again, until it runs or is closed. */
  start(): void;
}

export function lateBackground(deps: BackgroundDeps, options: BackgroundOptions): LateBackground {
  const stop = new AbortController();
  let background: Background | undefined;
  let starting: Promise<void> | undefined;

  async function start(): Promise<void> {
    const { createBackground } = await import("./background.js");
    for (let waitMs = FIRST_WAIT_MS; !stop.signal.aborted; waitMs = Math.min(MOST_WAIT_MS, 2 * waitMs)) {
      try {
        background = await createBackground(deps, options);
        return;
      } catch (err) {
        deps.log.warn({ err, waitMs }, "delays and retention cannot be started; trying again");
        await sleep(waitMs, undefined, { signal: stop.signal, ref: false }).catch(() => undefined);
      }
    }
  }

  return {
    start() {
      starting ??= start();
    },
    async scheduleRelease(taskIds, delayMs) {
      await background?.scheduleRelease(taskIds, delayMs);
    },
    async close() {
      stop.abort();
      await starting;
      await background?.close();
    },
  };
}
