/** What a node manager knows of a function and of a task in its hands. */
import type { FunctionDefinition, IdKey, ResultItem, TaskItem, TaskOptions } from "@farloom/protocol";
import {
  type OutcomeDetail,
  REASONS,
  type Reason,
  TERMINAL_STATES,
  type TerminalState,
} from "@farloom/protocol";
import type { Masks } from "../secrets/masks.js";

/** A function as the agent defined it, and how long its calls take. */
export interface FunctionRecord {
  readonly digest: Buffer;
  readonly digestKey: string;
  readonly definition: FunctionDefinition;
  /** The lane's name, e.g. `python:default`. */
  readonly laneName: string;
  /** Why this node can never run it; undefined where it can. */
  readonly impossible?: string | undefined;
  /** Microseconds that one call occupies a worker; undefined until one has been seen. */
  costUs: number | undefined;
}

/** A task in the node manager's hands, queued or held by a worker. */
export interface NodeTask extends TaskItem {
  /** Undefined for a task that a re-adopted worker holds: its definition stayed with the old agent. */
  readonly fn: FunctionRecord | undefined;
  /** Where workers are boxed: the lane of its function and its submitter; undefined: its function's. */
  readonly boxedLane: string | undefined;
  readonly arrivedMs: number;
  /** Its place in the order in which tasks came; what was taken back from a worker goes there again. */
  place: number;
  /** When it was last sent to a worker. */
  sentMs: number;
  /** Run time limit in milliseconds; 0 for none. */
  readonly limitMs: number;
  /** When its whole life is over, on the monotonic clock in milliseconds; undefined where it has no deadline. */
  readonly deadlineAtMs: number | undefined;
  /** What the worker is sent in its `opts`, if anything. */
  options: TaskOptions | undefined;
  /** Set where the task left the queue without running; the queue skips it. */
  gone: boolean;
  /** Why it is to end before its time, where somebody asked for that; `unbegun`: only if it has not begun. */
  stopFor: "cancelled_by_user" | "deadline" | "unbegun" | undefined;
  /** When it last told how far it is (monotonic milliseconds). */
  progressMs?: number;
  /** Its token was asked for, and the answer has not come. */
  asked?: boolean;
  /** What it was given and must not be told (P40). */
  masks?: Masks;
  /** Whether `progress started` was told. */
  announced: boolean;
  /** The share of its worker's time that was planned for it. */
  plannedUs: number;
}

const EMPTY = Buffer.alloc(0);

/** The lane that the task waits in. */
export function laneOf(task: NodeTask): string {
  return task.boxedLane ?? task.fn!.laneName;
}

/** A task that only its id is known of. */
export function foreignTask(key: IdKey, limitMs: number): NodeTask {
  return {
    key,
    fn: undefined,
    boxedLane: undefined,
    source: EMPTY,
    start: 0,
    end: 0,
    codec: 1,
    attempt: 1,
    fence: 0,
    seals: undefined,
    sealAt: 0,
    options: undefined,
    deadlineAtMs: undefined,
    arrivedMs: performance.now(),
    place: 0,
    sentMs: performance.now(),
    limitMs,
    gone: false,
    stopFor: undefined,
    announced: false,
    plannedUs: 0,
  };
}

/** The end of a task that was to be stopped and had not begun: nothing of it is anywhere. */
export function stoppedUnbegun(task: NodeTask): ResultItem {
  const detail: OutcomeDetail = { confirmed: true };
  return task.stopFor === "deadline"
    ? outcome(task, "TIMED_OUT", "deadline", detail)
    : outcome(task, "CANCELLED", "cancelled_by_user", detail);
}

/** An outcome that the node manager itself gives. */
export function outcome(
  task: NodeTask,
  state: TerminalState,
  reason: Reason,
  detail: OutcomeDetail | undefined,
  runUs = 0,
): ResultItem {
  const waitedUs = (performance.now() - task.arrivedMs) * 1000 - runUs;
  return {
    key: task.key,
    source: EMPTY,
    start: 0,
    end: 0,
    codec: 1,
    attempt: task.attempt,
    fence: task.fence,
    state: TERMINAL_STATES[state],
    reason: REASONS[reason],
    queueUs: Math.max(0, Math.round(waitedUs)),
    runUs: Math.max(0, Math.round(runUs)),
    cpuUs: 0,
    peakKb: 0,
    detail,
  };
}
