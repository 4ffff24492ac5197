/**
 * Definitions between the service, the disk and the nodes (P19): tasks wait for what is not here, a node gets
 * each definition before its first task, and whoever asks is answered.
 *
 * Bound: what waits are held tasks; what a node knows is as many digests as it was given functions in its session;
 * needs are kept of at most MAX_NEEDS functions.
 */
import type { Frame, FunctionDefinition, TasksFrame } from "@farloom/protocol";
import type { Logger } from "pino";
import { type FunctionKey, type FunctionsCache, functionKey } from "./functions-cache.js";
import { functionOf, type HeldTask } from "./scheduler/held-task.js";
import { type Demand, demandOf } from "./scheduler/node-state.js";

/** A definition that could not be written (a full disk) is asked for again after this. */
const ASK_AGAIN_MS = 5_000;
/** As many as definitions outlive a start. Beyond, all are looked up anew. */
const MAX_NEEDS = 2_000;

export interface FunctionsDeskOptions {
  readonly cache: FunctionsCache;
  readonly toService: (frame: Frame) => void;
  readonly toNode: (node: string, frame: Frame) => void;
  /** A definition came that the task waited for. */
  readonly onReady: (task: HeldTask) => void;
  readonly log: Logger;
}

export class FunctionsDesk {
  readonly #options: FunctionsDeskOptions;
  readonly #waiting = new Map<FunctionKey, HeldTask[]>();
  /** By node: given to it in its session; and by function: who asked for it in vain. */
  readonly #given = new Map<string, Set<FunctionKey>>();
  readonly #owed = new Map<FunctionKey, Set<string>>();
  readonly #needs = new Map<FunctionKey, Demand | undefined>();

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
    this.#needs.delete(key);
    for (const node of this.#owed.get(key) ?? []) this.#options.toNode(node, { t: "functions", defs: [def] });
    this.#owed.delete(key);
    for (const task of this.#waiting.get(key) ?? []) this.#options.onReady(task);
    this.#waiting.delete(key);
  }

  /** A new session of the service: what is still lacking is asked for again. */
  serviceCame(): void {
    const keys = [...this.#waiting.keys(), ...this.#owed.keys()];
    if (keys.length > 0) this.#ask(keys);
  }

  /** What tasks of this function need of a node, as far as its definition is here. */
  demandOf(digest: Buffer): Demand | undefined {
    const key = functionKey(digest);
    if (this.#needs.has(key)) return this.#needs.get(key);
    const def = this.#options.cache.has(key) ? this.#options.cache.get(key) : undefined;
    if (def === undefined) return undefined;
    if (this.#needs.size >= MAX_NEEDS) this.#needs.clear();
    const demand = demandOf(def.resources);
    this.#needs.set(key, demand);
    return demand;
  }

  /** A session of a node begins: it knows nothing yet. */
  nodeCame(node: string): void {
    this.nodeWent(node);
    this.#given.set(node, new Set());
  }

  nodeWent(node: string): void {
    this.#given.delete(node);
    for (const [key, nodes] of this.#owed) if (nodes.delete(node) && nodes.size === 0) this.#owed.delete(key);
  }

  /** The node gets these tasks next: it must have their functions. */
  beforeTasks(node: string, frame: TasksFrame): void {
    const given = this.#given.get(node);
    for (const digest of frame.fns) {
      const key = functionKey(digest);
      if (given?.has(key) !== false) continue;
      given.add(key);
      this.give(node, key);
    }
  }

  /** The node asks for a definition. */
  give(node: string, key: FunctionKey): void {
    const def = this.#options.cache.get(key);
    if (def) this.#options.toNode(node, { t: "functions", defs: [def] });
    else {
      const owed = this.#owed.get(key);
      if (owed) owed.add(node);
      else this.#owed.set(key, new Set([node]));
      this.#ask([key]);
    }
  }

  #ask(keys: readonly FunctionKey[]): void {
    this.#options.toService({ t: "need", functions: keys.map((key) => Buffer.from(key, "latin1")) });
  }
}
