/**
 * How endpoints stand (P32), written for the replicas that do not have their connections: behind, the latest alone, and
 * only while there are such replicas. A report that is lost is followed by another.
 */
import { type EndpointReport, type IdKey, keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { jsonbText } from "./pg-columns.js";

/** Endpoints whose report waits to be written; beyond, it is left out. */
const MAX_WAITING = 10_000;

export class EndpointReports {
  readonly #pool: Pool;
  readonly #log: Logger;
  readonly #waiting = new Map<IdKey, { readonly epoch: number; readonly report: EndpointReport }>();
  #writing = false;

  constructor(pool: Pool, log: Logger) {
    this.#pool = pool;
    this.#log = log;
  }

  /** Under the epoch of its owner: a stale one writes nothing. */
  write(endpointKey: IdKey, epoch: number, report: EndpointReport): void {
    if (this.#waiting.size >= MAX_WAITING) return;
    this.#waiting.set(endpointKey, { epoch, report });
    if (!this.#writing) void this.#write();
  }

  async #write(): Promise<void> {
    this.#writing = true;
    for (const [endpointKey, { epoch, report }] of this.#waiting) {
      this.#waiting.delete(endpointKey);
      await this.#pool
        .query({
          name: "write-report",
          text: "UPDATE endpoint SET report = $3, reported_at = now() WHERE id = $1 AND epoch = $2",
          values: [keyToUuid(endpointKey), epoch, jsonbText(report)],
        })
        .catch((err: Error) => this.#log.debug({ err: err.message }, "a report was not written"));
    }
    this.#writing = false;
  }
}
