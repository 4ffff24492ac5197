/**
 * Cancels. The request is durable first, whoever owns the task's queue; then whoever may have the task is found:
 *
 *   here, not sent     it ends now, and it is certain that nothing of it runs
 *   here, sent         its agent is asked to stop it, and says what became of it
 *   another replica    is told by a hint, and finds it by its sweep where the hint is lost
 *   nobody, not sent   it ends now, as above: the record of the agent's leases says that it was not sent
 *   nobody, sent       it waits for the agent, and ends with its leases where the agent stays away (reclaim.ts)
 *
 *   K1  The request commits before anybody looks at who has the task: an owner that comes later reads the request
 *       with the row, and does not send it.
 */
import { type IdKey, REASONS, TERMINAL_STATES } from "@farloom/protocol";
import type { Pool } from "pg";
import { type Leases, NO_LEASES, readLeases } from "../store/endpoint-leases.js";
import type { Hints } from "../store/hints.js";
import { cancelRequestsOf, unwantedTasks, writeCancelRequests } from "../store/rewrite-tasks.js";
import type { EndpointQueue } from "./endpoint-queue.js";
import type { TaskEntry } from "./task-entry.js";

/** How a task ends without a result of its agent. */
export interface EndHow {
  readonly state: number;
  readonly reason: number;
  /** Whether it is certain that no process of it is left. */
  readonly confirmed?: boolean | undefined;
}

export const CANCELLED: EndHow = {
  state: TERMINAL_STATES.CANCELLED,
  reason: REASONS.cancelled_by_user,
  confirmed: true,
};

interface Whose {
  readonly here: Map<IdKey, IdKey[]>;
  readonly elsewhere: Map<IdKey, IdKey[]>;
  readonly nobodys: IdKey[];
}

export interface CancelsDeps {
  readonly pool: Pool;
  readonly hints: Hints;
  queueOf(endpointKey: IdKey): EndpointQueue | undefined;
  /** The entry in any of the queues that are owned here. */
  entryOf(key: IdKey): TaskEntry | undefined;
  /** Asks the endpoint's agent to stop these. */
  stop(endpointKey: IdKey, keys: IdKey[]): void;
  end(keys: readonly IdKey[], how: EndHow): Promise<void>;
}

export class Cancels {
  readonly #deps: CancelsDeps;

  constructor(deps: CancelsDeps) {
    this.#deps = deps;
  }

  /** Durable when it resolves, and what nobody has is CANCELLED by then. */
  async request(keys: readonly IdKey[]): Promise<void> {
    if (keys.length === 0) return;
    const { pool, hints } = this.#deps;
    // One whose INSERT is under way has no row yet: intake asks again when it has committed.
    const marked: TaskEntry[] = [];
    for (const key of keys) {
      const entry = this.#deps.entryOf(key);
      if (!entry || entry.cancelRequested) continue;
      entry.cancelRequested = true;
      marked.push(entry);
    }
    try {
      await writeCancelRequests(pool, keys); // K1
    } catch (err) {
      // Nothing was asked, as far as anybody was told: what was held back meanwhile goes on.
      for (const entry of marked) {
        entry.cancelRequested = false;
        if (entry.state === "QUEUED" && !entry.ended) this.#deps.queueOf(entry.endpointKey)?.requeue(entry);
      }
      throw err;
    }
    const { here, elsewhere, nobodys } = await this.#whose(keys);
    for (const [endpointKey, list] of elsewhere) hints.cancel(endpointKey, list);
    for (const [endpointKey, list] of here) await this.here(endpointKey, list);
    await this.#deps.end(nobodys, CANCELLED);
  }

  /**
   * Of what is not in hand here, ends what no agent has, and asks the owner of the rest; nothing is written of a
   * request that an agent may decline.
   */
  async unbegun(keys: readonly IdKey[]): Promise<void> {
    if (keys.length === 0) return;
    const { here, elsewhere, nobodys } = await this.#whose(keys);
    for (const [endpointKey, list] of elsewhere) this.#deps.hints.cancel(endpointKey, list, "unbegun");
    // In the backlog of a queue that is owned here: a page that is being read must not bring it meanwhile.
    for (const [endpointKey, list] of here) {
      const queue = this.#deps.queueOf(endpointKey);
      for (const key of list) {
        if (!queue || queue.mayBeOut(key) || queue.held.has(key)) continue;
        queue.bar(key);
        nobodys.push(key);
      }
    }
    await this.#deps.end(nobodys, CANCELLED);
  }

  /** Who may have them; `nobodys` are those that certainly no agent has. */
  async #whose(keys: readonly IdKey[]): Promise<Whose> {
    const { pool, queueOf } = this.#deps;
    const whose: Whose = { here: new Map(), elsewhere: new Map(), nobodys: [] };
    const left = new Map<IdKey, Leases>();
    for (const { key, endpointKey, epoch, ownerReplica } of await unwantedTasks(pool, keys)) {
      if (queueOf(endpointKey)) add(whose.here, endpointKey, key);
      else if (ownerReplica !== undefined) add(whose.elsewhere, endpointKey, key);
      else {
        let leases = left.get(endpointKey);
        if (!leases) {
          leases = epoch === 0 ? NO_LEASES : ((await readLeases(pool, endpointKey, epoch)) ?? NO_LEASES);
          left.set(endpointKey, leases);
        }
        if (leases.whole && !leases.accepted.has(key) && !leases.sent.has(key)) whose.nobodys.push(key);
      }
    }
    return whose;
  }

  /** These are of an endpoint that may be owned here, and the request is durable. */
  async here(endpointKey: IdKey, keys: readonly IdKey[]): Promise<void> {
    const queue = this.#deps.queueOf(endpointKey);
    if (!queue) return;
    const now: IdKey[] = [];
    const sent: IdKey[] = [];
    for (const key of keys) {
      const entry = queue.held.get(key);
      if (entry) {
        entry.cancelRequested = true;
        if (entry.state === "QUEUED") now.push(key);
        else sent.push(key);
      } else if (!queue.mayBeOut(key)) {
        // What may be out is settled with the opening, or found by the pages that follow it.
        queue.bar(key);
        now.push(key);
      }
    }
    if (sent.length > 0) this.#deps.stop(endpointKey, sent);
    await this.#deps.end(now, CANCELLED);
  }

  /** What was asked of these endpoints' tasks lately, whatever hints were lost. */
  async sweep(queues: readonly EndpointQueue[], sinceMs: number): Promise<void> {
    const keys = await cancelRequestsOf(
      this.#deps.pool,
      queues.map((queue) => queue.endpointKey),
      sinceMs,
    );
    if (keys.length > 0) await this.request(keys);
  }
}

function add(lists: Map<IdKey, IdKey[]>, of: IdKey, key: IdKey): void {
  const list = lists.get(of);
  if (list) list.push(key);
  else lists.set(of, [key]);
}
