/** A function as a caller holds it: registered already, or looked up by its reference when it is first called. */
import { FarloomError } from "@farloom/protocol";
import type { ArgumentsInput, GroupOptions, TaskGroup } from "./group.js";
import type { TaskHandle } from "./handle.js";
import { attemptsOf } from "./signing.js";
import type { CallOptions, Lookup } from "./submit.js";
import type { Task } from "./task.js";

/** What a function needs of its client. */
export interface FunctionHost {
  submit(fn: Lookup, args: readonly unknown[], options: CallOptions): { task: Task; handle: TaskHandle };
  map(fn: Lookup, input: ArgumentsInput, options: CallOptions & GroupOptions): TaskGroup;
  cancel(task: Task, cause: unknown): void;
}

export type MapOptions = Omit<CallOptions, "signal"> & GroupOptions;

export class RemoteFunction<A extends readonly unknown[] = readonly unknown[], R = unknown> {
  readonly #lookup: FunctionLookup;
  readonly #host: FunctionHost;

  /** Made by `register` and `function`; not by hand. */
  constructor(lookup: FunctionLookup, host: FunctionHost) {
    this.#lookup = lookup;
    this.#host = host;
  }

  /** `owner/name@version`, or as it was asked for until the first call has looked it up. */
  get ref(): string {
    return this.#lookup.ref;
  }

  /** 64 hexadecimal digits; undefined until it is known. */
  get id(): string | undefined {
    return this.#lookup.known?.toString("hex");
  }

  /**
   * Submits one call. Returns at once: the handle has the task's id before anything is sent.
   * @throws FarloomError VALUE_UNENCODABLE, SETTING_MISSING (no endpoint), OVERLOADED, CLIENT_CLOSED
   */
  submit(args: A, options: CallOptions = {}): TaskHandle<R> {
    const { task, handle } = this.#host.submit(this.#lookup, args, options);
    const { signal } = options;
    if (signal) {
      const onAbort = () => this.#host.cancel(task, signal.reason);
      if (signal.aborted) onAbort();
      else {
        signal.addEventListener("abort", onAbort, { once: true });
        task.onSettled(() => signal.removeEventListener("abort", onAbort));
      }
    }
    return handle as TaskHandle<R>;
  }

  /** Submits one call and waits for its result. Aborting the signal cancels the task and rejects at once. */
  async call(args: A, options: CallOptions = {}): Promise<R> {
    options.signal?.throwIfAborted();
    return await this.submit(args, options).result(options.signal ? { signal: options.signal } : {});
  }

  /**
   * One call for each item of the input, each an array of arguments. The input is read lazily, as the fabric takes
   * tasks, so it may be without end.
   */
  map(input: Iterable<A> | AsyncIterable<A>, options: MapOptions = {}): TaskGroup<R> {
    return this.#host.map(this.#lookup, input, options) as TaskGroup<R>;
  }
}

interface Found {
  readonly id: string;
  readonly ref?: string;
  readonly mode?: string;
  readonly retries?: number;
}

/** A function's digest: known, or looked up once. A failed look-up is tried again by the next call. */
export class FunctionLookup implements Lookup {
  ref: string;
  known: Buffer | undefined;
  attempts: number | undefined = undefined;
  #pending: Promise<Buffer> | undefined;
  readonly #find: (ref: string) => Promise<Found>;

  constructor(ref: string, find: (ref: string) => Promise<Found>) {
    this.ref = ref;
    this.#find = find;
    this.known = /^[0-9a-f]{64}$/.test(ref) ? Buffer.from(ref, "hex") : undefined;
  }

  resolve(): Promise<Buffer> {
    this.#pending ??= this.#find(this.ref)
      .then(({ id, ref, mode, retries }) => {
        if (!/^[0-9a-f]{64}$/.test(id)) throw new FarloomError("FUNCTION_NOT_FOUND", { id: this.ref });
        if (ref !== undefined) this.ref = ref;
        this.attempts = attemptsOf({ mode, retries });
        this.known = Buffer.from(id, "hex");
        return this.known;
      })
      .finally(() => {
        this.#pending = undefined;
      });
    return this.#pending;
  }
}
