/**
 * An open task in the memory of its endpoint's owner: what the row says, and what only the owner knows (where it
 * is in its life, whether its INSERT has committed). Its arguments are a slice of the message they came in.
 */
import {
  type IdKey,
  type Mode,
  type OpenState,
  type SealPlace,
  type Slice,
  type Step,
  step,
  type TaskEvent,
  type TaskItem,
  type TaskOptions,
} from "@farloom/protocol";
import type { FunctionRecord } from "../functions/registry.js";
import type { NewOutcome, NewTask } from "../store/rows.js";

/** How far a function says that it is, and of how much where it knows. */
export interface TaskProgress {
  readonly done: number;
  readonly total?: number;
}

export interface TaskEntryInit extends Slice, SealPlace {
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
  /** The caller's seal over the arguments. */
  readonly seals: Buffer | undefined;
  readonly sealAt: number;
  readonly codec: number;
  readonly options: TaskOptions | undefined;
  attempt: number;
  /** Of its lease, set when it is sent; 0 where it has not been sent in this session. */
  fence = 0;
  /** Of the attempts before this one, how many a worker's death ended, and how many the loss of an agent. */
  losses = 0;
  agentLosses = 0;
  state: OpenState = "QUEUED";
  /** It is in its queue's ring. What is QUEUED and held but not in the ring is not sent: its end is being written. */
  inRing = false;
  /** A lower bound of the row's seq; 0 until its INSERT has committed. */
  seq = 0;
  committed = false;
  cancelRequested = false;
  /** Its submitter may not run it there any more: it is not sent, but ended. */
  refused = false;
  /** The agent's journal has it. */
  accepted = false;
  /** What this attempt said last of how far it is. In memory alone. */
  progress: TaskProgress | undefined = undefined;
  /** The older attempt that the agent still has: this one waits until that one has been stopped. 0: none. */
  awaits = 0;
  /** When its time in the queue, and its life, are over, on the monotonic clock of this process; undefined: never. */
  queueEndsMs: number | undefined;
  lifeEndsMs: number | undefined;
  /** Its terminal state is committed, or it never will be: whoever still refers to it drops it. */
  ended = false;
  /** A first submission of it may still be on its way: it was submitted again, or read from its row (ended-lately.ts). */
  mayComeLate = false;
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
    this.seals = init.seals;
    this.sealAt = init.sealAt ?? 0;
    this.codec = init.codec;
    this.attempt = init.attempt;
    this.options = init.options;
    if (init.options !== undefined) {
      const { delayMs = 0, queueTimeoutMs, deadlineMs } = init.options;
      this.limit(
        queueTimeoutMs ? delayMs + queueTimeoutMs : undefined,
        deadlineMs === 0 ? undefined : deadlineMs,
      );
    }
  }

  /** Sets what is left of its time in the queue and of its life, in milliseconds from now. */
  limit(queueLeftMs: number | undefined, lifeLeftMs: number | undefined): void {
    const nowMs = performance.now();
    this.queueEndsMs = queueLeftMs === undefined ? undefined : nowMs + queueLeftMs;
    this.lifeEndsMs = lifeLeftMs === undefined ? undefined : nowMs + lifeLeftMs;
  }

  /** Which of its limits is over while it waits here. */
  overdue(nowMs: number): "deadline" | "queue_time_limit" | undefined {
    if (this.lifeEndsMs !== undefined && this.lifeEndsMs <= nowMs) return "deadline";
    if (this.queueEndsMs !== undefined && this.queueEndsMs <= nowMs) return "queue_time_limit";
    return undefined;
  }

  get isLimited(): boolean {
    return this.queueEndsMs !== undefined || this.lifeEndsMs !== undefined;
  }

  /** As it goes to the agent: with what remains of its limits. */
  itemNow(nowMs: number): TaskItem & { readonly fn: FunctionRecord } {
    const { key, source, start, end, seals, sealAt, codec, attempt, fence, fn } = this;
    const options = { ...this.options };
    if (this.queueEndsMs !== undefined)
      options.queueTimeoutMs = Math.max(1, Math.round(this.queueEndsMs - nowMs));
    if (this.lifeEndsMs !== undefined) options.deadlineMs = Math.max(1, Math.round(this.lifeEndsMs - nowMs));
    return { key, source, start, end, seals, sealAt, codec, attempt, fence, fn, options };
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
    const failures = this.attempt - 1 - this.losses - this.agentLosses;
    return step(
      {
        state: this.state,
        attempt: this.attempt,
        mode: this.mode,
        retriesLeft: Math.max(0, retries - failures),
        losses: this.losses,
        agentLosses: this.agentLosses,
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
