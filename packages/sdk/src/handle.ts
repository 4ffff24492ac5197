/**
 * What a caller holds of a submitted task. It is no promise itself: a handle may be returned from an async function
 * without anyone waiting. Its id is known at once, before anything has been sent.
 */
import { FarloomError, type Reason, reasonName, type TaskState, TERMINAL_STATES } from "@farloom/protocol";
import { decodeResult } from "./codec.js";
import type { KeepAlive } from "./link/keep-alive.js";
import { decode } from "./media.js";
import { type OutputChunk, type OutputOptions, outputOf } from "./output.js";
import type { Payloads } from "./payloads.js";
import type { TaskInfo, TasksApi, TaskWaiting } from "./resources.js";
import { sealedResult } from "./seal.js";
import type { Submitter } from "./submit.js";
import type { Task, TaskProgress } from "./task.js";

export interface HandleDeps {
  readonly submitter: Submitter;
  readonly payloads: Payloads;
  readonly keepAlive: KeepAlive;
  readonly tasks: TasksApi;
}

/** How a task ended, as far as the link told. */
export interface TaskOutcome {
  readonly state: TaskState;
  readonly reason: Reason;
  readonly attempt: number;
  /** Microseconds of run time on the worker. */
  readonly runUs: number;
  readonly stdout: string | undefined;
  readonly stderr: string | undefined;
}

export class TaskHandle<R = unknown> {
  readonly #task: Task;
  readonly #deps: HandleDeps;
  /** Id of its task group. */
  readonly group: string;

  /** Made by `submit` and `map`; not by hand. */
  constructor(task: Task, group: string, deps: HandleDeps) {
    this.#task = task;
    this.#deps = deps;
    this.group = group;
  }

  get id(): string {
    return this.#task.id;
  }

  /** Place in the input of its `map`; 0 for a single call. */
  get index(): number {
    return this.#task.index;
  }

  /** As far as this client knows without asking. Tasks shorter than about a second are never seen STARTED. */
  get state(): TaskState {
    const end = this.#task.endState;
    if (end !== undefined) return end;
    if (this.#task.isSettled) return "FAILED";
    return this.#task.started ? "STARTED" : "QUEUED";
  }

  /** What the function said last of how far it is (`farloom.progress`), as far as this client was told. */
  get progress(): TaskProgress | undefined {
    return this.#task.progress;
  }

  /** Hears how far the function says that it is, a few times in a second at most. Returns how to stop; its end does too. */
  onProgress(listener: (progress: TaskProgress) => void): () => void {
    return this.#task.onProgress(listener);
  }

  /** How it ended, or undefined while it has not. */
  get outcome(): TaskOutcome | undefined {
    const task = this.#task;
    if (!task.isSettled) return undefined;
    return {
      state: this.state,
      reason: reasonName(task.reason),
      attempt: task.ranAttempt,
      runUs: task.runUs,
      stdout: task.detail?.stdout,
      stderr: task.detail?.stderr,
    };
  }

  /**
   * The function's result. Rejects with a TaskError where the task did not succeed. `signal` ends the waiting, not the task.
   */
  async result(options: { signal?: AbortSignal } = {}): Promise<R> {
    await this.#settled(options.signal);
    return (await resultOf(this.#task, this.#deps)) as R;
  }

  /** Resolves once the service has committed it: from then on it outlives this program. Rejects where it was refused. */
  async durable(): Promise<void> {
    await this.#task.whenDurable();
    if (this.#task.failure) throw this.#task.failure;
  }

  /** The service's record of it. */
  async status(options: { signal?: AbortSignal } = {}): Promise<TaskInfo> {
    const task = this.#task;
    if (task.phase === "durable" || task.endState !== undefined) {
      return await this.#deps.tasks.get(this.id, options);
    }
    return { id: this.id, group: this.group, state: this.state };
  }

  /** Why it is not running yet; undefined where it runs, or has ended. */
  async why(options: { signal?: AbortSignal } = {}): Promise<TaskWaiting | undefined> {
    return (await this.status(options)).waiting;
  }

  /** What it writes, piece by piece as it comes, until it has ended. */
  async *output(options: OutputOptions = {}): AsyncGenerator<OutputChunk> {
    // Before that, the service does not know it.
    await this.durable();
    yield* outputOf(this.#deps.tasks, this.id, options);
  }

  /**
   * Cancels the task, running or not, and waits for its end: true where it was cancelled, false where it had ended
   * already or ran on to its end.
   */
  async cancel(cause?: unknown): Promise<boolean> {
    this.#deps.submitter.cancel(this.#task, cause);
    await this.#settled(undefined);
    return this.#task.state === TERMINAL_STATES.CANCELLED;
  }

  async #settled(signal: AbortSignal | undefined): Promise<void> {
    const task = this.#task;
    if (task.isSettled) return;
    signal?.throwIfAborted();
    const { keepAlive } = this.#deps;
    keepAlive.hold();
    try {
      await new Promise<void>((resolve, reject) => {
        if (signal === undefined) return task.onSettled(resolve);
        const onAbort = () => reject(signal.reason);
        signal.addEventListener("abort", onAbort, { once: true });
        task.onSettled(() => {
          signal.removeEventListener("abort", onAbort);
          resolve();
        });
      });
    } finally {
      keepAlive.release();
    }
  }
}

/** Where results come from that did not come over the link, or not whole. */
export type ResultSources = Pick<HandleDeps, "payloads" | "tasks">;

/** A settled task's value, or its error thrown. What is fetched for it is fetched once, for all who ask. */
export function resultOf(task: Task, sources: ResultSources): unknown {
  const error = task.error;
  if (error !== undefined) throw error;
  if (task.reference === undefined && task.unmet === undefined) return task.value;
  task.loading ??= fetchValue(task, sources).finally(() => {
    task.loading = undefined;
  });
  return task.loading;
}

async function fetchValue(task: Task, { payloads, tasks }: ResultSources): Promise<unknown> {
  if (task.unmet !== undefined) {
    const { body, contentType } = await sealedResult(tasks, task.key, { seal: task.unmet });
    task.value = decode(body, contentType, task.id);
    task.unmet = undefined;
    return task.value;
  }
  const { digest, codec } = task.reference!;
  const bytes = await payloads.get(digest);
  if (bytes === undefined) throw new FarloomError("RESULT_CORRUPT", { id: task.id });
  task.value = decodeResult(bytes, 0, bytes.length, codec, () => task.id);
  task.reference = undefined;
  return task.value;
}
