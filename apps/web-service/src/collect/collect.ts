/**
 * Collect: results come up from agents, their outcomes are committed in groups, and only then is the agent told
 * that it may forget (A5) and the client that it is done (A4).
 *
 *   C1  A result is taken only for a task that this owner holds, or that PostgreSQL says is open.
 *   C2  The statement itself checks epoch, endpoint and attempt; what it did not write is looked up, never guessed.
 *   C3  A result that came before its task's INSERT has committed waits for it, whatever it says: another attempt
 *       too is written to the row. Without a commit it is `unknown` (P14).
 *   C4  Failures and losses go through the task machine, which says whether they are an end or another attempt.
 *   C5  A result that comes after its task has ended without it is kept aside, and the outcome stays as it is.
 */
import {
  byteOf,
  durationUsOf,
  endOf,
  fenceFor,
  fenceOf,
  type IdKey,
  isWorkerLoss,
  keyAt,
  REASONS,
  type Reason,
  type ResultItem,
  type ResultsFrame,
  reasonName,
  SEAL_BYTES,
  startOf,
  type TaskEvent,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Dispatch } from "../dispatch/dispatch.js";
import type { EndpointQueue } from "../dispatch/endpoint-queue.js";
import type { Lost } from "../dispatch/handover.js";
import type { TaskEntry } from "../dispatch/task-entry.js";
import { GroupCommit } from "../store/group-commit.js";
import { insertOutcomes } from "../store/insert-outcomes.js";
import { keepLateResults, type LateResult } from "../store/late-results.js";
import { isEpochCurrent } from "../store/ownership.js";
import { knownTasks, openTasksByIds } from "../store/read-open-tasks.js";
import { standingOutcomes } from "../store/read-outcomes.js";
import type { NewOutcome } from "../store/rows.js";
import { boundDetail } from "./detail.js";
import type { Reattempts } from "./reattempts.js";

/** Lost tasks that are dealt with at once. */
const LOST_PAGE = 1_024;

/** Results, and their bytes, that may wait for their commit before agents are not read any more. */
const CROWDED_ROWS = 200_000;
const CROWDED_BYTES = 256 * 1024 * 1024;

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
  /** The endpoint has another owner by now; or, where it `failed`, they are to be sent again in another session. */
  stale(failed: boolean): void;
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
  failed = false;

  constructor(n: number, to: ResultsReceipt) {
    this.open = n;
    this.#to = to;
  }

  done(n: number): void {
    this.open -= n;
    if (this.open > 0) return;
    if (this.stale) this.#to.stale(this.failed);
    else this.#to.settle(this.unknown);
  }
}

interface Verdict {
  readonly state: number;
  readonly reason: number;
}

interface Another {
  readonly delayMs: number;
  readonly loss?: "worker" | "agent" | undefined;
}

class OutcomeUnit {
  /** As many as came; `rows` may become fewer. */
  readonly size: number;
  readonly sizeBytes: number;
  rows: OutcomeRow[];
  /** Rows that were not written, though the lease holds. */
  over: OutcomeRow[] = [];
  readonly receipt: Receipt;
  readonly #settled: (unit: OutcomeUnit, error: Error | undefined) => void;

  constructor(
    rows: OutcomeRow[],
    receipt: Receipt,
    settled: (unit: OutcomeUnit, error: Error | undefined) => void,
  ) {
    this.size = rows.length;
    let bytes = 0;
    for (const row of rows) bytes += row.end - row.start;
    this.sizeBytes = bytes;
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
  #waitingBytes = 0;
  /** At most one for each agent's connection. */
  #whenRoom: (() => void)[] = [];
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

  /** So much waits for PostgreSQL that agents are to wait too. */
  get crowded(): boolean {
    return this.#commits.waitingRows > CROWDED_ROWS || this.#waitingBytes > CROWDED_BYTES;
  }

  /** Calls once when there is room again. */
  whenRoom(call: () => void): void {
    this.#whenRoom.push(call);
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
    const answered = queue.opening?.answered;
    for (let i = 0; i < frame.n; i++) {
      const key = keyAt(frame.ids, 16 * i);
      answered?.add(key);
      const entry = queue.held.get(key);
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
    const unit = new OutcomeUnit(rows, receipt, this.#settled);
    this.#waitingBytes += unit.sizeBytes;
    this.#commits.add(unit);
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
      attempt: planted("no-attempt-check") ? entry.attempt : u32Of(frame.attempts, i, 1),
      state,
      reason,
      codec: byteOf(frame.codecs, i),
      source: frame.data,
      start: startOf(frame.ends, i),
      end: endOf(frame.ends, i),
      seals: frame.seals,
      sealAt: SEAL_BYTES * i,
      queueUs: durationUsOf(frame.queueUs, i),
      runUs: durationUsOf(frame.runUs, i),
      cpuUs: durationUsOf(frame.cpuUs, i),
      peakKb: Math.min(u32Of(frame.peakKb, i), 0x7fffffff),
      detail: boundDetail(frame.detail?.[i]),
    };
    // A fence above that of the lease is nobody's (P26): the agent speaks of a session that never was.
    const ahead = fenceOf(frame.fences, i) > fenceFor(queue.epoch, entry.attempt);
    const waits = entry.awaits > 0 && !planted("no-attempt-check");
    if (waits && row.attempt === entry.awaits) this.#deps.dispatch.answered(queue, entry); // D5
    const isOver = row.attempt !== entry.attempt || ahead || waits;
    if (isOver || entry.early) {
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
    if (state === TERMINAL_STATES.SUCCEEDED) {
      rows.push(row);
      return;
    }
    const verdict = this.#verdict(entry, state, reasonName(row.reason));
    if ("delayMs" in verdict) {
      this.#deps.reattempts.add(queue, entry, verdict, (stale) => {
        if (stale) receipt.stale = true;
        if (stale === "failed") receipt.failed = true;
        receipt.done(1);
      });
    } else if (verdict.state === state && verdict.reason === row.reason) rows.push(row);
    else rows.push({ ...row, ...verdict });
  }

  /** What a failure or a loss comes to: an end, or another attempt (C4). */
  #verdict(entry: TaskEntry, state: number, reason: Reason): Verdict | Another {
    const lost = reason === "agent_lost" || isWorkerLoss(reason);
    // Its deadline came, and it was stopped, or lost, since: that is its end, whatever stopped it.
    const overdue =
      !entry.cancelRequested && entry.lifeEndsMs !== undefined && entry.lifeEndsMs <= performance.now();
    if (overdue && (state === TERMINAL_STATES.CANCELLED || lost)) {
      return { state: TERMINAL_STATES.TIMED_OUT, reason: REASONS.deadline };
    }
    if (state === TERMINAL_STATES.CANCELLED) return { state, reason: REASONS[reason] };
    if (lost && planted("retry-at-most-once")) return { delayMs: 0 };
    const event: TaskEvent = lost
      ? { kind: "lost", started: true, reason }
      : state === TERMINAL_STATES.TIMED_OUT
        ? { kind: "timed_out", reason }
        : { kind: "failed", reason };
    if (entry.state === "QUEUED") entry.state = "LEASED";
    for (const effect of entry.step(event).effects) {
      if (effect.do === "retry") return { delayMs: entry.backoffMs() };
      if (effect.do === "requeue") return { delayMs: 0, loss: effect.loss };
      if (effect.do === "finish")
        return { state: TERMINAL_STATES[effect.state], reason: REASONS[effect.reason] };
    }
    return { state, reason: REASONS[reason] };
  }

  /**
   * These had, or may have, started where nobody can tell any more: each ends, or has another attempt, as its mode says.
   * Resolves when that is committed; rejects where the endpoint has another owner by now, or PostgreSQL is away for good.
   */
  async lose(queue: EndpointQueue, which: Lost): Promise<void> {
    const keys = [...which.keys()];
    for (let at = 0; at < keys.length; at += LOST_PAGE) {
      const open = await openTasksByIds(this.#deps.pool, queue.endpointKey, keys.slice(at, at + LOST_PAGE));
      const lost: OutcomeRow[] = [];
      for (const task of open) {
        // One that waits for its backoff has been given up by its agent already.
        if (task.waiting || task.attempt !== (which.get(task.key) ?? task.attempt)) continue;
        const entry = queue.held.get(task.key) ?? (await this.#deps.dispatch.adopt(queue, task));
        if (!entry) continue;
        entry.state = "LEASED";
        lost.push(lostRow(queue, entry));
      }
      if (lost.length === 0) continue;
      await new Promise<void>((resolve, reject) => {
        const stale = (): void => reject(new Error("the endpoint has another owner"));
        const receipt = new Receipt(lost.length, { settle: () => resolve(), stale });
        const rows: OutcomeRow[] = [];
        for (const row of lost) this.#decide(row, receipt, rows);
        if (rows.length > 0) this.#commit(rows, receipt);
      });
    }
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
    /** Those that nobody else answers for. */
    let left = indexes.length;
    try {
      const open = new Map(
        (await openTasksByIds(this.#deps.pool, queue.endpointKey, keys)).map((task) => [task.key, task]),
      );
      const known = await knownTasks(this.#deps.pool, queue.endpointKey, keys);
      const rows: OutcomeRow[] = [];
      const late: LateResult[] = [];
      let ended = 0;
      for (const [n, key] of keys.entries()) {
        const task = open.get(key);
        // A result of an attempt that is over says nothing of who has the task now: it is left to its page.
        const isChecked = !planted("no-attempt-check");
        const isOver =
          isChecked && task !== undefined && task.attempt !== u32Of(frame.attempts, indexes[n]!, 1);
        const entry =
          queue.held.get(key) ?? (task && !isOver ? await this.#deps.dispatch.adopt(queue, task) : undefined);
        if (entry) this.#route(queue, frame, indexes[n]!, entry, receipt, rows);
        else {
          if (!known.has(key)) receipt.unknown.push(key);
          else if (!isOver) late.push(lateResult(queue, frame, indexes[n]!));
          ended++;
        }
      }
      if (rows.length > 0) this.#commit(rows, receipt);
      if (ended > 0) {
        left = ended;
        await keepLateResults(this.#deps.pool, late); // C5
        receipt.done(ended);
      }
    } catch (err) {
      // Not settled: the agent keeps them, and sends them again in its next session.
      this.#deps.log.warn(
        { err, endpoint: queue.endpointId, owner: ownerId },
        "results could not be looked up",
      );
      receipt.stale = receipt.failed = true;
      receipt.done(left);
    }
  }

  async #write(units: OutcomeUnit[]): Promise<void> {
    const rows = units.length === 1 ? units[0]!.rows : units.flatMap((u) => u.rows);
    if (planted("results-swapped") && rows.length > 1) swapResults(rows);
    crashPoint("service.collect.before-insert");
    const added = await insertOutcomes(this.#deps.pool, rows);
    crashPoint("service.collect.after-commit");
    if (added === rows.length) return;
    await this.#reconcile(units);
  }

  /** Some were not written (C2): they have an outcome already, or their lease is over. What stands is what counts. */
  async #reconcile(units: OutcomeUnit[]): Promise<void> {
    const keys = units.flatMap((unit) => unit.rows.map((row) => row.key));
    const standing = new Map((await standingOutcomes(this.#deps.pool, keys)).map((item) => [item.key, item]));
    const current = new Map<EndpointQueue, boolean>();
    const late: LateResult[] = [];
    for (const unit of units) {
      unit.over = [];
      const rows: OutcomeRow[] = [];
      for (const row of unit.rows) {
        const item = standing.get(row.key);
        if (item) {
          // Ended without its agent, whose result comes now (C5).
          if (row.state <= TERMINAL_STATES.FAILED && item.state >= TERMINAL_STATES.CANCELLED) late.push(row);
          rows.push({ ...row, ...item });
          continue;
        }
        if (!current.has(row.queue))
          current.set(row.queue, await isEpochCurrent(this.#deps.pool, row.endpointKey, row.epoch));
        if (!current.get(row.queue)) unit.receipt.stale = true;
        else unit.over.push(row);
      }
      unit.rows = rows;
    }
    await keepLateResults(this.#deps.pool, late);
  }

  readonly #settled = (unit: OutcomeUnit, error: Error | undefined): void => {
    const n = unit.size;
    this.#waitingBytes -= unit.sizeBytes;
    if (this.#whenRoom.length > 0 && !this.crowded) for (const call of this.#whenRoom.splice(0)) call();
    if (error) {
      unit.receipt.stale = unit.receipt.failed = true;
      unit.receipt.done(n);
      return;
    }
    for (const row of unit.rows) row.queue.forget(row.entry);
    // Of an attempt that another replica has ended meanwhile: the row says what comes next.
    for (const row of unit.over) this.#deps.dispatch.answered(row.queue, row.entry);
    crashPoint("service.collect.before-publish");
    this.#deps.onCommitted(unit.rows);
    unit.receipt.done(n);
  };
}

const NO_BYTES = Buffer.alloc(0);

/** The loss of its agent, as if the agent had told of it. */
function lostRow(queue: EndpointQueue, entry: TaskEntry): OutcomeRow {
  return {
    key: entry.key,
    entry,
    queue,
    groupKey: entry.groupKey,
    endpointKey: entry.endpointKey,
    epoch: queue.epoch,
    attempt: entry.attempt,
    state: TERMINAL_STATES.LOST,
    reason: REASONS.agent_lost,
    codec: 1,
    source: NO_BYTES,
    start: 0,
    end: 0,
    seals: undefined,
    sealAt: 0,
    queueUs: 0,
    runUs: 0,
    cpuUs: 0,
    peakKb: 0,
    // Whatever it ends as, nobody knows whether a process of it is left.
    detail: { confirmed: false },
  };
}

function lateResult(queue: EndpointQueue, frame: ResultsFrame, i: number): LateResult {
  return {
    key: keyAt(frame.ids, 16 * i),
    endpointKey: queue.endpointKey,
    attempt: u32Of(frame.attempts, i, 1),
    state: byteOf(frame.states, i),
    reason: byteOf(frame.reasons, i),
    codec: byteOf(frame.codecs, i),
    source: frame.data,
    start: startOf(frame.ends, i),
    end: endOf(frame.ends, i),
    detail: boundDetail(frame.detail?.[i]),
  };
}

/** The planted bug `results-swapped`: two results that are written together change places, seals and all. */
function swapResults(rows: OutcomeRow[]): void {
  const [a, b] = [rows[0]!, rows[1]!];
  rows[0] = { ...b, key: a.key, entry: a.entry };
  rows[1] = { ...a, key: b.key, entry: b.entry };
}
