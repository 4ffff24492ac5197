/**
 * One life of an agent: the real scheduler, journal records, replay, results and credit, wired as engine.ts wires
 * them, without its sockets, files and timers. `turn` is the end of a turn of the event loop.
 */
import {
  columnToKeys,
  encodeFrame,
  type Frame,
  type IdKey,
  keysToColumn,
  type NodeCapacity,
  type ResultsFrame,
  type TasksFrame,
} from "@farloom/protocol";
import { type JournalRecord, RECORD } from "../../apps/endpoint-agent/src/journal/format.js";
import { idsRecord, liveRecords, replayRecords } from "../../apps/endpoint-agent/src/journal/snapshot.js";
import { CreditWindow } from "../../apps/endpoint-agent/src/link/credit-window.js";
import { ServiceStream } from "../../apps/endpoint-agent/src/link/service-stream.js";
import { KeptResults } from "../../apps/endpoint-agent/src/results/kept-results.js";
import { batchesOf, ResultSender } from "../../apps/endpoint-agent/src/results/result-sender.js";
import { idColumns, settle } from "../../apps/endpoint-agent/src/results/settle.js";
import { type HeldTask, optionsOf } from "../../apps/endpoint-agent/src/scheduler/held-task.js";
import { demandOf } from "../../apps/endpoint-agent/src/scheduler/node-state.js";
import {
  Scheduler,
  type SchedulerEffect,
  type SchedulerEvent,
} from "../../apps/endpoint-agent/src/scheduler/scheduler.js";
import { tasksFrames } from "../../apps/endpoint-agent/src/scheduler/task-frames.js";
import { GPU_DIGEST } from "./door.js";
import type { JournalDisk } from "./journal-disk.js";
import { Node, type NodeDeps } from "./node.js";
import { helloOf, Outcomes, sessionOver } from "./outcomes.js";
import type { End, Wire } from "./wire.js";

const LOCAL = "local";
/** Tasks that the agent is ready to hold. */
const WINDOW = 8;

export interface AgentDeps extends NodeDeps {
  readonly disk: JournalDisk;
  readonly bootId: string;
  /** Whether the tasks' function is on the disk. */
  readonly hasFunction: () => boolean;
}

export class Agent {
  readonly node: Node;
  wire: Wire | undefined;
  draining = false;
  readonly #deps: AgentDeps;
  readonly #scheduler = new Scheduler((digest) =>
    digest.equals(GPU_DIGEST) ? demandOf({ gpus: 1 }) : undefined,
  );
  readonly #sender = new ResultSender();
  readonly #kept = new KeptResults();
  readonly #service = new ServiceStream(new CreditWindow(WINDOW, 1e9), this.#sender);
  readonly #outcomes = new Outcomes(this.#scheduler, (record) => this.#append(record));
  #toNode: Frame[] = [];
  #nodeReceived = 0;
  #nodeMarked = 0;
  #nodeHello: { held: ReadonlySet<IdKey>; whole: boolean; capacity: NodeCapacity | undefined } | undefined;
  #stuck = false;

  constructor(deps: AgentDeps) {
    this.#deps = deps;
    const { disk, bootId } = deps;
    const replay = disk.read();
    replayRecords(replay.records, {
      scheduler: this.#scheduler,
      nowMs: 0,
      needsOf: () => this.#needsOf(),
      onKept: (task) => this.#kept.add(task, 0),
      onWanted: (key) => this.#kept.take(key),
    });
    const done = [...this.#scheduler.tasks()].filter((task) => task.state === "done");
    this.#outcomes.ready.push(...batchesOf(done, true));
    if (replay.bootId !== undefined && replay.bootId !== bootId) {
      // Its last words may be missing: what it calls queued may have run.
      this.#apply({ kind: "mistrusted", node: LOCAL });
      if (deps.bugs.has("what may have started is queued again")) this.#requeueHanded();
      else this.#apply({ kind: "node_lost", node: LOCAL });
    }
    disk.compact(bootId, liveRecords(this.#scheduler));
    this.node = new Node(deps);
  }

  #requeueHanded(): void {
    const handed = [...this.#scheduler.tasks()].filter((task) => task.state === "handed");
    this.#apply({ kind: "node_returned", keys: handed.map((task) => task.key), atMs: 0 });
  }

  // ─── the link ────────────────────────────────────────────────────────────────────────────────────────────

  dial(connect: (end: End) => Wire): void {
    this.turn(true);
    const wire = connect({
      receive: (message) => {
        if (this.wire === wire) this.#fromService(message as Frame);
      },
      closed: () => {
        if (this.wire === wire) this.#hangUp();
      },
    });
    this.wire = wire;
    const held: IdKey[] = [];
    for (const task of this.#scheduler.tasks())
      if (task.state === "waiting" || task.state === "queued" || task.state === "handed") held.push(task.key);
    for (const batch of this.#outcomes.ready) for (const task of batch.tasks) held.push(task.key);
    wire.sendUp(helloOf(keysToColumn(held), this.#sender.unacked));
  }

  #hangUp(): void {
    this.wire = undefined;
    this.#service.close();
  }

  #fromService(frame: Frame): void {
    switch (frame.t) {
      case "welcome":
        this.#service.open(sessionOver(this.wire!));
        if (this.draining) this.#beginDrain();
        return;
      case "tasks":
        this.#takeTasks(frame);
        return;
      case "mark":
        this.#service.marked(frame);
        return;
      case "cancel":
        this.#apply({ kind: "cancel", keys: columnToKeys(frame.ids) });
        return;
      case "unknown":
        this.#keepAside(columnToKeys(frame.ids));
        return;
    }
  }

  #takeTasks(frame: TasksFrame): void {
    if (!this.#service.received(frame)) return;
    if (this.draining) {
      this.#service.stage({ t: "returned", ids: frame.ids });
      return;
    }
    if (this.#deps.bugs.has("a task that is sent again runs again")) this.#forget(this.#known(frame));
    this.#append({ type: RECORD.accepted, payload: encodeFrame(frame) });
    const needs = this.#needsOf();
    this.#apply({ kind: "accepted", frame, atMs: 0, ...(needs ? { needs } : {}) });
  }

  #known(frame: TasksFrame): HeldTask[] {
    return columnToKeys(frame.ids).flatMap((key) => this.#scheduler.get(key) ?? []);
  }

  #needsOf(): ((i: number) => number) | undefined {
    return this.#deps.hasFunction() ? undefined : () => 1;
  }

  /** The function's definition came. */
  functionCame(): void {
    for (const task of [...this.#scheduler.tasks()])
      if (task.state === "waiting") this.#apply({ kind: "ready", task });
  }

  #keepAside(keys: readonly IdKey[]): void {
    const tasks: HeldTask[] = [];
    for (const key of keys) {
      this.#apply({ kind: "unknown", key });
      const task = this.#scheduler.get(key);
      if (task?.state !== "kept") continue;
      tasks.push(task);
      this.#kept.add(task, 0);
    }
    if (tasks.length === 0) return;
    if (this.#deps.bugs.has("an unknown result is forgotten at once")) {
      this.#append(idsRecord(RECORD.acked, tasks));
      this.#forget(tasks);
    } else this.#append(idsRecord(RECORD.kept, tasks));
  }

  // ─── the node ────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes the node's next frame. */
  hearNode(): boolean {
    const frame = this.node.out.shift();
    if (frame === undefined) return false;
    if (frame.t === "hello") {
      const { held, whole, capacity } = frame;
      this.#nodeHello = { held: new Set(columnToKeys(held!)), whole: whole === true, capacity };
      this.#nodeReceived = this.#nodeMarked = 0;
    } else if (frame.t === "credit") {
      if (this.#nodeHello) this.#apply({ kind: "node_up", node: LOCAL, ...this.#nodeHello });
      this.#nodeHello = undefined;
      this.#apply({ kind: "node_credit", node: LOCAL, tasks: frame.tasks, bytes: frame.bytes });
    } else if (frame.t === "results") this.#takeResults(frame);
    else if (frame.t === "returned")
      this.#apply({ kind: "node_returned", keys: columnToKeys(frame.ids), atMs: 0 });
    return true;
  }

  #takeResults(frame: ResultsFrame): void {
    this.#nodeReceived += frame.n;
    const settled = settle(frame, this.#scheduler, LOCAL);
    if (settled) this.#outcomes.finished(settled);
  }

  // ─── decisions ───────────────────────────────────────────────────────────────────────────────────────────

  /** A task's time in the queue is over. */
  expireOne(): boolean {
    for (const task of this.#scheduler.tasks()) {
      if (task.state !== "queued" && task.state !== "waiting") continue;
      if (optionsOf(task)?.queueTimeoutMs === undefined) continue;
      this.#apply({ kind: "expired", task });
      return true;
    }
    return false;
  }

  drain(): void {
    this.draining = true;
    this.#beginDrain();
    this.#toNode.push({ t: "drain", code: "DRAINING", message: "" });
  }

  #beginDrain(): void {
    this.#service.stage({ t: "drain", code: "DRAINING", message: "" });
    if (this.#deps.bugs.has("drain gives back what has started")) this.#requeueHanded();
    this.#apply({ kind: "drain" });
  }

  #apply(event: SchedulerEvent): void {
    for (const effect of this.#scheduler.handle(event)) this.#carryOut(effect);
  }

  #carryOut(effect: SchedulerEffect): void {
    switch (effect.do) {
      case "hand":
        for (const frame of tasksFrames(effect.tasks)) {
          this.#append({ type: RECORD.started, payload: frame.ids });
          if (this.#deps.bugs.has("tasks go to the node before the journal says started"))
            this.node.take(frame);
          else this.#toNode.push(frame);
        }
        return;
      case "wait":
        return;
      case "answer":
        this.#kept.take(effect.task.key);
        this.#outcomes.ready.push(...batchesOf([effect.task], true));
        return;
      case "finish":
        this.#outcomes.finishHere(effect.tasks, effect);
        return;
      case "cancel_on_node":
        this.#toNode.push({ t: "cancel", ids: keysToColumn(effect.keys) });
        return;
      case "unhand":
        this.#append(idsRecord(RECORD.unstarted, effect.tasks));
        return;
      case "return": {
        if (!this.#service.isOpen) return;
        const record = idsRecord(RECORD.returned, effect.tasks);
        this.#append(record);
        this.#service.stage({ t: "returned", ids: record.payload });
        this.#forget(effect.tasks);
      }
    }
  }

  #append(record: JournalRecord): void {
    this.#deps.disk.append(record.type, record.payload);
  }

  #forget(tasks: readonly HeldTask[]): void {
    this.#scheduler.handle({ kind: "forget", tasks });
  }

  /** One write of the journal, and only after it whatever acknowledges, hands out or sends. */
  turn(lazyToo: boolean): void {
    const { bugs, disk } = this.#deps;
    const acked = this.#service.takeReleased().filter((task) => task.state === "done");
    for (const ids of idColumns(acked)) disk.append(RECORD.acked, ids);
    this.#forget(acked);
    if (!this.#stuck) this.#apply({ kind: "dispatch", atMs: 0, paused: false });
    this.#stuck = !disk.commit();
    if (this.#stuck) return;
    for (const frame of this.#toNode.splice(0)) this.node.take(frame);
    if (this.#nodeMarked < this.#nodeReceived) {
      this.#nodeMarked = this.#nodeReceived;
      this.node.take({ t: "mark", accepted: this.#nodeMarked, durable: this.#nodeMarked });
    }
    for (const batch of this.#outcomes.ready.splice(0)) {
      this.#sender.add(batch);
      if (!bugs.has("the agent forgets a result when it is sent") || !this.#service.isOpen) continue;
      for (const ids of idColumns(batch.tasks)) disk.append(RECORD.acked, ids);
      this.#forget(batch.tasks);
    }
    for (let again = true; again; ) {
      const { heldTasks, heldBytes } = this.#scheduler;
      again = this.#service.release({ lazyToo, mayGrant: !this.draining, heldTasks, heldBytes }) === "next";
    }
  }

  compact(): void {
    if (!this.#stuck) this.#deps.disk.compact(this.#deps.bootId, liveRecords(this.#scheduler));
  }
}
