/**
 * Deliver: committed outcomes reach whoever waits for them: clients that watch a task group over their link, and
 * requests that wait for single tasks.
 *
 *   L1  Only committed outcomes come here (A4).
 *   L2  A watch begins before PostgreSQL is asked for what there is already, so nothing falls between.
 *   L3  An outcome of another replica is a hint away; the sweep asks PostgreSQL again, for the groups that may have
 *       tasks elsewhere (trails.ts).
 */
import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { IdKey, ResultItem } from "@farloom/protocol";
import { keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import type { TaskProgress } from "../dispatch/task-entry.js";
import { outcomesByIds, recentKeys, recentOutcomes, standingKeys } from "../store/read-outcomes.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { Trails } from "./trails.js";

/** Outcomes read by one statement: their results together are at most 64 MiB. */
const PAGE_OUTCOMES = 1000;
/** Between two looks at a client that is slow to read what it asked for. */
const CROWDED_MS = 20;

/** An outcome with the group it belongs to. */
export interface Delivered extends ResultItem {
  readonly groupKey: IdKey;
}

/** A client's connection, as deliver sees it. */
export interface ResultSink {
  readonly ownerKey: IdKey;
  push(item: ResultItem): void;
  /** What was pushed has not been read yet. */
  readonly crowded: boolean;
  readonly closed: boolean;
  /** These tasks of a group that it watches have started. */
  started(keys: readonly IdKey[]): void;
  /** One of them says how far it is. Only the last word counts: it may be left out for one that is slow to read. */
  progressed(key: IdKey, progress: TaskProgress): void;
}

interface Waiter {
  left: number;
  readonly resolve: () => void;
}

export class Deliver {
  readonly #pool: Pool;
  readonly #tenants: TenantPool;
  readonly #watchers = new Map<IdKey, Set<ResultSink>>();
  readonly #waiters = new Map<IdKey, Set<Waiter>>();
  readonly #stopped = new AbortController();
  /** Where the tasks of groups are. */
  readonly trails = new Trails();

  constructor(pool: Pool, tenants: TenantPool) {
    this.#pool = pool;
    this.#tenants = tenants;
    // One listener for each request that waits: waiting.ts has their bound.
    setMaxListeners(0, this.#stopped.signal);
  }

  watch(groupKey: IdKey, sink: ResultSink): void {
    const sinks = this.#watchers.get(groupKey);
    if (sinks) sinks.add(sink);
    else this.#watchers.set(groupKey, new Set([sink]));
  }

  unwatch(groupKey: IdKey, sink: ResultSink): void {
    const sinks = this.#watchers.get(groupKey);
    sinks?.delete(sink);
    if (sinks?.size === 0) this.#watchers.delete(groupKey);
  }

  /** Outcomes were committed here. */
  publish(items: readonly Delivered[]): void {
    const anyWaiter = this.#waiters.size > 0;
    for (const item of items) {
      const sinks = this.#watchers.get(item.groupKey);
      if (sinks) {
        for (const sink of sinks) sink.push(item);
        this.trails.tell(item.groupKey, item.key);
      }
      if (anyWaiter) this.#wake(item.key);
    }
  }

  /** Tasks have started: told of long ones only, to whoever watches their groups from here. */
  started(tasks: readonly { readonly key: IdKey; readonly groupKey: IdKey }[]): void {
    for (const { key, groupKey } of tasks) {
      for (const sink of this.#watchers.get(groupKey) ?? []) sink.started([key]);
    }
  }

  /** A running task has said how far it is: told as `started` is. */
  progressed(task: { key: IdKey; groupKey: IdKey; progress: TaskProgress | undefined }): void {
    for (const sink of this.#watchers.get(task.groupKey) ?? []) sink.progressed(task.key, task.progress!);
  }

  /** Sends a client the outcomes there are among these tasks. */
  async replay(sink: ResultSink, keys: readonly IdKey[]): Promise<void> {
    for (let at = 0; at < keys.length; at += PAGE_OUTCOMES) {
      const page = keys.slice(at, at + PAGE_OUTCOMES);
      // At the pace at which the client reads: it would be cut for what was pushed on it.
      while (sink.crowded && !sink.closed) await sleep(CROWDED_MS);
      if (sink.closed) return;
      const ownerId = keyToUuid(sink.ownerKey);
      for (const item of await outcomesByIds(this.#tenants, ownerId, page)) sink.push(item);
    }
  }

  /** Another replica says that these have ended. */
  async finishedElsewhere(keys: readonly IdKey[]): Promise<void> {
    for (const key of keys) this.#wake(key);
    if (this.#watchers.size > 0) {
      this.publish(await recentOutcomes(this.#pool, { keys, groupKeys: [...this.#watchers.keys()] }));
    }
  }

  /** Asks PostgreSQL for what ended elsewhere in the last `sinceMs`, and for whatever single requests wait for. */
  async sweep(sinceMs: number): Promise<void> {
    const groupKeys = this.trails.foreign(this.#watchers.keys());
    if (groupKeys.length > 0) {
      const ended = await recentKeys(this.#pool, { sinceMs, groupKeys });
      const news = ended.filter((key) => !this.trails.wasTold(key));
      for (let at = 0; at < news.length; at += PAGE_OUTCOMES) {
        const keys = news.slice(at, at + PAGE_OUTCOMES);
        this.publish(await recentOutcomes(this.#pool, { keys, groupKeys }));
      }
      this.trails.turn(sinceMs);
    }
    if (this.#waiters.size > 0) {
      for (const key of await standingKeys(this.#pool, [...this.#waiters.keys()])) this.#wake(key);
    }
  }

  /** Resolves when all of these tasks have outcomes, when the time is up, or when the signal says so. */
  async waitFor(taskKeys: readonly IdKey[], timeoutMs: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted || timeoutMs <= 0 || this.#stopped.signal.aborted) return;
    const keys = [...new Set(taskKeys)];
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    let waiter: Waiter | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        waiter = { left: keys.length, resolve };
        for (const key of keys) {
          const waiters = this.#waiters.get(key);
          if (waiters) waiters.add(waiter);
          else this.#waiters.set(key, new Set([waiter]));
        }
        timer = setTimeout(resolve, timeoutMs);
        onAbort = resolve;
        signal.addEventListener("abort", onAbort);
        this.#stopped.signal.addEventListener("abort", onAbort);
        standingKeys(this.#pool, keys).then((ended) => {
          for (const key of ended) this.#wake(key);
        }, reject); // L2
      });
    } finally {
      clearTimeout(timer);
      if (onAbort) {
        signal.removeEventListener("abort", onAbort);
        this.#stopped.signal.removeEventListener("abort", onAbort);
      }
      for (const key of keys) {
        const waiters = this.#waiters.get(key);
        if (waiter) waiters?.delete(waiter);
        if (waiters?.size === 0) this.#waiters.delete(key);
      }
    }
  }

  /** Whoever waits for single tasks is answered now with how things stand: the service is stopping. */
  stopWaiting(): void {
    this.#stopped.abort();
  }

  #wake(key: IdKey): void {
    const waiters = this.#waiters.get(key);
    if (!waiters) return;
    this.#waiters.delete(key);
    for (const waiter of waiters) if (--waiter.left === 0) waiter.resolve();
  }
}
