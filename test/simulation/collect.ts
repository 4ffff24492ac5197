/** Collect of a simulated service: as apps/web-service/src/collect/, with the store's statements simulated. */
import {
  byteOf,
  endOf,
  type IdKey,
  keyAt,
  type Reason,
  type ResultsFrame,
  reasonName,
  startOf,
  type TaskEvent,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import type { EndpointQueue } from "../../apps/web-service/src/dispatch/endpoint-queue.js";
import type { TaskEntry } from "../../apps/web-service/src/dispatch/task-entry.js";
import { entryOf } from "./intake.js";
import type { Service } from "./service.js";
import type { Loss, NewOutcomeRow, Told } from "./store.js";

interface Receipt {
  open: number;
  stale: boolean;
  readonly unknown: IdKey[];
  readonly to: { settle(unknown: IdKey[]): void; stale(): void };
}

interface ResultRow extends NewOutcomeRow {
  readonly entry: TaskEntry;
  readonly queue: EndpointQueue;
}

export class Collect {
  readonly #service: Service;
  readonly #early = new Map<TaskEntry, { row: ResultRow; receipt: Receipt }>();

  constructor(service: Service) {
    this.#service = service;
  }

  take(queue: EndpointQueue, frame: ResultsFrame, to: Receipt["to"]): void {
    const receipt: Receipt = { open: frame.n, stale: false, unknown: [], to };
    const rows: ResultRow[] = [];
    const strangers: number[] = [];
    for (let i = 0; i < frame.n; i++) {
      const entry = queue.held.get(keyAt(frame.ids, 16 * i));
      if (entry) this.#route(frame, i, { entry, queue, receipt, rows });
      else strangers.push(i);
    }
    if (rows.length > 0) this.#commit(rows, receipt);
    if (strangers.length > 0) this.#meetStrangers(queue, frame, strangers, receipt);
  }

  /** The task's INSERT has committed, or never will. */
  released(entry: TaskEntry): void {
    const early = this.#early.get(entry);
    if (!early) return;
    this.#early.delete(entry);
    entry.early = undefined;
    if (entry.committed) {
      const rows: ResultRow[] = [];
      this.#decide(early.row, early.receipt, rows);
      if (rows.length > 0) this.#commit(rows, early.receipt);
    } else {
      early.receipt.unknown.push(entry.key);
      done(early.receipt, 1);
    }
  }

  #route(
    frame: ResultsFrame,
    i: number,
    of: { entry: TaskEntry; queue: EndpointQueue; receipt: Receipt; rows: ResultRow[] },
  ): void {
    const { entry, queue, receipt, rows } = of;
    const row: ResultRow = {
      key: entry.key,
      entry,
      queue,
      epoch: queue.epoch,
      attempt: u32Of(frame.attempts, i, 1),
      state: byteOf(frame.states, i),
      reason: byteOf(frame.reasons, i),
      data: frame.data.toString("latin1", startOf(frame.ends, i), endOf(frame.ends, i)),
    };
    const isStale = row.attempt !== entry.attempt && !this.#service.bugs.has("no attempt in the statement");
    if (isStale || entry.early) {
      done(receipt, 1);
      return;
    }
    if (entry.committed) this.#decide(row, receipt, rows);
    else {
      entry.early = row as unknown as NonNullable<TaskEntry["early"]>;
      this.#early.set(entry, { row, receipt });
    }
  }

  #decide(row: ResultRow, receipt: Receipt, rows: ResultRow[]): void {
    const another = this.#another(row.entry, row.state, reasonName(row.reason));
    if (another) this.#reattempt(row, another.loss, receipt);
    else rows.push(row);
  }

  #another(entry: TaskEntry, state: number, reason: Reason): { readonly loss: Loss } | undefined {
    if (state === TERMINAL_STATES.SUCCEEDED || state === TERMINAL_STATES.CANCELLED) return undefined;
    const lost = reason === "worker_died" || reason === "out_of_memory" || reason === "agent_lost";
    const event: TaskEvent = lost
      ? { kind: "lost", started: true, reason }
      : state === TERMINAL_STATES.TIMED_OUT
        ? { kind: "timed_out", reason }
        : { kind: "failed", reason };
    if (entry.state === "QUEUED") entry.state = "LEASED";
    for (const effect of entry.step(event).effects) {
      if (effect.do === "retry") return { loss: undefined };
      if (effect.do === "requeue") return { loss: effect.loss };
    }
    return undefined;
  }

  #reattempt({ queue, entry }: ResultRow, loss: Loss, receipt: Receipt): void {
    const { attempt, key } = entry;
    const { bugs, statements } = this.#service;
    statements.add(
      (store) => {
        const { epoch } = queue;
        if (bugs.has("a retry is not written")) return "written";
        if (store.writeAttempt(key, attempt, { epoch, loss })) return "written";
        if (bugs.has("an attempt is taken for settled whatever its reply")) return "over";
        if (!store.isCurrent(epoch)) return "stale";
        // An earlier try, whose reply was lost.
        return store.openOf([key])[0]?.attempt === attempt + 1 ? "written" : "over";
      },
      (outcome) => {
        if (outcome === "stale") receipt.stale = true;
        if (outcome === "written" && entry.attempt === attempt) {
          entry.attempt++;
          if (loss === "worker") entry.losses++;
          else if (loss === "agent") entry.agentLosses++;
          this.#service.requeue(queue, [entry]);
        }
        done(receipt, 1);
      },
    );
  }

  #meetStrangers(
    queue: EndpointQueue,
    frame: ResultsFrame,
    indexes: readonly number[],
    receipt: Receipt,
  ): void {
    const keys = indexes.map((i) => keyAt(frame.ids, 16 * i));
    this.#service.statements.add(
      (store) => ({ open: store.openOf(keys), known: store.knownOf(keys) }),
      ({ open, known }) => {
        const tasks = new Map(open.map((row) => [row.key, row]));
        const rows: ResultRow[] = [];
        for (const [n, key] of keys.entries()) {
          let entry = queue.held.get(key);
          const task = tasks.get(key);
          // One of an attempt that is over says nothing of who has the task now.
          if (!entry && task && task.attempt === u32Of(frame.attempts, indexes[n]!, 1)) {
            entry = entryOf(task);
            queue.addLeased(entry);
          }
          if (entry) this.#route(frame, indexes[n]!, { entry, queue, receipt, rows });
          else {
            if (!known.has(key)) receipt.unknown.push(key);
            done(receipt, 1);
          }
        }
        if (rows.length > 0) this.#commit(rows, receipt);
      },
      () => {
        receipt.stale = true;
        done(receipt, indexes.length);
      },
    );
  }

  #commit(rows: ResultRow[], receipt: Receipt): void {
    const service = this.#service;
    const { epoch } = rows[0]!.queue;
    const keys = rows.map((row) => row.key);
    if (service.bugs.has("the client is told before the commit")) service.tell(rows.map(plain));
    service.statements.add(
      (store) => {
        const all = store.insertOutcomes(rows.map((row) => ({ ...row }))) === rows.length;
        return { told: store.outcomesOf(keys), isCurrent: all || store.isCurrent(epoch) };
      },
      ({ told, isCurrent }) => {
        const standing = new Map(told.map((item) => [item.key, item]));
        const stands = rows.filter((row) => standing.has(row.key));
        if (stands.length < rows.length && !isCurrent) receipt.stale = true;
        for (const row of stands) row.queue.forget(row.entry);
        service.tell(stands.map((row) => standing.get(row.key)!));
        service.hintFinished(stands.map((row) => row.key));
        done(receipt, rows.length);
      },
    );
  }
}

function plain({ key, state, reason, attempt, data }: ResultRow): Told {
  return { key, state, reason, attempt, data };
}

function done(receipt: Receipt, n: number): void {
  receipt.open -= n;
  if (receipt.open > 0) return;
  if (receipt.stale) receipt.to.stale();
  else receipt.to.settle(receipt.unknown);
}
