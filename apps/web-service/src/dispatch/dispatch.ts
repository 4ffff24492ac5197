/**
 * Dispatch: every endpoint whose agent is connected here has its queue here, and from it the tasks go to the
 * agent within its credit. Only the owner hands out an endpoint's tasks, so no row is locked and no lease is
 * written for each task (ownership.ts has the epoch that makes this safe).
 *
 *   D1  An entry is sent only from the queue of the current epoch, and only once per attempt.
 *   D2  What an agent's hello lists as held is leased, not sent (P15).
 *   D3  A task that is not taken into the ring is in PostgreSQL, and the filler is told after its commit.
 */
import { type IdKey, REASONS, TERMINAL_STATES, uuidToKey } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { FunctionRegistry } from "../functions/registry.js";
import type { Hints } from "../store/hints.js";
import { knownTasks, openTaskKeys, openTasksByIds, pageOpenTasks } from "../store/read-open-tasks.js";
import { taskOwners } from "../store/read-outcomes.js";
import { endOpen, writeCancelRequests } from "../store/rewrite-tasks.js";
import type { OpenTask } from "../store/rows.js";
import { EndpointQueue, type RingBudget } from "./endpoint-queue.js";
import { Filler } from "./filler.js";
import type { TaskEntry } from "./task-entry.js";

/** Before rows are read again that PostgreSQL did not give. */
const REREAD_MS = 500;

/** The agent's connection, as dispatch sees it. */
export interface AgentLease {
  readonly epoch: number;
  /** How many tasks, and argument bytes, the agent's credit allows now. */
  readonly room: number;
  readonly roomBytes: number;
  readonly paused: boolean;
  sendTasks(entries: TaskEntry[]): void;
  sendCancel(keys: IdKey[]): void;
  /** A newer connection of the same endpoint took over. */
  replaced(): void;
  /** The endpoint was deleted. */
  deleted(): void;
}

export interface DispatchDeps {
  readonly pool: Pool;
  readonly functions: FunctionRegistry;
  readonly log: Logger;
  readonly hints: Hints;
  /** The endpoint's agent is not connected here any more. */
  readonly onLeft: (endpointKey: IdKey) => void;
  /** These tasks ended without a result of theirs: tell whoever waits. */
  readonly onEnded: (
    ended: readonly { key: IdKey; groupKey: IdKey; state: number; reason: number; attempt: number }[],
  ) => void;
}

interface Owned {
  readonly queue: EndpointQueue;
  readonly lease: AgentLease;
  pumping: boolean;
}

export class Dispatch {
  readonly #deps: DispatchDeps;
  readonly #owned = new Map<IdKey, Owned>();
  readonly #filler: Filler;
  readonly #budget: RingBudget = { entries: 0 };

  constructor(deps: DispatchDeps) {
    this.#deps = deps;
    this.#filler = new Filler({
      pool: deps.pool,
      functions: deps.functions,
      log: deps.log,
      isCurrent: (queue) => this.#owned.get(queue.endpointKey)?.queue === queue,
      onFilled: (queue) => this.#pump(queue.endpointKey),
    });
  }

  /** The queues that are owned here. */
  *queues(): Iterable<EndpointQueue> {
    for (const owned of this.#owned.values()) yield owned.queue;
  }

  queueOf(endpointKey: IdKey): EndpointQueue | undefined {
    return this.#owned.get(endpointKey)?.queue;
  }

  /**
   * Takes the endpoint's queue for a connection that was just accepted. `heldKeys` is what its agent has; the
   * answer names those that it should drop.
   */
  async attach(
    endpointKey: IdKey,
    claim: { epoch: number; floorSeq: number },
    lease: AgentLease,
    heldKeys: readonly IdKey[],
  ): Promise<{ queue: EndpointQueue; drop: IdKey[] }> {
    const queue = new EndpointQueue(endpointKey, claim, this.#budget);
    const drop = new Set(heldKeys);
    for (const task of await openTasksByIds(this.#deps.pool, endpointKey, heldKeys)) {
      const entry = await this.#filler.toEntry(queue, task);
      if (!entry) continue;
      queue.addLeased(entry); // D2
      if (!entry.cancelRequested) drop.delete(task.key);
    }
    // What has no row is not committed, or not yet: its result is kept aside for a resubmission (P14).
    for (const key of await this.#unknown(endpointKey, [...drop])) drop.delete(key);
    const before = this.#owned.get(endpointKey);
    if (before && before.queue.epoch > claim.epoch) {
      lease.replaced();
      return { queue, drop: [] };
    }
    this.#owned.set(endpointKey, { queue, lease, pumping: false });
    before?.queue.close();
    before?.lease.replaced();
    return { queue, drop: [...drop] };
  }

  /** Begins to send; called once the agent's first credit is there or the hello is settled. */
  start(endpointKey: IdKey): void {
    const owned = this.#owned.get(endpointKey);
    if (!owned) return;
    this.#filler.wake(owned.queue);
    this.#pump(endpointKey);
  }

  /** The agent's connection is gone. What it had stays its own: its journal speaks at the next hello. */
  detach(endpointKey: IdKey, lease: AgentLease): void {
    const owned = this.#owned.get(endpointKey);
    if (owned?.lease !== lease) return;
    this.#owned.delete(endpointKey);
    owned.queue.close();
    this.#deps.onLeft(endpointKey);
  }

  /** New tasks, perhaps not committed yet. Returns false for each that the ring did not take. */
  offer(entry: TaskEntry): boolean {
    const owned = this.#owned.get(entry.endpointKey);
    if (!owned?.queue.offer(entry)) return false;
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
    for (const entry of entries) if (!entry.ended && entry.state !== "QUEUED") owned.queue.requeue(entry);
    this.#schedulePump(owned, endpointKey);
  }

  /** Tasks whose time has come, or that another replica took in: reads them and queues them, if owned here. */
  async load(endpointKey: IdKey, keys: readonly IdKey[]): Promise<void> {
    const queue = this.queueOf(endpointKey);
    if (!queue) return;
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
    if (!queue) return;
    if (firstSeq <= queue.cursor) await this.rescan(queue, firstSeq - 1);
    queue.backlog = true;
    this.#filler.wake(queue, true);
  }

  /** Reads again what is open behind the cursor: the truth, whatever hints were lost. Returns how many were new. */
  async rescan(queue: EndpointQueue, after: number): Promise<number> {
    let added = 0;
    let from = after;
    for (;;) {
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

  liveState(endpointKey: IdKey, taskKey: IdKey): "QUEUED" | "LEASED" | "STARTED" {
    return this.#owned.get(endpointKey)?.queue.held.get(taskKey)?.state ?? "QUEUED";
  }

  endpointStatus(endpointId: string): { connected: boolean; queued: number; leased: number } | undefined {
    for (const { queue } of this.#owned.values()) {
      if (queue.endpointId === endpointId)
        return { connected: true, queued: queue.length, leased: queue.leased };
    }
    return undefined;
  }

  /** Cancels those of `keys` that are this owner's; others are as if they were not there. */
  async cancelOwned(ownerKey: IdKey, keys: readonly IdKey[]): Promise<void> {
    const owners = await taskOwners(this.#deps.pool, keys);
    // A task whose INSERT is under way has no row yet, but may be in hand.
    await this.cancel(keys.filter((key) => (owners.get(key) ?? this.#entry(key))?.ownerKey === ownerKey));
  }

  /** Cancels what has not been sent, and asks for the rest to be stopped. Durable when it resolves. */
  async cancel(keys: readonly IdKey[]): Promise<void> {
    const leased = new Map<AgentLease, IdKey[]>();
    const now: IdKey[] = [];
    for (const key of keys) {
      const entry = this.#entry(key);
      const owned = entry && this.#owned.get(entry.endpointKey);
      if (!entry || !owned) {
        now.push(key);
        continue;
      }
      entry.cancelRequested = true;
      if (entry.state === "QUEUED") now.push(key);
      else {
        const list = leased.get(owned.lease) ?? [];
        list.push(key);
        leased.set(owned.lease, list);
      }
    }
    const asked = [...leased.values()].flat();
    if (asked.length > 0) {
      await writeCancelRequests(this.#deps.pool, asked);
      for (const [lease, list] of leased) lease.sendCancel(list);
    }
    await this.#end(now, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user);
  }

  /** Ends open tasks, whoever has them. */
  async #end(keys: readonly IdKey[], state: number, reason: number): Promise<void> {
    if (keys.length === 0) return;
    const ended = await endOpen(this.#deps.pool, keys, state, reason);
    // One that was sent while the statement ran is stopped.
    this.finishedElsewhere(ended.map((e) => e.key));
    this.#deps.onEnded(ended.map((e) => ({ ...e, state, reason })));
    this.#deps.hints.finished(ended.map((e) => e.key));
  }

  /** The endpoint is gone: its connection is cut and its open tasks end. */
  async endpointDeleted(endpointId: string): Promise<void> {
    const endpointKey = uuidToKey(endpointId)!;
    this.#owned.get(endpointKey)?.lease.deleted();
    for (;;) {
      const keys = await openTaskKeys(this.#deps.pool, endpointKey, 2048);
      if (keys.length === 0) return;
      await this.#end(keys, TERMINAL_STATES.FAILED, REASONS.endpoint_deleted);
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
    while (!lease.paused && lease.room > 0 && queue.length > 0) {
      const entries = queue.take(lease.room, lease.roomBytes);
      if (entries.length === 0) break;
      lease.sendTasks(entries);
    }
    this.#filler.wake(queue);
  }

  async #unknown(endpointKey: IdKey, keys: readonly IdKey[]): Promise<IdKey[]> {
    if (keys.length === 0) return [];
    const known = await knownTasks(this.#deps.pool, endpointKey, keys);
    return keys.filter((key) => !known.has(key));
  }
}
