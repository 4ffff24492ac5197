/**
 * A node manager and its workers in the simulated world, as PROTOCOL.md has them: a queue that dies with the
 * agent, warm workers that outlive it, keep unmarked results and are adopted by the next one (P15a, P17).
 */
import {
  buildResults,
  columnToKeys,
  endOf,
  type Frame,
  functionIndexOf,
  type IdKey,
  keyAt,
  keysToColumn,
  REASONS,
  type ResultItem,
  startOf,
  type TasksFrame,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import { Fifo } from "../../apps/endpoint-agent/src/node/fifo.js";
import type { Bugs } from "./bugs.js";
import { GPU_DIGEST } from "./door.js";
import type { Oracle } from "./oracle.js";
import type { Random } from "./random.js";

const WORKERS = 2;
/** Tasks that a worker holds: one that runs and one behind it. */
const PREFETCH = 2;
/** Tasks that the node manager takes from the agent. */
const WINDOW = 4;

interface Item {
  readonly key: IdKey;
  readonly attempt: number;
  readonly nonce: string;
  /** In the order in which tasks came. */
  readonly place: number;
  cancelled: boolean;
  /** It needs the node's one GPU. */
  readonly gpu: boolean;
}

class Worker {
  readonly held: Item[] = [];
  running = false;
  /** Results that are not marked as durable. */
  kept: ResultItem[] = [];
}

/** The machine's processes beside the agent. */
export class Machine {
  workers: Worker[] = [];
  /** Records of workers that are gone, and whose tasks' fate no journal has yet. */
  missing = 0;
}

export interface NodeDeps {
  readonly machine: Machine;
  readonly oracle: Oracle;
  readonly random: Random;
  readonly bugs: Bugs;
}

export class Node {
  /** Frames for the agent. */
  readonly out: Frame[] = [];
  readonly #deps: NodeDeps;
  readonly #queue = new Fifo<Item>();
  #places = 0;
  #received = 0;
  #left = 0;
  #draining = false;
  /** Whose results the next marks cover, in the order in which they were sent. */
  readonly #dead: number[] = [];
  readonly #sent: { readonly worker: Worker | undefined; readonly key: IdKey }[] = [];
  #marked = 0;

  constructor(deps: NodeDeps) {
    this.#deps = deps;
    const { machine, bugs } = deps;
    const held = machine.workers.flatMap((w) => w.held.map((item) => item.key));
    const whole = machine.missing === 0 || bugs.has("a restart charges nothing to dead workers");
    // Their records stay until the agent has said what becomes of what they had: its next frame but a cancel.
    for (let n = machine.missing; n > 0; n--) this.#dead.push(0);
    this.out.push({
      t: "hello",
      role: "node",
      versions: [1],
      caps: [],
      software: "sim",
      held: keysToColumn(held),
      whole,
      ...(bugs.has("a node does not say what it has")
        ? {}
        : { capacity: { places: WINDOW, cores: WINDOW, gpus: 1 } }),
    });
    for (const worker of machine.workers) if (worker.kept.length > 0) this.#results(worker, worker.kept);
    while (machine.workers.length < WORKERS) machine.workers.push(new Worker());
    this.#credit();
  }

  take(frame: Frame): void {
    if (frame.t === "mark") this.#mark(frame.durable);
    if (frame.t === "tasks" || frame.t === "mark") this.#bury();
    if (frame.t === "tasks") this.#takeTasks(frame);
    else if (frame.t === "cancel") this.#cancel(columnToKeys(frame.ids));
    else if (frame.t === "drain") {
      this.#draining = true;
      this.#returned(this.#queue.takeAll());
    }
  }

  /** Whether nothing waits or runs here. */
  get isIdle(): boolean {
    return this.#queue.length === 0 && this.#deps.machine.workers.every((w) => w.held.length === 0);
  }

  feed(): boolean {
    const worker = this.#deps.random.pick(this.#deps.machine.workers.filter((w) => w.held.length < PREFETCH));
    const item = worker && this.#queue.shift();
    if (!item) return false;
    worker.held.push(item);
    return true;
  }

  /** kill -9 of one worker. */
  workerDies(): boolean {
    const { machine } = this.#deps;
    const worker = this.#deps.random.pick(machine.workers);
    if (!worker) return false;
    this.#end(worker, TERMINAL_STATES.FAILED, REASONS.worker_died);
    return true;
  }

  /** A cancel that was asked for reaches its process. */
  stopCancelled(): boolean {
    for (const worker of this.#deps.machine.workers) {
      const at = worker.held.findIndex((item) => item.cancelled);
      if (at < 0) continue;
      if (at === 0 && worker.running) this.#end(worker, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user);
      else this.#outcome(worker.held.splice(at, 1)[0]!, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user);
      return true;
    }
    return false;
  }

  /** A worker finished a task while this node manager lives. */
  finished(worker: Worker, result: ResultItem): void {
    this.#results(worker, [result]);
    this.#credit();
  }

  #takeTasks(frame: TasksFrame): void {
    this.#received += frame.n;
    const items: Item[] = [];
    for (let i = 0; i < frame.n; i++) {
      const nonce = frame.args.toString("latin1", startOf(frame.ends, i), endOf(frame.ends, i));
      items.push({
        key: keyAt(frame.ids, 16 * i),
        attempt: u32Of(frame.attempts, i, 1),
        nonce,
        place: ++this.#places,
        cancelled: false,
        gpu: frame.fns[functionIndexOf(frame, i)]!.equals(GPU_DIGEST),
      });
    }
    if (this.#draining) this.#returned(items);
    else for (const item of items) this.#queue.push(item);
    const here = [...this.#queue, ...this.#deps.machine.workers.flatMap((w) => w.held)];
    this.#deps.oracle.given(here.filter(({ gpu }) => gpu).length, 1);
  }

  #cancel(keys: readonly IdKey[]): void {
    for (const key of keys) {
      const waiting = this.#queue.remove((item) => item.key === key);
      if (waiting) this.#outcome(waiting, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user);
      for (const worker of this.#deps.machine.workers)
        for (const item of worker.held) {
          if (item.key !== key) continue;
          item.cancelled = true;
          if (this.#deps.bugs.has("cancelled before the process is gone"))
            this.#outcome(item, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user);
        }
    }
  }

  #mark(durable: number): void {
    for (; this.#marked < durable; this.#marked++) {
      const { worker, key } = this.#sent[this.#marked]!;
      if (worker) worker.kept = worker.kept.filter((result) => result.key !== key);
    }
  }

  /** The worker's process ends: what ran is charged, what was behind it goes back to its place. */
  #end(worker: Worker, state: number, reason: number): void {
    const { machine, oracle } = this.#deps;
    machine.workers.splice(machine.workers.indexOf(worker), 1, new Worker());
    const running = worker.running ? worker.held.shift() : undefined;
    if (running) {
      oracle.stopped(running.key);
      this.#outcome(running, state, reason);
    }
    this.#queue.putBack(worker.held, (item) => item.place);
    machine.missing++;
    this.#dead.push(this.#sent.length);
  }

  /** A dead worker's record goes when the journal has all that it left. */
  #bury(): void {
    while (this.#dead.length > 0 && this.#dead[0]! <= this.#marked) {
      this.#dead.shift();
      this.#deps.machine.missing--;
    }
  }

  #outcome(item: Item, state: number, reason: number): void {
    this.#results(undefined, [resultOf(item, state, reason)]);
    this.#credit();
  }

  #results(worker: Worker | undefined, results: readonly ResultItem[]): void {
    this.out.push(buildResults(results, 0, results.length));
    for (const { key } of results) this.#sent.push({ worker, key });
    if (worker && this.#deps.bugs.has("a worker forgets a result before the journal has it"))
      worker.kept = [];
    this.#left += results.length;
  }

  #returned(items: readonly Item[]): void {
    if (items.length === 0) return;
    this.#left += items.length;
    this.out.push({ t: "returned", ids: keysToColumn(items.map((item) => item.key)) });
  }

  #credit(): void {
    const tasks = WINDOW + Math.max(this.#received, this.#left);
    this.out.push({ t: "credit", tasks, bytes: 1e9 });
  }
}

/** What workers do by themselves, whether an agent lives or not. */
export function workerActs(deps: NodeDeps, node: Node | undefined, mayFail: boolean): boolean {
  const { machine, oracle, random } = deps;
  const worker = random.pick(machine.workers.filter((w) => w.held.length > 0));
  const item = worker?.held[0];
  if (!worker || !item) return false;
  if (!worker.running) {
    worker.running = true;
    oracle.started(item.key, item.attempt);
    return true;
  }
  worker.running = false;
  worker.held.shift();
  oracle.stopped(item.key);
  const fails = mayFail && random.once(4);
  const result = fails
    ? resultOf(item, TERMINAL_STATES.FAILED, REASONS.user_error)
    : resultOf(item, TERMINAL_STATES.SUCCEEDED, REASONS.none);
  worker.kept.push(result);
  node?.finished(worker, result);
  return true;
}

/** kill -9 of a worker that has no node manager. */
export function orphanDies({ machine, oracle, random }: NodeDeps): boolean {
  const worker = random.pick(machine.workers);
  if (!worker) return false;
  if (worker.running) oracle.stopped(worker.held[0]!.key);
  machine.workers.splice(machine.workers.indexOf(worker), 1);
  machine.missing++;
  return true;
}

/** The power fails: every process is gone. */
export function machineDies(deps: NodeDeps): void {
  while (orphanDies(deps));
}

function resultOf(item: Item, state: number, reason: number): ResultItem {
  const source = Buffer.from(state === TERMINAL_STATES.SUCCEEDED ? item.nonce : "", "latin1");
  const { key, attempt } = item;
  const zero = { queueUs: 0, runUs: 0, cpuUs: 0, peakKb: 0 };
  return {
    key,
    attempt,
    codec: 1,
    state,
    reason,
    source,
    start: 0,
    end: source.length,
    detail: undefined,
    ...zero,
  };
}
