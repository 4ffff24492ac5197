/**
 * An open task in the memory of its endpoint's owner: what the row says, and what only the owner knows (where it
 * is in its life, whether its INSERT has committed). Its arguments are a slice of the message they came in.
 */
import {
  type IdKey,
  type Mode,
  type OpenState,
  type Slice,
  type Step,
  step,
  type TaskEvent,
  type TaskItem,
  type TaskOptions,
} from "@farloom/protocol";
import type { FunctionRecord } from "../functions/registry.js";
import type { NewOutcome, NewTask } from "../store/rows.js";

/** Attempts after losses that a function in mode at_least_once gets at the least. */
const LOSS_ATTEMPTS = 3;

export interface TaskEntryInit extends Slice {
  readonly key: IdKey;
  readonly ownerKey: IdKey;
  readonly endpointKey: IdKey;
  readonly groupKey: IdKey;
  readonly fn: FunctionRecord;
  readonly codec: number;
  readonly attempt: number;
  readonly options: TaskOptions | undefined;
}

export class TaskEntry implements NewTask, TaskItem {
  readonly key: IdKey;
  readonly ownerKey: IdKey;
  readonly endpointKey: IdKey;
  readonly groupKey: IdKey;
  readonly fn: FunctionRecord;
  readonly source: Buffer;
  readonly start: number;
  readonly end: number;
  readonly codec: number;
  readonly options: TaskOptions | undefined;
  attempt: number;
  state: OpenState = "QUEUED";
  /** A lower bound of the row's seq; 0 until its INSERT has committed. */
  seq = 0;
  committed = false;
  cancelRequested = false;
  /** Its terminal state is committed, or it never will be: whoever still refers to it drops it. */
  ended = false;
  /** A result that came before the INSERT had committed, and waits for it. */
  early: NewOutcome | undefined = undefined;

  constructor(init: TaskEntryInit) {
    this.key = init.key;
    this.ownerKey = init.ownerKey;
    this.endpointKey = init.endpointKey;
    this.groupKey = init.groupKey;
    this.fn = init.fn;
    this.source = init.source;
    this.start = init.start;
    this.end = init.end;
    this.codec = init.codec;
    this.attempt = init.attempt;
    this.options = init.options;
  }

  get functionKey(): number {
    return this.fn.key;
  }

  get sizeBytes(): number {
    return this.end - this.start;
  }

  get mode(): Mode {
    return this.options?.mode ?? this.fn.definition.mode;
  }

  /** One step of the task machine, with what is known here. */
  step(event: TaskEvent): Step {
    const retries = this.options?.retries ?? this.fn.definition.retries;
    const before = this.attempt - 1;
    return step(
      {
        state: this.state,
        attempt: this.attempt,
        mode: this.mode,
        retriesLeft: Math.max(0, retries - before),
        lossesLeft: Math.max(0, Math.max(LOSS_ATTEMPTS, retries) - before),
        cancelRequested: this.cancelRequested,
      },
      event,
    );
  }

  /** Wait before the next attempt: doubled each time, jittered, at most ten minutes. */
  backoffMs(): number {
    const first = this.options?.backoffMs ?? this.fn.definition.backoffMs;
    return Math.min(600_000, Math.round(first * 2 ** (this.attempt - 1) * (0.75 + Math.random() / 2)));
  }
}
