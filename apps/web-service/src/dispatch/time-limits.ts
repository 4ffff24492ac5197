/**
 * Limits of time: how long a task may wait in the queue, and its deadline. The columns of its row say until when, by
 * PostgreSQL's clock. While an agent has the task the agent keeps both; this is for what waits in the service, and for
 * what an agent that is away has.
 *
 *   T1  A task that waits here ends when its time comes, whichever replica has its endpoint; every replica looks
 *       after what it owns and what nobody owns.
 *   T2  Time in the queue ends only what certainly no agent has.
 *   T3  A deadline is the end of a task's life: it ends even where an agent that is away may run it (then nothing is
 *       confirmed). An agent that is there is trusted to stop it; it is asked to, in case.
 *   T4  What expires between two looks is found by the second, by a range of time that overlaps with the first; what
 *       expired before a queue came here is found by its pages (filler.ts).
 */
import { type IdKey, REASONS, TERMINAL_STATES } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { type Leases, NO_LEASES, readLeases } from "../store/endpoint-leases.js";
import {
  type ExpiredPage,
  type ExpiredTask,
  type ExpiryPlace,
  expiredTasks,
  nextExpiry,
} from "../store/expired-tasks.js";
import type { EndHow } from "./cancels.js";
import type { EndpointQueue } from "./endpoint-queue.js";

/** Tasks in one statement. */
const PAGE_TASKS = 5_000;
const NO_ID = "00000000-0000-0000-0000-000000000000";
/** At least this long between two looks. */
const LEAST_MS = 20;
/** At most: tasks may come by other replicas. */
const MOST_MS = 5_000;
/** How far each look reaches back behind the one before: an INSERT may commit after its limit has passed. */
const OVERLAP = "interval '60 seconds'";

export interface TimeLimitsDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly queueOf: (endpointKey: IdKey) => EndpointQueue | undefined;
  readonly stop: (endpointKey: IdKey, keys: IdKey[]) => void;
  readonly end: (keys: readonly IdKey[], how: EndHow) => Promise<void>;
}

export const DEADLINE: EndHow = {
  state: TERMINAL_STATES.TIMED_OUT,
  reason: REASONS.deadline,
  confirmed: true,
};
export const QUEUE_TIME: EndHow = {
  state: TERMINAL_STATES.TIMED_OUT,
  reason: REASONS.queue_time_limit,
  confirmed: true,
};

export class TimeLimits {
  readonly #deps: TimeLimitsDeps;
  /** PostgreSQL's time up to which all that had expired is dealt with. */
  #since = "-infinity";
  #timer: NodeJS.Timeout | undefined;
  #dueAtMs = Number.POSITIVE_INFINITY;
  #running: Promise<void> | undefined;
  /** A limit has come while it was looking. */
  #again = false;
  #closed = false;

  constructor(deps: TimeLimitsDeps) {
    this.#deps = deps;
    this.soon(LEAST_MS);
  }

  /** A task with such a limit was committed here. */
  soon(inMs: number): void {
    const atMs = performance.now() + Math.max(LEAST_MS, Math.min(MOST_MS, inMs + 1));
    if (this.#closed || atMs >= this.#dueAtMs) return;
    clearTimeout(this.#timer);
    this.#dueAtMs = atMs;
    this.#timer = setTimeout(() => this.#wake(), atMs - performance.now());
    this.#timer.unref();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  /** Ends what has expired since the last look; returns how long it is until the next limit. */
  async look(): Promise<number> {
    const { now, inMs } = await nextExpiry(this.#deps.pool);
    for (const limit of ["deadline_at", "queue_until"] as const) {
      let place: ExpiryPlace | undefined = { at: this.#since, id: NO_ID };
      while (place && !this.#closed) {
        const { tasks, next }: ExpiredPage = await expiredTasks(this.#deps.pool, limit, place, PAGE_TASKS);
        await this.#settle(tasks);
        place = next;
      }
    }
    const { rows } = await this.#deps.pool.query<{ since: string }>(
      `SELECT ($1::timestamptz - ${OVERLAP})::text AS since`,
      [now],
    );
    this.#since = rows[0]!.since;
    return inMs ?? MOST_MS;
  }

  async #settle(expired: readonly ExpiredTask[]): Promise<void> {
    const { queueOf, stop, end } = this.#deps;
    const dead: IdKey[] = [];
    const deadAway: IdKey[] = [];
    const waited: IdKey[] = [];
    const asked = new Map<IdKey, IdKey[]>();
    const left = new Map<IdKey, Leases | undefined>();
    for (const task of expired) {
      const { key, endpointKey } = task;
      const queue = queueOf(endpointKey);
      if (queue) {
        const entry = queue.held.get(key);
        if (entry?.committed === false || (!entry && queue.mayBeOut(key))) continue;
        if (!entry) queue.bar(key);
        if (!entry || entry.state === "QUEUED") (task.dead ? dead : waited).push(key);
        else if (task.dead) asked.set(endpointKey, [...(asked.get(endpointKey) ?? []), key]); // T3
      } else if (task.ownerReplica === undefined || !task.ownerLives) {
        const free = await this.#isFree(task, left);
        if (task.dead) (free ? dead : deadAway).push(key);
        else if (free) waited.push(key); // T2
      }
    }
    for (const [endpointKey, keys] of asked) stop(endpointKey, keys);
    await end(dead, DEADLINE);
    await end(deadAway, { ...DEADLINE, confirmed: false });
    await end(waited, QUEUE_TIME);
  }

  /** Whether no agent can have it. */
  async #isFree(task: ExpiredTask, left: Map<IdKey, Leases | undefined>): Promise<boolean> {
    if (task.ownerReplica !== undefined) return false;
    if (!left.has(task.endpointKey)) {
      const told = await readLeases(this.#deps.pool, task.endpointKey, task.epoch);
      left.set(task.endpointKey, told ?? NO_LEASES);
    }
    const leases = left.get(task.endpointKey)!;
    return leases.whole && !leases.accepted.has(task.key) && !leases.sent.has(task.key);
  }

  #wake(): void {
    this.#dueAtMs = Number.POSITIVE_INFINITY;
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = this.look()
      .catch((err) => {
        this.#deps.log.warn({ err }, "limits of time could not be looked at; trying again");
        return MOST_MS;
      })
      .then((inMs) => {
        this.#running = undefined;
        this.soon(this.#again ? LEAST_MS : inMs);
        this.#again = false;
      });
  }
}
