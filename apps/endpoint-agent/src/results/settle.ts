/**
 * Matches a node's results with the tasks in custody. First outcome wins: a result of a task that is unknown, has
 * one already, or is at another node by now, is left out. Where nothing is left out or renamed, the frame goes on as it came.
 */
import {
  buildResults,
  durationToWire,
  durationUsOf,
  encodeFrame,
  fenceOf,
  type IdKey,
  keyAt,
  keysToColumn,
  type ResultsFrame,
  u32Of,
} from "@farloom/protocol";
import { type HeldTask, toResultItem } from "../scheduler/held-task.js";
import type { Scheduler } from "../scheduler/scheduler.js";
import { batchesOf, type ResultBatch } from "./result-sender.js";

/** A results frame above this is cut up before it is sent: a frame has at most 8 MiB, and details are not counted by a batch's builder. */
const SPLIT_FRAME_BYTES = 4 * 1024 * 1024;

export interface Settled {
  readonly tasks: readonly HeldTask[];
  readonly frame: ResultsFrame;
}

/** The tasks that this frame of `node` finishes, and the frame with nothing but their results. Undefined where it finishes none. */
export function settle(frame: ResultsFrame, scheduler: Scheduler, node: string): Settled | undefined {
  const tasks: HeldTask[] = [];
  const indices: number[] = [];
  let asItIs = true;
  for (let i = 0; i < frame.n; i++) {
    const task = scheduler.get(keyAt(frame.ids, 16 * i));
    if (task === undefined || task.result !== undefined || (task.node !== undefined && task.node !== node)) {
      asItIs = false;
      continue;
    }
    // The service sent the task again under a newer attempt while this one ran: the run answers for it.
    if (u32Of(frame.attempts, i, 1) !== task.attempt) asItIs = false;
    // Or under a newer lease, as its connection had broken.
    if (task.fence !== 0 && fenceOf(frame.fences, i) !== task.fence) asItIs = false;
    task.result = { frame, index: i };
    tasks.push(task);
    indices.push(i);
    if (frame.queueUs) addWait(frame.queueUs, i, task.waitedUs);
  }
  if (tasks.length === 0) return undefined;
  if (asItIs) return { tasks, frame };
  const own = buildResults(
    tasks.map((task, i) => toResultItem(frame, indices[i]!, task)),
    0,
    tasks.length,
  );
  for (const [i, task] of tasks.entries()) task.result = { frame: own, index: i };
  return { tasks, frame: own };
}

/** What has been settled, as encoded batches for the journal and the service. */
export function encodeSettled({ tasks, frame }: Settled): readonly ResultBatch[] {
  const bytes = encodeFrame(frame);
  return bytes.length > SPLIT_FRAME_BYTES && tasks.length > 1
    ? [...batchesOf(tasks, false)]
    : [{ bytes, tasks }];
}

/** The ids of finished tasks; the column of a results frame where they are all of it, in its order. */
export function idColumns(tasks: readonly HeldTask[]): Buffer[] {
  const columns: Buffer[] = [];
  const loose: IdKey[] = [];
  for (let i = 0; i < tasks.length; ) {
    const frame = tasks[i]!.result?.frame;
    if (frame !== undefined && isWhole(tasks, i, frame)) {
      columns.push(frame.ids);
      i += frame.n;
    } else loose.push(tasks[i++]!.key);
  }
  if (loose.length > 0) columns.push(keysToColumn(loose));
  return columns;
}

function isWhole(tasks: readonly HeldTask[], from: number, frame: ResultsFrame): boolean {
  if (from + frame.n > tasks.length) return false;
  for (let i = 0; i < frame.n; i++) {
    const result = tasks[from + i]!.result;
    if (result?.frame !== frame || result.index !== i) return false;
  }
  return true;
}

/** The node counts a task's wait from when it got it; the wait before that is added here. */
function addWait(column: Buffer, i: number, waitedUs: number): void {
  column.writeUInt32LE(durationToWire(durationUsOf(column, i) + Math.round(waitedUs)), 4 * i);
}
