/**
 * Another attempt: the row's attempt rises first, in PostgreSQL, and only then is the task queued again or put off
 * for its backoff. Rare, and batched like everything that is written.
 */
import type { IdKey } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Dispatch } from "../dispatch/dispatch.js";
import type { EndpointQueue } from "../dispatch/endpoint-queue.js";
import type { TaskEntry } from "../dispatch/task-entry.js";
import { GroupCommit, type Unit } from "../store/group-commit.js";
import { writeAttempts } from "../store/rewrite-tasks.js";

interface AttemptUnit extends Unit {
  readonly queue: EndpointQueue;
  readonly entry: TaskEntry;
  readonly delayMs: number;
  written: boolean;
}

export interface ReattemptsDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly dispatch: Dispatch;
  /** Make these runnable after the delay. */
  readonly schedule: (endpointKey: IdKey, keys: IdKey[], delayMs: number) => void;
}

export class Reattempts {
  readonly #deps: ReattemptsDeps;
  readonly #commits: GroupCommit<AttemptUnit>;

  constructor(deps: ReattemptsDeps) {
    this.#deps = deps;
    this.#commits = new GroupCommit({
      name: "write-attempts",
      lanes: 1,
      maxRows: 4096,
      log: deps.log,
      run: (units) => this.#write(units),
    });
  }

  /** The attempt of `entry` is over and another follows after `delayMs`; `settled` once that is durable. */
  add(queue: EndpointQueue, entry: TaskEntry, delayMs: number, settled: () => void): void {
    const unit: AttemptUnit = {
      size: 1,
      queue,
      entry,
      delayMs,
      written: false,
      settle: () => {
        if (unit.written) this.#again(unit);
        settled();
      },
    };
    this.#commits.add(unit);
  }

  async #write(units: AttemptUnit[]): Promise<void> {
    const written = await writeAttempts(
      this.#deps.pool,
      units.map(({ queue, entry, delayMs }) => ({
        key: entry.key,
        endpointKey: entry.endpointKey,
        epoch: queue.epoch,
        attempt: entry.attempt,
        delayMs,
      })),
    );
    for (const unit of units) unit.written = written.has(unit.entry.key);
  }

  #again({ queue, entry, delayMs }: AttemptUnit): void {
    if (delayMs > 0) {
      queue.forget(entry);
      this.#deps.schedule(entry.endpointKey, [entry.key], delayMs);
      return;
    }
    entry.attempt++;
    this.#deps.dispatch.requeue(entry.endpointKey, [entry]);
  }
}
