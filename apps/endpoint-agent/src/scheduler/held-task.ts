/**
 * One task in the agent's custody, from acceptance until the service has its result. One object for its whole
 * life: arguments and result stay in the batches they came in, and are found by index.
 */
import {
  byteOf,
  durationUsOf,
  endOf,
  fenceOf,
  type IdKey,
  type OutcomeDetail,
  type ResultItem,
  type ResultsFrame,
  SEAL_BYTES,
  startOf,
  type TaskItem,
  type TaskOptions,
  type TasksFrame,
  u32Of,
  writeFence,
} from "@farloom/protocol";
import type { Demand } from "./node-state.js";

/**
 * waiting  for a function's definition or a payload file; left when all have come
 * queued   in line for a node's credit
 * handed   the journal says started, a node has it
 * done     has a result, which the service does not yet have for good
 * kept     has a result of a submission that was never committed (P14)
 * gone     no longer in custody
 */
export type HeldState = "waiting" | "queued" | "handed" | "done" | "kept" | "gone";

export interface HeldTask {
  readonly key: IdKey;
  /** Raised where the service sends the same task under a newer attempt. */
  attempt: number;
  /** Of the newest lease under which the service sent it (P26); 0 where it said none. */
  fence: number;
  readonly frame: TasksFrame;
  readonly index: number;
  /** Argument bytes, as they count against credit. */
  readonly sizeBytes: number;
  state: HeldState;
  /** In state waiting: how many things it waits for. */
  needs: number;
  /** In state handed: by whom. */
  node: string | undefined;
  /** What it needs of a node; undefined: one place. Known once it is queued. */
  demand: Demand | undefined;
  /** In state handed, over whole nodes (S9): their names and what launchers call them; without names, its whole block. */
  whole: { readonly names: readonly string[]; readonly hosts: readonly string[] } | undefined;
  /** In state handed: why it is to be stopped. A node that was away is told again, and what comes back unstarted ends. */
  stopFor: "cancelled" | "deadline" | "unbegun" | undefined;
  /** On the monotonic clock, in milliseconds: when it was accepted, or came back into the line. */
  queuedAtMs: number;
  /** The part of its wait that the node does not see, in microseconds. */
  waitedUs: number;
  /** A node said that it runs (only for tasks that live longer than about a second). */
  running: boolean;
  result: { readonly frame: ResultsFrame; readonly index: number } | undefined;
}

export function optionsOf(task: HeldTask): TaskOptions | undefined {
  return task.frame.opts?.[task.index];
}

/** Under what each is held, as a hello says it beside their ids (P15b). */
export function leaseColumns(tasks: readonly HeldTask[]): { heldAttempts: Buffer; heldFences: Buffer } {
  const heldAttempts = Buffer.allocUnsafe(4 * tasks.length);
  const heldFences = Buffer.allocUnsafe(8 * tasks.length);
  for (const [i, task] of tasks.entries()) {
    heldAttempts.writeUInt32LE(task.attempt, 4 * i);
    writeFence(heldFences, i, task.fence);
  }
  return { heldAttempts, heldFences };
}

/** The digest of the task's function. */
export function functionOf(task: HeldTask): Buffer {
  const { fn, fns } = task.frame;
  return fns[fn === undefined ? 0 : fn.readUInt16LE(2 * task.index)]!;
}

export function codecOf(task: HeldTask): number {
  return byteOf(task.frame.codecs, task.index);
}

export function argumentsOf(task: HeldTask): Buffer {
  return task.frame.args.subarray(startOf(task.frame.ends, task.index), endOf(task.frame.ends, task.index));
}

/** The task as an item for a new batch. */
export function toTaskItem(task: HeldTask): TaskItem & { readonly task: HeldTask } {
  const { frame, index } = task;
  return {
    key: task.key,
    codec: byteOf(frame.codecs, index),
    attempt: task.attempt,
    fence: task.fence,
    seals: frame.seals,
    sealAt: SEAL_BYTES * index,
    options: task.whole
      ? { ...frame.opts?.[index], whole: { nodes: [...task.whole.hosts] } }
      : frame.opts?.[index],
    source: frame.args,
    start: startOf(frame.ends, index),
    end: endOf(frame.ends, index),
    task,
  };
}

/** Result `index` of a frame as an item for a new batch, under the given attempt and lease. */
export function toResultItem(
  frame: ResultsFrame,
  index: number,
  identity: { readonly key: IdKey; readonly attempt: number; readonly fence: number },
): ResultItem {
  return {
    key: identity.key,
    attempt: identity.attempt,
    // An agent of an earlier version kept no fence of the task; the result may have one all the same.
    fence: identity.fence === 0 ? fenceOf(frame.fences, index) : identity.fence,
    seals: frame.seals,
    sealAt: SEAL_BYTES * index,
    codec: byteOf(frame.codecs, index),
    state: byteOf(frame.states, index),
    reason: byteOf(frame.reasons, index),
    queueUs: durationUsOf(frame.queueUs, index),
    runUs: durationUsOf(frame.runUs, index),
    cpuUs: durationUsOf(frame.cpuUs, index),
    peakKb: u32Of(frame.peakKb, index),
    detail: frame.detail?.[index],
    source: frame.data,
    start: startOf(frame.ends, index),
    end: endOf(frame.ends, index),
  };
}

const NO_BYTES = Buffer.alloc(0);

/** A result that the agent itself gives: no data, a state and a reason. */
export function ownResult(
  task: HeldTask,
  outcome: {
    readonly state: number;
    readonly reason: number;
    readonly error?: { readonly type: string; readonly message: string };
    /** Of what is stopped: whether nothing of it is left. */
    readonly confirmed?: boolean | undefined;
  },
  nowMs: number,
): ResultItem {
  return {
    key: task.key,
    attempt: task.attempt,
    fence: task.fence,
    seals: undefined,
    sealAt: 0,
    codec: 1,
    state: outcome.state,
    reason: outcome.reason,
    queueUs: Math.max(0, Math.round((nowMs - task.queuedAtMs) * 1000)),
    runUs: 0,
    cpuUs: 0,
    peakKb: 0,
    detail: ownDetail(outcome),
    source: NO_BYTES,
    start: 0,
    end: 0,
  };
}

function ownDetail(outcome: Parameters<typeof ownResult>[1]): OutcomeDetail | undefined {
  const { error, confirmed } = outcome;
  if (error === undefined && confirmed === undefined) return undefined;
  return { ...(error ? { error: { ...error } } : {}), ...(confirmed === undefined ? {} : { confirmed }) };
}
