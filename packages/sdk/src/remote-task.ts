/** A task that another program, or an earlier run, submitted: the same verbs as a handle, over REST long polls. */
import {
  FarloomError,
  isTerminal,
  type OutcomeDetail,
  type Reason,
  type TerminalState,
  uuidToKey,
} from "@farloom/protocol";
import { taskError } from "./errors.js";
import { decode } from "./media.js";
import { type OutputChunk, type OutputOptions, outputOf } from "./output.js";
import type { TaskInfo, TasksApi, TaskWaiting } from "./resources.js";
import { sealedResult } from "./seal.js";

/** One long poll; a proxy in between commonly allows 60 s. */
const POLL_SECONDS = 30;

export class RemoteTask<R = unknown> {
  readonly id: string;
  readonly #tasks: TasksApi;

  /** Made by `task`; not by hand. */
  constructor(id: string, tasks: TasksApi) {
    this.id = id;
    this.#tasks = tasks;
  }

  status(options: { readonly signal?: AbortSignal } = {}): Promise<TaskInfo> {
    return this.#tasks.get(this.id, options);
  }

  /** Why it is not running yet; undefined where it runs, or has ended. */
  async why(options: { readonly signal?: AbortSignal } = {}): Promise<TaskWaiting | undefined> {
    return (await this.#tasks.get(this.id, options)).waiting;
  }

  /** What it writes, piece by piece as it comes, until it has ended. */
  output(options: OutputOptions = {}): AsyncGenerator<OutputChunk> {
    return outputOf(this.#tasks, this.id, options);
  }

  /** Waits for its end, however it comes. */
  async ended(options: { readonly signal?: AbortSignal } = {}): Promise<TaskInfo> {
    for (;;) {
      const info = await this.#tasks.get(this.id, { ...options, waitSeconds: POLL_SECONDS });
      if (isTerminal(info.state)) return info;
    }
  }

  /** Its result. Rejects with a TaskError where it did not succeed. */
  async result(options: { readonly signal?: AbortSignal } = {}): Promise<R> {
    const info = await this.ended(options);
    if (info.state !== "SUCCEEDED") throw errorOf(info);
    const { body, contentType } = await sealedResult(this.#tasks, uuidToKey(this.id)!, options);
    return decode(body, contentType, this.id) as R;
  }

  /** Asks for its cancellation and waits for its end: true where it was cancelled. */
  async cancel(options: { readonly signal?: AbortSignal } = {}): Promise<boolean> {
    try {
      await this.#tasks.cancel(this.id, options);
    } catch (error) {
      if (!(error instanceof FarloomError) || error.code !== "NOT_CANCELLABLE") throw error;
    }
    return (await this.ended(options)).state === "CANCELLED";
  }
}

/** The error that a finished task's record tells of. */
export function errorOf(info: TaskInfo): Error {
  const detail: OutcomeDetail = {
    ...(info.error && { error: { ...info.error } }),
    ...(info.stdout !== undefined && { stdout: info.stdout }),
    ...(info.stderr !== undefined && { stderr: info.stderr }),
    ...(info.exitCode !== undefined && { exitCode: info.exitCode }),
  };
  return taskError({
    taskId: info.id,
    state: info.state as TerminalState,
    reason: (info.reason ?? "none") as Reason,
    detail,
  });
}
