/**
 * What an endpoint's agent leases now, asked at any replica: an agent's requests by HTTP come to whichever replica the proxy
 * chooses, and no lease is written for each task. So whoever knows is asked:
 *
 *   L1  The replica that has the connection knows from memory, before the task's INSERT has committed too.
 *   L2  Where there is no connection, the record says it that the last one left (endpoint-leases.ts): its end ends no lease.
 *   L3  Any other replica asks the owner, by the bus of hints. The answer names a task; whose it is, and that it is open at
 *       this endpoint, is then read from PostgreSQL: a forged answer opens nothing that is not at the endpoint.
 *   L4  Nobody who may have the task is told that it has not: where it cannot be known now (a question that was lost, an
 *       owner that was killed, a record that is being written, a commit under way), it is LEASE_UNKNOWN, and agents ask again.
 *
 * Bound: MAX_ASKED questions that wait, ANSWER_MS each.
 */
import { FarloomError, type IdKey, keyToUuid, uuidToKey } from "@farloom/protocol";
import type { Pool } from "pg";
import type { AgentLeases } from "../identity/principal.js";
import { areWritten, attemptIn, type Leases, leaseKeeper, submitterAmong } from "../store/endpoint-leases.js";
import type { HintSender, LeaseAnswer, LeaseQuestion } from "../store/hints.js";
import type { TaskEntry } from "./task-entry.js";

const MAX_ASKED = 5_000;
/** An answer takes some milliseconds; one that was lost does not come. */
const ANSWER_MS = 1_000;

export interface LeasedNowDeps {
  readonly pool: Pool;
  readonly replicaId: string;
  readonly hints: HintSender;
  /** L1 */
  readonly here: (endpointKey: IdKey, asked: LeaseQuestion) => Promise<TaskEntry | "none" | undefined>;
}

export class LeasedNow implements AgentLeases {
  readonly #deps: LeasedNowDeps;
  readonly #asked = new Map<number, (answer: LeaseAnswer) => void>();
  #questions = 0;

  constructor(deps: LeasedNowDeps) {
    this.#deps = deps;
  }

  async holds(endpointId: string, taskId: string, attempt: number): Promise<boolean> {
    const endpointKey = uuidToKey(endpointId)!;
    const asked = { task: uuidToKey(taskId)!, attempt };
    const entry = await this.#deps.here(endpointKey, asked);
    if (entry !== undefined) return entry !== "none";
    const there = await this.#elsewhere(endpointKey, asked);
    if (typeof there === "string") return there !== "none";
    // Of a record that an older service left, attempts are not known.
    return isIn(there, asked.task) && (attemptIn(there, asked.task) ?? attempt) === attempt;
  }

  async submitterOf(endpointId: string, digest: Buffer): Promise<string | undefined> {
    const endpointKey = uuidToKey(endpointId)!;
    const entry = await this.#deps.here(endpointKey, { digest });
    if (entry === "none") return undefined;
    if (entry !== undefined) return keyToUuid(entry.ownerKey);
    const there = await this.#elsewhere(endpointKey, { digest });
    if (there === "none") return undefined;
    const keys = typeof there === "string" ? [there] : [...new Set([...there.accepted, ...there.sent])];
    const { pool } = this.#deps;
    const submitterId = await submitterAmong(pool, endpointKey, keys, digest);
    // The agent may have a task before its INSERT has committed.
    if (submitterId === undefined && (typeof there === "string" || !(await areWritten(pool, keys))))
      throw new FarloomError("LEASE_UNKNOWN");
    return submitterId;
  }

  /** Another replica asks what is known here. */
  async tell(to: string, n: number, endpointKey: IdKey, asked: LeaseQuestion): Promise<void> {
    const entry = await this.#deps.here(endpointKey, asked);
    this.#deps.hints.answer(to, n, typeof entry === "object" ? entry.key : entry);
  }

  /** What another replica has answered. */
  told(n: number, answer: LeaseAnswer): void {
    this.#asked.get(n)?.(answer);
  }

  /** L2, L3. @throws FarloomError LEASE_UNKNOWN */
  async #elsewhere(endpointKey: IdKey, asked: LeaseQuestion): Promise<IdKey | "none" | Leases> {
    const keeper = await leaseKeeper(this.#deps.pool, endpointKey);
    if (keeper === undefined) return "none";
    const { replicaId, left } = keeper;
    if (replicaId === undefined) {
      // One that never had a connection, or whose leases have been settled.
      if (left === undefined) return "none";
      if (left.whole) return left;
    } else if (replicaId !== this.#deps.replicaId) {
      const answer = await this.#ask(replicaId, endpointKey, asked);
      if (answer !== undefined) return answer;
    }
    throw new FarloomError("LEASE_UNKNOWN");
  }

  #ask(replicaId: string, endpointKey: IdKey, asked: LeaseQuestion): Promise<LeaseAnswer> {
    const n = ++this.#questions;
    if (this.#asked.size >= MAX_ASKED || !this.#deps.hints.ask(replicaId, n, endpointKey, asked))
      return Promise.resolve(undefined);
    return new Promise((resolve) => {
      const settle = (answer: LeaseAnswer): void => {
        clearTimeout(timer);
        this.#asked.delete(n);
        resolve(answer);
      };
      const timer = setTimeout(() => settle(undefined), ANSWER_MS);
      timer.unref();
      this.#asked.set(n, settle);
    });
  }
}

function isIn({ accepted, sent }: Leases, key: IdKey): boolean {
  return accepted.has(key) || sent.has(key);
}
