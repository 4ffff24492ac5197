/**
 * Fills an endpoint's ring from PostgreSQL, a page at a time and only as far as the ring has room. Causes wake
 * one loop per queue; it never runs twice for the same queue.
 */
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { FunctionRegistry } from "../functions/registry.js";
import { pageOpenTasks } from "../store/read-open-tasks.js";
import { lossesOf } from "../store/rewrite-tasks.js";
import type { OpenTask } from "../store/rows.js";
import type { EndpointQueue } from "./endpoint-queue.js";
import { TaskEntry } from "./task-entry.js";

/** Rows in a page. Small enough that the first task of a long backlog is not kept waiting. */
const PAGE_ROWS = 2048;
/** The ring is filled again when fewer entries are left: a page is read in less time than these take. */
const LOW_WATER = 2048;

export interface FillerDeps {
  readonly pool: Pool;
  readonly functions: FunctionRegistry;
  readonly log: Logger;
  readonly isCurrent: (queue: EndpointQueue) => boolean;
  /** These were read, but somebody has cancelled them or their time is over: they are not queued, but ended. */
  readonly onOver: (queue: EndpointQueue, entries: TaskEntry[]) => void;
  /** Entries came: send them. */
  readonly onFilled: (queue: EndpointQueue) => void;
}

export class Filler {
  readonly #deps: FillerDeps;
  /** Queues whose loop runs; `true`: something came meanwhile, read once more before the backlog is called empty. */
  readonly #running = new Map<EndpointQueue, boolean>();

  constructor(deps: FillerDeps) {
    this.#deps = deps;
  }

  /** Something committed that the queue did not take, or its ring is low. */
  wake(queue: EndpointQueue, committed = false): void {
    if (this.#running.has(queue)) {
      if (committed) this.#running.set(queue, true);
      return;
    }
    if (!queue.backlog || queue.length > LOW_WATER || queue.opening !== undefined) return;
    this.#running.set(queue, false);
    void this.#fill(queue)
      .catch((err) => {
        this.#deps.log.warn(
          { err, endpoint: queue.endpointId },
          "a page of open tasks could not be read; trying again",
        );
        setTimeout(() => {
          this.#running.delete(queue);
          if (this.#deps.isCurrent(queue)) this.wake(queue);
        }, 500).unref();
        return "again" as const;
      })
      .then((outcome) => {
        if (outcome !== "again") this.#running.delete(queue);
      });
  }

  async #fill(queue: EndpointQueue): Promise<void> {
    while (this.#deps.isCurrent(queue) && queue.length <= LOW_WATER) {
      this.#running.set(queue, false);
      queue.beginPage();
      try {
        const page = await pageOpenTasks(this.#deps.pool, queue.endpointKey, queue.cursor, PAGE_ROWS);
        await this.addOpen(queue, page);
        if (page.length > 0) queue.cursor = Math.max(queue.cursor, page[page.length - 1]!.seq);
        if (page.length < PAGE_ROWS && !this.#running.get(queue)) {
          queue.backlog = false;
          break;
        }
      } finally {
        queue.endPage();
      }
      this.#deps.onFilled(queue);
    }
    this.#deps.onFilled(queue);
  }

  /** Queues what was read, as far as it is new and still wanted. */
  async addOpen(queue: EndpointQueue, tasks: readonly OpenTask[]): Promise<number> {
    let added = 0;
    let over: TaskEntry[] | undefined;
    const nowMs = performance.now();
    for (const task of tasks) {
      if (queue.held.has(task.key)) continue;
      const entry = await this.toEntry(queue, task);
      if (!entry) continue;
      if (entry.cancelRequested || entry.overdue(nowMs) !== undefined) {
        over ??= [];
        over.push(entry);
      } else if (queue.add(entry)) added++;
    }
    if (over !== undefined) this.#deps.onOver(queue, over);
    return added;
  }

  /** The row as an entry, or undefined where its function is gone. */
  async toEntry(queue: EndpointQueue, task: OpenTask): Promise<TaskEntry | undefined> {
    const fn =
      this.#deps.functions.peekByKey(task.functionKey) ??
      (await this.#deps.functions.byKey(task.functionKey));
    if (!fn) {
      this.#deps.log.error({ function: task.functionKey }, "an open task's function is gone");
      return undefined;
    }
    const entry = new TaskEntry({
      key: task.key,
      ownerKey: task.ownerKey,
      endpointKey: queue.endpointKey,
      groupKey: task.groupKey,
      fn,
      source: task.args,
      start: 0,
      end: task.args.length,
      seals: task.seal,
      sealAt: 0,
      codec: task.codec,
      attempt: task.attempt,
      options: task.options,
    });
    entry.seq = task.seq;
    entry.committed = true;
    entry.mayComeLate = true;
    entry.cancelRequested = task.cancelRequested;
    const losses = lossesOf(task.losses);
    entry.losses = losses.worker;
    entry.agentLosses = losses.agent;
    entry.limit(task.queueLeftMs, task.lifeLeftMs);
    return entry;
  }
}
