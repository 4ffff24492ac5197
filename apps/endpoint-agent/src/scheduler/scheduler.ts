/**
 * Which node gets which tasks, and what becomes of them when a node goes: events in, effects out. No sockets,
 * no files, no clock; the engine carries the effects out, and the replay of the journal feeds the same events.
 *
 *   S1  A task is in exactly one state, and no state but `gone` is left without an effect or an event that says so.
 *   S2  Tasks are handed out first in, first out; what a node gave back goes to the front.
 *   S3  A node never gets more than its credit (P9).
 *   S4  A task id that is held or finished is not run again; a higher attempt of an unfinished one only renames it (P11).
 *   S5  A task that had or may have started, and whose node is gone, ends LOST; one that did not is queued again.
 *       The attempt is never raised here: the service decides on another one.
 */
import {
  Credit,
  endOf,
  fenceOf,
  type IdKey,
  keyAt,
  limits,
  REASONS,
  startOf,
  type TasksFrame,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import type { HeldState, HeldTask } from "./held-task.js";

export type SchedulerEvent =
  /** A batch came. `needs` says how many things task i waits for; absent: none waits. */
  | {
      readonly kind: "accepted";
      readonly frame: TasksFrame;
      readonly atMs: number;
      readonly needs?: (i: number) => number;
    }
  /** One of the things that a task waited for is there. */
  | { readonly kind: "ready"; readonly task: HeldTask }
  /** Only in a replay: the journal says that these were handed to `node`. */
  | { readonly kind: "restored"; readonly node: string; readonly keys: readonly IdKey[] }
  /** Only after a replay: the journal may lack its last words, so that whatever is unfinished may be at `node`. */
  | { readonly kind: "mistrusted"; readonly node: string }
  /**
   * A node says what it holds. What it was handed and does not hold is charged as lost, or, where `whole` (no
   * worker of the time before is missing), known not to have started.
   */
  | {
      readonly kind: "node_up";
      readonly node: string;
      readonly held: ReadonlySet<IdKey>;
      readonly whole: boolean;
    }
  | { readonly kind: "node_credit"; readonly node: string; readonly tasks: number; readonly bytes: number }
  /** The node is gone, and nobody can say what of its tasks started. */
  | { readonly kind: "node_lost"; readonly node: string }
  | { readonly kind: "node_returned"; readonly keys: readonly IdKey[]; readonly atMs: number }
  /** Results came, or were made here. */
  | { readonly kind: "finished"; readonly tasks: readonly HeldTask[] }
  /** With `unbegunOnly`, what a worker runs is left alone. */
  | { readonly kind: "cancel"; readonly keys: readonly IdKey[]; readonly unbegunOnly?: boolean }
  /** Its time to wait is over. */
  | { readonly kind: "expired"; readonly task: HeldTask }
  /** Its whole life's time is over: it ends, wherever it is. */
  | { readonly kind: "deadline"; readonly task: HeldTask }
  /** The service never heard of this finished task (P14). */
  | { readonly kind: "unknown"; readonly key: IdKey }
  /** The service has the results for good, or the tasks themselves again. */
  | { readonly kind: "forget"; readonly tasks: readonly HeldTask[] }
  /** Nothing more is handed out, and what is not handed out goes back up. */
  | { readonly kind: "drain" }
  /** The turn ends: hand out what the credit allows. `paused`: nothing for now. */
  | { readonly kind: "dispatch"; readonly atMs: number; readonly paused: boolean };

export type SchedulerEffect =
  | { readonly do: "hand"; readonly node: string; readonly tasks: readonly HeldTask[] }
  /** New tasks whose `needs` are to be met. */
  | { readonly do: "wait"; readonly tasks: readonly HeldTask[] }
  /** A kept result is wanted after all (P14). */
  | { readonly do: "answer"; readonly task: HeldTask }
  | {
      readonly do: "finish";
      readonly tasks: readonly HeldTask[];
      readonly state: number;
      readonly reason: number;
      /** Nothing of them ever ran, which who stopped them wants to know. */
      readonly confirmed?: boolean;
    }
  | {
      readonly do: "cancel_on_node";
      readonly node: string;
      readonly keys: readonly IdKey[];
      readonly why?: "deadline" | "unbegun";
    }
  /** The journal must say that these have not started after all. */
  | { readonly do: "unhand"; readonly tasks: readonly HeldTask[] }
  | { readonly do: "return"; readonly tasks: readonly HeldTask[] };

interface NodeState {
  readonly name: string;
  credit: Credit;
  handed: number;
}

const NONE: readonly SchedulerEffect[] = [];

export class Scheduler {
  readonly #tasks = new Map<IdKey, HeldTask>();
  readonly #nodes = new Map<string, NodeState>();
  #queue: HeldTask[] = [];
  #head = 0;
  /** By `indexOf(state)`. */
  readonly #counts = [0, 0, 0, 0, 0, 0];
  #heldBytes = 0;
  #draining = false;

  get(key: IdKey): HeldTask | undefined {
    return this.#tasks.get(key);
  }

  /** Everything in custody, in order of acceptance. */
  tasks(): IterableIterator<HeldTask> {
    return this.#tasks.values();
  }

  count(state: HeldState): number {
    return state === "gone" ? 0 : this.#counts[indexOf(state)]!;
  }

  /** Tasks that count against the credit window: all but kept ones. */
  get heldTasks(): number {
    const [waiting, queued, handed, done] = this.#counts;
    return waiting! + queued! + handed! + done!;
  }

  /** Argument bytes of those. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  handle(event: SchedulerEvent): readonly SchedulerEffect[] {
    switch (event.kind) {
      case "accepted":
        return this.#accept(event.frame, event.atMs, event.needs);
      case "ready":
        if (event.task.state === "waiting" && --event.task.needs <= 0) this.#enqueue(event.task);
        return NONE;
      case "restored":
        for (const key of event.keys) {
          const task = this.#tasks.get(key);
          if (task?.state !== "queued" && task?.state !== "waiting") continue;
          this.#set(task, "handed");
          task.node = event.node;
        }
        return NONE;
      case "mistrusted":
        for (const task of this.#tasks.values()) {
          if (task.state !== "queued" && task.state !== "waiting") continue;
          this.#set(task, "handed");
          task.node = event.node;
        }
        return NONE;
      case "node_up":
        return this.#nodeUp(event.node, event.held, event.whole);
      case "node_credit":
        this.#nodes.get(event.node)?.credit.grant(event.tasks, event.bytes);
        return NONE;
      case "node_lost":
        this.#nodes.delete(event.node);
        return this.#lose((task) => task.node === event.node);
      case "node_returned":
        return this.#returned(event.keys, event.atMs);
      case "finished":
        for (const task of event.tasks) {
          const node = task.node === undefined ? undefined : this.#nodes.get(task.node);
          if (node && task.state === "handed") node.handed--;
          this.#set(task, "done");
          task.node = undefined;
        }
        return NONE;
      case "cancel":
        return this.#cancel(event.keys, event.unbegunOnly === true);
      case "expired":
        return event.task.state === "queued" || event.task.state === "waiting"
          ? [finish([event.task], TERMINAL_STATES.TIMED_OUT, REASONS.queue_time_limit)]
          : NONE;
      case "deadline":
        return this.#deadline(event.task);
      case "unknown": {
        const task = this.#tasks.get(event.key);
        if (task?.state === "done") this.#set(task, "kept");
        return NONE;
      }
      case "forget":
        for (const task of event.tasks) this.#forget(task);
        return NONE;
      case "drain": {
        this.#draining = true;
        const back: HeldTask[] = [];
        for (const task of this.#tasks.values()) {
          if (task.state === "queued" || task.state === "waiting") back.push(task);
        }
        return back.length > 0 ? [{ do: "return", tasks: back }] : NONE;
      }
      case "dispatch":
        return event.paused || this.#draining ? NONE : this.#dispatch(event.atMs);
    }
  }

  #accept(
    frame: TasksFrame,
    atMs: number,
    needs: ((i: number) => number) | undefined,
  ): readonly SchedulerEffect[] {
    let effects: SchedulerEffect[] | undefined;
    let waiting: HeldTask[] | undefined;
    for (let i = 0; i < frame.n; i++) {
      const key = keyAt(frame.ids, 16 * i);
      const attempt = u32Of(frame.attempts, i, 1);
      const fence = fenceOf(frame.fences, i);
      const before = this.#tasks.get(key);
      if (before !== undefined && !(isFinished(before) && attempt > before.attempt)) {
        // S4
        before.fence = Math.max(before.fence, fence);
        if (before.state === "kept") {
          this.#set(before, "done");
          effects ??= [];
          effects.push({ do: "answer", task: before });
        } else if (!isFinished(before)) before.attempt = Math.max(before.attempt, attempt);
        continue;
      }
      if (before !== undefined) this.#forget(before);
      const task: HeldTask = {
        key,
        attempt,
        fence,
        frame,
        index: i,
        sizeBytes: endOf(frame.ends, i) - startOf(frame.ends, i),
        state: "gone",
        needs: needs === undefined ? 0 : needs(i),
        node: undefined,
        queuedAtMs: atMs,
        waitedUs: 0,
        running: false,
        result: undefined,
      };
      this.#tasks.set(key, task);
      if (task.needs > 0) {
        this.#set(task, "waiting");
        waiting ??= [];
        waiting.push(task);
      } else this.#enqueue(task);
    }
    if (waiting) {
      effects ??= [];
      effects.push({ do: "wait", tasks: waiting });
    }
    return effects ?? NONE;
  }

  #nodeUp(name: string, held: ReadonlySet<IdKey>, whole: boolean): readonly SchedulerEffect[] {
    const node: NodeState = { name, credit: new Credit(), handed: 0 };
    this.#nodes.set(name, node);
    const missing: HeldTask[] = [];
    for (const task of this.#tasks.values()) {
      if (task.node !== name || task.state !== "handed") continue;
      if (held.has(task.key)) node.handed++;
      else missing.push(task);
    }
    if (missing.length === 0) return NONE;
    if (!whole) return [finish(missing, TERMINAL_STATES.LOST, REASONS.agent_lost)]; // S5
    this.#requeue(missing);
    return [{ do: "unhand", tasks: missing }];
  }

  #lose(of: (task: HeldTask) => boolean): readonly SchedulerEffect[] {
    const lost: HeldTask[] = [];
    for (const task of this.#tasks.values()) if (task.state === "handed" && of(task)) lost.push(task);
    return lost.length > 0 ? [finish(lost, TERMINAL_STATES.LOST, REASONS.agent_lost)] : NONE; // S5
  }

  #returned(keys: readonly IdKey[], atMs: number): readonly SchedulerEffect[] {
    const back: HeldTask[] = [];
    for (const key of keys) {
      const task = this.#tasks.get(key);
      if (task?.state !== "handed") continue;
      const node = task.node === undefined ? undefined : this.#nodes.get(task.node);
      if (node) node.handed--;
      task.queuedAtMs = atMs;
      back.push(task);
    }
    if (back.length === 0) return NONE;
    this.#requeue(back);
    const unhand: SchedulerEffect = { do: "unhand", tasks: back };
    return this.#draining ? [unhand, { do: "return", tasks: back }] : [unhand];
  }

  #cancel(keys: readonly IdKey[], unbegunOnly: boolean): readonly SchedulerEffect[] {
    const here: HeldTask[] = [];
    const there = new Map<string, IdKey[]>();
    for (const key of keys) {
      const task = this.#tasks.get(key);
      if (task?.state === "queued" || task?.state === "waiting") here.push(task);
      else if (task?.state === "handed" && task.node !== undefined) {
        const list = there.get(task.node);
        if (list) list.push(key);
        else there.set(task.node, [key]);
      }
    }
    const effects: SchedulerEffect[] = [];
    if (here.length > 0) {
      effects.push({
        ...finish(here, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user),
        confirmed: true,
      });
    }
    for (const [node, list] of there) {
      effects.push({
        do: "cancel_on_node",
        node,
        keys: list,
        ...(unbegunOnly && { why: "unbegun" as const }),
      });
    }
    return effects;
  }

  #deadline(task: HeldTask): readonly SchedulerEffect[] {
    if (task.state === "queued" || task.state === "waiting") {
      return [finish([task], TERMINAL_STATES.TIMED_OUT, REASONS.deadline)];
    }
    if (task.state !== "handed" || task.node === undefined) return NONE;
    return [{ do: "cancel_on_node", node: task.node, keys: [task.key], why: "deadline" }];
  }

  #dispatch(atMs: number): readonly SchedulerEffect[] {
    if (this.#counts[QUEUED]! === 0) {
      this.#queue.length = 0;
      this.#head = 0;
      return NONE;
    }
    const effects: SchedulerEffect[] = [];
    while (this.#counts[QUEUED]! > 0) {
      const node = this.#roomiest();
      if (node === undefined) break;
      // With several nodes, no more than a fair share at once, so that a burst is spread.
      const share = Math.ceil(this.#counts[QUEUED]! / this.#nodes.size);
      const tasks = this.#take(node, Math.min(node.credit.room, share, limits.MAX_BATCH_ITEMS), atMs);
      if (tasks.length === 0) break;
      effects.push({ do: "hand", node: node.name, tasks });
    }
    return effects;
  }

  #take(node: NodeState, most: number, atMs: number): HeldTask[] {
    const taken: HeldTask[] = [];
    let bytes = 0;
    const roomBytes = node.credit.roomBytes; // S3
    while (taken.length < most && this.#head < this.#queue.length) {
      const task = this.#queue[this.#head]!;
      if (task.state !== "queued") {
        this.#head++;
        continue;
      }
      if (bytes > 0 && bytes + task.sizeBytes > Math.min(roomBytes, limits.TARGET_BATCH_BYTES)) break;
      this.#head++;
      bytes += task.sizeBytes;
      this.#set(task, "handed");
      task.node = node.name;
      task.waitedUs = Math.max(0, Math.round((atMs - task.queuedAtMs) * 1000));
      taken.push(task);
    }
    if (this.#head > 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    node.credit.use(taken.length, bytes);
    node.handed += taken.length;
    return taken;
  }

  #roomiest(): NodeState | undefined {
    let best: NodeState | undefined;
    for (const node of this.#nodes.values()) {
      if (node.credit.room > 0 && (best === undefined || node.credit.room > best.credit.room)) best = node;
    }
    return best;
  }

  #enqueue(task: HeldTask): void {
    this.#set(task, "queued");
    this.#queue.push(task);
  }

  /** S2: in front of all that never left the line. */
  #requeue(tasks: readonly HeldTask[]): void {
    for (const task of tasks) {
      this.#set(task, "queued");
      task.node = undefined;
      task.running = false;
    }
    this.#queue = [...tasks, ...this.#queue.slice(this.#head)];
    this.#head = 0;
  }

  #forget(task: HeldTask): void {
    this.#set(task, "gone");
    if (this.#tasks.get(task.key) === task) this.#tasks.delete(task.key);
  }

  #set(task: HeldTask, state: HeldState): void {
    const from = indexOf(task.state);
    const to = indexOf(state);
    if (from < KEPT !== to < KEPT) this.#heldBytes += to < KEPT ? task.sizeBytes : -task.sizeBytes;
    this.#counts[from]!--;
    this.#counts[to]!++;
    task.state = state;
  }
}

const QUEUED = 1;
/** From here on a state does not count against the credit window. */
const KEPT = 4;

function indexOf(state: HeldState): number {
  switch (state) {
    case "waiting":
      return 0;
    case "queued":
      return QUEUED;
    case "handed":
      return 2;
    case "done":
      return 3;
    case "kept":
      return KEPT;
    case "gone":
      return 5;
  }
}

function isFinished(task: HeldTask): boolean {
  return task.state === "done" || task.state === "kept";
}

function finish(
  tasks: readonly HeldTask[],
  state: number,
  reason: number,
): Extract<SchedulerEffect, { do: "finish" }> {
  return { do: "finish", tasks, state, reason };
}
