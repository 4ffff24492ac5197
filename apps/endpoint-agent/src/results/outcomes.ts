/**
 * From outcome to batch: what a node or the agent itself says of a task is written to the journal, and is ready
 * for the service once the result's payload file, if it has one, is there.
 *
 * Bound: finished tasks of the credit window.
 */
import { buildResults, limits, REASONS, TERMINAL_STATES } from "@farloom/protocol";
import type { TaskAudit } from "../audit/task-audit.js";
import { type JournalRecord, RECORD } from "../journal/format.js";
import type { TransferOutcome } from "../payloads/payload-transfer.js";
import { hasReference, type TaskFiles } from "../payloads/task-files.js";
import { type HeldTask, ownResult } from "../scheduler/held-task.js";
import type { Scheduler } from "../scheduler/scheduler.js";
import { batchesOf, type ResultBatch } from "./result-sender.js";
import { encodeSettled, type Settled } from "./settle.js";

export type OwnOutcome = Parameters<typeof ownResult>[1];

export interface OutcomesOptions {
  readonly scheduler: Scheduler;
  readonly files: TaskFiles;
  readonly append: (record: JournalRecord) => void;
  readonly onFinished: (tasks: readonly HeldTask[]) => void;
  readonly audit: TaskAudit;
  /** Batches became ready outside of a turn: a file arrived. */
  readonly onReady: () => void;
}

export class Outcomes {
  readonly #options: OutcomesOptions;
  #ready: ResultBatch[] = [];
  readonly #uploading = new Set<HeldTask>();
  #closed = false;

  constructor(options: OutcomesOptions) {
    this.#options = options;
  }

  /** Whether a result waits for its file to be sent. */
  get isUploading(): boolean {
    return this.#uploading.size > 0;
  }

  /** Finished tasks that are not yet in the sender's custody. */
  *pending(): Generator<HeldTask> {
    yield* this.#uploading;
    for (const batch of this.#ready) yield* batch.tasks;
  }

  /** What may go up once the journal is committed. */
  takeReady(): ResultBatch[] {
    return this.#ready.splice(0);
  }

  /** These tasks have outcomes now; `own`: the agent itself gave it. */
  finished(settled: Settled, own?: OwnOutcome): void {
    const { tasks, frame } = settled;
    if (own) this.#options.audit.answered(tasks, own, frame);
    else this.#options.audit.ended(frame);
    this.#options.scheduler.handle({ kind: "finished", tasks });
    this.#options.onFinished(tasks);
    const batches = encodeSettled(settled);
    for (const batch of batches) this.#options.append({ type: RECORD.result, payload: batch.bytes });
    if (hasReference(frame.codecs)) this.stage(tasks, false);
    else this.#ready.push(...batches);
  }

  /** Outcomes that the agent itself gives. */
  finishHere(tasks: readonly HeldTask[], outcome: OwnOutcome): void {
    const now = performance.now();
    const open = tasks.filter((task) => task.result === undefined);
    for (let from = 0; from < open.length; from += limits.MAX_BATCH_ITEMS) {
      const part = open.slice(from, from + limits.MAX_BATCH_ITEMS);
      const items = part.map((task) => ownResult(task, outcome, now));
      const frame = buildResults(items, 0, items.length);
      for (const [i, task] of part.entries()) task.result = { frame, index: i };
      this.finished({ tasks: part, frame }, outcome);
    }
  }

  /** The outcome of a task whose payload is gone. */
  failForPayload(task: HeldTask, message: string): void {
    const error = { type: "PayloadMissing", message };
    this.finishHere([task], { state: TERMINAL_STATES.FAILED, reason: REASONS.payload_missing, error });
  }

  /** Results that the journal has: to go up, those with files after these. `held`: over a reconnect (P15). */
  stage(tasks: readonly HeldTask[], held: boolean): void {
    const ready: HeldTask[] = [];
    for (const task of tasks) {
      const sent = this.#options.files.sendResult(task);
      if (sent === undefined) ready.push(task);
      else {
        this.#uploading.add(task);
        void sent.then((outcome) => this.#uploaded(task, outcome));
      }
    }
    this.#ready.push(...batchesOf(ready, held));
  }

  close(): void {
    this.#closed = true;
  }

  #uploaded(task: HeldTask, outcome: TransferOutcome): void {
    if (this.#closed) return;
    this.#uploading.delete(task);
    if (outcome.ok) this.#ready.push(...batchesOf([task], false));
    else {
      task.result = undefined;
      this.failForPayload(task, outcome.message);
    }
    this.#options.onReady();
  }
}
