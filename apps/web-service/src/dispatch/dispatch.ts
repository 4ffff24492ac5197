/**
 * Dispatch: every endpoint whose agent is connected here has its queue here, and from it the tasks go to the
 * agent within its credit. Only the owner hands out an endpoint's tasks, so no row is locked and no lease is
 * written for each task (ownership.ts has the epoch that makes this safe).
 *
 *   D1  An entry is sent only from the queue of the current epoch, and only once per attempt.
 *   D2  What an agent's hello lists as held is leased, not sent (P15).
 *   D3  A task that is not taken into the ring is in PostgreSQL, and the filler is told after its commit.
 *   D4  Nothing is sent by an owner that has not seen its epoch confirmed for EPOCH_TRUST_MS: it may have lost the
 *       endpoint to another replica.
 *   D5  A task is at the agent in one attempt only: where it still has an older one, that is stopped first.
 *   D6  What is sent before its INSERT has committed is certainly new (ended-lately.ts).
 *   D7  What is sent may still run there: that is asked again here, not only when it is submitted. What may not ends.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type IdKey, REASONS, TERMINAL_STATES, uuidToKey } from "@farloom/protocol";
import { planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { FunctionRegistry } from "../functions/registry.js";
import type { RunAccess } from "../sharing/run-access.js";
import type { Hints, LeaseQuestion } from "../store/hints.js";
import { type Claim, epochsOf } from "../store/ownership.js";
import { knownTasks, openTaskKeys, openTasksByIds, pageOpenTasks } from "../store/read-open-tasks.js";
import { taskOwners } from "../store/read-outcomes.js";
import { endOpen, startedAmong } from "../store/rewrite-tasks.js";
import type { OpenTask } from "../store/rows.js";
import { ANSWER_TIMEOUT_MS } from "../store/statement-limits.js";
import { CANCELLED, Cancels, type EndHow } from "./cancels.js";
import { EndedLately } from "./ended-lately.js";
import { EndpointQueue, MAX_LEASED, type RingBudget } from "./endpoint-queue.js";
import { Filler } from "./filler.js";
import { type Before, Handover, type Lost } from "./handover.js";
import type { TaskEntry, TaskProgress } from "./task-entry.js";
import { DEADLINE, QUEUE_TIME } from "./time-limits.js";

/** Before rows are read again that PostgreSQL did not give. */
const REREAD_MS = 500;
/** How often an owner makes sure that its endpoints are still its own. */
const EPOCH_CHECK_MS = 1_000;
/** For how long one such answer is good (D4). Shorter than a new owner waits for an old one (handover.ts). */
const EPOCH_TRUST_MS = 3_000;

const NOT_AUTHORISED: EndHow = {
  state: TERMINAL_STATES.FAILED,
  reason: REASONS.not_authorised,
  confirmed: true,
};

/** The agent's connection, as dispatch sees it. */
export interface AgentLease {
  readonly epoch: number;
  /** How many tasks, and argument bytes, the agent's credit allows now. */
  readonly room: number;
  readonly roomBytes: number;
  readonly paused: boolean;
  sendTasks(entries: TaskEntry[]): void;
  /** With `unbegun`, what runs is left alone. */
  sendCancel(keys: IdKey[], why?: "unbegun"): void;
  /** A newer connection of the same endpoint took over. */
  replaced(): void;
  /** The endpoint was deleted. */
  deleted(): void;
}

export interface DispatchDeps {
  readonly pool: Pool;
  readonly functions: FunctionRegistry;
  readonly access: RunAccess;
  readonly log: Logger;
  readonly hints: Hints;
  readonly replicaId: string;
  /** These had, or may have, started where nobody can tell any more: they end or run again, as their mode says. */
  readonly lose: (queue: EndpointQueue, lost: Lost) => Promise<void>;
  /** The endpoint's agent is not connected here any more. */
  readonly onLeft: (endpointKey: IdKey) => void;
  /** These tasks ended without a result of theirs: tell whoever waits. */
  readonly onEnded: (
    ended: readonly (EndHow & { readonly key: IdKey; readonly groupKey: IdKey; readonly attempt: number })[],
  ) => void;
}

interface Owned {
  readonly queue: EndpointQueue;
  readonly lease: AgentLease;
  readonly claim: Claim;
  readonly bootId: string | undefined;
  /** What the agent had before, once it is found out. */
  readonly before: Promise<Before>;
  /** Resolves once what its hello lists is in the queue; with false where that could not be read. */
  readonly read: Promise<boolean>;
  /** Since when this process has owned the endpoint without a break, on its monotonic clock. */
  readonly sinceMs: number;
  opened: boolean;
  pumping: boolean;
  /** Whether some task may run is being looked up: nothing is sent meanwhile. */
  asking: boolean;
}

/** What an agent's hello says that it holds. */
export interface Held {
  readonly keys: readonly IdKey[];
  /** In the order of `keys`. */
  attemptOf(i: number): number;
  readonly bootId: string | undefined;
}

export class Dispatch {
  readonly #deps: DispatchDeps;
  readonly #owned = new Map<IdKey, Owned>();
  readonly #filler: Filler;
  readonly #budget: RingBudget = { entries: 0 };
  readonly #lately = new EndedLately();
  readonly #handover: Handover;
  readonly cancels: Cancels;
  readonly #epochTimer: NodeJS.Timeout;
  /** Until when the epochs count as confirmed (D4). */
  #trustedUntilMs = 0;
  #closed = false;

  constructor(deps: DispatchDeps) {
    this.#deps = deps;
    this.#filler = new Filler({
      pool: deps.pool,
      functions: deps.functions,
      log: deps.log,
      isCurrent: (queue) => this.#owned.get(queue.endpointKey)?.queue === queue,
      onFilled: (queue) => this.#pump(queue.endpointKey),
      onOver: (queue, entries) => this.#over(queue, entries),
    });
    this.#handover = new Handover(deps);
    this.cancels = new Cancels({
      pool: deps.pool,
      hints: deps.hints,
      queueOf: (endpointKey) => this.queueOf(endpointKey),
      entryOf: (key) => this.#entry(key),
      stop: (endpointKey, keys) => this.stop(endpointKey, keys),
      end: (keys, how) => this.end(keys, how),
    });
    this.#epochTimer = setInterval(() => void this.#checkEpochs(), EPOCH_CHECK_MS);
    this.#epochTimer.unref();
  }

  /** Resolves when what agents had at the end of their connections is written. */
  async close(): Promise<void> {
    clearInterval(this.#epochTimer);
    this.#closed = true;
    await this.#handover.idle();
  }

  /** Gives up on writing what agents had: whoever comes next knows less. */
  giveUp(): void {
    this.#handover.close();
  }

  /** The queues that are owned here. */
  *queues(): Iterable<EndpointQueue> {
    for (const owned of this.#owned.values()) yield owned.queue;
  }

  queueOf(endpointKey: IdKey): EndpointQueue | undefined {
    return this.#owned.get(endpointKey)?.queue;
  }

  /**
   * Takes the endpoint's queue for a connection that was just accepted. `held` is what its agent has; the answer names
   * those that it should drop, and those whose older attempt it should stop (D5). Nothing is sent before `open`.
   */
  async attach(
    endpointKey: IdKey,
    claim: Claim,
    lease: AgentLease,
    held: Held,
  ): Promise<{ queue: EndpointQueue; drop: IdKey[] }> {
    const queue = new EndpointQueue(endpointKey, claim, this.#budget, this.#lately);
    const older = this.#owned.get(endpointKey);
    if (older && older.queue.epoch > claim.epoch) {
      lease.replaced();
      return { queue, drop: [] };
    }
    queue.opening = { before: undefined, listed: new Set(held.keys), answered: new Set() };
    const departure = older && { epoch: older.queue.epoch, leases: older.queue.leases() };
    const before = this.#handover.before(endpointKey, claim, departure);
    before.then(
      ({ leases }) => {
        if (queue.opening) queue.opening.before = leases;
      },
      () => undefined,
    );
    if (older) this.#drop(endpointKey, older);
    this.#deps.hints.claimed(endpointKey, claim.epoch);
    this.#trustedUntilMs = Math.max(this.#trustedUntilMs, performance.now() + EPOCH_TRUST_MS);
    const reading = this.#readHeld(queue, held);
    this.#owned.set(endpointKey, {
      queue,
      lease,
      claim,
      bootId: held.bootId,
      before,
      read: reading.then(
        () => true,
        () => false,
      ),
      // Of an endpoint that nobody owned before, nothing can have ended.
      sinceMs: claim.epoch === 1 ? Number.NEGATIVE_INFINITY : (older?.sinceMs ?? performance.now()),
      opened: false,
      pumping: false,
      asking: false,
    });
    const drop = await reading;
    if (this.#owned.get(endpointKey)?.queue !== queue) lease.replaced();
    return { queue, drop };
  }

  /** What the agent has goes into the queue, as leased; resolves with what of it the agent should drop, or stop (D5). */
  async #readHeld(queue: EndpointQueue, held: Held): Promise<IdKey[]> {
    const { endpointKey } = queue;
    queue.lastSeqBefore = await this.#handover.lastSeq();
    const attempts = new Map(held.keys.map((key, i) => [key, held.attemptOf(i)]));
    const drop = new Set(held.keys);
    for (const task of await openTasksByIds(this.#deps.pool, endpointKey, held.keys)) {
      const entry = await this.#filler.toEntry(queue, task);
      if (!entry) continue;
      if (planted("requeue-held-on-reconnect")) entry.attempt++;
      if (planted("requeue-held-on-reconnect")) queue.add(entry);
      else queue.addLeased(entry); // D2
      const attempt = attempts.get(task.key)!;
      if (attempt !== task.attempt)
        entry.awaits = attempt; // D5
      else if (!entry.cancelRequested) drop.delete(task.key);
    }
    // What has no row is not committed, or not yet: its result is kept aside for a resubmission (P14).
    const unknown = await this.#unknown(endpointKey, [...drop]);
    if (unknown.length > 0) queue.mayCommitUntilMs = performance.now() + ANSWER_TIMEOUT_MS;
    for (const key of unknown) drop.delete(key);
    return [...drop];
  }

  /**
   * Begins to send; called at the agent's first credit, which follows the results that it kept (P15). `window` is how
   * many tasks it is ready to hold. What it had before and nobody can tell of is settled first (Q5).
   */
  async open(endpointKey: IdKey, lease: AgentLease, window: number): Promise<void> {
    const owned = this.#owned.get(endpointKey);
    if (owned?.lease !== lease || owned.opened) return;
    owned.opened = true;
    const { queue, claim, bootId } = owned;
    const isCurrent = (): boolean => this.#owned.get(endpointKey) === owned && !this.#closed;
    let before: Before | undefined;
    for (let delayMs = 50; isCurrent(); delayMs = Math.min(2_000, delayMs * 2)) {
      try {
        before ??= await owned.before.catch(() => this.#handover.before(endpointKey, claim, undefined));
        queue.opening!.before = before.leases;
        const lost = await this.#handover.lost(queue, { claim, bootId }, before);
        if (lost.size > 0) {
          this.#deps.log.warn(
            { endpoint: queue.endpointId, tasks: lost.size },
            "tasks may have started on an agent that knows nothing of them",
          );
          await this.#deps.lose(queue, lost);
        }
        await this.#handover.settle(queue, { claim, bootId }, Math.min(window, MAX_LEASED));
        queue.opening = undefined;
        break;
      } catch (err) {
        this.#deps.log.warn({ err }, "what an agent had before could not be settled; trying again");
        await sleep(delayMs, undefined, { ref: false });
      }
    }
    if (!isCurrent()) return;
    this.#filler.wake(queue);
    this.#pump(endpointKey);
  }

  /**
   * What the endpoint's agent has of that: a task, or "none". Undefined where its connection is not here, or may not be
   * here any more (D4), or a task that its hello lists may still commit. What that lists it has from its first moment.
   */
  async leasedHere(endpointKey: IdKey, asked: LeaseQuestion): Promise<TaskEntry | "none" | undefined> {
    const owned = this.#owned.get(endpointKey);
    if (owned === undefined || !(await owned.read)) return undefined;
    const nowMs = performance.now();
    if (this.#owned.get(endpointKey) !== owned || nowMs > this.#trustedUntilMs) return undefined;
    const { queue } = owned;
    return queue.leasedAs(asked) ?? (nowMs < queue.mayCommitUntilMs ? undefined : "none");
  }

  /** The agent's connection is gone. What it had stays its own: its journal speaks at the next hello. */
  detach(endpointKey: IdKey, lease: AgentLease): void {
    const owned = this.#owned.get(endpointKey);
    if (owned?.lease !== lease) return;
    const { queue } = owned;
    this.#handover.depart(endpointKey, { epoch: queue.epoch, leases: queue.leases() });
    this.#owned.delete(endpointKey);
    queue.close();
    this.#deps.onLeft(endpointKey);
  }

  /** Another replica has accepted a newer connection of the endpoint: the one here stops leasing at once. */
  supersede(endpointKey: IdKey, epoch: number): void {
    const owned = this.#owned.get(endpointKey);
    if (!owned || owned.queue.epoch >= epoch) return;
    this.#handover.depart(endpointKey, { epoch: owned.queue.epoch, leases: owned.queue.leases() });
    this.#drop(endpointKey, owned);
    this.#deps.onLeft(endpointKey);
  }

  #drop(endpointKey: IdKey, owned: Owned): void {
    this.#owned.delete(endpointKey);
    owned.queue.close();
    owned.lease.replaced();
  }

  /** D4: hints may be lost. */
  async #checkEpochs(): Promise<void> {
    if (this.#owned.size === 0) return;
    const askedAtMs = performance.now();
    try {
      const epochs = await epochsOf(this.#deps.pool, [...this.#owned.keys()]);
      this.#trustedUntilMs = Math.max(this.#trustedUntilMs, askedAtMs + EPOCH_TRUST_MS);
      for (const [endpointKey, { queue }] of [...this.#owned]) {
        const epoch = epochs.get(endpointKey) ?? 0;
        if (epoch > queue.epoch) this.supersede(endpointKey, epoch);
        else if (!queue.opening) this.#pump(endpointKey);
      }
    } catch (err) {
      this.#trustedUntilMs = 0;
      this.#deps.log.warn(
        { err },
        "the epochs of the endpoints could not be read; nothing is sent meanwhile",
      );
    }
  }

  /**
   * A new task that is not committed yet, of a client that is known to have been on its link since `knownMs`. Returns
   * false where it must not travel: there is no room, or it may be one that was submitted again and has ended (D6).
   */
  offer(entry: TaskEntry, knownMs: number): boolean {
    const owned = this.#owned.get(entry.endpointKey);
    if (!owned || Math.max(owned.sinceMs, this.#lately.sinceMs) > knownMs) return false;
    if (this.#lately.has(entry.key) || !owned.queue.offer(entry)) return false;
    this.#schedulePump(owned, entry.endpointKey);
    return true;
  }

  /** Tasks that `offer` did not take have committed (D3). */
  committed(endpointKey: IdKey, entries: readonly TaskEntry[], firstSeq: number): void {
    const owned = this.#owned.get(endpointKey);
    if (!owned) {
      this.#deps.hints.tasks(endpointKey, firstSeq);
      return;
    }
    const { queue } = owned;
    // A page may have stepped over them, if another INSERT with higher numbers committed first.
    if (firstSeq <= queue.cursor) for (const entry of entries) queue.add(entry);
    else if (!entries.every((entry) => queue.offer(entry))) this.#filler.wake(queue, true);
    this.#schedulePump(owned, endpointKey);
  }

  /** Tasks that went straight into the ring have committed up to this seq. */
  advance(endpointKey: IdKey, lastSeq: number): void {
    const queue = this.queueOf(endpointKey);
    if (queue && !queue.backlog && lastSeq > queue.cursor) queue.cursor = lastSeq;
  }

  /** The agent has credit or its socket has drained. */
  pump(endpointKey: IdKey): void {
    const owned = this.#owned.get(endpointKey);
    if (owned) this.#schedulePump(owned, endpointKey);
  }

  /** The agent gave these back unstarted, or they are up for another attempt. */
  requeue(endpointKey: IdKey, entries: readonly TaskEntry[]): void {
    const owned = this.#owned.get(endpointKey);
    if (!owned) return;
    for (const entry of entries) {
      // An entry of an older connection is not this queue's: its row says what comes next.
      if (owned.queue.held.get(entry.key) !== entry) this.reread(endpointKey, [entry.key]);
      else if (entry.awaits > 0) this.answered(owned.queue, entry);
      else if (!entry.ended && entry.state !== "QUEUED") owned.queue.requeue(entry);
    }
    this.#schedulePump(owned, endpointKey);
  }

  /** The agent has stopped its older attempt of this task: the newer one may go (D5). */
  answered(queue: EndpointQueue, entry: TaskEntry): void {
    queue.release(entry);
    this.reread(queue.endpointKey, [entry.key]);
  }

  /** Tasks whose time has come, or that another replica took in: reads them and queues them, if owned here. */
  async load(endpointKey: IdKey, keys: readonly IdKey[]): Promise<void> {
    const queue = this.queueOf(endpointKey);
    if (!queue || queue.opening) return;
    queue.beginPage();
    try {
      const open = await openTasksByIds(this.#deps.pool, endpointKey, keys);
      const runnable = open.filter((task) => !task.waiting);
      if (queue.full) queue.backlog = true;
      // What is beyond the cursor of a backlog comes by its pages, in order and as the ring has room (Q3).
      await this.#filler.addOpen(
        queue,
        queue.backlog ? runnable.filter((task) => task.seq <= queue.cursor) : runnable,
      );
    } finally {
      queue.endPage();
    }
    this.#filler.wake(queue, true);
    this.pump(endpointKey);
  }

  /** Tasks that were submitted again have rows: those say whether and where they are to be queued. */
  reread(endpointKey: IdKey, keys: readonly IdKey[]): void {
    if (!this.#owned.has(endpointKey)) {
      this.#deps.hints.runnable(endpointKey, keys);
      return;
    }
    this.load(endpointKey, keys).catch((err) => {
      this.#deps.log.warn({ err }, "tasks that were submitted again could not be read; trying again");
      setTimeout(() => this.reread(endpointKey, keys), REREAD_MS).unref();
    });
  }

  /** Another replica committed tasks for an endpoint that may be owned here. */
  async hinted(endpointKey: IdKey, firstSeq: number): Promise<void> {
    const queue = this.queueOf(endpointKey);
    if (!queue || queue.opening) return;
    if (firstSeq <= queue.cursor) await this.rescan(queue, firstSeq - 1);
    queue.backlog = true;
    this.#filler.wake(queue, true);
  }

  /** Reads again what is open behind the cursor: the truth, whatever hints were lost. Returns how many were new. */
  async rescan(queue: EndpointQueue, after: number): Promise<number> {
    let added = 0;
    let from = after;
    while (!queue.opening) {
      queue.beginPage();
      try {
        const page = await pageOpenTasks(this.#deps.pool, queue.endpointKey, from, 2048, queue.cursor);
        added += await this.#filler.addOpen(queue, page);
        if (page.length < 2048) break;
        from = page[page.length - 1]!.seq;
      } finally {
        queue.endPage();
      }
    }
    if (added > 0) this.pump(queue.endpointKey);
    return added;
  }

  /** Tasks have ended by a cancel, here or on another replica: what is in hand here is dropped, and agents are asked to stop. */
  finishedElsewhere(keys: readonly IdKey[]): void {
    for (const { queue, lease } of this.#owned.values()) {
      const leased: IdKey[] = [];
      for (const key of keys) {
        const entry = queue.held.get(key);
        if (!entry) continue;
        if (entry.state !== "QUEUED") leased.push(key);
        queue.forget(entry);
      }
      if (leased.length > 0) lease.sendCancel(leased);
    }
  }

  /** Something may be beyond the cursor. */
  wake(queue: EndpointQueue): void {
    queue.backlog = true;
    this.#filler.wake(queue, true);
  }

  /** A task that the agent turns out to have: leased, so that its result finds it. */
  async adopt(queue: EndpointQueue, task: OpenTask): Promise<TaskEntry | undefined> {
    const entry = await this.#filler.toEntry(queue, task);
    if (entry) queue.addLeased(entry);
    return entry;
  }

  /** Asks the endpoint's agent to stop these. */
  stop(endpointKey: IdKey, keys: IdKey[]): void {
    this.#owned.get(endpointKey)?.lease.sendCancel(keys);
  }

  liveState(endpointKey: IdKey, taskKey: IdKey): "QUEUED" | "LEASED" | "STARTED" {
    return this.#owned.get(endpointKey)?.queue.held.get(taskKey)?.state ?? "QUEUED";
  }

  liveProgress(endpointKey: IdKey, taskKey: IdKey): TaskProgress | undefined {
    return this.#owned.get(endpointKey)?.queue.held.get(taskKey)?.progress;
  }

  waitingBefore(endpointKey: IdKey, taskKey: IdKey): number | undefined {
    return this.#owned.get(endpointKey)?.queue.waitingBefore(taskKey);
  }

  reportOf(endpointKey: IdKey): EndpointQueue["reported"] {
    return this.#owned.get(endpointKey)?.queue.reported;
  }

  endpointStatus(endpointId: string): { connected: boolean; queued: number; leased: number } | undefined {
    for (const { queue } of this.#owned.values()) {
      if (queue.endpointId === endpointId)
        return { connected: true, queued: queue.length, leased: queue.leased };
    }
    return undefined;
  }

  /**
   * Cancels those of `keys` that are this owner's; others are as if they were not there. With `unbegun`, only what has
   * not begun: of the rest, those that are known to run are returned, and the others' agents answer.
   */
  async cancelOwned(ownerKey: IdKey, keys: readonly IdKey[], why?: "unbegun"): Promise<IdKey[]> {
    const owners = await taskOwners(this.#deps.pool, keys);
    // A task whose INSERT is under way has no row yet, but may be in hand.
    const own = keys.filter((key) => (owners.get(key) ?? this.#entry(key))?.ownerKey === ownerKey);
    if (why === "unbegun") return this.cancelUnbegun(own);
    await this.cancel(own);
    return [];
  }

  /** Nothing is written of a request that an agent may decline: it is asked, and what ends says so. */
  async cancelUnbegun(keys: readonly IdKey[]): Promise<IdKey[]> {
    const leased = new Map<AgentLease, IdKey[]>();
    const now: IdKey[] = [];
    const running: IdKey[] = [];
    const away: IdKey[] = [];
    for (const key of keys) {
      const entry = this.#entry(key);
      const owned = entry && this.#owned.get(entry.endpointKey);
      if (!entry || !owned) away.push(key);
      else if (entry.state === "QUEUED") now.push(key);
      else if (entry.state === "STARTED") running.push(key);
      else {
        const list = leased.get(owned.lease) ?? [];
        list.push(key);
        leased.set(owned.lease, list);
      }
    }
    await this.#endUnbegun(now);
    if (away.length > 0) {
      // Not in hand: what is not known to have started is its owner's to say, or nobody's.
      const started = await startedAmong(this.#deps.pool, away);
      for (const key of away) if (started.has(key)) running.push(key);
      await this.cancels.unbegun(away.filter((key) => !started.has(key)));
    }
    for (const [lease, list] of leased) lease.sendCancel(list, "unbegun");
    return running;
  }

  /** These wait here. One whose INSERT is under way is held back, and ends once that has committed (intake). */
  async #endUnbegun(keys: readonly IdKey[]): Promise<void> {
    for (const key of keys) {
      const entry = this.#entry(key)!;
      if (!entry.committed) entry.cancelRequested = true;
    }
    await this.end(keys, CANCELLED);
  }

  /** Cancels what has not been sent, and asks for the rest to be stopped. Durable when it resolves. */
  cancel(keys: readonly IdKey[]): Promise<void> {
    return this.cancels.request(keys);
  }

  /** Ends open tasks, whoever has them. What is queued here is not sent meanwhile. */
  async end(keys: readonly IdKey[], how: EndHow): Promise<void> {
    if (keys.length === 0) return;
    const blocked: TaskEntry[] = [];
    for (const key of keys) {
      const entry = this.#entry(key);
      if (entry?.state !== "QUEUED" || !entry.committed) continue;
      entry.state = "LEASED";
      blocked.push(entry);
    }
    try {
      const ended = await endOpen(this.#deps.pool, keys, how);
      for (const { key } of ended) this.#lately.add(key);
      for (const entry of blocked) this.queueOf(entry.endpointKey)?.forget(entry);
      // One that was sent before is stopped.
      this.finishedElsewhere(ended.map((e) => e.key));
      this.#deps.onEnded(ended.map((e) => ({ ...e, ...how })));
      this.#deps.hints.finished(ended.map((e) => e.key));
    } catch (err) {
      const nowMs = performance.now();
      for (const entry of blocked) {
        if (entry.refused || entry.cancelRequested || entry.overdue(nowMs) !== undefined)
          this.queueOf(entry.endpointKey)?.park(entry);
        else this.requeue(entry.endpointKey, [entry]);
      }
      throw err;
    }
  }

  /** These were read as open, or were about to be sent, but are cancelled, or out of time. */
  #over(queue: EndpointQueue, entries: readonly TaskEntry[]): void {
    const nowMs = performance.now();
    const ends = new Map<EndHow, TaskEntry[]>([
      [CANCELLED, []],
      [DEADLINE, []],
      [QUEUE_TIME, []],
      [NOT_AUTHORISED, []],
    ]);
    for (const entry of entries) {
      queue.bar(entry.key);
      if (entry.refused && !entry.cancelRequested) {
        ends.get(NOT_AUTHORISED)!.push(entry);
        continue;
      }
      const why = entry.cancelRequested ? undefined : entry.overdue(nowMs);
      const how = why === undefined ? CANCELLED : why === "deadline" ? DEADLINE : QUEUE_TIME;
      ends.get(how)!.push(entry);
    }
    for (const [how, some] of ends) {
      const keys = some.map((entry) => entry.key);
      this.end(keys, how).catch((err) => {
        this.#deps.log.warn({ err }, "tasks that nobody wants any more could not be ended; trying again");
        setTimeout(() => this.#overAgain(queue, some), REREAD_MS).unref();
      });
    }
  }

  #overAgain(queue: EndpointQueue, entries: readonly TaskEntry[]): void {
    const parked: TaskEntry[] = [];
    const read: IdKey[] = [];
    for (const entry of entries) {
      if (queue.held.get(entry.key) !== entry) read.push(entry.key);
      else if (entry.state === "QUEUED") parked.push(entry);
    }
    if (parked.length > 0) this.#over(queue, parked);
    if (read.length > 0) this.reread(queue.endpointKey, read);
  }

  /** The endpoint is gone: its connection is cut and its open tasks end. */
  async endpointDeleted(endpointId: string): Promise<void> {
    const endpointKey = uuidToKey(endpointId)!;
    this.#owned.get(endpointKey)?.lease.deleted();
    for (;;) {
      const keys = await openTaskKeys(this.#deps.pool, endpointKey, 2048);
      if (keys.length === 0) return;
      await this.end(keys, { state: TERMINAL_STATES.FAILED, reason: REASONS.endpoint_deleted });
    }
  }

  #entry(key: IdKey): TaskEntry | undefined {
    for (const { queue } of this.#owned.values()) {
      const entry = queue.held.get(key);
      if (entry) return entry;
    }
    return undefined;
  }

  #schedulePump(owned: Owned, endpointKey: IdKey): void {
    if (owned.pumping) return;
    owned.pumping = true;
    setImmediate(() => {
      owned.pumping = false;
      if (this.#owned.get(endpointKey) === owned) this.#pump(endpointKey);
    });
  }

  #pump(endpointKey: IdKey): void {
    const owned = this.#owned.get(endpointKey);
    if (!owned || owned.lease.epoch !== owned.queue.epoch) return; // D1
    const { queue, lease } = owned;
    const nowMs = performance.now();
    if (queue.opening || owned.asking || nowMs > this.#trustedUntilMs) return; // Q5, D7, D4
    const late: TaskEntry[] = [];
    const refused: TaskEntry[] = [];
    while (!lease.paused && queue.length > 0 && !owned.asking) {
      const room = Math.min(lease.room, MAX_LEASED - queue.leased);
      if (room <= 0) break;
      const all = queue.take(room, lease.roomBytes);
      if (all.length === 0) break;
      const taken = this.#allowed(owned, all, refused);
      const isOver = (entry: TaskEntry): boolean =>
        entry.cancelRequested || entry.overdue(nowMs) !== undefined;
      const entries = taken.filter((entry) => !isOver(entry));
      if (entries.length > 0) lease.sendTasks(entries);
      if (entries.length === taken.length) continue;
      for (const entry of taken) {
        if (!isOver(entry)) continue;
        queue.park(entry);
        // One whose INSERT is under way has no row yet: it ends once that has committed (intake, time-limits.ts).
        if (entry.committed) late.push(entry);
      }
    }
    if (late.length > 0) this.#over(queue, late);
    if (refused.length > 0) this.#refuse(queue, refused);
    this.#filler.wake(queue);
  }

  /** Of what was just taken, what may run (D7); where memory does not know it goes back, and is asked for. */
  #allowed(owned: Owned, taken: TaskEntry[], refused: TaskEntry[]): TaskEntry[] {
    const { queue } = owned;
    const { access } = this.#deps;
    let allowed: TaskEntry[] | undefined;
    let last: TaskEntry | undefined;
    let may: boolean | undefined;
    for (let i = 0; i < taken.length; i++) {
      const entry = taken[i]!;
      // Neighbours are mostly of one person and one function.
      if (last === undefined || entry.ownerKey !== last.ownerKey || entry.fn !== last.fn)
        may = access.mayRun(entry);
      last = entry;
      if (may === undefined) {
        queue.giveBack(taken.slice(i));
        owned.asking = true;
        this.#ask(owned, entry);
        return allowed ?? taken.slice(0, i);
      }
      if (may) allowed?.push(entry);
      else {
        allowed ??= taken.slice(0, i);
        refused.push(entry);
      }
    }
    return allowed ?? taken;
  }

  /** Should the database not answer, the next look at the epochs asks again (D4). */
  #ask(owned: Owned, entry: TaskEntry): void {
    this.#deps.access.ask(entry).then(
      () => {
        owned.asking = false;
        if (this.#deps.access.mayRun(entry) !== undefined) this.pump(entry.endpointKey);
        // What was read does not hold: something has just changed, or nobody knows whether it has (access-epoch.ts).
        else setTimeout(() => this.pump(entry.endpointKey), REREAD_MS).unref();
      },
      (err) => {
        owned.asking = false;
        this.#deps.log.warn({ err }, "whether tasks may still run could not be looked up; they wait");
      },
    );
  }

  /** These may not run here any more. One whose INSERT is under way ends once that has committed. */
  #refuse(queue: EndpointQueue, entries: readonly TaskEntry[]): void {
    const committed: TaskEntry[] = [];
    const early: TaskEntry[] = [];
    for (const entry of entries) {
      if (entry.ended || queue.held.get(entry.key) !== entry) continue;
      entry.refused = true;
      queue.park(entry);
      (entry.committed ? committed : early).push(entry);
    }
    if (committed.length > 0) this.#over(queue, committed);
    if (early.length > 0) setTimeout(() => this.#refuse(queue, early), REREAD_MS).unref();
  }

  async #unknown(endpointKey: IdKey, keys: readonly IdKey[]): Promise<IdKey[]> {
    if (keys.length === 0) return [];
    const known = await knownTasks(this.#deps.pool, endpointKey, keys);
    return keys.filter((key) => !known.has(key));
  }
}
