/**
 * The truth of the simulated world, with the conditions of the service's statements (insert-tasks.ts,
 * insert-outcomes.ts, rewrite-tasks.ts, read-open-tasks.ts, ownership.ts): one call is one commit. One endpoint.
 */
import type { IdKey, TaskOptions } from "@farloom/protocol";
import type { Bugs } from "./bugs.js";
import type { Oracle, Outcome } from "./oracle.js";

export interface Row {
  readonly key: IdKey;
  readonly seq: number;
  readonly args: Buffer;
  readonly options: TaskOptions;
  attempt: number;
  losses: number;
  agentLosses: number;
  cancelRequested: boolean;
}

/** Whose loss ended an attempt; undefined: the function failed. */
export type Loss = "worker" | "agent" | undefined;

export interface NewRow {
  readonly key: IdKey;
  readonly args: Buffer;
  readonly options: TaskOptions;
}

export interface NewOutcomeRow extends Outcome {
  readonly key: IdKey;
  readonly epoch: number;
}

export interface Told extends Outcome {
  readonly key: IdKey;
}

export class Store {
  readonly #rows = new Map<IdKey, Row>();
  readonly #outcomes = new Map<IdKey, Outcome>();
  readonly #oracle: Oracle;
  readonly #bugs: Bugs;
  #seq = 0;
  #epoch = 0;

  constructor(oracle: Oracle, bugs: Bugs) {
    this.#oracle = oracle;
    this.#bugs = bugs;
  }

  insertTasks(tasks: readonly NewRow[]): { added: number; firstSeq: number; lastSeq: number } {
    let added = 0;
    const firstSeq = this.#seq + 1;
    for (const { key, args, options } of tasks) {
      if (this.#rows.has(key)) continue;
      this.#rows.set(key, {
        key,
        seq: ++this.#seq,
        args,
        options,
        attempt: 1,
        losses: 0,
        agentLosses: 0,
        cancelRequested: false,
      });
      added++;
    }
    return added > 0 ? { added, firstSeq, lastSeq: this.#seq } : { added, firstSeq: 0, lastSeq: 0 };
  }

  /** Writes those of the current epoch and attempt that are open; says how many. */
  insertOutcomes(outcomes: readonly NewOutcomeRow[]): number {
    let added = 0;
    for (const outcome of outcomes) {
      const row = this.#rows.get(outcome.key);
      if (!row) continue;
      if (outcome.epoch !== this.#epoch && !this.#bugs.has("no epoch in the statement")) continue;
      if (outcome.attempt !== row.attempt && !this.#bugs.has("no attempt in the statement")) continue;
      if (this.#outcomes.has(row.key) && !this.#bugs.has("a later outcome replaces the first")) continue;
      this.#commit(row.key, outcome, outcome.epoch);
      added++;
    }
    return added;
  }

  /** Ends what is open, whoever owns it; gives those that this call ended. */
  endOpen(keys: readonly IdKey[], state: number, reason: number): Told[] {
    const ended: Told[] = [];
    for (const key of keys) {
      const row = this.#rows.get(key);
      if (!row || this.#outcomes.has(key)) continue;
      const outcome = { state, reason, attempt: row.attempt, data: "" };
      this.#commit(key, outcome, undefined);
      ended.push({ key, ...outcome });
    }
    return ended;
  }

  #commit(key: IdKey, outcome: Outcome, epoch: number | undefined): void {
    const { state, reason, attempt, data } = outcome;
    this.#outcomes.set(key, { state, reason, attempt, data });
    this.#oracle.committed(key, { state, reason, attempt, data }, { epoch });
  }

  /** Raises the attempt where it is still the one that ended. */
  writeAttempt(key: IdKey, attempt: number, by: { readonly epoch: number; readonly loss: Loss }): boolean {
    const row = this.#rows.get(key);
    if (!row || row.attempt !== attempt || by.epoch !== this.#epoch || this.#outcomes.has(key)) return false;
    if (by.loss === "worker") row.losses++;
    else if (by.loss === "agent") row.agentLosses++;
    this.#oracle.attempt(key, ++row.attempt);
    return true;
  }

  writeCancelRequests(keys: readonly IdKey[]): void {
    for (const key of keys) {
      const row = this.#rows.get(key);
      if (row) row.cancelRequested = true;
    }
  }

  claim(): number {
    this.#oracle.epoch(++this.#epoch);
    return this.#epoch;
  }

  isCurrent(epoch: number): boolean {
    return this.#epoch === epoch;
  }

  /** Open tasks with after < seq ≤ last, in order. */
  page(after: number, last: number): Row[] {
    const page: Row[] = [];
    for (const row of this.#rows.values())
      if (row.seq > after && row.seq <= last && !this.#outcomes.has(row.key)) page.push({ ...row });
    return page;
  }

  openOf(keys: readonly IdKey[]): Row[] {
    const open: Row[] = [];
    for (const key of keys) {
      const row = this.#rows.get(key);
      if (row && !this.#outcomes.has(key)) open.push({ ...row });
    }
    return open;
  }

  knownOf(keys: readonly IdKey[]): Set<IdKey> {
    return new Set(keys.filter((key) => this.#rows.has(key)));
  }

  outcomesOf(keys: Iterable<IdKey>): Told[] {
    const told: Told[] = [];
    for (const key of keys) {
      const outcome = this.#outcomes.get(key);
      if (outcome) told.push({ key, ...outcome });
    }
    return told;
  }

  get allEnded(): boolean {
    return this.#outcomes.size === this.#rows.size;
  }
}
