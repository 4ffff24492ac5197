/**
 * Removes blobs that no object has: what a crash left between a blob and its row, a removal that failed, an upload
 * that was killed.
 *
 *   1. Only what was stored longer ago than any request can take: a younger blob's row may still come.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { BlobBackend } from "./backend.js";
import type { ObjectRows } from "./rows.js";

/**
 * A request ends after an hour (app.ts), and S3 dates a large upload by its beginning. The rest is for clocks that
 * disagree.
 */
const ORPHAN_MS = 3 * 3_600_000;
/** A sweep reads the names of all blobs; what it finds costs nothing but room. */
const INTERVAL_MS = 6 * 3_600_000;

export interface SweepDeps {
  readonly rows: ObjectRows;
  readonly backend: BlobBackend;
  readonly log: Logger;
}

/** One sweep; how much it removed. */
export async function sweepObjects(
  { rows, backend, log }: SweepDeps,
  olderThanMs = ORPHAN_MS,
  signal?: AbortSignal,
): Promise<number> {
  const beforeMs = Date.now() - olderThanMs;
  let removed = await backend.sweepUnfinished(beforeMs);
  for await (const page of backend.list()) {
    if (signal?.aborted) break;
    const unknown = new Set(await rows.unknown(page.map(({ id }) => id)));
    for (const { id, storedAtMs } of page) {
      if (!unknown.has(id)) continue;
      if (((await storedAtMs()) ?? Number.POSITIVE_INFINITY) >= beforeMs) continue;
      await backend.remove(id);
      removed++;
    }
  }
  if (removed > 0) log.info({ removed }, "blobs without an object were removed");
  return removed;
}

/** Sweeps now and every six hours; returns what ends that. */
export function startObjectSweep(deps: SweepDeps): () => Promise<void> {
  const stop = new AbortController();
  const running = (async () => {
    while (!stop.signal.aborted) {
      await sweepObjects(deps, ORPHAN_MS, stop.signal).catch((err) =>
        deps.log.warn({ err }, "the sweep of blobs failed; the next one goes on"),
      );
      // Jittered, so that replicas do not sweep in step.
      const waitMs = INTERVAL_MS * (0.8 + 0.4 * Math.random());
      await sleep(waitMs, undefined, { signal: stop.signal, ref: false }).catch(() => {});
    }
  })();
  return async () => {
    stop.abort();
    await running;
  };
}
