/**
 * One worker: its process, its connections, and the tasks it holds.
 *
 *   starting   the process was started, or an earlier agent's worker is expected; left when it says hello
 *   ready      it is linked and may be fed
 *   unlinked   the link broke and the process lives: it dials again (P17), or is ended after a grace
 *   leaving    the process is gone; what its tasks started is looked for and ended (remains.ts)
 *   dead       nothing of it is left, or cannot be ended; its leftovers were read; final
 *
 * Invariants
 *   1  `held` is in the order in which tasks were sent, which is the order in which the worker runs them.
 *   2  A worker that is to be stopped is fed nothing, and gives back what has not begun before it is signalled:
 *      a signal meets only the task that it is meant for.
 *   3  Its death is told once, after its socket was read to the end: what had arrived is known before anyone
 *      is charged.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, mkdirSync, openSync, rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { constants } from "node:os";
import { basename, join } from "node:path";
import {
  type AskFrame,
  buildTasks,
  byteOf,
  columnToKeys,
  durationUsOf,
  type Frame,
  type GrantFrame,
  type HelloFrame,
  type IdKey,
  keyAt,
  limits,
  type OutcomeDetail,
  type ProgressFrame,
  REASONS,
  type ResultItem,
  type ResultsFrame,
} from "@farloom/protocol";
import { DiskWatch } from "../isolation/disk-watch.js";
import { HandedIn } from "../isolation/handed-in.js";
import { partsOfLane } from "../isolation/lanes.js";
import { foldersOf } from "../isolation/own-places.js";
import type { Sandbox } from "../isolation/sandbox.js";
import { Masks } from "../secrets/masks.js";
import { learn } from "./depth.js";
import { Fifo } from "./fifo.js";
import type { Gear } from "./gear/ledger.js";
import type { Lane } from "./lane.js";
import { LiveOutput } from "./live-output.js";
import { foreignTask, type NodeTask } from "./node-task.js";
import { killGroup, processStartTime } from "./proc.js";
import { askRemains, clearRemains, type Lineage, MARKER_VARIABLE } from "./remains.js";
import { OutputWatch, readLeftover } from "./worker-files.js";
import type { WorkerFrame, WorkerLink } from "./worker-link.js";
import type { WorkerRecord } from "./worker-records.js";

/** Functions a worker knows; it forgets the one sent first, by the same count (MAX_FUNCTIONS in the worker). */
const MAX_KNOWN = 256;
/** A living process without a link is given this long to dial again. */
const RELINK_MS = 5_000;
/** How long an asked worker may take to give back what has not begun, before a stop goes on without. */
const RECALL_WAIT_MS = 100;
/** How often a process that is no child of ours and does not speak is looked for. */
const SILENT_LOOK_MS = 500;
/** After the process is gone, the rest of its socket is read within this. */
const LAST_WORDS_MS = 500;

/** How a worker's process ended. */
export interface Death {
  /** Results that were finished and never arrived. */
  readonly results: readonly ResultItem[];
  /** The task that ran, if one did. */
  readonly running: NodeTask | undefined;
  readonly runningMs: number;
  /** What it held and had not begun, in order. */
  readonly rest: readonly NodeTask[];
  /** Why it was stopped, where it was. */
  readonly stopped: StopReason | undefined;
  /** Nothing that it or its tasks started is left, as far as processes can be found (remains.ts). */
  readonly confirmed: boolean;
  readonly exitCode: number | undefined;
  readonly signal: string | undefined;
  readonly output: OutcomeDetail;
  /** It sent what is no frame. */
  readonly bad: string | undefined;
  /** It never came as far as hello. */
  readonly atStart: boolean;
  /** The program could not be started at all. */
  readonly spawnError: NodeJS.ErrnoException | undefined;
}

export type StopReason = "cancelled_by_user" | "run_time_limit" | "deadline" | "disk_limit";

export interface WorkerOwner {
  onReady(worker: Worker): void;
  /** `tasks[i]` is the task of result i, undefined for one that this worker did not hold. */
  onResults(
    worker: Worker,
    frame: ResultsFrame,
    tasks: readonly (NodeTask | undefined)[],
    strange: number,
  ): void;
  onReturned(worker: Worker, tasks: readonly NodeTask[]): void;
  /** A function tells how far it is. */
  onProgress(worker: Worker, frame: ProgressFrame): void;
  onAsk(worker: Worker, frame: AskFrame): void;
  /** It wants to be replaced, and is fed no more. */
  onLeaving(worker: Worker, why: string): void;
  onDeath(worker: Worker, death: Death): void;
}

/** The program of a worker and what it is told. */
export interface WorkerProgram {
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Words ahead of the command, outside of a sandbox: what pins and limits the worker and all that it starts. */
  readonly around?: readonly string[];
  readonly runtime: "python" | "node" | "command";
  /** What the configuration says of it, beside the command. */
  readonly configured?: unknown;
}

export interface WorkerPlace {
  readonly socketPath: string;
  readonly payloadsDir: string;
  readonly killGraceMs: number;
  /** When a worker asks to be replaced (Recycling in farloom_worker.py). */
  readonly recycle: RecycleRules;
  /** How workers are started; undefined: as they are. */
  readonly sandbox?: Sandbox | undefined;
}

/** 0: never. */
export interface RecycleRules {
  /** After so many tasks. */
  readonly tasks: number;
  /** Where it holds more than this between tasks. */
  readonly memoryKb: number;
}

export class Worker {
  readonly record: WorkerRecord;
  readonly watch: OutputWatch;
  readonly live: LiveOutput;
  /** What it has for itself as long as anything of it is left. */
  readonly gear: Gear;
  /** Whose it is; undefined for one of an earlier agent that this configuration has no program for. */
  lane: Lane | undefined;
  /** Where its folder is bounded. */
  readonly disk: DiskWatch | undefined;
  readonly held = new Fifo<NodeTask>();
  phase: "starting" | "ready" | "unlinked" | "leaving" | "dead" = "starting";
  heldBytes = 0;
  plannedUs = 0;
  /** When its head began, as far as can be seen from here (monotonic milliseconds). */
  headSinceMs = 0;
  /**
   * False for a worker of an earlier agent until its first `credit`, which follows the results that it kept:
   * until then it sends results of tasks that are not known here, and they count all the same.
   */
  settled = true;
  /** Called when an earlier agent's worker has settled. */
  onSettled: () => void = () => undefined;
  /** Fed nothing more until it is empty: its turn goes to another lane. */
  yielding = false;
  /** It was asked to end. */
  retired = false;
  #dismissed = false;
  /** Results received in this session: the position that marks speak of. */
  received = 0;
  session = 0;
  /** The durable mark that it is owed. */
  owedMark = 0;
  #sentMark = 0;
  readonly #owner: WorkerOwner;
  readonly #place: WorkerPlace;
  /** Its sandbox, where it sees other paths than this process. */
  readonly #box: Sandbox | undefined;
  /** What comes from there in files. */
  readonly #handedIn: HandedIn | undefined;
  #hasArguments = false;
  readonly #known = new Set<string>();
  #child: ChildProcess | undefined;
  #main: WorkerLink | undefined;
  #control: WorkerLink | undefined;
  #recalling = false;
  #recalledFor: IdKey | undefined;
  #stop: { readonly key: IdKey; readonly why: StopReason; signalled: boolean } | undefined;
  /** From when on what its tasks left behind is ended by SIGKILL (monotonic milliseconds). */
  #killAtMs = 0;
  #bad: string | undefined;
  #wasReady = false;
  #exit: { code: number | null; signal: string | null } | undefined;
  #spawnError: NodeJS.ErrnoException | undefined;
  readonly #timers = new Set<NodeJS.Timeout>();

  private constructor(record: WorkerRecord, owner: WorkerOwner, place: WorkerPlace) {
    this.record = record;
    this.gear = record.gear ?? NO_GEAR;
    this.#owner = owner;
    this.#place = place;
    this.watch = new OutputWatch(record.dir);
    this.live = new LiveOutput(record.dir, this.watch);
    const { sandbox } = place;
    if (sandbox?.isBoxed) {
      this.#box = sandbox;
      this.#handedIn = new HandedIn(record.dir, place.payloadsDir);
    }
    if (sandbox && sandbox.config.limits.diskMb > 0)
      this.disk = new DiskWatch(foldersOf(record.dir), sandbox.config.limits.diskMb);
  }

  /** Starts a process. A program that is missing is told as a death, a turn later. */
  static start(
    name: string,
    laneName: string,
    runDir: string,
    program: WorkerProgram,
    context: {
      readonly owner: WorkerOwner;
      readonly place: WorkerPlace;
      readonly gear: Gear;
      readonly recipe: string;
    },
  ): Worker {
    const dir = join(runDir, name);
    for (const path of foldersOf(dir)) rmSync(path, { recursive: true, force: true });
    mkdirSync(join(dir, "scratch"), { recursive: true, mode: 0o700 });
    const secret = randomBytes(32).toString("base64url");
    const marker = randomBytes(16).toString("hex");
    const out = openSync(join(dir, "stdout"), "a", 0o600);
    const err = openSync(join(dir, "stderr"), "a", 0o600);
    let child: ChildProcess;
    const { place } = context;
    // A look at its own children costs a Python worker 5 µs, and one in Node milliseconds (workers/node/clearing.ts).
    const canClear = process.platform === "linux" && program.runtime !== "node";
    let told: Readonly<Record<string, unknown>> = canClear ? { clear: "descendants" } : {};
    let env = program.env;
    let { command, args } = program;
    try {
      if (place.sandbox) {
        place.sandbox.prepare(dir);
        const confined = place.sandbox.confine(program, dir, partsOfLane(laneName), place);
        ({ told, env, command, args } = confined);
        for (const mark of confined.marks ?? []) env = { ...env, [mark]: marker };
      }
      const [first = command, ...words] = [...(program.around ?? []), command, ...args];
      child = spawn(first, words, {
        cwd: join(dir, "scratch"),
        // A session and process group of its own: what stops the worker stops all that its tasks started.
        detached: true,
        stdio: ["pipe", out, err],
        env: { ...env, [MARKER_VARIABLE]: marker },
      });
    } finally {
      closeSync(out);
      closeSync(err);
    }
    const pid = child.pid ?? 0;
    const startTime = pid > 0 ? (processStartTime(pid) ?? "0") : "0";
    const worker = new Worker(
      {
        name,
        pid,
        startTime,
        secret,
        lane: laneName,
        dir,
        marker,
        level: place.sandbox?.level,
        rules: place.sandbox?.rules,
        recipe: context.recipe,
        gear: context.gear,
      },
      context.owner,
      context.place,
    );
    worker.#child = child;
    child.on("error", (error) => {
      if (child.pid !== undefined) return;
      worker.#spawnError = error;
      worker.#die();
    });
    child.on("exit", (code, signal) => worker.#exited(code, signal));
    // The secret goes by standard input: an argv is public, and an environment is inherited by tasks.
    child.stdin!.on("error", () => undefined);
    child.stdin!.end(
      JSON.stringify({
        socket: context.place.socketPath,
        worker: name,
        secret,
        runtime: program.runtime,
        dir,
        payloads: context.place.payloadsDir,
        recycle: context.place.recycle,
        ...told,
      }),
    );
    return worker;
  }

  /** A worker that an earlier agent started, and that is expected to dial. */
  static expect(
    record: WorkerRecord,
    context: { readonly owner: WorkerOwner; readonly place: WorkerPlace },
  ): Worker {
    const worker = new Worker(record, context.owner, context.place);
    worker.#wasReady = true;
    worker.settled = false;
    return worker;
  }

  get name(): string {
    return this.record.name;
  }

  /** As people read it: `python-3 (pid 123)`. */
  get label(): string {
    return `${this.record.name} (pid ${this.record.pid})`;
  }

  /** Whether it may be given tasks. */
  get feedable(): boolean {
    return this.phase === "ready" && this.#stop === undefined && !this.#recalling && !this.yielding;
  }

  /** It has nothing to do, and may be asked to end. */
  get isIdle(): boolean {
    return this.phase === "ready" && this.held.length === 0 && !this.retired;
  }

  /** Started by an earlier agent: no child of this process, so nobody tells how it ends. */
  get isAdopted(): boolean {
    return this.#child === undefined;
  }

  get #isGone(): boolean {
    return this.phase === "leaving" || this.phase === "dead";
  }

  get #lineage(): Lineage {
    const { pid, startTime, marker = "" } = this.record;
    return { pid, startTime, marker };
  }

  get stopping(): boolean {
    return this.#stop !== undefined;
  }

  /** A connection of this worker came, its secret checked. */
  attach(hello: HelloFrame, link: WorkerLink): void {
    if (this.#isGone) {
      link.destroy();
      return;
    }
    const listener = {
      onBad: (reason: string) => this.#misbehaved(reason),
      onClose: () => this.#unlinked(link),
    };
    if (hello.channel === "control") {
      this.#control = link;
      link.listen({ ...listener, onFrame: (frame) => this.#receive(frame) });
      // What was asked before this connection was there, the worker did not hear.
      if (this.#recalling) {
        this.#recalling = false;
        this.#recalledFor = undefined;
        this.recall();
      }
      return;
    }
    this.#main?.destroy();
    this.#main = link;
    this.session++;
    this.received = this.owedMark = this.#sentMark = 0;
    this.#known.clear();
    this.#recalling = false;
    this.#recalledFor = undefined;
    link.listen({ ...listener, onFrame: (frame) => this.#receive(frame) });
    link.send({
      t: "welcome",
      version: limits.PROTOCOL_VERSION,
      caps: ["ref", "cancel-running", "progress"],
      session: `${this.name}.${this.session}`,
      heartbeatMs: 0,
      deadAfterMs: 0,
      maxFrameBytes: limits.MAX_FRAME_BYTES,
      software: "farloom-node",
    });
    this.#reconcile(hello);
    this.phase = "ready";
    this.#wasReady = true;
    this.#owner.onReady(this);
  }

  /** Sends tasks, their definitions where they are new, and the mark that is owed. */
  feed(tasks: readonly NodeTask[]): void {
    const frames: Frame[] = [];
    for (const { fn } of tasks) {
      if (this.#known.has(fn!.digestKey)) continue;
      this.#known.add(fn!.digestKey);
      if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value!);
      frames.push({ t: "functions", defs: [fn!.definition] });
    }
    const now = performance.now();
    if (this.held.length === 0) this.headSinceMs = now;
    if (this.#box) for (const task of tasks) this.#lend(task, this.#box);
    for (const task of tasks) {
      // What remains of its time, as of now (P27).
      if (task.deadlineAtMs !== undefined)
        task.options = {
          ...task.options,
          deadlineMs: Math.max(0, Math.round(task.deadlineAtMs - now)),
        };
    }
    frames.push(buildTasks(tasks, 0, tasks.length, (task) => task.fn!.digest));
    for (const task of tasks) {
      task.sentMs = now;
      this.held.push(task);
      this.heldBytes += task.end - task.start;
      this.plannedUs += task.plannedUs;
    }
    // There is something behind the head again that may be asked for.
    this.#recalledFor = undefined;
    if (this.owedMark > this.#sentMark) frames.push(this.#mark());
    this.#main!.send(...frames);
  }

  /** Arguments in a file: where the worker can read them. What cannot be lent it says that it lacks. */
  #lend(task: NodeTask, box: Sandbox): void {
    const file = task.options?.argsFile;
    if (file === undefined) return;
    this.#hasArguments = true;
    try {
      const argsFile = box.lendArguments(join(this.#place.payloadsDir, basename(file)), this.record.dir);
      task.options = { ...task.options, argsFile };
    } catch {
      task.options = { ...task.options, argsFile: file };
    }
  }

  /** What the results of a boxed worker say of their arguments' files, and those that nobody reads any more. */
  #takeBack(frame: ResultsFrame, tasks: readonly (NodeTask | undefined)[], box: Sandbox): void {
    for (let i = 0; i < frame.n; i++) {
      const file = tasks[i]?.options?.argsFile;
      // It cannot remove what it found to be damaged itself, so that another try fetches it anew.
      if (file !== undefined && byteOf(frame.reasons, i) === REASONS.payload_corrupt)
        rmSync(join(this.#place.payloadsDir, basename(file)), { force: true });
    }
    if (this.#hasArguments && this.held.length === 0) {
      this.#hasArguments = false;
      box.takeBackArguments(this.record.dir);
    }
  }

  /** Sends the mark that is owed, if one is. */
  sendMark(): void {
    if (this.owedMark > this.#sentMark && this.#main && !this.#main.closed) this.#main.send(this.#mark());
  }

  /** Asks for everything back that has not begun; answered by `onReturned`, or by results. */
  recall(): void {
    const head = this.held.peek();
    if (this.#recalling || this.phase !== "ready" || !head || this.#recalledFor === head.key) return;
    this.#recalling = true;
    this.#recalledFor = head.key;
    (this.#control ?? this.#main!).send({ t: "cancel", ids: Buffer.alloc(0) });
  }

  /**
   * The token of the task that runs (P28), or its secrets (P40): on the control connection, where there is one, as the
   * function that waits has the other.
   */
  grant(frame: GrantFrame): void {
    (this.#control ?? this.#main)?.send(frame);
  }

  /** Stops the task that runs by ending the process group; what is behind it comes back untouched (2). */
  stop(key: IdKey, why: StopReason): void {
    if (this.#stop || this.#isGone) return;
    this.#stop = { key, why, signalled: false };
    if (this.held.length > 1 && this.phase === "ready") {
      this.#recalledFor = undefined;
      this.recall();
      this.#later(RECALL_WAIT_MS, () => this.#signal());
    } else this.#signal();
  }

  /** Ends an idle or unwanted process: asks first, then insists. */
  retire(): void {
    if (this.#isGone) return;
    this.yielding = this.retired = true;
    if (this.#main && !this.#main.closed)
      this.#main.send({ t: "bye", code: "DRAINING", message: "not needed" });
    this.#later(this.#place.killGraceMs, () => this.kill());
  }

  /** It runs what it has begun, and nothing more; then it is asked to end. */
  dismiss(): void {
    this.yielding = this.#dismissed = true;
    this.#leaveIfDone();
  }

  #leaveIfDone(): void {
    if (this.#dismissed && !this.retired && this.settled && this.held.length === 0) this.retire();
  }

  /** Ends the process group at once, and what is left of a process that is gone. */
  kill(): void {
    this.#killAtMs = 0;
    if (!this.#isGone && this.record.pid > 0) killGroup(this.record.pid, "SIGKILL");
    if (!this.#child) this.#pollGone();
  }

  /**
   * For a worker of an earlier agent that lives and does not dial: whether its results file says that it runs a task.
   * Then that task is held from now on, and the process is watched until it dials or ends.
   */
  awaitSilent(): boolean {
    const { running } = readLeftover(this.record.dir);
    if (running === undefined || this.#isGone) return false;
    this.held.push(foreignTask(running, 0));
    this.headSinceMs = performance.now();
    this.#watchSilent();
    return true;
  }

  #watchSilent(): void {
    this.#pollGone();
    if (this.phase === "starting") this.#later(SILENT_LOOK_MS, () => this.#watchSilent());
  }

  /** For a process that is no child of ours: whether it is still there. */
  lookIfGone(): void {
    if (!this.#child) this.#pollGone();
  }

  /** Lets go of a process that shall outlive this agent. */
  release(): void {
    this.phase = "dead";
    for (const timer of this.#timers) clearTimeout(timer);
    this.#main?.destroy();
    this.#control?.destroy();
    this.#child?.unref();
    this.#child?.removeAllListeners();
  }

  #mark(): Frame {
    this.#sentMark = this.owedMark;
    if (this.owedMark === this.received) this.#handedIn?.forget();
    return { t: "mark", accepted: this.owedMark, durable: this.owedMark };
  }

  /** What it says it holds, against what is known here. */
  #reconcile(hello: HelloFrame): void {
    const says = new Set(hello.held === undefined ? [] : columnToKeys(hello.held));
    const known = new Set<IdKey>();
    for (const task of this.held) known.add(task.key);
    const running = hello.running === undefined ? undefined : keyAt(hello.running);
    for (const key of says) {
      if (known.has(key)) continue;
      this.held.push(foreignTask(key, key === running ? (hello.limitMs ?? 0) : 0));
    }
    // Before anything of it is told: an earlier agent had them, and no journal has.
    for (const task of this.held)
      if (task.key === running && hello.secrets) task.masks ??= new Masks(Object.values(hello.secrets));
    this.headSinceMs = performance.now() - (hello.runningMs ?? 0);
  }

  #receive(frame: WorkerFrame): void {
    switch (frame.t) {
      case "results":
        this.#results(frame);
        return;
      case "returned":
        this.#returned(columnToKeys(frame.ids));
        return;
      case "credit":
        if (this.settled) return;
        this.settled = true;
        this.onSettled();
        this.#leaveIfDone();
        return;
      case "progress":
        if (frame.kind === "progress") this.#owner.onProgress(this, frame);
        return;
      case "ask":
        this.#owner.onAsk(this, frame);
        return;
      case "bye":
        // It wants to be replaced: it runs nothing more, and what it has not begun comes back.
        this.#owner.onLeaving(this, frame.message);
        this.retire();
        return;
      case "mark":
      case "need":
      case "problem":
        return;
      case "hello":
        this.#misbehaved("a second hello");
        return;
    }
  }

  #results(frame: ResultsFrame): void {
    const n = frame.n;
    const tasks: (NodeTask | undefined)[] = new Array(n);
    let strange = 0;
    for (let i = 0; i < n; i++) {
      const key = keyAt(frame.ids, 16 * i);
      const task = this.#takeHeld(key);
      tasks[i] = task;
      if (!task) {
        if (this.settled) strange++;
        continue;
      }
      if (task.fn && frame.runUs) learn(task.fn, durationUsOf(frame.runUs, i));
      if (this.#stop?.key === key && !this.#stop.signalled) this.#stop = undefined;
    }
    if (this.#box) this.#takeBack(frame, tasks, this.#box);
    this.headSinceMs = performance.now();
    if (this.held.length === 0) {
      this.yielding = this.retired || this.#dismissed;
      this.plannedUs = 0;
      this.#leaveIfDone();
    }
    if (this.#handedIn === undefined) {
      this.received += n;
      this.#owner.onResults(this, frame, tasks, strange);
      return;
    }
    const { session } = this;
    this.#handedIn.pass(frame, (checked) => {
      // Let go of meanwhile: it has no mark, and hands them to the next agent.
      if (this.phase === "dead") return;
      // The positions of a session that is over are nobody's.
      if (session === this.session) this.received += n;
      this.#owner.onResults(this, checked, tasks, strange);
    });
  }

  #takeHeld(key: IdKey, attempt?: number): NodeTask | undefined {
    const isIt = (t: NodeTask): boolean => t.key === key && (attempt === undefined || t.attempt === attempt);
    const head = this.held.peek();
    const task = head && isIt(head) ? this.held.shift() : this.held.remove(isIt);
    if (task) {
      this.heldBytes -= task.end - task.start;
      this.plannedUs -= task.plannedUs;
    }
    return task;
  }

  #returned(keys: readonly IdKey[]): void {
    this.#recalling = false;
    const tasks: NodeTask[] = [];
    for (const key of keys) {
      const task = this.#takeHeld(key);
      if (task) tasks.push(task);
    }
    // It had not begun its head either: sent again, the same head may be asked behind once more.
    if (this.held.length === 0) this.#recalledFor = undefined;
    this.#leaveIfDone();
    if (this.#stop && !this.#stop.signalled) this.#signal();
    this.#owner.onReturned(this, tasks);
  }

  /** SIGTERM to the group, and SIGKILL after the grace. */
  #signal(): void {
    const stop = this.#stop;
    if (!stop || stop.signalled || this.#isGone) return;
    stop.signalled = true;
    this.#killAtMs = performance.now() + this.#place.killGraceMs;
    killGroup(this.record.pid, "SIGTERM");
    void askRemains(this.#lineage);
    this.#later(this.#place.killGraceMs, () => this.kill());
    if (!this.#child) this.#pollGone();
  }

  #misbehaved(reason: string): void {
    this.#bad ??= reason;
    this.kill();
  }

  #unlinked(link: WorkerLink): void {
    if (link === this.#control) {
      this.#control = undefined;
      this.#recalling = false;
      this.#recalledFor = undefined;
      return;
    }
    if (link !== this.#main || this.#isGone) return;
    this.#main = undefined;
    if (this.#exit) {
      this.#die();
      return;
    }
    if (this.phase === "ready") this.phase = "unlinked";
    this.#later(RELINK_MS, () => {
      if (this.phase === "unlinked") this.kill();
    });
    if (!this.#child) this.#pollGone();
  }

  /** A process that is no child of ours tells nobody of its end: look until it is gone or linked again. */
  #pollGone(): void {
    if (this.#isGone) return;
    if (processStartTime(this.record.pid) !== this.record.startTime) {
      this.#exit = { code: null, signal: null };
      if (this.#main) this.#later(LAST_WORDS_MS, () => this.#die());
      else this.#die();
      return;
    }
    if (this.phase === "unlinked" || this.#stop?.signalled || this.yielding || this.#bad !== undefined) {
      this.#later(20, () => this.#pollGone());
    }
  }

  #exited(code: number | null, signal: string | null): void {
    this.#exit = this.#box && signal === null ? exitInside(code) : { code, signal };
    if (!this.#main) {
      this.#die();
      return;
    }
    // The socket closes by itself once it is read to the end (3).
    this.#later(LAST_WORDS_MS, () => this.#die());
  }

  #later(ms: number, then: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!this.#isGone) then();
    }, ms);
    this.#timers.add(timer);
  }

  #die(): void {
    if (this.#isGone) return;
    this.phase = "leaving";
    for (const timer of this.#timers) clearTimeout(timer);
    this.#main?.destroy();
    this.#control?.destroy();
    const runningMs = performance.now() - this.headSinceMs;
    void clearRemains(this.#lineage, () => this.#killAtMs).then(async (confirmed) => {
      await this.#handedIn?.idle();
      // Let go of meanwhile: the next agent finds its record, and looks again.
      if (this.phase === "leaving") await this.#bequeath(runningMs, confirmed);
    });
  }

  /** Tells what became of everything that it held (3). */
  async #bequeath(runningMs: number, confirmed: boolean): Promise<void> {
    const leftover = readLeftover(this.record.dir);
    let results: ResultItem[] = [];
    for (const result of leftover.results) {
      // One that has been answered long since may be here again for another attempt.
      const task = this.#takeHeld(result.key, result.attempt);
      if (task) results.push({ ...result, queueUs: result.queueUs + waitedUs(task) });
    }
    if (this.#handedIn) {
      results = await this.#handedIn.check(results);
      if (this.phase !== "leaving") return;
    }
    this.phase = "dead";
    const charged =
      leftover.running ?? this.#stop?.key ?? (this.#bad === undefined ? undefined : this.held.peek()?.key);
    const running = charged === undefined ? undefined : this.#takeHeld(charged);
    const death: Death = {
      results,
      running,
      runningMs,
      rest: this.held.takeAll(),
      stopped: running !== undefined && this.#stop?.key === running.key ? this.#stop.why : undefined,
      confirmed,
      exitCode: this.#exit?.code ?? undefined,
      signal: this.#exit?.signal ?? undefined,
      output: lastWords(this.watch.last(), running, leftover.isGuarded),
      bad: this.#bad,
      atStart: !this.#wasReady,
      spawnError: this.#spawnError,
    };
    this.#owner.onDeath(this, death);
    for (const path of foldersOf(this.record.dir))
      void rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** What a task had written, without the secrets that it was given; nothing, where these are not known here. */
function lastWords(
  detail: OutcomeDetail,
  running: NodeTask | undefined,
  isGuarded: boolean | undefined,
): OutcomeDetail {
  if (running?.masks) return running.masks.maskDetail(detail);
  return isGuarded
    ? { stderr: "(what this task wrote is not told: it was given secrets that are not known here any more)" }
    : detail;
}

const NO_GEAR: Gear = { gpus: [], gpuSlots: 0, slotsOf: 1, cores: [], memoryMb: 0 };

function waitedUs(task: NodeTask): number {
  return Math.max(0, Math.round((task.sentMs - task.arrivedMs) * 1000));
}

/** A sandbox ends with 128 and the number of the signal that ended the worker in it. */
function exitInside(code: number | null): { code: number | null; signal: string | null } {
  const names = Object.entries(constants.signals);
  const signal = code === null ? undefined : names.find(([, number]) => 128 + number === code)?.[0];
  return signal === undefined ? { code, signal: null } : { code: null, signal };
}
