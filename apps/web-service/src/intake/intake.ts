/**
 * Intake: every submission, by link or by REST, comes through here. It is checked, sent on its way to the agent
 * where that is safe, committed with everything else that arrived meanwhile, and then acknowledged.
 *
 *   I1  Nobody is told that a task is durable before its INSERT has committed (A1).
 *   I2  A first submission may travel while its INSERT commits; one that may be a repetition may not (P11), nor one
 *       that may have been overtaken by its own repetition (ended-lately.ts).
 *   I3  An id that is another owner's, group's or endpoint's is refused; otherwise it is the same task, and what its
 *       row says (attempt, wait) counts, not what came again.
 *   I4  What waits for its commit is bounded; above the bound a submission is refused before it is taken.
 */
import { randomUUID } from "node:crypto";
import {
  FarloomError,
  type IdKey,
  keyAt,
  keyToUuid,
  SEAL_BYTES,
  type TaskOptions,
  writeSeal,
  writeTaskId,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Collect } from "../collect/collect.js";
import type { Delivered } from "../deliver/deliver.js";
import type { Dispatch } from "../dispatch/dispatch.js";
import type { EndpointQueue } from "../dispatch/endpoint-queue.js";
import { TaskEntry } from "../dispatch/task-entry.js";
import type { EndpointRecord } from "../endpoints/registry.js";
import type { Principal } from "../identity/principal.js";
import { GroupCommit } from "../store/group-commit.js";
import { type Inserted, insertTasks } from "../store/insert-tasks.js";
import { isDiskFull, toKnownError } from "../store/pg-errors.js";
import { standingOutcomes, type TaskOwner, taskOwners } from "../store/read-outcomes.js";
import type { SubmitItem } from "../tasks/ports.js";
import type { Groups } from "./groups.js";
import type { OpenBudget } from "./open-budget.js";

/** Tasks that may wait for their commit: some seconds of work for PostgreSQL. */
const MAX_WAITING_ROWS = 200_000;
/** Bytes of their arguments. */
const MAX_WAITING_BYTES = 256 * 1024 * 1024;

/** What became of a submission. */
export interface Committed {
  /** The ids that another owner, group or endpoint has (I3). */
  readonly taken: readonly IdKey[];
  /** Perhaps some were there before: what their rows say counts. */
  readonly repeated: boolean;
}

export interface IntakeDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly groups: Groups;
  readonly budget: OpenBudget;
  readonly dispatch: Dispatch;
  readonly collect: Collect;
  /** Outcomes that were there already when a task was submitted again. */
  readonly onRepeated: (items: readonly Delivered[]) => void;
  /** Tasks of the group have committed for the endpoint, whose queue is here or not. */
  readonly onSubmitted: (groupKey: IdKey, endpointKey: IdKey, ownedHere: boolean) => void;
  /** A task whose time is limited has committed: its first limit comes so soon. */
  readonly onLimited: (inMs: number) => void;
  /** Delayed tasks have committed. */
  readonly schedule: (endpointKey: IdKey, keys: IdKey[], delayMs: number) => void;
}

/** Entries of one submission: same endpoint, same group. */
interface TaskUnit {
  readonly size: number;
  readonly entries: TaskEntry[];
  /** The queue whose ring has all of them already. */
  readonly travelledIn: EndpointQueue | undefined;
  inserted: Inserted;
  /** Not all that was in its statement was new: what is open is read from its rows, not taken as it came (I3). */
  repeated: boolean;
  taken: IdKey[];
  settle(error: Error | undefined): void;
}

export class Intake {
  readonly #deps: IntakeDeps;
  readonly #commits: GroupCommit<TaskUnit>;
  #waitingBytes = 0;

  constructor(deps: IntakeDeps) {
    this.#deps = deps;
    this.#commits = new GroupCommit({
      name: "insert-tasks",
      lanes: 2,
      maxRows: 8192,
      log: deps.log,
      run: (units) => this.#write(units),
      refuse: isDiskFull,
    });
  }

  get waitingRows(): number {
    return this.#commits.waitingRows;
  }

  idle(): Promise<void> {
    return this.#commits.idle();
  }

  close(): void {
    this.#commits.close();
  }

  /** For REST: seals and commits the calls, task i under id i of the batch. @throws FarloomError */
  async submit(
    principal: Principal,
    endpoint: EndpointRecord,
    groupKey: IdKey,
    items: SubmitItem[],
    batchId: Buffer,
  ): Promise<IdKey[]> {
    await this.#deps.groups.ensure(principal.ownerKey, groupKey);
    const seals = Buffer.allocUnsafe(SEAL_BYTES * items.length);
    const id = Buffer.allocUnsafe(16);
    const entries = items.map((item, i) => {
      writeTaskId(id, batchId, i, 0);
      const key = keyAt(id);
      writeSeal(seals, SEAL_BYTES * i, key, item.args);
      return new TaskEntry({
        key,
        ownerKey: principal.ownerKey,
        endpointKey: endpoint.key,
        groupKey,
        fn: item.fn,
        source: item.args,
        start: 0,
        end: item.args.length,
        seals,
        sealAt: SEAL_BYTES * i,
        codec: item.codec,
        attempt: 1,
        options: item.options,
      });
    });
    // The batch may be the repetition of one under the same Idempotency-Key (I2).
    const { taken } = await this.take(entries, { again: true, mayComeAgain: true });
    if (taken.length > 0) throw new FarloomError("TASK_ID_TAKEN", { id: keyToUuid(taken[0]!) });
    return entries.map((entry) => entry.key);
  }

  /** Takes checked entries of one endpoint and group; resolves once they are committed. @throws FarloomError */
  take(
    entries: TaskEntry[],
    how: {
      /** Perhaps they were submitted before. */
      readonly again: boolean;
      /** A refusal tells only of this request, not of the tasks: as over REST, where the same request may follow. */
      readonly mayComeAgain?: boolean;
      /** Until when, on the monotonic clock, the client is known to have been on the link that it came by. */
      readonly knownMs?: number;
    },
  ): Promise<Committed> {
    let bytes = 0;
    for (const entry of entries) bytes += entry.sizeBytes;
    if (this.#commits.waitingRows > MAX_WAITING_ROWS || this.#waitingBytes + bytes > MAX_WAITING_BYTES) {
      return Promise.reject(
        new FarloomError(
          "OVERLOADED",
          { detail: `${this.#commits.waitingRows} tasks wait for the database` },
          { retryAfterMs: 1000 },
        ),
      );
    }
    try {
      if (entries.length > 0)
        this.#deps.budget.take(entries[0]!, entries.length, how.again && !how.mayComeAgain);
    } catch (refusal) {
      return Promise.reject(refusal);
    }
    this.#waitingBytes += bytes;
    if (how.again) for (const entry of entries) entry.mayComeLate = true;
    const travelledIn =
      how.again || how.knownMs === undefined ? undefined : this.#sendAhead(entries, how.knownMs);
    return new Promise((resolve, reject) => {
      const unit: TaskUnit = {
        size: entries.length,
        entries,
        travelledIn,
        inserted: { added: 0, firstSeq: 0, lastSeq: 0 },
        repeated: false,
        taken: [],
        settle: (error) => {
          this.#waitingBytes -= bytes;
          const known = error && toKnownError(error);
          if (known) {
            for (const entry of entries) this.#drop(entry);
            reject(known);
          } else if (error) {
            for (const entry of entries) this.#drop(entry);
            const reference = randomUUID();
            this.#deps.log.error(
              { err: error, reference, tasks: entries.length },
              "tasks could not be committed",
            );
            reject(new FarloomError("INTERNAL", { reference }, { cause: error }));
          } else {
            this.#settle(unit);
            resolve({ taken: unit.taken, repeated: unit.repeated });
          }
        },
      };
      this.#commits.add(unit);
      if (planted("acknowledge-before-commit")) resolve({ taken: [], repeated: false });
    });
  }

  /** Offers all to the ring; gives the queue where it took them all. */
  #sendAhead(entries: readonly TaskEntry[], knownMs: number): EndpointQueue | undefined {
    for (const entry of entries) {
      // One that stays behind ends the travelling of those after it, so that they keep their order.
      if (isDelayed(entry.options) || !this.#deps.dispatch.offer(entry, knownMs)) return undefined;
    }
    return this.#deps.dispatch.queueOf(entries[0]!.endpointKey);
  }

  async #write(units: TaskUnit[]): Promise<void> {
    const entries = units.length === 1 ? units[0]!.entries : units.flatMap((u) => u.entries);
    crashPoint("service.intake.before-insert");
    const inserted = await insertTasks(this.#deps.pool, entries);
    crashPoint("service.intake.after-commit");
    for (const unit of units) unit.inserted = inserted;
    if (inserted.added < entries.length) await this.#reconcile(units);
  }

  /** Some ids were there already (I3). */
  async #reconcile(units: TaskUnit[]): Promise<void> {
    const keys = units.flatMap((unit) => unit.entries.map((e) => e.key));
    const owners = await taskOwners(this.#deps.pool, keys);
    const outcomes = new Map((await standingOutcomes(this.#deps.pool, keys)).map((o) => [o.key, o]));
    for (const unit of units) {
      const repeated: Delivered[] = [];
      for (const entry of unit.entries) {
        const row = owners.get(entry.key);
        if (row && !isSame(row, entry)) {
          unit.taken.push(entry.key);
          this.#drop(entry);
          continue;
        }
        const outcome = outcomes.get(entry.key);
        if (outcome) {
          repeated.push({ ...outcome, groupKey: entry.groupKey });
          this.#drop(entry);
        } else if (row && row.attempt !== entry.attempt) this.#drop(entry);
      }
      unit.repeated = true;
      if (repeated.length > 0) this.#deps.onRepeated(repeated);
    }
  }

  #settle(unit: TaskUnit): void {
    const { firstSeq, lastSeq } = unit.inserted;
    const endpointKey = unit.entries[0]!.endpointKey;
    const behind: TaskEntry[] = [];
    const delayed = new Map<number, IdKey[]>();
    const cancelled: IdKey[] = [];
    const queue = this.#deps.dispatch.queueOf(endpointKey);
    // The agent may have connected anew meanwhile: its new queue knows nothing of what the old one had taken.
    const travelled = queue !== undefined && queue === unit.travelledIn;
    for (const entry of unit.entries) {
      if (entry.ended && !entry.early) continue;
      entry.committed = true;
      entry.seq = firstSeq;
      if (entry.cancelRequested) cancelled.push(entry.key);
      if (entry.isLimited) {
        const firstMs = Math.min(entry.queueEndsMs ?? Infinity, entry.lifeEndsMs ?? Infinity);
        this.#deps.onLimited(firstMs - performance.now());
      }
      if (entry.early) this.#deps.collect.released(entry);
      else if (isDelayed(entry.options)) {
        const delayMs = entry.options!.delayMs!;
        const keys = delayed.get(delayMs);
        if (keys) keys.push(entry.key);
        else delayed.set(delayMs, [entry.key]);
      } else if (!travelled && !queue?.held.has(entry.key)) behind.push(entry);
    }
    this.#deps.onSubmitted(unit.entries[0]!.groupKey, endpointKey, queue !== undefined);
    if (behind.length > 0) {
      // What had travelled in a queue that is gone may have been sent: its row comes as a new lease, which the agent
      // recognises if it has the task.
      if (unit.repeated || unit.travelledIn !== undefined)
        this.#deps.dispatch.reread(
          endpointKey,
          behind.map((entry) => entry.key),
        );
      else this.#deps.dispatch.committed(endpointKey, behind, firstSeq);
    }
    this.#deps.dispatch.advance(endpointKey, lastSeq);
    if (cancelled.length > 0) void this.#deps.dispatch.cancel(cancelled);
    for (const [delayMs, keys] of delayed) this.#deps.schedule(endpointKey, keys, delayMs);
  }

  /** The entry is no task, or no open one. */
  #drop(entry: TaskEntry): void {
    this.#deps.dispatch.queueOf(entry.endpointKey)?.forget(entry);
    entry.ended = true;
    this.#deps.collect.released(entry);
  }
}

function isSame(row: TaskOwner, entry: TaskEntry): boolean {
  return (
    row.ownerKey === entry.ownerKey &&
    row.groupKey === entry.groupKey &&
    row.endpointKey === entry.endpointKey
  );
}

function isDelayed(options: TaskOptions | undefined): boolean {
  return options?.delayMs !== undefined && options.delayMs > 0;
}
