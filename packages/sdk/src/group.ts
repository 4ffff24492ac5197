/**
 * Many calls of one function: takes its input as the fabric takes tasks, and gives results as they come or in order.
 *
 *   G1  Input is read only while there is room: at most a frame's worth waits to be sent beyond the service's credit.
 *   G2  While someone iterates, at most MAX_UNTAKEN results wait to be taken; then no more input is read.
 *   G3  A failure of one task is that item's error. A failure of the client itself (no service, bad key, no such
 *       function or endpoint) ends the input, and the iteration throws it.
 *   G4  With `keepResults: false` each result is handed out once and then let go: for input without end.
 */
import { type FarloomError, keyToUuid } from "@farloom/protocol";
import { TaskError } from "./errors.js";
import { type HandleDeps, resultOf, TaskHandle } from "./handle.js";
import type { ClientLink } from "./link/link.js";
import type { PreparedCall } from "./submit.js";
import type { Task, TaskListener } from "./task.js";

/** Results that wait for a slow consumer. */
const MAX_UNTAKEN = 16_384;
/** Results in payload files that are fetched ahead of the consumer. */
const PREFETCH = 4;

export interface GroupOptions {
  /** How many there will be, for progress; known by itself for arrays. */
  readonly total?: number;
  /** Default: true. See G4. */
  readonly keepResults?: boolean;
  /** Aborting it cancels the whole group. */
  readonly signal?: AbortSignal | undefined;
}

export interface GroupProgress {
  /** Ended well. */
  readonly done: number;
  /** Ended otherwise. */
  readonly failed: number;
  readonly submitted: number;
  /** Undefined while the input's length is not known. */
  readonly total: number | undefined;
}

/** One finished task of a group. */
export type Completed<R> =
  | { readonly index: number; readonly handle: TaskHandle<R>; readonly value: R; readonly error?: undefined }
  | {
      readonly index: number;
      readonly handle: TaskHandle<R>;
      readonly value?: undefined;
      readonly error: FarloomError;
    };

export type ArgumentsInput = Iterable<readonly unknown[]> | AsyncIterable<readonly unknown[]>;

export interface GroupDeps extends HandleDeps {
  readonly link: ClientLink;
}

export class TaskGroup<R = unknown> implements TaskListener {
  readonly id: string;
  readonly #deps: GroupDeps;
  readonly #call: PreparedCall;
  readonly #keep: boolean;
  readonly #iterator: Iterator<readonly unknown[]> | AsyncIterator<readonly unknown[]>;
  readonly #isAsync: boolean;
  /** By index; what was handed out and is not kept is undefined. */
  readonly #tasks = new Map<number, Task>();
  /** In the order of their ends. */
  #completed: Task[] = [];
  /** How many were cut off the front of #completed. */
  #cut = 0;
  #submitted = 0;
  #done = 0;
  #failed = 0;
  #total: number | undefined;
  #inputDone = false;
  #reading = false;
  #fatal: unknown;
  #taken = 0;
  #iterators = 0;
  #waiters: (() => void)[] = [];
  readonly #progressListeners = new Set<(progress: GroupProgress) => void>();
  #progressScheduled = false;
  readonly #stopListening: () => void;
  #forgetSignal: () => void = () => {};

  /** Made by `map`; not by hand. */
  constructor(call: PreparedCall, input: ArgumentsInput, options: GroupOptions, deps: GroupDeps) {
    this.id = keyToUuid(call.group.toString("latin1"));
    this.#deps = deps;
    this.#call = call;
    this.#keep = options.keepResults ?? true;
    this.#total = options.total ?? (Array.isArray(input) ? input.length : undefined);
    this.#isAsync = Symbol.asyncIterator in input;
    this.#iterator = Symbol.asyncIterator in input ? input[Symbol.asyncIterator]() : input[Symbol.iterator]();
    this.#stopListening = deps.link.onRoom(() => this.#read());
    const { signal } = options;
    if (signal) {
      const onAbort = () => void this.cancel(signal.reason);
      if (signal.aborted) onAbort();
      else {
        signal.addEventListener("abort", onAbort, { once: true });
        this.#forgetSignal = () => signal.removeEventListener("abort", onAbort);
      }
    }
    this.#read();
  }

  get progress(): GroupProgress {
    return { done: this.#done, failed: this.#failed, submitted: this.#submitted, total: this.#total };
  }

  /** Hears of progress, at most once in a turn of the event loop. Returns how to stop. */
  onProgress(listener: (progress: GroupProgress) => void): () => void {
    this.#progressListeners.add(listener);
    return () => this.#progressListeners.delete(listener);
  }

  /** Every task as it ends. Errors of tasks are items; the iteration itself throws only what G3 says. */
  async *asCompleted(): AsyncGenerator<Completed<R>, void, undefined> {
    let at = 0;
    yield* this.#iterate(() => {
      const task = this.#completed[at - this.#cut];
      if (task === undefined) return undefined;
      at++;
      this.#prefetch(at - this.#cut);
      if (!this.#keep) this.#letGo(task, at);
      return task;
    });
  }

  /** Every task in the order of the input. */
  async *results(): AsyncGenerator<Completed<R>, void, undefined> {
    let index = 0;
    yield* this.#iterate(() => {
      const task = this.#tasks.get(index);
      if (task === undefined || !task.isSettled) return undefined;
      index++;
      if (!this.#keep) this.#letGo(task, 0);
      return task;
    });
  }

  /** All values in the order of the input; the first error in that order is thrown. */
  async all(): Promise<R[]> {
    const values: R[] = [];
    for await (const item of this.results()) {
      if (item.error !== undefined) throw item.error;
      values.push(item.value as R);
    }
    return values;
  }

  /** Reads no more input and cancels what has not ended. Returns once all have ended: how many were cancelled. */
  async cancel(cause?: unknown): Promise<number> {
    this.#endInput();
    let cancelled = 0;
    await Promise.all(
      [...this.#tasks.values()]
        .filter((task) => !task.isSettled)
        .map(async (task) => {
          if (await this.#handle(task).cancel(cause)) cancelled++;
        }),
    );
    return cancelled;
  }

  /** A task has ended (TaskListener). */
  settled(task: Task): void {
    const error = task.failure;
    if (task.state === 1 && error === undefined) this.#done++;
    else this.#failed++;
    this.#completed.push(task);
    if (error !== undefined && isOfClient(error)) this.#stop(error);
    this.#changed();
    if (!this.#inputDone) this.#read();
    else if (this.#done + this.#failed === this.#submitted) this.#forgetSignal();
  }

  // ── input ──────────────────────────────────────────────────────────────────────────────────────────────────────

  get #hasRoom(): boolean {
    if (this.#inputDone || !this.#deps.submitter.hasRoom) return false;
    return this.#iterators === 0 || this.#completed.length + this.#cut - this.#taken < MAX_UNTAKEN;
  }

  #read(): void {
    if (this.#reading || this.#inputDone) return;
    this.#reading = true;
    if (this.#isAsync) void this.#readAsync();
    else {
      try {
        while (this.#hasRoom) this.#item((this.#iterator as Iterator<readonly unknown[]>).next());
      } catch (error) {
        this.#stop(error);
      }
      this.#reading = false;
    }
  }

  async #readAsync(): Promise<void> {
    try {
      while (this.#hasRoom) this.#item(await this.#iterator.next());
    } catch (error) {
      this.#stop(error);
    }
    this.#reading = false;
  }

  #item(next: IteratorResult<readonly unknown[]>): void {
    // The group may have been cancelled while the input was awaited.
    if (this.#inputDone) return;
    if (next.done) {
      this.#endInput();
      return;
    }
    const index = this.#submitted;
    this.#submitted++;
    const task = this.#deps.submitter.submitOrFail(this.#call, next.value, index, this);
    this.#tasks.set(index, task);
  }

  #stop(error: unknown): void {
    this.#fatal ??= error;
    if (!this.#inputDone) {
      this.#endInput();
      void this.#iterator.return?.();
    }
    this.#changed();
  }

  #endInput(): void {
    if (this.#inputDone) return;
    this.#inputDone = true;
    this.#total = this.#submitted;
    this.#stopListening();
    this.#changed();
  }

  // ── output ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async *#iterate(next: () => Task | undefined): AsyncGenerator<Completed<R>, void, undefined> {
    const { keepAlive } = this.#deps;
    let given = 0;
    this.#iterators++;
    keepAlive.hold();
    try {
      for (;;) {
        const task = next();
        if (task !== undefined) {
          given++;
          this.#taken = Math.max(this.#taken, given);
          if (!this.#inputDone && !this.#reading) this.#read();
          yield await this.#completedOf(task);
        } else if (this.#inputDone && given >= this.#submitted) {
          if (this.#fatal !== undefined) throw this.#fatal;
          return;
        } else if (this.#fatal !== undefined) throw this.#fatal;
        else await new Promise<void>((resolve) => this.#waiters.push(resolve));
      }
    } finally {
      this.#iterators--;
      keepAlive.release();
    }
  }

  async #completedOf(task: Task): Promise<Completed<R>> {
    const handle = this.#handle(task);
    try {
      const value = resultOf(task, this.#deps);
      return { index: task.index, handle, value: (value instanceof Promise ? await value : value) as R };
    } catch (error) {
      return { index: task.index, handle, error: error as FarloomError };
    }
  }

  /** Fetches what the consumer will ask for next. */
  #prefetch(from: number): void {
    for (let i = from; i < from + PREFETCH; i++) {
      const task = this.#completed[i];
      if (task?.reference === undefined && task?.unmet === undefined) continue;
      Promise.resolve(resultOf(task, this.#deps)).catch(() => {});
    }
  }

  #letGo(task: Task, at: number): void {
    this.#tasks.delete(task.index);
    if (this.#completed.length < 2048 || this.#tasks.size * 2 > this.#completed.length) return;
    const before = this.#completed.length;
    // In the order of ends everything before `at` was handed out; in the order of the input, whatever has no entry.
    this.#completed =
      at > 0
        ? this.#completed.slice(at - this.#cut)
        : this.#completed.filter((t) => this.#tasks.has(t.index));
    this.#cut += before - this.#completed.length;
  }

  #handle(task: Task): TaskHandle<R> {
    return new TaskHandle<R>(task, this.id, this.#deps);
  }

  #changed(): void {
    if (this.#waiters.length > 0) {
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const wake of waiters) wake();
    }
    if (this.#progressListeners.size === 0 || this.#progressScheduled) return;
    this.#progressScheduled = true;
    setImmediate(() => {
      this.#progressScheduled = false;
      const progress = this.progress;
      for (const listener of this.#progressListeners) listener(progress);
    });
  }
}

/** Errors that no other item of the input would escape (G3). */
function isOfClient(error: FarloomError): boolean {
  if (error instanceof TaskError) return false;
  return !PER_ITEM.has(error.code);
}

const PER_ITEM = new Set<string>([
  "VALUE_UNENCODABLE",
  "RESULT_UNREADABLE",
  "RESULT_CORRUPT",
  "ARGUMENTS_INVALID",
  "ARGUMENTS_TOO_LARGE",
  "PAYLOAD_TOO_LARGE",
  "PAYLOAD_NOT_FOUND",
  "TASK_ID_TAKEN",
]);
