/**
 * The client's record of one task, from submission to its end: what the link sends, keeps in custody and
 * settles. One object a task; promises are made only once someone asks.
 *
 *   preparing ─► waiting ─► sent ─► durable ─► settled
 *                   ▲         │
 *                   └ delayed ┘
 *
 * preparing  its function or endpoint is being looked up, or its arguments uploaded; not with the link yet
 * waiting    in its lane, until credit and socket allow; also again after a cut
 * delayed    the service refused it for a reason that passes; its wait has not ended
 * sent       in a frame of this session, not yet covered by a durable mark (P11)
 * durable    the service has committed it; its arguments are let go
 * settled    it has its one end: an outcome, or an error of this client's
 */
import {
  byteOf,
  CODEC_REFERENCE,
  decodeReference,
  durationUsOf,
  endOf,
  type FarloomError,
  type IdKey,
  keyToUuid,
  type OutcomeDetail,
  REASONS,
  type ResultsFrame,
  reasonName,
  SEAL_BYTES,
  sealHolds,
  startOf,
  stateName,
  type TaskItem,
  type TaskOptions,
  TERMINAL_STATES,
  type TerminalState,
  u32Of,
} from "@farloom/protocol";
import { decodeResult, type Encoded } from "./codec.js";
import { TaskCancelledError, taskError } from "./errors.js";
import type { Lane } from "./link/lanes.js";

export type TaskPhase = "preparing" | "waiting" | "delayed" | "sent" | "durable" | "settled";

/** Who wants to know that a task has ended. */
export interface TaskListener {
  settled(task: Task): void;
}

/** How far a running function says that it is (`farloom.progress`), and of how much where it knows. */
export interface TaskProgress {
  readonly done: number;
  readonly total?: number;
}

/** A result that lies in a payload file. */
export interface ResultReference {
  readonly digest: Buffer;
  readonly sizeBytes: number;
  readonly codec: number;
}

/** Options of a task, counted once for all tasks of a call. */
export interface SparseOptions {
  readonly options: TaskOptions | undefined;
  readonly elements: number;
}

const NO_OPTIONS: SparseOptions = Object.freeze({ options: undefined, elements: 0 });

/** The options that are set, or none at all. */
export function sparseOptions(options: TaskOptions): SparseOptions {
  let any = false;
  for (const name in options) any ||= options[name as keyof TaskOptions] !== undefined;
  if (!any) return NO_OPTIONS;
  const set = Object.entries(options).filter(([, value]) => value !== undefined);
  const elements = 2 + 2 * set.length + 2 * Object.keys(options.env ?? {}).length;
  return { options: Object.fromEntries(set), elements };
}

const NO_BYTES = Buffer.alloc(0);

export class Task implements TaskItem {
  readonly key: IdKey;
  source: Buffer;
  start: number;
  end: number;
  codec: number;
  /** Its seal, once its arguments are as they travel. */
  seals: Buffer | undefined = undefined;
  sealAt = 0;
  readonly attempt = 1;
  options: TaskOptions | undefined;
  /** The function; set at the latest when it leaves `preparing`. */
  digest: Buffer | undefined = undefined;
  lane: Lane | undefined = undefined;
  phase: TaskPhase = "preparing";
  /** Where it was last sent in this session's stream; -1 where that was refused. */
  position = 0;
  sends = 0;
  cancelRequested = false;
  cancelCause: unknown = undefined;
  started = false;
  /** What it said last. */
  progress: TaskProgress | undefined = undefined;
  /** Place in its group's input. */
  readonly index: number;
  /** Map entries that its options take in a frame (P2 bounds them). */
  elements: number;
  listener: TaskListener | undefined = undefined;

  state = 0;
  reason = 0;
  ranAttempt = 0;
  runUs = 0;
  value: unknown = undefined;
  reference: ResultReference | undefined = undefined;
  /** The seal that its result did not bear when it came: it is fetched anew. */
  unmet: Buffer | undefined = undefined;
  /** The fetch of its result, while it lasts. */
  loading: Promise<unknown> | undefined = undefined;
  detail: OutcomeDetail | undefined = undefined;
  /** What went wrong on this side: refused for good, unreadable, closed. */
  failure: FarloomError | undefined = undefined;
  /** Whoever waits for nothing but its custody. */
  onDurable: (() => void) | undefined = undefined;
  #waiters: (() => void)[] | undefined = undefined;
  #progressListeners: Set<(progress: TaskProgress) => void> | undefined = undefined;

  constructor(key: IdKey, encoded: Encoded, sparse: SparseOptions, index: number) {
    this.key = key;
    this.source = encoded.source;
    this.start = encoded.start;
    this.end = encoded.end;
    this.codec = encoded.codec;
    this.options = sparse.options;
    this.elements = sparse.elements;
    this.index = index;
  }

  get id(): string {
    return keyToUuid(this.key);
  }

  get isSettled(): boolean {
    return this.phase === "settled";
  }

  get sizeBytes(): number {
    return this.end - this.start;
  }

  get endState(): TerminalState | undefined {
    return stateName(this.state);
  }

  /** Its custody has passed on: the bytes are not needed again. */
  dropArguments(): void {
    this.source = NO_BYTES;
    this.start = this.end = 0;
    this.seals = undefined;
  }

  /** Result `i` of the frame is its end. */
  settleFrom(frame: ResultsFrame, i: number): void {
    this.state = byteOf(frame.states, i);
    this.reason = byteOf(frame.reasons, i);
    this.ranAttempt = u32Of(frame.attempts, i, 1);
    this.runUs = durationUsOf(frame.runUs, i);
    this.detail = frame.detail?.[i];
    if (this.state === TERMINAL_STATES.SUCCEEDED) {
      const codec = byteOf(frame.codecs, i);
      const start = startOf(frame.ends, i);
      const end = endOf(frame.ends, i);
      const sealAt = SEAL_BYTES * i;
      if (!sealHolds(frame.seals, sealAt, this.key, frame.data, start, end)) {
        this.unmet = Buffer.from(frame.seals!.subarray(sealAt, sealAt + SEAL_BYTES));
      } else if (codec & CODEC_REFERENCE) {
        const reference = decodeReference(Buffer.from(frame.data.subarray(start, end)));
        if (reference) this.reference = { ...reference, codec: codec & ~CODEC_REFERENCE };
      } else {
        try {
          this.value = decodeResult(frame.data, start, end, codec, () => this.id);
        } catch (error) {
          this.failure = error as FarloomError;
        }
      }
    }
    this.#settle();
  }

  /** It ends here, without the service: refused for good, or given up. */
  settleWith(failure: FarloomError): void {
    this.failure = failure;
    this.#settle();
  }

  /** It was cancelled before anything was sent. */
  settleCancelled(): void {
    this.state = TERMINAL_STATES.CANCELLED;
    this.reason = REASONS.cancelled_by_user;
    this.#settle();
  }

  #settle(): void {
    this.phase = "settled";
    this.dropArguments();
    this.lane = undefined;
    this.listener?.settled(this);
    this.#progressListeners = undefined;
    const waiters = this.#waiters;
    this.#waiters = undefined;
    if (waiters) for (const wake of waiters) wake();
  }

  /** It said how far it is. */
  progressed(progress: TaskProgress): void {
    this.started = true;
    this.progress = progress;
    // In a turn of their own: what a listener throws is the program's, and not the link's.
    for (const tell of this.#progressListeners ?? []) queueMicrotask(() => tell(progress));
  }

  onProgress(tell: (progress: TaskProgress) => void): () => void {
    this.#progressListeners ??= new Set();
    this.#progressListeners.add(tell);
    return () => this.#progressListeners?.delete(tell);
  }

  /** Calls back once at its end; at once where that has come. */
  onSettled(wake: () => void): void {
    if (this.isSettled) wake();
    else if (this.#waiters) this.#waiters.push(wake);
    else this.#waiters = [wake];
  }

  /** Resolves when it is durable, or has ended. */
  whenDurable(): Promise<void> {
    if (this.phase === "durable" || this.isSettled) return Promise.resolve();
    return new Promise((resolve) => {
      this.onSettled(resolve);
      const others = this.onDurable;
      this.onDurable = () => {
        others?.();
        resolve();
      };
    });
  }

  /** The error that its end is, or undefined where it succeeded. Made anew each time, at the place that asks. */
  get error(): FarloomError | undefined {
    if (this.failure) return this.failure;
    if (this.state === TERMINAL_STATES.SUCCEEDED || this.state === 0) return undefined;
    const end = {
      taskId: this.id,
      state: this.endState!,
      reason: reasonName(this.reason),
      detail: this.detail,
    };
    return this.state === TERMINAL_STATES.CANCELLED
      ? new TaskCancelledError(end, this.cancelCause)
      : taskError(end);
  }
}
