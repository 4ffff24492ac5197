/**
 * Custody of finished tasks on their way up: what is ready goes out in order, is kept until the service's
 * durable mark covers it, and is sent again in the next session where it was not (P11).
 *
 *   R1  Nothing is sent that the journal does not have: the engine adds only what is committed.
 *   R2  In a new session everything unacknowledged goes first, marked as held (P15).
 *
 * Bound: results of held tasks; the engine hands no more down while `heldBytes` exceeds its limit.
 */
import {
  batchLength,
  buildResults,
  encodeFrame,
  Outbox,
  type ResultsFrame,
  withPosition,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { LinkSession } from "../link/connection.js";
import { type HeldTask, toResultItem } from "../scheduler/held-task.js";

/** Results that go up together; `bytes` is the encoded frame. */
export interface ResultBatch {
  readonly bytes: Buffer;
  readonly tasks: readonly HeldTask[];
}

/** What lies beside a result in the frame, at least. */
const ITEM_BYTES = 64;

export class ResultSender {
  readonly #outbox = new Outbox<HeldTask>();
  #ready: ResultBatch[] = [];
  #readyTasks = 0;
  #session: LinkSession | undefined;
  #heldBytes = 0;

  /** Results not yet covered by a durable mark, sent or not. */
  get unacked(): number {
    return this.#outbox.size + this.#readyTasks;
  }

  /** About the bytes of those. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Whether everything ready has been sent in this session. */
  get isDry(): boolean {
    return this.#ready.length === 0;
  }

  /** A new session: all that is unacknowledged lines up again, in front (R2). */
  attach(session: LinkSession): void {
    const again = this.#outbox.restart();
    if (planted("outbox-drops-results")) again.length = 0;
    for (const batch of this.#ready) again.push(...batch.tasks);
    this.#ready = [];
    this.#readyTasks = 0;
    for (const batch of batchesOf(again, true)) this.#line(batch);
    this.#session = session;
  }

  detach(): void {
    this.#session = undefined;
  }

  add(batch: ResultBatch): void {
    for (const task of batch.tasks) this.#heldBytes += resultBytes(task);
    this.#line(batch);
  }

  /** Sends what is ready, as far as the socket takes it. */
  pump(): void {
    const session = this.#session;
    if (session === undefined || this.#ready.length === 0) return;
    let sent = 0;
    while (sent < this.#ready.length && session.writable) {
      const batch = this.#ready[sent++]!;
      session.sendBytes(withPosition(batch.bytes, this.#outbox.sent + 1));
      crashPoint("agent.result.sent");
      for (const task of batch.tasks) this.#outbox.push(task);
      this.#readyTasks -= batch.tasks.length;
    }
    this.#ready.splice(0, sent);
  }

  /** The service's mark; returns what it covers, or why the mark is wrong. */
  mark(mark: { readonly accepted: number; readonly durable: number }): HeldTask[] | { readonly bad: string } {
    const released = this.#outbox.mark(mark);
    if (Array.isArray(released)) for (const task of released) this.#heldBytes -= resultBytes(task);
    return released;
  }

  #line(batch: ResultBatch): void {
    this.#ready.push(batch);
    this.#readyTasks += batch.tasks.length;
  }
}

/** Results of tasks as encoded batches, within the bounds of a frame. */
export function* batchesOf(tasks: readonly HeldTask[], held: boolean): Generator<ResultBatch> {
  const live = tasks.filter((task) => task.result !== undefined);
  for (let from = 0; from < live.length; ) {
    const n = batchLength(live.length, from, (i) => resultBytes(live[i]!));
    const part = live.slice(from, from + n);
    const items = part.map((task) => toResultItem(task.result!.frame, task.result!.index, task));
    const frame: ResultsFrame = buildResults(items, 0, n);
    if (held) frame.held = Buffer.alloc(n, 1);
    yield { bytes: encodeFrame(frame), tasks: part };
    from += n;
  }
}

/** About how many bytes of a frame a task's result takes, detail included. */
export function resultBytes(task: HeldTask): number {
  const result = task.result;
  if (result === undefined) return ITEM_BYTES;
  const { frame, index } = result;
  const end = frame.ends.readUInt32LE(4 * index);
  const start = index === 0 ? 0 : frame.ends.readUInt32LE(4 * index - 4);
  let bytes = ITEM_BYTES + end - start;
  const detail = frame.detail?.[index];
  if (detail) {
    const { error, stdout, stderr } = detail;
    // UTF-8 takes at most three bytes for a UTF-16 unit.
    bytes +=
      3 *
      ((error?.message.length ?? 0) +
        (error?.traceback?.length ?? 0) +
        (error?.data?.length ?? 0) +
        (stdout?.length ?? 0) +
        (stderr?.length ?? 0));
  }
  return bytes;
}
