/**
 * Which task goes to which worker, and what becomes of it when a worker dies, is asked to stop or gives it
 * back. Tasks come from the node manager; results, returned tasks and progress go to it.
 *
 * Invariants
 *   1  A task is in exactly one place: a lane's queue or a worker's `held`; `tasks` has it until its outcome.
 *   2  At most `workers` workers hold tasks at the same time, whatever their lanes.
 *   3  A worker's death is charged to the task that ran, and to no other; what it held behind goes to the front
 *      of the queue.
 *   4  A worker has what it needs for itself from its start to its end (worker-room.ts); a task goes only to one that
 *      has what the task needs, as the lane says it.
 *   5  Nothing ticks while no worker holds a task.
 *
 * Bound: lanes, of which there is one for each environment and submitter that ever came: twice those that have tasks or
 * workers, or MANY_LANES.
 */
import {
  type AskFrame,
  batchLength,
  buildOutput,
  durationUsOf,
  type GrantFrame,
  type IdKey,
  keyAt,
  limits,
  type OutcomeDetail,
  type OutputFrame,
  type OutputPiece,
  type ProgressFrame,
  type ResultItem,
  type ResultsFrame,
} from "@farloom/protocol";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Logger } from "pino";
import { partsOfLane } from "../isolation/lanes.js";
import { Masks } from "../secrets/masks.js";
import { crashReport } from "./crash-report.js";
import { AHEAD_US, MAX_HELD, MAX_HELD_BYTES, mayGoAhead, overdueMs, plannedUs } from "./depth.js";
import { addDuration, pickResults } from "./frame-items.js";
import { splitLane } from "./gear/needs.js";
import type { NodeGear } from "./gear/node-gear.js";
import { Lane, type LaneTrouble } from "./lane.js";
import { laneOf, type NodeTask, outcome, stoppedUnbegun } from "./node-task.js";
import { OomWatch } from "./oom-watch.js";
import { recipeOf } from "./recipe.js";
import { type Death, Worker, type WorkerOwner, type WorkerPlace, type WorkerProgram } from "./worker.js";
import { isDiskFull, readRunning } from "./worker-files.js";
import type { WorkerRecord, WorkerRecords } from "./worker-records.js";
import { firstPlace, WorkerRoom } from "./worker-room.js";

/** After this much of one task, those behind it are asked back where another worker has nothing to do. */
const STALE_MS = 20;
/** `progress started` is told of tasks that run longer. */
const ANNOUNCE_MS = 1_000;
/** Between two words of a function on how far it is; the worker's own bound is 250 ms, and the last word may be late. */
const PROGRESS_MS = 100;
/** How often a running task's output and time limit are looked at; closer while it floods. */
const WATCH_MS = 100;
const FLOOD_WATCH_MS = 20;
/** What tasks that have run this long have written is told, this often, and so much of it at once (P33). */
const OUTPUT_AFTER_MS = 200;
const OUTPUT_MS = 200;
const OUTPUT_BYTES = 256 * 1024;
const MIN_OUTPUT_SHARE_BYTES = 4_096;
/** Marks that no task takes along go alone after this. */
const MARK_DELAY_MS = 50;
/** From so many lanes on, those that have neither tasks nor workers are forgotten: each is looked at in every turn. */
const MANY_LANES = 128;

/** Where outcomes go. */
export interface Upstream {
  /** A worker's frame, as it came; all of it are tasks that were in hand. */
  results(frame: ResultsFrame, worker: Worker): void;
  outcomes(items: readonly ResultItem[]): void;
  /** A frame of which nothing is new: only its position counts. */
  nothing(worker: Worker): void;
  returned(keys: readonly IdKey[]): void;
  started(keys: readonly IdKey[]): void;
  progress(frame: ProgressFrame): void;
  ask(frame: AskFrame): void;
  /** What running tasks have written. */
  output(frame: OutputFrame): void;
  /** Whether `output` would reach somebody soon: if not, nothing is read, and it is told later. */
  readonly hearsOutput: boolean;
  /** This worker is gone, and all that it left has gone up. */
  ended(name: string): void;
  /** Tasks left; credit may grow. */
  left(): void;
}

export interface DispatcherOptions {
  readonly log: Logger;
  readonly workers: number;
  readonly runDir: string;
  readonly place: WorkerPlace;
  readonly idleRetireMs: number;
  readonly records: WorkerRecords;
  /** Absent: there is none, and workers get the environment as it is. */
  readonly gear: NodeGear | undefined;
  readonly programOf: (laneName: string) => WorkerProgram | undefined;
  readonly up: Upstream;
}

export class Dispatcher implements WorkerOwner {
  readonly tasks = new Map<IdKey, NodeTask>();
  readonly #where = new Map<NodeTask, Worker>();
  readonly #options: DispatcherOptions;
  readonly #lanes = new Map<string, Lane>();
  #forgetAt = MANY_LANES;
  readonly #workers = new Map<string, Worker>();
  readonly #owing = new Set<Worker>();
  #nextName = 1;
  #places = 0;
  #pumping = false;
  #tick: NodeJS.Timeout | undefined;
  #markTimer: NodeJS.Timeout | undefined;
  #retireTimer: NodeJS.Timeout | undefined;
  readonly #oom = new OomWatch();
  readonly #room: WorkerRoom;
  #closing = false;
  /** Microseconds that a task takes, over all functions; undefined until one is measured. */
  typicalUs: number | undefined;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    this.#room = new WorkerRoom(options.gear, options.workers, this.#workers);
  }

  get workers(): ReadonlyMap<string, Worker> {
    return this.#workers;
  }

  /** How many lanes it knows. */
  get lanes(): number {
    return this.#lanes.size;
  }

  secretOf(name: string): string | undefined {
    return this.#workers.get(name)?.record.secret;
  }

  /** Has workers of this lane ready before a task asks for them. */
  warm(laneName: string): void {
    this.#lane(laneName)?.want(this.#options.workers);
  }

  /**
   * Takes in a worker that an earlier agent started. Where the configuration has changed, it would run tasks in an
   * environment, or with gear, that they are not meant for: it ends after what it runs.
   */
  adopt(record: WorkerRecord): Worker {
    const worker = Worker.expect(record, { owner: this, place: this.#options.place });
    this.#workers.set(record.name, worker);
    this.#options.records.keep(record);
    this.#room.occupy(worker.gear);
    const lane = this.#lane(record.lane);
    lane?.add(worker);
    if (lane === undefined || record.recipe !== this.#recipeOf(lane)) {
      const { name, lane: of, pid } = record;
      this.#options.log.info(
        { worker: name, pid, lane: of },
        "an old worker is of another configuration; it ends after what it runs",
      );
      worker.dismiss();
    }
    return worker;
  }

  /** A task that a re-adopted worker holds. */
  adoptTask(worker: Worker, task: NodeTask): void {
    this.tasks.set(task.key, task);
    this.#where.set(task, worker);
  }

  /** New tasks, in order. */
  add(tasks: readonly NodeTask[]): void {
    if (tasks.length > 0) this.#returning = false;
    let troubled: ResultItem[] | undefined;
    for (const task of tasks) {
      if (task.fn!.impossible !== undefined) {
        troubled ??= [];
        troubled.push(lacking(task, task.fn!.impossible));
        continue;
      }
      const lane = this.#lane(laneOf(task));
      if (!lane) {
        troubled ??= [];
        troubled.push(this.#noRuntime(task));
        continue;
      }
      this.tasks.set(task.key, task);
      task.place = ++this.#places;
      lane.queue.push(task);
    }
    if (troubled) this.#options.up.outcomes(troubled);
    this.wake();
  }

  /**
   * What has not started ends at once, or as soon as its worker gives it back; what runs is stopped, or, for
   * `unbegun`, told of and left alone.
   */
  cancel(
    keys: readonly IdKey[],
    why: "cancelled_by_user" | "deadline" | "unbegun" = "cancelled_by_user",
  ): void {
    const ended: ResultItem[] = [];
    const running: IdKey[] = [];
    for (const key of keys) {
      const task = this.tasks.get(key);
      if (!task || (task.stopFor !== undefined && task.stopFor !== "unbegun")) continue;
      const worker = this.#where.get(task);
      if (why === "unbegun" && worker?.held.peek() === task) {
        task.announced = true;
        running.push(key);
        continue;
      }
      task.stopFor = why;
      if (!worker) {
        task.gone = true;
        ended.push(this.#end(task, stoppedUnbegun(task)));
      } else if (why === "unbegun") worker.recall();
      else if (planted("cancel-confirmed-unkilled")) {
        ended.push(this.#end(task, outcome(task, "CANCELLED", why, { confirmed: true })));
      } else if (worker.held.peek() === task) worker.stop(key, why);
      else worker.recall();
    }
    if (running.length > 0) this.#options.up.started(running);
    if (ended.length > 0) this.#options.up.outcomes(ended);
    this.#options.up.left();
  }

  /** Gives back everything that waits in a queue. */
  returnQueued(): void {
    const keys: IdKey[] = [];
    for (const lane of this.#lanes.values()) {
      for (const task of lane.queue.takeAll()) {
        if (task.gone) continue;
        this.tasks.delete(task.key);
        keys.push(task.key);
      }
    }
    if (keys.length > 0) this.#options.up.returned(keys);
  }

  /** Gives back everything that has not begun, also what workers let go of until a task comes again. */
  returnAll(): void {
    this.#returning = true;
    this.returnQueued();
    this.recallAll();
  }

  /** Lets go of at most `most` tasks that wait in a queue, those that would begin last. */
  giveBack(most: number): IdKey[] {
    const keys: IdKey[] = [];
    for (const lane of this.#lanes.values()) {
      for (const task of lane.queue.takeLast(most - keys.length)) {
        if (task.gone) continue;
        this.tasks.delete(task.key);
        keys.push(task.key);
      }
    }
    return keys;
  }

  /** Asks every worker for what it has not begun. */
  recallAll(): void {
    for (const worker of this.#workers.values()) if (worker.held.length > 1) worker.recall();
  }

  /** A worker may be told that its results up to here are durable. */
  owe(worker: Worker): void {
    this.#owing.add(worker);
    this.#markTimer ??= setTimeout(() => {
      this.#markTimer = undefined;
      for (const one of this.#owing) one.sendMark();
      this.#owing.clear();
    }, MARK_DELAY_MS);
  }

  /** Something changed: hand out what can be handed out, once, at the end of this turn. */
  wake(): void {
    if (this.#pumping || this.#closing) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  /** Lets idle workers go; with `leave`, running ones are left to the next agent. */
  async close(leave: boolean): Promise<void> {
    this.#closing = true;
    for (const timer of [this.#tick, this.#markTimer, this.#retireTimer]) clearTimeout(timer);
    for (const worker of this.#owing) worker.sendMark();
    for (const lane of this.#lanes.values()) lane.close();
    if (leave) {
      for (const worker of this.#workers.values()) worker.release();
      return;
    }
    const gone = new Promise<void>((resolve) => {
      this.#onEmpty = resolve;
    });
    for (const worker of this.#workers.values()) {
      if (worker.held.length > 0 || worker.phase !== "ready") worker.kill();
      else worker.retire();
    }
    if (this.#workers.size > 0) await gone;
  }

  #onEmpty: () => void = () => undefined;

  // ------------------------------------------------------------------ workers speak

  onReady(worker: Worker): void {
    const lane = this.#lanes.get(worker.record.lane);
    lane?.ready();
    for (const task of worker.held) {
      if (!this.tasks.has(task.key)) this.adoptTask(worker, task);
    }
    this.#scheduleTick();
    this.wake();
  }

  onResults(
    worker: Worker,
    frame: ResultsFrame,
    tasks: readonly (NodeTask | undefined)[],
    strange: number,
  ): void {
    const up = this.#options.up;
    for (let i = 0; i < tasks.length; i++) {
      const task = tasks[i];
      if (!task) continue;
      this.tasks.delete(task.key);
      this.#where.delete(task);
      if (frame.queueUs) addDuration(frame.queueUs, i, Math.round((task.sentMs - task.arrivedMs) * 1000));
    }
    if (frame.runUs) this.#learn(frame.runUs);
    const merged = worker.watch.merge(frame.detail?.[0]);
    const masks = tasks[0]?.masks;
    // The worker has masked what it says; what was cut off as a flood before that, it has not.
    const first = merged && masks ? masks.maskDetail(merged) : merged;
    if (first) frame.detail = { ...frame.detail, 0: first };
    if (strange === 0) up.results(frame, worker);
    else if (strange === tasks.length) up.nothing(worker);
    else
      up.results(
        pickResults(frame, (i) => tasks[i] !== undefined),
        worker,
      );
    up.left();
    this.wake();
  }

  onReturned(worker: Worker, tasks: readonly NodeTask[]): void {
    this.#giveBack(tasks);
    const head = worker.held.peek();
    if (head?.stopFor === "unbegun") {
      // It began before the recall reached its worker.
      head.stopFor = undefined;
      head.announced = true;
      this.#options.up.started([head.key]);
    } else if (head?.stopFor !== undefined) worker.stop(head.key, head.stopFor);
    this.wake();
  }

  /** Of the task that it runs, and not more often than a worker says it: user code can write to the connection. */
  onProgress(worker: Worker, frame: ProgressFrame): void {
    const head = worker.held.peek();
    const now = performance.now();
    if (!head || head.key !== keyAt(frame.ids) || now - (head.progressMs ?? -Infinity) < PROGRESS_MS) return;
    head.progressMs = now;
    if (!head.announced) {
      head.announced = true;
      this.#options.up.started([head.key]);
    }
    this.#options.up.progress(frame);
  }

  /** Of the task that it runs, and one at a time (P28, P40): what that may have, the service knows. */
  onAsk(worker: Worker, frame: AskFrame): void {
    const head = worker.held.peek();
    if (!head || head.key !== keyAt(frame.ids) || head.asked) return;
    head.asked = true;
    this.#options.up.ask(frame);
  }

  /** The answer goes to the worker that runs the task, if one still does. */
  grant(frame: GrantFrame): void {
    const key = keyAt(frame.ids);
    for (const worker of this.workers.values()) {
      const head = worker.held.peek();
      if (head?.key !== key) continue;
      head.asked = false;
      if (frame.secrets) head.masks = new Masks(Object.values(frame.secrets));
      worker.grant(frame);
    }
  }

  onLeaving(worker: Worker, why: string): void {
    const { pid } = worker.record;
    this.#options.log.info({ worker: worker.name, pid, why }, "a worker asks to be replaced");
  }

  onDeath(worker: Worker, death: Death): void {
    const { log, up } = this.#options;
    this.#workers.delete(worker.name);
    this.#room.left(worker.gear, worker.name);
    this.#owing.delete(worker);
    const items: ResultItem[] = [];
    for (const result of death.results) {
      const task = this.tasks.get(result.key);
      if (task) items.push(this.#end(task, result));
    }
    if (death.running) items.push(this.#end(death.running, this.#chargeFor(worker, death.running, death)));
    if (!death.atStart && (death.running || death.bad !== undefined)) {
      log.warn(
        {
          worker: worker.name,
          pid: worker.record.pid,
          exitCode: death.exitCode,
          signal: death.signal,
          stopped: death.stopped,
          bad: death.bad,
        },
        "a worker ended",
      );
    }
    if (items.length > 0) up.outcomes(items);
    up.ended(worker.name);
    this.#giveBack(death.rest);
    const lane = this.#lanes.get(worker.record.lane);
    if (!this.#closing) lane?.lost(worker, death);
    else lane?.workers.delete(worker);
    up.left();
    if (this.#workers.size === 0) this.#onEmpty();
    this.wake();
  }

  // ------------------------------------------------------------------ handing out

  #pump(): void {
    if (this.#closing) return;
    let active = 0;
    for (const worker of this.#workers.values()) if (worker.held.length > 0) active++;
    // Lanes that have nobody at work come first: a busy lane must not starve another (2).
    const lanes = [...this.#lanes.values()].filter((lane) => lane.queue.length > 0);
    if (lanes.length > 1) lanes.sort((a, b) => a.active - b.active || firstPlace(a) - firstPlace(b));
    this.#room.claim(lanes);
    for (const lane of lanes) {
      lane.want(Math.min(this.#options.workers, lane.queue.length + lane.active));
      active = this.#feedLane(lane, active);
      if (lane.queue.length > 0 && lane.active === 0 && active >= this.#options.workers) this.#makeRoom(lane);
    }
    if (lanes.length > 0) {
      const hungry = lanes.filter((lane) => lane.queue.length > 0);
      this.#room.claim(hungry);
      if (active < this.#options.workers) this.#room.grow(hungry, this.#options.workers);
    }
    this.#scheduleTick();
    this.#scheduleRetire();
  }

  #feedLane(lane: Lane, activeBefore: number): number {
    let active = activeBefore;
    const open: Worker[] = [];
    const now = performance.now();
    for (const worker of lane.workers) {
      if (!worker.feedable || worker.held.length >= MAX_HELD) continue;
      const head = worker.held.peek();
      if (head) {
        // Its head takes longer than was planned: nothing more goes behind it.
        if (now - worker.headSinceMs >= overdueMs(head.fn)) continue;
        if (worker.plannedUs >= AHEAD_US && !mayGoAhead(worker.held.length, worker.plannedUs, 0)) continue;
      }
      open.push(worker);
    }
    open.sort(byReadiness);
    for (let i = 0; i < open.length && lane.queue.length > 0; i++) {
      const worker = open[i]!;
      const idle = worker.held.length === 0;
      if (idle && active >= this.#options.workers) continue;
      // What there is, is shared by all that have room, so that a short queue keeps everyone busy.
      const share = Math.ceil(lane.queue.length / (open.length - i));
      const tasks = this.#takeFor(worker, lane, share);
      if (tasks.length === 0) continue;
      if (idle) active++;
      for (const task of tasks) this.#where.set(task, worker);
      for (let from = 0; from < tasks.length; ) {
        const n = batchLength(tasks.length, from, (k) => tasks[k]!.end - tasks[k]!.start);
        crashPoint("node.worker.before-feed");
        worker.feed(from === 0 && n === tasks.length ? tasks : tasks.slice(from, from + n));
        crashPoint("node.worker.after-feed");
        from += n;
      }
      this.#owing.delete(worker);
    }
    return active;
  }

  #takeFor(worker: Worker, lane: Lane, most: number): NodeTask[] {
    const tasks: NodeTask[] = [];
    let ahead = worker.plannedUs;
    let bytes = worker.heldBytes;
    const room = Math.min(most, MAX_HELD - worker.held.length);
    while (tasks.length < room) {
      const task = lane.queue.peek();
      if (!task) break;
      if (task.gone) {
        lane.queue.shift();
        continue;
      }
      task.plannedUs = plannedUs(task.fn!);
      const held = worker.held.length + tasks.length;
      if (!mayGoAhead(held, ahead, task.plannedUs) || (held > 0 && bytes > MAX_HELD_BYTES)) break;
      lane.queue.shift();
      ahead += task.plannedUs;
      bytes += task.end - task.start;
      tasks.push(task);
    }
    return tasks;
  }

  /** A lane with work and a worker, and no place: the lane with most places gives up its next one. */
  #makeRoom(lane: Lane): void {
    if (![...lane.workers].some((worker) => worker.feedable)) return;
    let donor: Worker | undefined;
    let most = 0;
    for (const other of this.#lanes.values()) {
      for (const worker of other.workers) if (worker.yielding && worker.held.length > 0) return;
      const active = other.active;
      if (other === lane || active <= most) continue;
      most = active;
      for (const worker of other.workers) if (worker.held.length > 0) donor = worker;
    }
    if (donor) donor.yielding = true;
  }

  #giveBack(tasks: readonly NodeTask[]): void {
    if (tasks.length === 0) return;
    const ended: ResultItem[] = [];
    const away: IdKey[] = [];
    const again = new Map<string, NodeTask[]>();
    for (const task of tasks) {
      this.#where.delete(task);
      if (task.stopFor !== undefined) ended.push(this.#end(task, stoppedUnbegun(task)));
      else if (!task.fn || this.draining || this.#returning) {
        this.tasks.delete(task.key);
        away.push(task.key);
      } else {
        const list = again.get(laneOf(task));
        if (list) list.push(task);
        else again.set(laneOf(task), [task]);
      }
    }
    for (const [name, list] of again) this.#lanes.get(name)!.queue.putBack(list, (task) => task.place);
    if (ended.length > 0) this.#options.up.outcomes(ended);
    if (away.length > 0) this.#options.up.returned(away);
    this.#options.up.left();
  }

  /** While draining, what comes back goes up. */
  draining = false;
  #returning = false;

  // ------------------------------------------------------------------ time

  /** One timer, only while tasks are held (5). */
  #scheduleTick(): void {
    if (this.#tick || this.#closing) return;
    let waitMs = Number.POSITIVE_INFINITY;
    const now = performance.now();
    for (const worker of this.#workers.values()) {
      const head = worker.held.peek();
      if (!head) continue;
      waitMs = Math.min(waitMs, worker.held.length > 1 ? STALE_MS : WATCH_MS);
      if (head.limitMs > 0) waitMs = Math.min(waitMs, Math.max(1, worker.headSinceMs + head.limitMs - now));
    }
    if (waitMs === Number.POSITIVE_INFINITY) return;
    if (this.#flooded) waitMs = Math.min(waitMs, FLOOD_WATCH_MS);
    this.#tick = setTimeout(() => {
      this.#tick = undefined;
      this.#watch();
      this.#scheduleTick();
    }, waitMs);
  }

  #flooded = false;
  #outputAtMs = 0;

  #watch(): void {
    const now = performance.now();
    this.#oom.look();
    const started: IdKey[] = [];
    this.#flooded = false;
    const spare = this.#lanesWithSpareWorkers();
    const output: OutputPiece[] | undefined =
      now - this.#outputAtMs >= OUTPUT_MS && this.#options.up.hearsOutput ? [] : undefined;
    for (const worker of this.#workers.values()) {
      const head = worker.held.peek();
      if (!head) continue;
      const ranMs = now - worker.headSinceMs;
      // Before a flood is cut.
      if (output && ranMs >= OUTPUT_AFTER_MS) this.#gather(output, worker, head);
      if (head.limitMs > 0 && ranMs >= head.limitMs) worker.stop(head.key, "run_time_limit");
      else if (
        worker.held.length > 1 &&
        ranMs >= (spare.has(worker.record.lane) ? STALE_MS : overdueMs(head.fn))
      )
        worker.recall();
      if (ranMs >= WATCH_MS && mayCut(worker, head) && worker.watch.check()) this.#flooded = true;
      if (ranMs >= WATCH_MS) worker.disk?.look(() => worker.stop(head.key, "disk_limit"), now);
      if (ranMs >= ANNOUNCE_MS && !head.announced) {
        head.announced = true;
        started.push(head.key);
      }
    }
    if (started.length > 0) this.#options.up.started(started);
    if (output === undefined || output.length === 0) return;
    this.#outputAtMs = now;
    this.#options.up.output(buildOutput(output));
  }

  /** Each worker has its share, so that a flood in one hides no other. */
  #gather(output: OutputPiece[], worker: Worker, head: NodeTask): void {
    const share = Math.max(MIN_OUTPUT_SHARE_BYTES, Math.floor(OUTPUT_BYTES / this.#workers.size));
    if (output.length < limits.MAX_BATCH_ITEMS - 1) output.push(...worker.live.look(head, share));
  }

  /** The lanes of which a worker could begin at once what waits behind another's head. */
  #lanesWithSpareWorkers(): ReadonlySet<string> {
    const lanes = new Set<string>();
    let active = 0;
    for (const worker of this.#workers.values()) {
      if (worker.held.length > 0) active++;
      else if (worker.feedable) lanes.add(worker.record.lane);
    }
    return active < this.#options.workers ? lanes : NO_LANES;
  }

  /** Idle workers beyond the number of places are kept warm for a while, and no longer. */
  #scheduleRetire(): void {
    if (this.#retireTimer || this.#workers.size <= this.#options.workers) return;
    this.#retireTimer = setTimeout(() => {
      this.#retireTimer = undefined;
      let excess = this.#workers.size - this.#options.workers;
      for (const lane of this.#lanes.values()) {
        for (const worker of lane.workers) {
          if (excess <= 0) return;
          if (worker.held.length > 0 || worker.phase !== "ready" || lane.queue.length > 0) continue;
          if (worker.retired) continue;
          excess--;
          lane.retire(worker);
        }
      }
    }, this.#options.idleRetireMs);
    this.#retireTimer.unref();
  }

  // ------------------------------------------------------------------ parts

  #lane(name: string): Lane | undefined {
    const known = this.#lanes.get(name);
    if (known) return known;
    const { need, program: programName } = splitLane(partsOfLane(name).program);
    const program = this.#options.programOf(programName);
    if (!program) return undefined;
    if (this.#lanes.size >= this.#forgetAt) this.#forgetLanes();
    const lane = new Lane({
      name,
      program,
      need,
      log: this.#options.log,
      startWorker: (which) => this.#start(which),
      isDiskFull: () => isDiskFull(this.#options.runDir),
      onTrouble: (which, trouble) => this.#failQueued(which, trouble),
    });
    this.#lanes.set(name, lane);
    return lane;
  }

  /** What comes for a forgotten lane makes it anew, and it starts as one that never failed. */
  #forgetLanes(): void {
    for (const [name, lane] of this.#lanes) if (lane.isUnused) this.#lanes.delete(name);
    this.#forgetAt = Math.max(MANY_LANES, 2 * this.#lanes.size);
  }

  #recipeOf({ program }: Lane): string {
    const { gear, place } = this.#options;
    return recipeOf(program, gear?.rules, place.recycle);
  }

  #start(lane: Lane): Worker | undefined {
    const { runDir, place, records } = this.#options;
    const gear = this.#room.admit(lane);
    if (gear === undefined) return undefined;
    let name: string;
    // A dead one's record is removed by its name, later: the new one's would go with it, and the next agent miss it.
    do name = `${lane.program.runtime}-${this.#nextName++}`;
    while (this.#workers.has(name) || records.has(name));
    let worker: Worker;
    try {
      const program = this.#options.gear?.fit(lane.program, gear, name) ?? lane.program;
      const recipe = this.#recipeOf(lane);
      worker = Worker.start(name, lane.name, runDir, program, { owner: this, place, gear, recipe });
    } catch (error) {
      this.#room.left(gear, name);
      throw error;
    }
    if (worker.record.pid > 0) {
      try {
        records.put(worker.record);
      } catch (error) {
        // The next agent would not find it, and take its tasks for never started: it gets none.
        worker.kill();
        worker.release();
        this.#room.left(gear, name);
        throw error;
      }
    }
    this.#workers.set(name, worker);
    return worker;
  }

  /** The task has its outcome and leaves. */
  #end(task: NodeTask, item: ResultItem): ResultItem {
    this.tasks.delete(task.key);
    this.#where.delete(task);
    return item;
  }

  #failQueued(lane: Lane, trouble: LaneTrouble): void {
    const items: ResultItem[] = [];
    for (const task of lane.queue.takeAll()) {
      if (task.gone) continue;
      const detail: OutcomeDetail = { error: { type: trouble.type, message: trouble.message } };
      if (trouble.stderr !== undefined) detail.stderr = trouble.stderr;
      items.push(this.#end(task, outcome(task, "FAILED", trouble.reason, detail)));
    }
    if (items.length > 0) this.#options.up.outcomes(items);
    this.#options.up.left();
  }

  #noRuntime(task: NodeTask): ResultItem {
    const definition = task.fn!.definition;
    const { interpreter } = definition.env;
    const what =
      interpreter !== undefined
        ? `no environment named ${JSON.stringify(interpreter)}, and none that functions bring themselves unless function_environments is set`
        : definition.runtime === "python"
          ? 'no Python interpreter named "default"'
          : `no runtime "${definition.runtime}"`;
    return outcome(task, "FAILED", "runtime_missing", {
      error: {
        type: "RuntimeMissing",
        message: `this endpoint offers ${what}. Add it to the endpoint's configuration, or send the call elsewhere`,
      },
    });
  }

  #chargeFor(worker: Worker, task: NodeTask, death: Death): ResultItem {
    const runUs = death.runningMs * 1000;
    const detail: OutcomeDetail = { ...death.output, worker: worker.label };
    if (death.exitCode !== undefined) detail.exitCode = death.exitCode;
    if (death.signal !== undefined) detail.signal = death.signal;
    if (death.stopped !== undefined) detail.confirmed = death.confirmed;
    if (death.stopped === "cancelled_by_user") {
      return outcome(task, "CANCELLED", "cancelled_by_user", detail, runUs);
    }
    if (death.stopped === "deadline") {
      detail.error = {
        type: "Deadline",
        message: "the task reached its deadline while it ran, and was ended",
      };
      return outcome(task, "TIMED_OUT", "deadline", detail, runUs);
    }
    if (death.stopped === "run_time_limit") {
      detail.error = {
        type: "RunTimeLimit",
        message: `the task ran longer than its limit of ${task.limitMs} ms and was ended`,
      };
      return outcome(task, "TIMED_OUT", "run_time_limit", detail, runUs);
    }
    if (death.stopped === "disk_limit") {
      detail.error = {
        type: "DiskLimit",
        message:
          "the task's folder held more than the endpoint's isolation.limits.disk_mb, and the task was ended",
      };
      return outcome(task, "FAILED", "worker_died", detail, runUs);
    }
    const isOom = this.#oom.rose() && (death.signal === "SIGKILL" || worker.isAdopted);
    const how =
      death.bad !== undefined
        ? `was ended because it wrote into the worker's connection (${death.bad})`
        : death.signal === "SIGKILL"
          ? `was ended by SIGKILL (${this.#oom.isKnown ? "not by the kernel for lack of memory" : "whether by the kernel for lack of memory cannot be told on this machine"})`
          : death.signal !== undefined
            ? `was ended by ${death.signal}`
            : death.exitCode !== undefined
              ? `ended with exit code ${death.exitCode} and without a report`
              : "ended without a report; how cannot be told, as an earlier agent had started it";
    const crash = crashReport(detail.stderr);
    const last = lastLine(crash ? crash.before : detail.stderr) + (crash ? `; ${crash.message}` : "");
    detail.error = isOom
      ? { type: "OutOfMemory", message: `worker ${worker.label} was ended by the kernel for lack of memory` }
      : {
          type: "WorkerDied",
          message: `worker ${worker.label} ${how} while it ran the task${last}`,
          ...(crash && { traceback: crash.traceback }),
        };
    return outcome(task, "FAILED", isOom ? "out_of_memory" : "worker_died", detail, runUs);
  }

  #learn(runUs: Buffer): void {
    const n = runUs.length >>> 2;
    let sum = 0;
    for (let i = 0; i < n; i++) sum += durationUsOf(runUs, i);
    const mean = sum / n + 4;
    this.typicalUs = this.typicalUs === undefined ? mean : this.typicalUs + (mean - this.typicalUs) / 4;
  }
}

/** What is cut off as a flood is told later: not of a task whose secrets are not known here. */
function mayCut(worker: Worker, head: NodeTask): boolean {
  return head.fn !== undefined || head.masks !== undefined || !readRunning(worker.record.dir)?.isGuarded;
}

/** The end of a task that this node could never run. */
function lacking(task: NodeTask, what: string): ResultItem {
  return outcome(task, "FAILED", "environment", { error: { type: "ResourcesMissing", message: what } });
}

const NO_LANES: ReadonlySet<string> = new Set();

/** The last that the worker said, for the message: its standard error knows best why it ended. */
function lastLine(stderr = ""): string {
  const line = stderr.trimEnd().split("\n").at(-1)?.trim() ?? "";
  return line === "" ? "" : `; the last line of its standard error: ${line.slice(0, 300)}`;
}

/**
 * The emptiest first. Of idle ones the one that worked last, whose memory is still in the caches; of busy ones
 * the one whose head has run longest, as its turn comes soonest.
 */
function byReadiness(a: Worker, b: Worker): number {
  const fewer = a.held.length - b.held.length;
  if (fewer !== 0) return fewer;
  return a.held.length === 0 ? b.headSinceMs - a.headSinceMs : a.headSinceMs - b.headSinceMs;
}
