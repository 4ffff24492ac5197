/**
 * Collect: results come up from agents, their outcomes are committed in groups, and only then is the agent told
 * that it may forget (A5) and the client that it is done (A4).
 *
 *   C1  A result is taken only for a task that this owner holds, or that PostgreSQL says is open.
 *   C2  The statement itself checks epoch, endpoint and attempt; what it did not write is looked up, never guessed.
 *   C3  A result that came before its task's INSERT has committed waits for it, whatever it says: another attempt
 *       too is written to the row. Without a commit it is `unknown` (P14).
 *   C4  Failures go through the task machine, which says whether they are an end or another attempt.
 */
import {
  byteOf,
  durationUsOf,
  endOf,
  type IdKey,
  keyAt,
  type Reason,
  type ResultItem,
  type ResultsFrame,
  reasonName,
  startOf,
  type TaskEvent,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Dispatch } from "../dispatch/dispatch.js";
import type { EndpointQueue } from "../dispatch/endpoint-queue.js";
import type { TaskEntry } from "../dispatch/task-entry.js";
import { GroupCommit } from "../store/group-commit.js";
import { insertOutcomes } from "../store/insert-outcomes.js";
import { isEpochCurrent } from "../store/ownership.js";
import { knownTasks, openTasksByIds } from "../store/read-open-tasks.js";
import { standingOutcomes } from "../store/read-outcomes.js";
import type { NewOutcome } from "../store/rows.js";
import { boundDetail } from "./detail.js";
import type { Reattempts } from "./reattempts.js";

/** A result with the entry it belongs to. */
export interface OutcomeRow extends NewOutcome, ResultItem {
  readonly entry: TaskEntry;
  readonly queue: EndpointQueue;
  readonly groupKey: IdKey;
}

/** Whoever sent a frame of results hears how it ended. */
export interface ResultsReceipt {
  /** All of the frame are settled; these were of tasks that were never committed. */
  settle(unknown: IdKey[]): void;
  /** The endpoint has another owner by now. */
  stale(): void;
}

export interface CollectDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly dispatch: Dispatch;
  readonly reattempts: Reattempts;
  /** Committed outcomes, for deliver. */
  readonly onCommitted: (rows: readonly OutcomeRow[]) => void;
}

/** One frame of results on its way to the database. */
class Receipt {
  open: number;
  readonly unknown: IdKey[] = [];
  readonly #to: ResultsReceipt;
  stale = false;

  constructor(n: number, to: ResultsReceipt) {
    this.open = n;
    this.#to = to;
  }

  done(n: number): void {
    this.open -= n;
    if (this.open > 0) return;
    if (this.stale) this.#to.stale();
    else this.#to.settle(this.unknown);
  }
}

class OutcomeUnit {
  /** As many as came; `rows` may become fewer. */
  readonly size: number;
  rows: OutcomeRow[];
  readonly receipt: Receipt;
  readonly #settled: (unit: OutcomeUnit, error: Error | undefined) => void;

  constructor(
    rows: OutcomeRow[],
    receipt: Receipt,
    settled: (unit: OutcomeUnit, error: Error | undefined) => void,
  ) {
    this.size = rows.length;
    this.rows = rows;
    this.receipt = receipt;
    this.#settled = settled;
  }

  settle(error: Error | undefined): void {
    this.#settled(this, error);
  }
}

export class Collect {
  readonly #deps: CollectDeps;
  readonly #commits: GroupCommit<OutcomeUnit>;
  /** Receipts of results that wait for their task's INSERT. */
  readonly #early = new WeakMap<TaskEntry, { row: OutcomeRow; receipt: Receipt }>();

  constructor(deps: CollectDeps) {
    this.#deps = deps;
    this.#commits = new GroupCommit({
      name: "insert-outcomes",
      lanes: 2,
      maxRows: 8192,
      log: deps.log,
      run: (units) => this.#write(units),
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

  /** Takes a frame of results from the agent of `queue`. */
  take(queue: EndpointQueue, ownerId: string, frame: ResultsFrame, to: ResultsReceipt): void {
    const receipt = new Receipt(frame.n, to);
    const rows: OutcomeRow[] = [];
    const strangers: number[] = [];
    for (let i = 0; i < frame.n; i++) {
      const entry = queue.held.get(keyAt(frame.ids, 16 * i));
      if (entry) this.#route(queue, frame, i, entry, receipt, rows);
      else strangers.push(i);
    }
    if (rows.length > 0) this.#commit(rows, receipt);
    if (strangers.length > 0) void this.#meetStrangers(queue, ownerId, frame, strangers, receipt);
  }

  /** The task's INSERT has committed, or never will: an early result goes on or is given back (C3). */
  released(entry: TaskEntry): void {
    const early = this.#early.get(entry);
    if (!early) return;
    this.#early.delete(entry);
    entry.early = undefined;
    if (entry.committed) {
      const rows: OutcomeRow[] = [];
      this.#decide(early.row, early.receipt, rows);
      if (rows.length > 0) this.#commit(rows, early.receipt);
    } else {
      early.receipt.unknown.push(entry.key);
      early.receipt.done(1);
    }
  }

  #commit(rows: OutcomeRow[], receipt: Receipt): void {
    this.#commits.add(new OutcomeUnit(rows, receipt, this.#settled));
  }

  #route(
    queue: EndpointQueue,
    frame: ResultsFrame,
    i: number,
    entry: TaskEntry,
    receipt: Receipt,
    rows: OutcomeRow[],
  ): void {
    const state = byteOf(frame.states, i);
    const reason = byteOf(frame.reasons, i);
    const row: OutcomeRow = {
      key: entry.key,
      entry,
      queue,
      groupKey: entry.groupKey,
      endpointKey: entry.endpointKey,
      epoch: queue.epoch,
      attempt: u32Of(frame.attempts, i, 1),
      state,
      reason,
      codec: byteOf(frame.codecs, i),
      source: frame.data,
      start: startOf(frame.ends, i),
      end: endOf(frame.ends, i),
      queueUs: durationUsOf(frame.queueUs, i),
      runUs: durationUsOf(frame.runUs, i),
      cpuUs: durationUsOf(frame.cpuUs, i),
      peakKb: Math.min(u32Of(frame.peakKb, i), 0x7fffffff),
      detail: boundDetail(frame.detail?.[i]),
    };
    if (row.attempt !== entry.attempt || entry.early) {
      receipt.done(1); // of an attempt that is over, or sent twice
      return;
    }
    if (entry.committed) this.#decide(row, receipt, rows);
    else {
      entry.early = row;
      this.#early.set(entry, { row, receipt });
    }
  }

  /** An end, which goes to `rows`, or another attempt (C4). */
  #decide(row: OutcomeRow, receipt: Receipt, rows: OutcomeRow[]): void {
    const { entry, queue, state } = row;
    if (state !== TERMINAL_STATES.SUCCEEDED) {
      const next = this.#another(entry, state, reasonName(row.reason));
      if (next !== undefined) {
        this.#deps.reattempts.add(queue, entry, next, () => receipt.done(1));
        return;
      }
    }
    rows.push(row);
  }

  /** Delay of another attempt in milliseconds, or undefined where this is the end (C4). */
  #another(entry: TaskEntry, state: number, reason: Reason): number | undefined {
    if (state === TERMINAL_STATES.CANCELLED) return undefined;
    const lost = reason === "worker_died" || reason === "out_of_memory" || reason === "agent_lost";
    const event: TaskEvent = lost
      ? { kind: "lost", started: true, reason }
      : state === TERMINAL_STATES.TIMED_OUT
        ? { kind: "timed_out", reason }
        : { kind: "failed", reason };
    if (entry.state === "QUEUED") entry.state = "LEASED";
    for (const effect of entry.step(event).effects) {
      if (effect.do === "retry") return entry.backoffMs();
      if (effect.do === "requeue") return 0;
    }
    return undefined;
  }

  /** Results of tasks that are not in hand: sent again after a reconnect, late, or never committed. */
  async #meetStrangers(
    queue: EndpointQueue,
    ownerId: string,
    frame: ResultsFrame,
    indexes: number[],
    receipt: Receipt,
  ): Promise<void> {
    const keys = indexes.map((i) => keyAt(frame.ids, 16 * i));
    try {
      const open = new Map(
        (await openTasksByIds(this.#deps.pool, queue.endpointKey, keys)).map((task) => [task.key, task]),
      );
      const known = await knownTasks(this.#deps.pool, queue.endpointKey, keys);
      const rows: OutcomeRow[] = [];
      for (const [n, key] of keys.entries()) {
        const task = open.get(key);
        const entry = queue.held.get(key) ?? (task && (await this.#deps.dispatch.adopt(queue, task)));
        if (entry) this.#route(queue, frame, indexes[n]!, entry, receipt, rows);
        else {
          if (!known.has(key)) receipt.unknown.push(key);
          receipt.done(1);
        }
      }
      if (rows.length > 0) this.#commit(rows, receipt);
    } catch (err) {
      // Not settled: the agent keeps them, and sends them again in its next session.
      this.#deps.log.warn(
        { err, endpoint: queue.endpointId, owner: ownerId },
        "results could not be looked up",
      );
      receipt.stale = true;
      receipt.done(indexes.length);
    }
  }

  async #write(units: OutcomeUnit[]): Promise<void> {
    const rows = units.length === 1 ? units[0]!.rows : units.flatMap((u) => u.rows);
    const added = await insertOutcomes(this.#deps.pool, rows);
    if (added === rows.length) return;
    await this.#reconcile(units);
  }

  /** Some were not written (C2): they have an outcome already, or their lease is over. What stands is what counts. */
  async #reconcile(units: OutcomeUnit[]): Promise<void> {
    const keys = units.flatMap((unit) => unit.rows.map((row) => row.key));
    const standing = new Map((await standingOutcomes(this.#deps.pool, keys)).map((item) => [item.key, item]));
    const current = new Map<EndpointQueue, boolean>();
    for (const unit of units) {
      const rows: OutcomeRow[] = [];
      for (const row of unit.rows) {
        const item = standing.get(row.key);
        if (item) {
          rows.push({ ...row, ...item });
          continue;
        }
        if (!current.has(row.queue))
          current.set(row.queue, await isEpochCurrent(this.#deps.pool, row.endpointKey, row.epoch));
        if (!current.get(row.queue)) unit.receipt.stale = true;
      }
      unit.rows = rows;
    }
  }

  readonly #settled = (unit: OutcomeUnit, error: Error | undefined): void => {
    const n = unit.size;
    if (error) {
      unit.receipt.stale = true;
      unit.receipt.done(n);
      return;
    }
    for (const row of unit.rows) row.queue.forget(row.entry);
    this.#deps.onCommitted(unit.rows);
    unit.receipt.done(n);
  };
}
