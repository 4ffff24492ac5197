/**
 * Another attempt: the row's attempt rises first, in PostgreSQL, and only then is the task queued again or put off
 * for its backoff. Rare, and batched like everything that is written.
 */
import type { IdKey } from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Dispatch } from "../dispatch/dispatch.js";
import type { EndpointQueue } from "../dispatch/endpoint-queue.js";
import type { TaskEntry } from "../dispatch/task-entry.js";
import { GroupCommit, type Unit } from "../store/group-commit.js";
import { isEpochCurrent } from "../store/ownership.js";
import { writeAttempts } from "../store/rewrite-tasks.js";

interface AttemptUnit extends Unit {
  readonly queue: EndpointQueue;
  readonly entry: TaskEntry;
  readonly delayMs: number;
  readonly loss: "worker" | "agent" | undefined;
  written: boolean;
  /** The endpoint has another owner: nothing of it is settled. */
  stale: boolean;
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

  /** The attempt of `entry` is over and another follows after `delayMs`; `settled` once that is durable, or cannot be. */
  add(
    queue: EndpointQueue,
    entry: TaskEntry,
    how: { readonly delayMs: number; readonly loss?: "worker" | "agent" | undefined },
    settled: (stale: boolean | "failed") => void,
  ): void {
    const unit: AttemptUnit = {
      size: 1,
      queue,
      entry,
      delayMs: how.delayMs,
      loss: how.loss,
      written: false,
      stale: false,
      settle: (error) => {
        if (unit.written) this.#again(unit);
        // Another replica has ended this attempt meanwhile: the row says what comes next.
        else if (!error) this.#deps.dispatch.answered(queue, entry);
        settled(error === undefined ? unit.stale : "failed");
      },
    };
    this.#commits.add(unit);
  }

  async #write(units: AttemptUnit[]): Promise<void> {
    crashPoint("service.reattempt.before-write");
    const written = await writeAttempts(
      this.#deps.pool,
      units.map(({ queue, entry, delayMs, loss }) => ({
        key: entry.key,
        endpointKey: entry.endpointKey,
        epoch: queue.epoch,
        attempt: entry.attempt,
        delayMs,
        loss,
      })),
    );
    crashPoint("service.reattempt.after-write");
    const current = new Map<EndpointQueue, boolean>();
    for (const unit of units) {
      const { queue, entry } = unit;
      unit.written = written.has(entry.key);
      if (unit.written) continue;
      if (!current.has(queue))
        current.set(queue, await isEpochCurrent(this.#deps.pool, queue.endpointKey, queue.epoch));
      unit.stale = !current.get(queue);
    }
  }

  #again({ queue, entry, delayMs, loss }: AttemptUnit): void {
    if (delayMs > 0) {
      queue.forget(entry);
      this.#deps.schedule(entry.endpointKey, [entry.key], delayMs);
      return;
    }
    if (!planted("attempt-not-raised")) entry.attempt++;
    if (loss === "worker") entry.losses++;
    else if (loss === "agent") entry.agentLosses++;
    const queueTimeoutMs = entry.options?.queueTimeoutMs;
    if (queueTimeoutMs) entry.queueEndsMs = performance.now() + queueTimeoutMs;
    this.#deps.dispatch.requeue(entry.endpointKey, [entry]);
  }
}
