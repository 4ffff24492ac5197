/**
 * Definitions between the service, the disk and the node (P19): tasks wait for what is not here, the node gets
 * each definition before its first task, and whoever asks is answered.
 *
 * Bound: what waits are held tasks; what the node knows is as many digests as it was given functions.
 */
import type { Frame, FunctionDefinition, TasksFrame } from "@farloom/protocol";
import type { Logger } from "pino";
import { type FunctionKey, type FunctionsCache, functionKey } from "./functions-cache.js";
import { functionOf, type HeldTask } from "./scheduler/held-task.js";

/** A definition that could not be written (a full disk) is asked for again after this. */
const ASK_AGAIN_MS = 5_000;

export interface FunctionsDeskOptions {
  readonly cache: FunctionsCache;
  readonly toService: (frame: Frame) => void;
  readonly toNode: (frame: Frame) => void;
  /** A definition came that the task waited for. */
  readonly onReady: (task: HeldTask) => void;
  readonly log: Logger;
}

export class FunctionsDesk {
  readonly #options: FunctionsDeskOptions;
  readonly #waiting = new Map<FunctionKey, HeldTask[]>();
  /** Given to the node in its session, and asked for by it in vain. */
  readonly #given = new Set<FunctionKey>();
  readonly #owed = new Set<FunctionKey>();

  constructor(options: FunctionsDeskOptions) {
    this.#options = options;
  }

  /** For each function of a batch: 1 where its definition is not here. */
  lacksOf(frame: TasksFrame): number[] {
    return frame.fns.map((digest) => (this.#options.cache.has(functionKey(digest)) ? 0 : 1));
  }

  /** The task waits for its function's definition, if that is not here. */
  await(task: HeldTask): void {
    const key = functionKey(functionOf(task));
    if (this.#options.cache.has(key)) return;
    const waiting = this.#waiting.get(key);
    if (waiting) waiting.push(task);
    else {
      this.#waiting.set(key, [task]);
      this.#ask([key]);
    }
  }

  /** The service sent a definition. */
  arrived(def: FunctionDefinition, ref?: string): void {
    const key = functionKey(def.digest);
    try {
      this.#options.cache.put(def, ref);
    } catch (error) {
      this.#options.log.error(
        { err: error, function: def.digest.toString("hex") },
        "a function's definition cannot be written; its tasks wait",
      );
      setTimeout(() => {
        if (this.#waiting.has(key) || this.#owed.has(key)) this.#ask([key]);
      }, ASK_AGAIN_MS).unref();
      return;
    }
    if (this.#owed.delete(key)) this.#options.toNode({ t: "functions", defs: [def] });
    for (const task of this.#waiting.get(key) ?? []) this.#options.onReady(task);
    this.#waiting.delete(key);
  }

  /** A new session of the service: what is still lacking is asked for again. */
  serviceCame(): void {
    const keys = [...this.#waiting.keys(), ...this.#owed];
    if (keys.length > 0) this.#ask(keys);
  }

  nodeCame(): void {
    this.#given.clear();
    this.#owed.clear();
  }

  /** The node gets these tasks next: it must have their functions. */
  beforeTasks(frame: TasksFrame): void {
    for (const digest of frame.fns) {
      const key = functionKey(digest);
      if (this.#given.has(key)) continue;
      this.#given.add(key);
      this.give(key);
    }
  }

  /** The node asks for a definition. */
  give(key: FunctionKey): void {
    const def = this.#options.cache.get(key);
    if (def) this.#options.toNode({ t: "functions", defs: [def] });
    else {
      this.#owed.add(key);
      this.#ask([key]);
    }
  }

  #ask(keys: readonly FunctionKey[]): void {
    this.#options.toService({ t: "need", functions: keys.map((key) => Buffer.from(key, "latin1")) });
  }
}
