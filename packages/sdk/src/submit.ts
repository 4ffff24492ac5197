/**
 * From a call to a task on the link: looks up what it names, uploads what is too large, and hands over. What is
 * known already goes straight through in the same turn; the rest is prepared aside, and a failure there is that
 * task's end.
 */
import {
  CODEC_REFERENCE,
  encodeReference,
  FarloomError,
  limits,
  type SignKey,
  TaskIdAllocator,
  type TaskOptions,
} from "@farloom/protocol";
import { type ArgumentCodec, ArgumentEncoder } from "./codec.js";
import { remoteError } from "./errors.js";
import type { KeepAlive } from "./link/keep-alive.js";
import type { Lane } from "./link/lanes.js";
import type { ClientLink } from "./link/link.js";
import type { Payloads } from "./payloads.js";
import { Sealer } from "./seal.js";
import { attemptsOf, signCall } from "./signing.js";
import { type SparseOptions, sparseOptions, Task, type TaskListener } from "./task.js";

/** Something with an id that may have to be looked up first. */
export interface Lookup {
  /** Its id, once it is known. */
  readonly known: Buffer | undefined;
  /** Looks it up; concurrent calls share one request. */
  resolve(): Promise<Buffer>;
  /** Of a function: how often a call of it may be begun, as far as it is known. */
  readonly attempts?: number | undefined;
}

/** How a function is called. Times in milliseconds; absent: as the function's definition says. */
export interface CallOptions {
  /** Name or id of the endpoint. Default: the client's. */
  readonly endpoint?: string;
  /** Keyword arguments. */
  readonly kwargs?: Readonly<Record<string, unknown>>;
  /** Run time limit of one attempt. */
  readonly timeoutMs?: number;
  /** How long it may wait before it starts. */
  readonly queueTimeoutMs?: number;
  /** How long it may live at all, from its submission to its end. */
  readonly deadlineMs?: number;
  /** Not before this much time has passed. */
  readonly delayMs?: number;
  readonly retries?: number;
  readonly backoffMs?: number;
  readonly mode?: "at_most_once" | "at_least_once";
  /** Environment variables of the call. */
  readonly env?: Readonly<Record<string, string>>;
  /** Working directory on the endpoint. */
  readonly cwd?: string;
  /** The function may submit tasks itself, by a token of its task's own (Python: `farloom.Executor()` within it). */
  readonly nested?: boolean;
  /** Secrets of yours that somebody else's function may have; your own function is given those that it names. */
  readonly secrets?: readonly string[];
  /** Id of a task group (UUID). Default: one group for the client's lifetime, or a new one for each `map`. */
  readonly group?: string;
  readonly codec?: ArgumentCodec;
  /** Aborting it cancels the task. */
  readonly signal?: AbortSignal | undefined;
}

/** A call with everything but its arguments settled: made once for all tasks of a `map`. */
export interface PreparedCall {
  readonly fn: Lookup;
  readonly endpoint: Lookup;
  readonly group: Buffer;
  readonly kwargs: Readonly<Record<string, unknown>>;
  readonly codec: ArgumentCodec;
  readonly sparse: SparseOptions;
  /** Where its tasks queue, once the endpoint's id is known. */
  lane: Lane | undefined;
}

/** Tasks in preparation at once, and the bytes of their arguments, before `map` waits. */
const MAX_PREPARING = 1024;
const MAX_PREPARING_BYTES = 256 * 1024 * 1024;
/** Tasks and bytes that wait for credit before `map` waits: one full frame ahead. */
const LOOK_AHEAD_TASKS = limits.MAX_BATCH_ITEMS;
const LOOK_AHEAD_BYTES = 8 * limits.TARGET_BATCH_BYTES;

const NOTHING_ENCODED = { source: Buffer.alloc(0), start: 0, end: 0, codec: 1 };
const NO_KWARGS = Object.freeze({});

export interface SubmitterDeps {
  readonly link: ClientLink;
  readonly payloads: Payloads;
  readonly keepAlive: KeepAlive;
  /** Signs every call. */
  readonly signKey: SignKey | undefined;
}

export class Submitter {
  readonly #deps: SubmitterDeps;
  readonly #ids = new TaskIdAllocator();
  readonly #encoder = new ArgumentEncoder();
  readonly #sealer = new Sealer();
  #preparing = 0;
  #preparingBytes = 0;

  constructor(deps: SubmitterDeps) {
    this.#deps = deps;
  }

  /** Whether someone who feeds tasks by room may submit another one now. */
  get hasRoom(): boolean {
    const { link } = this.#deps;
    return (
      link.waitingTasks < LOOK_AHEAD_TASKS &&
      link.waitingBytes < LOOK_AHEAD_BYTES &&
      this.#preparing < MAX_PREPARING &&
      this.#preparingBytes < MAX_PREPARING_BYTES
    );
  }

  prepare(
    fn: Lookup,
    endpoint: Lookup,
    group: Buffer,
    options: CallOptions & { codec: ArgumentCodec },
  ): PreparedCall {
    const {
      timeoutMs,
      queueTimeoutMs,
      deadlineMs,
      delayMs,
      retries,
      backoffMs,
      mode,
      env,
      cwd,
      nested,
      secrets,
    } = options;
    const sparse = sparseOptions({
      timeoutMs,
      queueTimeoutMs,
      deadlineMs,
      delayMs,
      retries,
      backoffMs,
      mode,
      env,
      cwd,
      nested,
      secrets,
    } as TaskOptions);
    return {
      fn,
      endpoint,
      group,
      kwargs: options.kwargs ?? NO_KWARGS,
      codec: options.codec,
      sparse,
      lane: undefined,
    };
  }

  /** The task of this call. @throws VALUE_UNENCODABLE, OVERLOADED */
  submit(call: PreparedCall, args: readonly unknown[], index: number, listener?: TaskListener): Task {
    const { link, keepAlive } = this.#deps;
    link.checkRoom();
    if (!Array.isArray(args)) {
      throw new FarloomError("VALUE_UNENCODABLE", {
        path: "args",
        codec: call.codec,
        detail: "the arguments of one call are an array, e.g. [[1, 2]] for one list",
      });
    }
    const encoded = this.#encoder.encode(args, call.kwargs, call.codec);
    const task = new Task(this.#ids.next(), encoded, call.sparse, index);
    task.listener = listener;
    if (task.sizeBytes <= limits.MAX_INLINE_BYTES) this.#sealer.seal(task);
    keepAlive.hold();
    const digest = call.fn.known;
    const endpoint = call.endpoint.known;
    if (digest !== undefined && endpoint !== undefined && task.sizeBytes <= limits.MAX_INLINE_BYTES) {
      task.digest = digest;
      if (this.#deps.signKey) this.#sign(task, call, endpoint);
      link.enqueue(task, this.#laneOf(call, endpoint));
    } else void this.#prepareAside(task, call);
    return task;
  }

  /** As `submit`, but what cannot be encoded becomes a task that has failed: one bad item ends no `map`. */
  submitOrFail(call: PreparedCall, args: readonly unknown[], index: number, listener: TaskListener): Task {
    try {
      return this.submit(call, args, index, listener);
    } catch (error) {
      if (!(error instanceof FarloomError) || error.code !== "VALUE_UNENCODABLE") throw error;
      const task = new Task(this.#ids.next(), NOTHING_ENCODED, call.sparse, index);
      task.listener = listener;
      task.settleWith(error);
      return task;
    }
  }

  /** Ends it where nothing was sent; asks the service otherwise. */
  cancel(task: Task, cause: unknown): void {
    if (task.isSettled) return;
    task.cancelCause ??= cause;
    task.cancelRequested = true;
    if (task.phase === "preparing") task.settleCancelled();
    else this.#deps.link.cancel(task);
  }

  #laneOf(call: PreparedCall, endpoint: Buffer): Lane {
    call.lane ??= this.#deps.link.laneOf(endpoint, call.group);
    return call.lane;
  }

  async #prepareAside(task: Task, call: PreparedCall): Promise<void> {
    const { link, payloads, keepAlive } = this.#deps;
    const sizeBytes = task.sizeBytes;
    this.#preparing++;
    this.#preparingBytes += sizeBytes;
    let error: unknown;
    let endpoint: Buffer | undefined;
    try {
      const upload =
        sizeBytes > limits.MAX_INLINE_BYTES
          ? payloads.put(task.source.subarray(task.start, task.end))
          : undefined;
      const [digest, id, stored] = await Promise.all([
        call.fn.known ?? call.fn.resolve(),
        call.endpoint.known ?? call.endpoint.resolve(),
        upload,
      ]);
      task.digest = digest;
      endpoint = id;
      if (stored !== undefined && !task.isSettled) {
        task.source = encodeReference(stored, sizeBytes);
        task.start = 0;
        task.end = task.source.length;
        task.codec |= CODEC_REFERENCE;
        this.#sealer.seal(task);
      }
    } catch (caught) {
      error = caught;
    }
    this.#preparing--;
    this.#preparingBytes -= sizeBytes;
    if (task.isSettled || endpoint === undefined) {
      keepAlive.release();
      if (!task.isSettled) task.settleWith(asFarloomError(error));
    } else {
      if (this.#deps.signKey) this.#sign(task, call, endpoint);
      link.enqueue(task, this.#laneOf(call, endpoint));
    }
  }

  /** The options are shared by all tasks of a call, the signature is its own. */
  #sign(task: Task, { fn }: PreparedCall, endpoint: Buffer): void {
    const { mode, retries } = task.options ?? {};
    const attempts =
      mode === undefined && retries === undefined ? (fn.attempts ?? 1) : attemptsOf({ mode, retries });
    const invocation = signCall(task, endpoint, attempts, this.#deps.signKey!);
    task.options = { ...task.options, invocation };
    task.elements += task.elements === 0 ? 4 : 2;
  }
}

function asFarloomError(error: unknown): FarloomError {
  if (error instanceof FarloomError) return error;
  return remoteError("INTERNAL", error instanceof Error ? error.message : String(error));
}
