/**
 * What a function may know of the task it runs in: `globalThis.farloom.task`. Between tasks its fields are undefined,
 * so that a function that holds on to it never sees another's.
 */
import { type IdKey, keyToUuid, type TaskOptions } from "@farloom/protocol";

/** One call, as far as its function may ask. */
export interface Call {
  readonly key: IdKey;
  readonly attempt: number;
  /** 0 where the peer gave none. */
  readonly fence: number;
  readonly options: TaskOptions | undefined;
  /** Run time limit in milliseconds; 0: none. */
  readonly limitMs: number;
  readonly cameMs: number;
}

/** `globalThis.farloom.task`. */
export interface TaskContext {
  readonly id: string | undefined;
  /** Counted from 1. */
  readonly attempt: number | undefined;
  /** Rises with every attempt and every lease: a store that keeps the highest it has seen refuses what is stale. */
  readonly fence: number | undefined;
  /** Seconds until it is stopped, by its run time limit or its deadline; undefined where it has neither. */
  readonly deadline: number | undefined;
  /** The whole nodes that it has, as the launcher calls them, this one first; undefined where it asked for none. */
  readonly nodes: readonly string[] | undefined;
  /** Processes that a program over those nodes is to have. */
  readonly ranks: number | undefined;
  /** The words before a program that is to run so; empty without nodes. */
  readonly mpiPrefix: readonly string[];
}

/**
 * Makes `globalThis.farloom`; `current` is what runs, and since when on the monotonic clock; `secret` gives a secret of
 * the running task by its name, or throws.
 */
export function exposeContext(
  current: () => { readonly call: Call; readonly startedMs: number } | undefined,
  secret: (name: string) => string,
): void {
  const task: TaskContext = Object.freeze({
    get id() {
      const call = current()?.call;
      return call && keyToUuid(call.key);
    },
    get attempt() {
      return current()?.call.attempt;
    },
    get fence() {
      return current()?.call.fence;
    },
    get deadline() {
      const running = current();
      return running && remainingSeconds(running.call, running.startedMs);
    },
    get nodes() {
      return current()?.call.options?.whole?.nodes;
    },
    get ranks() {
      return current()?.call.options?.whole?.ranks;
    },
    get mpiPrefix() {
      return current()?.call.options?.whole?.prefix ?? [];
    },
  });
  Object.defineProperty(globalThis, "farloom", {
    value: Object.freeze({ task, secret }),
    configurable: true,
  });
}

function remainingSeconds({ limitMs, options, cameMs }: Call, startedMs: number): number | undefined {
  const ends: number[] = [];
  if (limitMs > 0) ends.push(startedMs + limitMs);
  if (options?.deadlineMs !== undefined) ends.push(cameMs + options.deadlineMs);
  return ends.length === 0 ? undefined : Math.max(0, Math.min(...ends) - performance.now()) / 1000;
}
