/**
 * Which node gets which tasks, and what becomes of them when a node goes: events in, effects out. No sockets,
 * no files, no clock; the engine carries the effects out, and the replay of the journal feeds the same events.
 *
 *   S1  A task is in exactly one state, and no state but `gone` is left without an effect or an event that says so.
 *   S2  Tasks of one demand are handed out first in, first out; what a node gave back goes to the front.
 *   S3  A node never gets more than its credit (P9), nor more than it has room for (node-state.ts).
 *   S4  A task id that is held or finished is not run again; a higher attempt of an unfinished one only renames it (P11).
 *   S5  A task that had or may have started, and whose node is gone, ends LOST; one that did not is queued again.
 *       The attempt is never raised here: the service decides on another one.
 *   S6  The oldest task at the front of its line that no node can take now, and some node could, keeps that node for
 *       itself: what is younger does not pass it for ever.
 *   S7  A task that was to be stopped and comes back unstarted ends; it is not handed out again.
 *   S8  Where nothing is queued, and a node has places free while long tasks wait in another, that one is asked for them.
 *   S9  A task over whole nodes has them for itself from when it is handed out until it ends: nodes of one block that had
 *       nothing. It goes to the first of them. Which they are nobody remembers over a restart: then it keeps its block.
 */
import {
  endOf,
  fenceOf,
  type IdKey,
  keyAt,
  limits,
  type NodeCapacity,
  REASONS,
  startOf,
  type TasksFrame,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import type { SchedulerEffect, SchedulerEvent } from "./events.js";
import { functionOf, type HeldState, type HeldTask } from "./held-task.js";
import { type Demand, NodeState } from "./node-state.js";
import { TaskLine } from "./task-line.js";
import { leastBusy, WholeNodes } from "./whole-nodes.js";

export type { SchedulerEffect, SchedulerEvent } from "./events.js";

const NONE: readonly SchedulerEffect[] = [];

export class Scheduler {
  readonly #demandOf: (digest: Buffer) => Demand | undefined;
  readonly #tasks = new Map<IdKey, HeldTask>();
  readonly #nodes = new Map<string, NodeState>();
  readonly #whole = new WholeNodes();
  readonly #plain = new TaskLine(undefined);
  /** Lines of tasks with needs, by those; one that is empty is let go. */
  readonly #needy = new Map<string, TaskLine>();
  /** By `indexOf(state)`. */
  readonly #counts = [0, 0, 0, 0, 0, 0];
  #heldBytes = 0;
  #draining = false;

  /** `demandOf`: what tasks of a function need of a node; asked only for functions whose definition is here. */
  constructor(demandOf: (digest: Buffer) => Demand | undefined = () => undefined) {
    this.#demandOf = demandOf;
  }

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

  /** Places that the queued tasks would fill: one each, or as many as they need cores. */
  get queuedPlaces(): number {
    let places = this.#plain.queued;
    for (const { queued, demand } of this.#needy.values()) {
      places += queued * (demand!.nodes > 0 ? demand!.nodes * this.#placesOfNode : Math.ceil(demand!.cores));
    }
    return places;
  }

  /** The most that a node has; 1 where none is here. */
  get #placesOfNode(): number {
    let most = 1;
    for (const { capacity } of this.#nodes.values()) most = Math.max(most, capacity?.places ?? 1);
    return most;
  }

  /** How many tasks the node was handed that have no outcome; what it holds while it is away does not count. */
  handedTo(node: string): number {
    return this.#nodes.get(node)?.handed ?? 0;
  }

  /** The attempt of a task that the node was handed; undefined where it was not. */
  attemptOn(node: string, key: IdKey): number | undefined {
    const task = this.#tasks.get(key);
    return task?.state === "handed" && task.node === node ? task.attempt : undefined;
  }

  /**
   * The nodes that are here: how many, their places together and what they have, each kind once. Places and kinds are
   * undefined where one of them does not say.
   */
  get nodes(): {
    readonly nodes: number;
    readonly places: number | undefined;
    readonly capacities: readonly NodeCapacity[] | undefined;
  } {
    const kinds = new Map<string, NodeCapacity>();
    let places = 0;
    let isKnown = true;
    for (const { capacity } of this.#nodes.values()) {
      if (capacity === undefined) isKnown = false;
      else {
        places += capacity.places;
        kinds.set(JSON.stringify(capacity), capacity);
      }
    }
    const nodes = this.#nodes.size;
    return isKnown && nodes > 0
      ? { nodes, places, capacities: [...kinds.values()] }
      : { nodes, places: undefined, capacities: undefined };
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
        if (event.task.state === "waiting" && --event.task.needs <= 0) {
          event.task.demand = this.#demandOf(functionOf(event.task));
          this.#enqueue(event.task);
        }
        return NONE;
      case "restored":
        for (const key of event.keys) {
          const task = this.#tasks.get(key);
          if (task?.state !== "queued" && task?.state !== "waiting") continue;
          this.#set(task, "handed");
          task.node = event.node;
          if (task.demand !== undefined && task.demand.nodes > 0) this.#keep(task, { names: [], hosts: [] });
        }
        return NONE;
      case "mistrusted":
        for (const task of this.#tasks.values()) {
          if (task.state !== "queued" && task.state !== "waiting") continue;
          this.#set(task, "handed");
          task.node = event.node;
          if (task.demand !== undefined && task.demand.nodes > 0) this.#keep(task, { names: [], hosts: [] });
        }
        return NONE;
      case "node_up":
        return this.#nodeUp(event);
      case "node_credit":
        this.#nodes.get(event.node)?.credit.grant(event.tasks, event.bytes);
        return NONE;
      case "node_away":
        this.#nodes.delete(event.node);
        return NONE;
      case "node_drain": {
        const node = this.#nodes.get(event.node);
        if (node) node.draining = true;
        return NONE;
      }
      case "node_lost":
        this.#nodes.delete(event.node);
        return this.#lose((task) => task.node === event.node);
      case "node_returned": {
        const node = event.node === undefined ? undefined : this.#nodes.get(event.node);
        if (node) node.recalling = false;
        return this.#returned(event.keys, event.atMs);
      }
      case "node_started":
        for (const key of event.keys) {
          const task = this.#tasks.get(key);
          if (task?.state !== "handed" || task.running) continue;
          task.running = true;
          this.#nodes.get(task.node!)?.started();
        }
        return NONE;
      case "finished":
        for (const task of event.tasks) {
          this.#leaveNode(task);
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
    const demands = frame.fns.map(this.#demandOf);
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
        demand: demands[frame.fn === undefined ? 0 : frame.fn.readUInt16LE(2 * i)],
        whole: undefined,
        stopFor: undefined,
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

  #nodeUp(event: Extract<SchedulerEvent, { kind: "node_up" }>): readonly SchedulerEffect[] {
    const node = new NodeState(event.node, event.capacity);
    node.isKept = this.#whole.keeps(event.node);
    this.#nodes.set(event.node, node);
    const missing: HeldTask[] = [];
    const effects: SchedulerEffect[] = [];
    for (const task of this.#tasks.values()) {
      if (task.node !== event.node || task.state !== "handed") continue;
      if (!event.held.has(task.key)) missing.push(task);
      else {
        node.add(task);
        // It may not have heard of it (S7).
        if (task.stopFor !== undefined) effects.push(stopOnNode(event.node, [task.key], task.stopFor));
      }
    }
    if (missing.length === 0) return effects;
    if (!event.whole)
      effects.push(finish(missing, TERMINAL_STATES.LOST, REASONS.agent_lost)); // S5
    else effects.push(...this.#requeue(missing));
    return effects;
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
      this.#leaveNode(task);
      task.queuedAtMs = atMs;
      back.push(task);
    }
    if (back.length === 0) return NONE;
    const effects = this.#requeue(back);
    const rest = back.filter((task) => task.state === "queued");
    if (this.#draining && rest.length > 0) effects.push({ do: "return", tasks: rest });
    return effects;
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
        if (!unbegunOnly) task.stopFor = "cancelled";
        else task.stopFor ??= "unbegun";
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
      effects.push(stopOnNode(node, list, unbegunOnly ? "unbegun" : "cancelled"));
    }
    return effects;
  }

  #deadline(task: HeldTask): readonly SchedulerEffect[] {
    if (task.state === "queued" || task.state === "waiting") {
      return [finish([task], TERMINAL_STATES.TIMED_OUT, REASONS.deadline)];
    }
    if (task.state !== "handed" || task.node === undefined) return NONE;
    task.stopFor ??= "deadline";
    return [stopOnNode(task.node, [task.key], "deadline")];
  }

  #dispatch(atMs: number): readonly SchedulerEffect[] {
    if (this.#counts[QUEUED]! === 0) return this.#nodes.size > 1 ? this.#recall() : NONE;
    const effects: SchedulerEffect[] = [];
    if (this.#needy.size === 0) this.#dispatchLine(this.#plain, atMs, effects);
    else {
      const heads: { line: TaskLine; sinceMs: number }[] = [];
      for (const line of [this.#plain, ...this.#needy.values()]) {
        const head = line.peek();
        if (head !== undefined) heads.push({ line, sinceMs: head.queuedAtMs });
        else if (line.demand !== undefined && line.queued === 0) this.#needy.delete(lineKey(line.demand));
      }
      heads.sort((a, b) => a.sinceMs - b.sinceMs);
      for (const { line } of heads) {
        if (line.demand !== undefined && line.demand.nodes > 0) {
          this.#dispatchWhole(line, line.demand, atMs, effects);
          continue;
        }
        this.#dispatchLine(line, atMs, effects);
        if (line.demand !== undefined && line.queued > 0) this.#reserveFor(line.demand);
      }
      for (const node of this.#nodes.values()) node.reserved = false;
    }
    return effects;
  }

  /** S8 */
  #recall(): readonly SchedulerEffect[] {
    let free = 0;
    for (const node of this.#nodes.values()) free += node.freePlaces;
    if (free === 0) return NONE;
    const effects: SchedulerEffect[] = [];
    for (const node of this.#nodes.values()) {
      const tasks = Math.min(node.waiting, free);
      if (tasks <= 0) continue;
      node.recalling = true;
      free -= tasks;
      effects.push({ do: "recall", node: node.name, tasks });
    }
    return effects;
  }

  #dispatchLine(line: TaskLine, atMs: number, effects: SchedulerEffect[]): void {
    while (line.queued > 0) {
      const best = this.#roomiest(line.demand);
      if (best === undefined) return;
      // With several nodes, no more than a fair share at once, so that a burst is spread.
      const share = Math.ceil(line.queued / this.#nodes.size);
      const tasks = this.#take(line, best.node, Math.min(best.room, share, limits.MAX_BATCH_ITEMS), atMs);
      if (tasks.length === 0) return;
      effects.push({ do: "hand", node: best.node.name, tasks });
    }
  }

  /** S9; S6 for what finds no nodes: those that have the least to finish are kept for it. */
  #dispatchWhole(line: TaskLine, demand: Demand, atMs: number, effects: SchedulerEffect[]): void {
    while (line.queued > 0) {
      const free = [...this.#nodes.values()].filter((node) => node.isFreeFor(demand));
      const nodes = leastBusy(free, demand.nodes);
      if (nodes === undefined) break;
      const tasks = this.#take(line, nodes[0]!, 1, atMs);
      if (tasks.length === 0) return;
      const hosts = nodes.map(({ name, capacity }) => capacity?.host ?? name);
      this.#keep(tasks[0]!, { names: nodes.map(({ name }) => name), hosts });
      effects.push({ do: "hand", node: nodes[0]!.name, tasks });
    }
    if (line.queued === 0) return;
    const able = [...this.#nodes.values()].filter((node) => !node.reserved && node.couldTake(demand));
    for (const node of leastBusy(able, demand.nodes) ?? []) node.reserved = true;
  }

  #keep(task: HeldTask, nodes: NonNullable<HeldTask["whole"]>): void {
    task.whole = nodes;
    this.#whole.keep(task);
    this.#lookWhoIsKept();
  }

  #lookWhoIsKept(): void {
    for (const node of this.#nodes.values()) node.isKept = this.#whole.keeps(node.name);
  }

  #take(line: TaskLine, node: NodeState, most: number, atMs: number): HeldTask[] {
    const taken: HeldTask[] = [];
    let bytes = 0;
    const roomBytes = node.credit.roomBytes; // S3
    while (taken.length < most) {
      const task = line.peek();
      if (task === undefined) break;
      if (bytes > 0 && bytes + task.sizeBytes > Math.min(roomBytes, limits.TARGET_BATCH_BYTES)) break;
      line.shift();
      bytes += task.sizeBytes;
      this.#set(task, "handed");
      task.node = node.name;
      node.add(task);
      task.waitedUs = Math.max(0, Math.round((atMs - task.queuedAtMs) * 1000));
      taken.push(task);
    }
    node.credit.use(taken.length, bytes);
    return taken;
  }

  #roomiest(demand: Demand | undefined): { readonly node: NodeState; readonly room: number } | undefined {
    let best: { node: NodeState; room: number; free: number } | undefined;
    for (const node of this.#nodes.values()) {
      const room = node.room(demand);
      if (room <= 0) continue;
      const free = Math.min(room, node.freePlaces);
      // Where something can begin at once comes before where it waits.
      const isBetter = best === undefined || free > best.free || (free === best.free && room > best.room);
      if (isBetter) best = { node, room, free };
    }
    return best;
  }

  /** S6: of the nodes that could take it, the one that has the least to finish first. */
  #reserveFor(demand: Demand): void {
    let best: NodeState | undefined;
    for (const node of this.#nodes.values()) {
      if (node.reserved || !node.couldTake(demand)) continue;
      if (best === undefined || node.handed < best.handed) best = node;
    }
    if (best !== undefined) best.reserved = true;
  }

  #lineOf(demand: Demand | undefined): TaskLine {
    if (demand === undefined) return this.#plain;
    const key = lineKey(demand);
    let line = this.#needy.get(key);
    if (line === undefined) {
      line = new TaskLine(demand);
      this.#needy.set(key, line);
    }
    return line;
  }

  #enqueue(task: HeldTask): void {
    this.#set(task, "queued");
    this.#lineOf(task.demand).push(task);
  }

  /** S2: in front of all that never left the line. S7: but for those that were to be stopped. */
  #requeue(tasks: readonly HeldTask[]): SchedulerEffect[] {
    const lines = new Map<TaskLine, HeldTask[]>();
    const stopped: HeldTask[] = [];
    const late: HeldTask[] = [];
    for (const task of tasks) {
      this.#set(task, "queued");
      task.node = undefined;
      task.running = false;
      if (task.stopFor !== undefined) {
        (task.stopFor === "deadline" ? late : stopped).push(task);
        continue;
      }
      const line = this.#lineOf(task.demand);
      const list = lines.get(line);
      if (list) list.push(task);
      else lines.set(line, [task]);
    }
    for (const [line, list] of lines) line.unshift(list);
    const effects: SchedulerEffect[] = [{ do: "unhand", tasks }];
    if (stopped.length > 0)
      effects.push({
        ...finish(stopped, TERMINAL_STATES.CANCELLED, REASONS.cancelled_by_user),
        confirmed: true,
      });
    if (late.length > 0) effects.push(finish(late, TERMINAL_STATES.TIMED_OUT, REASONS.deadline));
    return effects;
  }

  /** Its node has it no more. */
  #leaveNode(task: HeldTask): void {
    if (task.state === "handed" && task.node !== undefined) this.#nodes.get(task.node)?.remove(task);
  }

  #forget(task: HeldTask): void {
    this.#leaveNode(task);
    this.#set(task, "gone");
    if (this.#tasks.get(task.key) === task) this.#tasks.delete(task.key);
  }

  #set(task: HeldTask, state: HeldState): void {
    const from = indexOf(task.state);
    const to = indexOf(state);
    if (from < KEPT !== to < KEPT) this.#heldBytes += to < KEPT ? task.sizeBytes : -task.sizeBytes;
    this.#counts[from]!--;
    this.#counts[to]!++;
    if (from === QUEUED) this.#lineOf(task.demand).queued--;
    if (to === QUEUED) this.#lineOf(task.demand).queued++;
    task.state = state;
    if (task.whole !== undefined && state !== "handed") {
      task.whole = undefined;
      this.#whole.letGo(task);
      this.#lookWhoIsKept();
    }
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

function lineKey({ cores, memoryMb, gpus, nodes }: Demand): string {
  return `${cores}/${memoryMb}/${gpus}/${nodes}`;
}

function stopOnNode(
  node: string,
  keys: readonly IdKey[],
  why: NonNullable<HeldTask["stopFor"]>,
): SchedulerEffect {
  return { do: "cancel_on_node", node, keys, ...(why === "cancelled" ? {} : { why }) };
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
