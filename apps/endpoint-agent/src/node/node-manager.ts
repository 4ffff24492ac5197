/**
 * The node manager: lower side of the agent–node hop, upper side of the node–worker hop (PROTOCOL.md). It asks
 * for tasks by credit, keeps warm workers, and sends up what they give.
 *
 *     port ─► functions, tasks ─► Dispatcher ─► Lane ─► Worker ─► process
 *     port ◄─ results, returned, progress ◄─ Dispatcher ◄─ Worker
 *
 * Invariants
 *   1  Before `hello` it has waited for the workers of an earlier agent, so that `hello.held` is whole.
 *   2  Never more tasks in hand than credit was given for; credit is for what left, and follows the measured
 *      task time.
 *   3  A worker's results are marked durable to it only when the agent's mark covers them: until then the
 *      worker keeps them, so that the death of this process costs nothing.
 *   4  The record of a worker that is gone stays until the agent's journal has what becomes of its tasks: an agent
 *      that starts before that must find that a worker is missing, or it would run them again.
 *
 * Bounds: tasks in hand, by the window of depth.ts; results above without a mark, MAX_UNMARKED, after which no
 * credit is given; definitions, MAX_DEFINITIONS, after which the oldest that no task needs is forgotten and asked
 * for again (`need`).
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  batchLength,
  buildResults,
  byteOf,
  CODEC_REFERENCE,
  columnToKeys,
  endOf,
  type Frame,
  type FunctionDefinition,
  fenceOf,
  functionIndexOf,
  type IdKey,
  keyAt,
  keysToColumn,
  limits,
  type ResultItem,
  type ResultsFrame,
  SEAL_BYTES,
  startOf,
  type TaskOptions,
  type TasksFrame,
  u32Of,
} from "@farloom/protocol";
import type { Logger } from "pino";
import { withoutSecrets } from "../isolation/clean-environment.js";
import { HandedIn } from "../isolation/handed-in.js";
import { boxedLane, hasNetwork } from "../isolation/lanes.js";
import { foldersOf } from "../isolation/own-places.js";
import type { Sandbox } from "../isolation/sandbox.js";
import { windowFor } from "./depth.js";
import { Dispatcher, type Upstream } from "./dispatcher.js";
import { impossibleHere, laneOf } from "./gear/needs.js";
import { socketPathFor, WorkerListener } from "./listener.js";
import type { FunctionRecord, NodeTask } from "./node-task.js";
import type { NodeManagerOptions } from "./options.js";
import type { FramePort } from "./port.js";
import { killGroup, processStartTime } from "./proc.js";
import { laneNameOf, programOf, runtimesInImage } from "./programs.js";
import { clearRemains } from "./remains.js";
import type { Worker } from "./worker.js";
import { readKept, readLeftover } from "./worker-files.js";
import { type WorkerRecord, WorkerRecords } from "./worker-records.js";

const MAX_UNMARKED = 16_384;
const MAX_DEFINITIONS = 4_096;
const BYTES_WINDOW = 64 * 1024 * 1024;
const DEFAULT_KILL_GRACE_MS = 3_000;
/** Workers dial at once; on a machine under heavy load, "at once" has been seen to take seconds. */
const DEFAULT_ADOPT_WAIT_MS = 10_000;
const ADOPT_LOOK_MS = 50;
const DEFAULT_IDLE_RETIRE_MS = 60_000;

/** Results that went up together, and whom to tell when they are durable. */
interface Sent {
  readonly upto: number;
  readonly worker: Worker | undefined;
  readonly session: number;
  readonly workerUpto: number;
}

type Phase = "new" | "adopting" | "running" | "draining" | "closed";

export class NodeManager {
  readonly #options: NodeManagerOptions;
  readonly #log: Logger;
  readonly #port: FramePort;
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #runDir: string;
  readonly #payloadsDir: string;
  readonly #dispatcher: Dispatcher;
  readonly #listener: WorkerListener;
  readonly #functions = new Map<string, FunctionRecord>();
  /** Tasks whose function is not known yet, by its digest (`need` was sent). */
  readonly #parked = new Map<string, (() => void)[]>();
  readonly #records: WorkerRecords;
  #phase: Phase = "new";
  /** No worker of an earlier agent is missing: what none of them holds never reached one. */
  #whole = true;
  #up: ResultsFrame[] = [];
  #sent: Sent[] = [];
  #sentHead = 0;
  #sentResults = 0;
  #markedResults = 0;
  /** Workers that are gone, and up to where their results must be marked before their records go (4). */
  #ended: { readonly name: string; readonly upto: number }[] = [];
  #receivedTasks = 0;
  #receivedBytes = 0;
  #grantedTasks = 0;
  #grantedBytes = 0;
  #onArrival: () => void = () => undefined;
  #onEmpty: () => void = () => undefined;
  #closing: Promise<void> | undefined;

  constructor(options: NodeManagerOptions) {
    if (!(options.workers >= 1)) throw new Error("a node manager has at least one worker");
    this.#options = options;
    this.#log = options.log;
    this.#port = options.port;
    this.#runDir = join(options.stateDir, "run");
    this.#payloadsDir = options.payloadsDir ?? join(options.stateDir, "payloads");
    mkdirSync(this.#runDir, { recursive: true, mode: 0o700 });
    mkdirSync(this.#payloadsDir, { recursive: true, mode: 0o700 });
    const socketPath = socketPathFor(this.#runDir);
    this.#records = new WorkerRecords(this.#runDir);
    // What holds a secret is no worker's business; a sandbox lets through less still.
    const env = withoutSecrets(options.env ?? process.env);
    this.#env = env;
    const runtimes =
      options.sandbox?.level === "container" ? runtimesInImage(options.runtimes) : options.runtimes;
    this.#dispatcher = new Dispatcher({
      log: options.log,
      workers: options.workers,
      runDir: this.#runDir,
      place: {
        socketPath,
        payloadsDir: this.#payloadsDir,
        killGraceMs: options.killGraceMs ?? DEFAULT_KILL_GRACE_MS,
        recycle: options.recycle ?? { tasks: 0, memoryKb: 0 },
        sandbox: options.sandbox,
      },
      idleRetireMs: options.idleRetireMs ?? DEFAULT_IDLE_RETIRE_MS,
      records: this.#records,
      gear: options.gear,
      programOf: (laneName) =>
        programOf(laneName, runtimes, { env, folders: [this.#runDir, this.#payloadsDir] }),
      up: this.#upstream(),
    });
    this.#listener = new WorkerListener({
      path: socketPath,
      door: this.#box?.makeDoor(this.#runDir),
      openDoor: (path, door) => this.#box?.openDoor(path, door),
      secretOf: (name) => this.#dispatcher.secretOf(name),
      onWorker: (hello, link) => {
        this.#dispatcher.workers.get(hello.worker!)?.attach(hello, link);
        this.#onArrival();
      },
      onRefused: (reason) => this.#log.warn({ reason }, "a connection to the worker socket was refused"),
    });
  }

  /** The sandbox whose workers see other paths than this process; undefined where they see the same. */
  get #box(): Sandbox | undefined {
    const { sandbox } = this.#options;
    return sandbox?.isBoxed ? sandbox : undefined;
  }

  /** Process ids of the workers there are, by name. */
  get workers(): ReadonlyMap<string, { readonly pid: number }> {
    return new Map([...this.#dispatcher.workers].map(([name, worker]) => [name, { pid: worker.record.pid }]));
  }

  /** Listens, takes back the workers of an earlier agent (1), says hello, and asks for tasks. */
  async start(): Promise<void> {
    this.#phase = "adopting";
    await this.#listener.listen();
    await this.#adopt();
    if ((this.#phase as Phase) === "closed") return;
    this.#phase = "running";
    this.#port.onClose((reason) => {
      // Stopping is not cancelling: whoever owns this manager closes it, and says what becomes of its workers.
      this.#log.info({ reason }, "the agent closed its side; nothing more is asked for");
      if (this.#phase === "running") this.#phase = "draining";
    });
    const held = [...this.#dispatcher.tasks.keys()];
    this.#port.send({
      t: "hello",
      role: "node",
      versions: [...limits.SUPPORTED_VERSIONS],
      caps: ["ref", "stream", "cancel-running", "progress"],
      software: "farloom-node",
      held: keysToColumn(held),
      whole: this.#whole,
      ...(this.#options.capacity && { capacity: this.#options.capacity }),
    });
    for (const frame of this.#up) this.#port.send(frame);
    this.#up = [];
    this.#port.onFrame((frame) => this.#receive(frame));
    if (this.#options.runtimes.python?.default !== undefined) {
      const warm = laneOf("python:default", {}, this.#options.gear);
      this.#dispatcher.warm(this.#box ? boxedLane(warm, this.#box.config.network === true) : warm);
    }
    this.#grant();
  }

  /** Takes nothing new, gives back what waits, and returns when nothing runs any more. */
  async drain(): Promise<void> {
    if (this.#phase !== "running" && this.#phase !== "draining") return;
    this.#phase = "draining";
    this.#dispatcher.draining = true;
    this.#dispatcher.returnQueued();
    this.#dispatcher.recallAll();
    while (this.#dispatcher.tasks.size > 0 && (this.#phase as Phase) !== "closed") {
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve;
      });
    }
  }

  /**
   * A new session with the agent: the tasks in hand. Those that wait for a definition are let go, unstarted: it was
   * asked for in the session that is over.
   */
  resume(): IdKey[] {
    this.#parked.clear();
    return [...this.#dispatcher.tasks.keys()];
  }

  /**
   * Ends: workers that run something are killed, unless they are left to the next agent, which finds them
   * within 60 s. Idempotent.
   */
  close(options: { readonly leaveWorkers?: boolean } = {}): Promise<void> {
    this.#closing ??= this.#close(options.leaveWorkers ?? false);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(leave: boolean): Promise<void> {
    this.#phase = "closed";
    this.#onEmpty();
    this.#onArrival();
    await this.#dispatcher.close(leave);
    await this.#listener.close();
    this.#port.close("the node manager is closed");
  }

  // ------------------------------------------------------------------ the workers of an earlier agent

  async #adopt(): Promise<void> {
    const expected: Worker[] = [];
    const buried: Promise<void>[] = [];
    for (const record of this.#records.load()) {
      if (!record.dir.startsWith(this.#runDir)) {
        // A copied folder: these are another agent's workers, and not to be touched.
        this.#whole = false;
        continue;
      }
      const isAlive = processStartTime(record.pid) === record.startTime;
      const isUnderRules = record.rules === this.#options.sandbox?.rules;
      if (isAlive && isUnderRules) expected.push(this.#dispatcher.adopt(record));
      // Another level, network or folder that it may write: it would run tasks under rules that are not in force any more.
      else buried.push((isAlive ? endNow(record) : Promise.resolve()).then(() => this.#bury(record)));
    }
    await Promise.all(buried);
    if (expected.length === 0) return;
    for (const worker of expected) worker.onSettled = () => this.#onArrival();
    const waitMs = this.#options.adoptWaitMs ?? DEFAULT_ADOPT_WAIT_MS;
    const deadline = performance.now() + waitMs;
    for (;;) {
      const leftMs = deadline - performance.now();
      for (const worker of expected) if (!worker.settled) worker.lookIfGone();
      // One that has died meanwhile was read to its end, and what it ran was charged.
      const missing = expected.filter((worker) => !worker.settled && worker.phase !== "dead");
      if (missing.length === 0 || this.#phase === "closed") break;
      if (leftMs <= 0) {
        for (const worker of missing) {
          // One that runs a task may be deep in C code and deaf: what it runs is known, and it dials when it can.
          if (worker.awaitSilent()) {
            for (const task of worker.held) this.#dispatcher.adoptTask(worker, task);
            continue;
          }
          // What it may run the agent now counts as lost: it must not go on beside a second try.
          this.#log.warn(
            { worker: worker.name, pid: worker.record.pid },
            "an old worker did not dial; it is ended",
          );
          worker.kill();
        }
        break;
      }
      await new Promise<void>((resolve) => {
        // Bounded: it also looks whether one of them has died meanwhile, which nobody tells.
        const timer = setTimeout(resolve, Math.min(leftMs, ADOPT_LOOK_MS));
        this.#onArrival = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    if (expected.some((worker) => !worker.settled)) this.#whole = false;
    this.#onArrival = () => undefined;
    this.#log.info(
      { workers: expected.length, held: this.#dispatcher.tasks.size },
      "workers of an earlier agent are back",
    );
    this.#dispatcher.recallAll();
  }

  /** A recorded worker that is gone: what it had finished goes up all the same, and what its tasks started ends. */
  async #bury(record: WorkerRecord): Promise<void> {
    this.#whole = false;
    this.#records.keep(record);
    const { level = "none" } = record;
    const isBoxed = level !== "none" && level !== "limits";
    const handedIn = isBoxed ? new HandedIn(record.dir, this.#payloadsDir) : undefined;
    const { results } = readLeftover(record.dir);
    if (results.length > 0) this.#sendOutcomes((await handedIn?.check(results)) ?? results);
    for (const frame of readKept(record.dir))
      this.#sendResults((await handedIn?.checkFrame(frame)) ?? frame, undefined);
    this.#ended.push({ name: record.name, upto: this.#sentResults });
    const { pid, startTime, marker = "" } = record;
    const isCleared = await clearRemains({ pid, startTime, marker }, () => 0);
    if (!isCleared)
      this.#log.warn({ worker: record.name, pid }, "not everything that it started could be ended");
    try {
      for (const path of foldersOf(record.dir)) rmSync(path, { recursive: true, force: true });
    } catch (err) {
      // A task may have closed a folder of its own to us: that keeps no agent from starting.
      this.#log.warn({ err, worker: record.name }, "the folders of an old worker cannot be removed");
    }
  }

  // ------------------------------------------------------------------ from the agent

  #receive(frame: Frame): void {
    switch (frame.t) {
      case "functions":
        for (const definition of frame.defs) this.#define(definition);
        return;
      case "tasks":
        this.#forgetEnded();
        this.#tasks(frame);
        return;
      case "cancel":
        this.#dispatcher.cancel(columnToKeys(frame.ids), frame.why);
        return;
      case "recall":
        if (frame.all) this.#dispatcher.returnAll();
        this.#port.send({ t: "returned", ids: keysToColumn(this.#dispatcher.giveBack(frame.tasks)) });
        this.#grant();
        return;
      case "grant":
        this.#dispatcher.grant(frame);
        return;
      case "mark":
        this.#marked(frame.durable);
        this.#forgetEnded();
        return;
      case "drain":
        void this.drain().then(() => this.#port.send({ t: "bye", code: "DRAINING", message: "drained" }));
        return;
      case "bye":
        if (this.#phase === "running") this.#phase = "draining";
        return;
      default:
        return;
    }
  }

  #define(definition: FunctionDefinition): void {
    const digestKey = definition.digest.toString("latin1");
    if (!this.#functions.has(digestKey)) {
      const { gear, capacity } = this.#options;
      const { resources } = definition;
      const laneName = laneOf(laneNameOf(definition), resources, gear);
      this.#functions.set(digestKey, {
        digest: definition.digest,
        digestKey,
        definition,
        laneName,
        impossible: impossibleHere(resources, { gear, capacity }),
        costUs: undefined,
      });
      if (this.#functions.size > MAX_DEFINITIONS)
        this.#functions.delete(this.#functions.keys().next().value!);
    }
    const parked = this.#parked.get(digestKey);
    this.#parked.delete(digestKey);
    for (const add of parked ?? []) add();
  }

  #tasks(frame: TasksFrame): void {
    this.#receivedTasks += frame.n;
    this.#receivedBytes += frame.args.length;
    const now = performance.now();
    const records = frame.fns.map((digest) => this.#functions.get(digest.toString("latin1")));
    const tasks: NodeTask[] = [];
    const missing = new Set<Buffer>();
    for (let i = 0; i < frame.n; i++) {
      const key = keyAt(frame.ids, 16 * i);
      if (this.#dispatcher.tasks.has(key)) continue; // P11: it is held already.
      const index = functionIndexOf(frame, i);
      const fn = records[index];
      if (fn) tasks.push(this.#task(frame, i, key, fn, now));
      else {
        const digest = frame.fns[index]!;
        missing.add(digest);
        const digestKey = digest.toString("latin1");
        const add = () =>
          this.#dispatcher.add([this.#task(frame, i, key, this.#functions.get(digestKey)!, now)]);
        const parked = this.#parked.get(digestKey);
        if (parked) parked.push(add);
        else this.#parked.set(digestKey, [add]);
      }
    }
    if (missing.size > 0) this.#port.send({ t: "need", functions: [...missing] });
    this.#dispatcher.add(tasks);
    this.#grant();
  }

  #task(frame: TasksFrame, i: number, key: IdKey, fn: FunctionRecord, now: number): NodeTask {
    const given = frame.opts?.[i];
    const codec = byteOf(frame.codecs, i);
    const start = startOf(frame.ends, i);
    let options: TaskOptions | undefined;
    if (given || codec & CODEC_REFERENCE) {
      options = {};
      if (given?.timeoutMs !== undefined) options.timeoutMs = given.timeoutMs;
      if (given?.deadlineMs !== undefined) options.deadlineMs = given.deadlineMs;
      if (given?.env) options.env = given.env;
      if (given?.cwd !== undefined) options.cwd = given.cwd;
      if (given?.nested === true) options.nested = true;
      const { resources } = fn.definition;
      if (given?.whole && resources.nodes !== undefined)
        options.whole = this.#options.gear?.wholeNodes(given.whole.nodes, resources, this.#env);
      if (codec & CODEC_REFERENCE) {
        const digest = frame.args.toString("hex", start, start + 32);
        options.argsFile = join(this.#payloadsDir, digest);
      }
    }
    return {
      key,
      fn,
      boxedLane:
        this.#box &&
        boxedLane(fn.laneName, hasNetwork(this.#box.config.network, fn.definition), given?.submitter),
      source: frame.args,
      start,
      end: endOf(frame.ends, i),
      codec,
      attempt: u32Of(frame.attempts, i, 1),
      fence: fenceOf(frame.fences, i),
      seals: frame.seals,
      sealAt: SEAL_BYTES * i,
      deadlineAtMs: given?.deadlineMs === undefined ? undefined : now + given.deadlineMs,
      options,
      arrivedMs: now,
      place: 0,
      sentMs: now,
      limitMs: given?.timeoutMs ?? fn.definition.timeoutMs,
      gone: false,
      stopFor: undefined,
      announced: false,
      plannedUs: 0,
    };
  }

  /** The agent has these results: their workers may forget them (3). */
  #marked(durable: number): void {
    this.#markedResults = Math.max(this.#markedResults, Math.min(durable, this.#sentResults));
    while (this.#sentHead < this.#sent.length && this.#sent[this.#sentHead]!.upto <= this.#markedResults) {
      const { worker, session, workerUpto } = this.#sent[this.#sentHead++]!;
      if (!worker || worker.session !== session || worker.phase === "dead") continue;
      worker.owedMark = Math.max(worker.owedMark, workerUpto);
      this.#dispatcher.owe(worker);
    }
    if (this.#sentHead > 256 && this.#sentHead * 2 > this.#sent.length) {
      this.#sent = this.#sent.slice(this.#sentHead);
      this.#sentHead = 0;
    }
    this.#grant();
  }

  /**
   * The journal has all that these workers left (4): their results are marked, and a frame of tasks or a mark came, which
   * the agent sends only once it has written what becomes of the rest.
   */
  #forgetEnded(): void {
    let n = 0;
    while (n < this.#ended.length && this.#ended[n]!.upto <= this.#markedResults) n++;
    for (const { name } of this.#ended.splice(0, n)) this.#records.remove(name);
  }

  // ------------------------------------------------------------------ to the agent

  #upstream(): Upstream {
    const port = this.#port;
    return {
      results: (frame, worker) => this.#sendResults(frame, worker),
      outcomes: (items) => this.#sendOutcomes(items),
      nothing: (worker) => this.#note(worker),
      returned: (keys) => this.#port.send({ t: "returned", ids: keysToColumn(keys) }),
      started: (keys) => this.#port.send({ t: "progress", ids: keysToColumn(keys), kind: "started" }),
      progress: (frame) => this.#port.send(frame),
      ask: (frame) => this.#port.send(frame),
      output: (frame) => this.#port.send(frame),
      get hearsOutput() {
        return port.crowded !== true;
      },
      ended: (name) => {
        if (this.#sentResults === this.#markedResults) this.#records.remove(name);
        else this.#ended.push({ name, upto: this.#sentResults });
      },
      left: () => {
        this.#grant();
        if (this.#dispatcher.tasks.size === 0) this.#onEmpty();
      },
    };
  }

  #sendResults(frame: ResultsFrame, worker: Worker | undefined): void {
    this.#sentResults += frame.n;
    this.#note(worker);
    if (this.#phase === "adopting") this.#up.push(frame);
    else this.#port.send(frame);
  }

  #sendOutcomes(items: readonly ResultItem[]): void {
    for (let from = 0; from < items.length; ) {
      const n = batchLength(items.length, from, (i) => items[i]!.end - items[i]!.start);
      this.#sendResults(buildResults(items, from, n), undefined);
      from += n;
    }
  }

  #note(worker: Worker | undefined): void {
    this.#sent.push({
      upto: this.#sentResults,
      worker,
      session: worker?.session ?? 0,
      workerUpto: worker?.received ?? 0,
    });
  }

  /** Credit for what left, as far as the window goes (2). */
  #grant(): void {
    if (this.#phase !== "running") return;
    const inHand = this.#dispatcher.tasks.size;
    if (this.#sentResults - this.#markedResults > MAX_UNMARKED) return;
    const window = windowFor(this.#options.workers, this.#dispatcher.typicalUs, this.#options.prefetch);
    const tasks = this.#receivedTasks + Math.max(0, window - inHand);
    const bytes = this.#receivedBytes + BYTES_WINDOW;
    // A frame for every task that leaves would cost more than it brings.
    if (tasks <= this.#grantedTasks) return;
    const left = this.#grantedTasks - this.#receivedTasks;
    if (left > window / 2 && bytes <= this.#grantedBytes + BYTES_WINDOW / 2) return;
    this.#grantedTasks = tasks;
    this.#grantedBytes = Math.max(bytes, this.#grantedBytes);
    this.#port.send({ t: "credit", tasks: this.#grantedTasks, bytes: this.#grantedBytes });
  }
}

/** Between looks whether a process that was killed is gone, and how often it is looked. */
const END_LOOK_MS = 20;
const END_LOOKS = 100;

/** Ends a worker at once, and waits until it is gone: what it leaves is read once it writes no more. */
async function endNow({ pid, startTime }: WorkerRecord): Promise<void> {
  killGroup(pid, "SIGKILL");
  for (let i = 0; i < END_LOOKS && processStartTime(pid) === startTime; i++) await sleep(END_LOOK_MS);
}
