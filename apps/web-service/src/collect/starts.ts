/** Writes behind which long tasks have started, in batches: short tasks are never told of, and never pay for it. */
import type { IdKey } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { writeStarts } from "../store/rewrite-tasks.js";

/** Keys waiting to be written; beyond, a start is not recorded, which costs a timestamp and nothing else. */
const MAX_WAITING = 100_000;

export class StartsWriter {
  readonly #pool: Pool;
  readonly #log: Logger;
  #waiting: IdKey[] = [];
  #writing = false;

  constructor(pool: Pool, log: Logger) {
    this.#pool = pool;
    this.#log = log;
  }

  add(keys: readonly IdKey[]): void {
    if (this.#waiting.length + keys.length > MAX_WAITING) return;
    this.#waiting.push(...keys);
    if (!this.#writing) void this.#write();
  }

  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#waiting.length > 0) {
      const keys = this.#waiting.splice(0, 4096);
      await writeStarts(this.#pool, keys).catch((err) =>
        this.#log.warn({ err }, "starts could not be written"),
      );
    }
    this.#writing = false;
  }
}
