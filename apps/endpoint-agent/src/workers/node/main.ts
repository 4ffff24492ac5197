/**
 * The Node worker: one warm process that runs one function at a time. Its node manager starts it and hands it
 * a JSON configuration on standard input.
 *
 * Invariants
 *   1  One task at a time; its result is in the results file, and in the socket or kept for the next link, before
 *      another starts.
 *   2  A task that was given back has not begun and will not.
 *   3  A function that wants to end the process, or leaves a rejection unhandled, fails; the worker stays.
 *
 * A function that never lets go of the event loop keeps this worker deaf until it ends: it then neither gives
 * tasks back nor finds a new agent. A time limit stops it all the same, from outside.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  byteOf,
  CODEC_REFERENCE,
  endOf,
  type Frame,
  type FunctionDefinition,
  fenceOf,
  functionIndexOf,
  keyAt,
  keysToColumn,
  REASONS,
  type ResultItem,
  SEAL_BYTES,
  sealHolds,
  startOf,
  type TasksFrame,
  TERMINAL_STATES,
  u32Of,
  writeSeal,
} from "@farloom/protocol";
import { clearProcesses } from "./clearing.js";
import { type Call, exposeContext } from "./context.js";
import { corrupt, Failure, userFailure } from "./failure.js";
import { FunctionLoader } from "./functions.js";
import { NodeLink, type WorkerConfig } from "./link.js";
import { readPayload, spill } from "./payloads.js";
import { ResultsFile } from "./results-file.js";
import { TaskSecrets } from "./secrets.js";
import { Surroundings } from "./surroundings.js";
import { decodeArguments, encodeResult } from "./values.js";

/** Definitions kept; both sides forget the one sent first. */
const MAX_KNOWN = 256;
/** Frames are looked at between tasks after this much time. */
const YIELD_AFTER_MS = 1;

/** Shorter tasks cannot have started a process. */
const CLEAR_AFTER_US = 200;

interface Task extends Call {
  readonly definition: FunctionDefinition | undefined;
  readonly codec: number;
  readonly raw: Buffer;
  /** The caller's seal over `raw` lies here, if there is one (P25). */
  readonly seals: Buffer | undefined;
  readonly sealAt: number;
}

class NodeWorker {
  readonly #config: WorkerConfig;
  readonly #label: string;
  readonly #around: Surroundings;
  readonly #results: ResultsFile;
  readonly #loader: FunctionLoader;
  readonly #link: NodeLink;
  readonly #secrets = new TaskSecrets(() => this.#link);
  readonly #known = new Map<string, FunctionDefinition>();
  #pending: Task[] = [];
  #current: Task | undefined;
  #currentMs = 0;
  #looping = false;
  #stopping = false;
  #fail: ((failure: Failure) => void) | undefined;

  constructor(config: WorkerConfig) {
    this.#config = config;
    this.#label = `${config.worker} (pid ${process.pid})`;
    this.#around = new Surroundings(config.dir);
    this.#results = new ResultsFile(join(config.dir, "results"));
    this.#loader = new FunctionLoader(config.dir);
    this.#guard();
    exposeContext(
      () => (this.#current === undefined ? undefined : { call: this.#current, startedMs: this.#currentMs }),
      (name) => this.#secrets.get(name),
    );
    this.#link = new NodeLink(config, {
      holding: () => ({
        held: [...(this.#current ? [this.#current] : []), ...this.#pending].map((task) => task.key),
        running: this.#current?.key,
        runningMs: performance.now() - this.#currentMs,
        limitMs: this.#current?.limitMs ?? 0,
        secrets: this.#secrets.values,
      }),
      onWelcome: () => {
        this.#known.clear();
        this.#secrets.again();
      },
      onFrame: (frame) => this.#receive(frame),
      onMarked: (left) => this.#results.keep(left),
      onGone: () => leaveProcess(0),
    });
  }

  /** What a function must not do to the worker becomes its failure (3). */
  #guard(): void {
    process.exit = ((code?: number) => {
      const failure = new Failure(
        "user_error",
        "ProcessExit",
        `the function called process.exit(${code ?? ""}); return instead`,
      );
      this.#fail?.(failure);
      throw failure;
    }) as typeof process.exit;
    process.on("unhandledRejection", (thrown) => this.#fail?.(userFailure(thrown, "unhandled rejection: ")));
    process.on("uncaughtException", (thrown) => this.#fail?.(userFailure(thrown, "uncaught exception: ")));
  }

  #receive(frame: Frame): void {
    switch (frame.t) {
      case "functions":
        for (const definition of frame.defs) {
          this.#known.set(definition.digest.toString("latin1"), definition);
          if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.keys().next().value!);
        }
        return;
      case "tasks":
        this.#take(frame);
        if (!this.#looping) void this.#loop();
        return;
      case "cancel": {
        const back = this.#pending;
        this.#pending = [];
        this.#link.send({ t: "returned", ids: keysToColumn(back.map((task) => task.key)) }); // (2)
        return;
      }
      case "grant":
        this.#secrets.take(frame);
        return;
      case "bye":
      case "drain":
        this.#stopping = true;
        if (!this.#looping) leaveProcess(0);
        return;
      default:
        return;
    }
  }

  #take(frame: TasksFrame): void {
    const definitions = frame.fns.map((digest) => this.#known.get(digest.toString("latin1")));
    const cameMs = performance.now();
    for (let i = 0; i < frame.n; i++) {
      this.#pending.push({
        key: keyAt(frame.ids, 16 * i),
        definition: definitions[functionIndexOf(frame, i)],
        codec: byteOf(frame.codecs, i),
        raw: frame.args.subarray(startOf(frame.ends, i), endOf(frame.ends, i)),
        attempt: u32Of(frame.attempts, i, 1),
        fence: fenceOf(frame.fences, i),
        seals: frame.seals,
        sealAt: SEAL_BYTES * i,
        options: frame.opts?.[i],
        limitMs: frame.opts?.[i]?.timeoutMs ?? definitions[functionIndexOf(frame, i)]?.timeoutMs ?? 0,
        cameMs,
      });
    }
  }

  async #loop(): Promise<void> {
    this.#looping = true;
    let yieldedMs = performance.now();
    for (;;) {
      const task = this.#pending.shift();
      if (!task) break;
      this.#current = task;
      this.#currentMs = performance.now();
      const item = await this.#run(task);
      this.#results.add(item);
      this.#link.result(item);
      this.#results.end();
      this.#current = undefined;
      const now = performance.now();
      if (now - yieldedMs > YIELD_AFTER_MS) {
        await new Promise((resolve) => setImmediate(resolve));
        yieldedMs = performance.now();
      }
    }
    this.#looping = false;
    if (this.#stopping) leaveProcess(0);
  }

  async #run(task: Task): Promise<ResultItem> {
    let codec = task.codec & ~CODEC_REFERENCE;
    let data: Buffer = EMPTY;
    let failure: Failure | undefined;
    const queueUs = Math.round((performance.now() - task.cameMs) * 1000);
    try {
      this.#results.begin(task.key);
      checkSeal(task);
      if (task.definition?.env.secrets?.length) {
        await this.#secrets.fetch(task.key);
        this.#results.guard();
      }
      this.#enter(task);
      const raw = task.codec & CODEC_REFERENCE ? readPayload(task.raw, task.options?.argsFile) : task.raw;
      const value = await this.#call(task, decodeArguments(codec, raw));
      ({ codec, data } = spill(
        codec,
        encodeResult(codec, value),
        this.#config.payloads,
        this.#config.worker,
      ));
    } catch (thrown) {
      failure = userFailure(thrown);
      codec = 1;
      data = EMPTY;
    }
    const measures = this.#around.measure();
    if (this.#config.clear && measures.runUs >= CLEAR_AFTER_US)
      await clearProcesses(this.#config.clear, leaveProcess);
    const written = this.#around.leave(measures.runUs);
    let seals: Buffer | undefined;
    if (!failure) {
      seals = Buffer.allocUnsafe(SEAL_BYTES);
      writeSeal(seals, 0, task.key, data);
    }
    const detail = this.#secrets.forget(
      failure ? { ...failure.detail, ...written, worker: this.#label } : written,
    );
    return {
      key: task.key,
      source: data,
      start: 0,
      end: data.length,
      codec,
      attempt: task.attempt,
      fence: task.fence,
      seals,
      sealAt: 0,
      state: failure ? TERMINAL_STATES.FAILED : TERMINAL_STATES.SUCCEEDED,
      reason: REASONS[failure?.reason ?? "none"],
      queueUs,
      ...measures,
      detail,
    };
  }

  #enter(task: Task): void {
    try {
      this.#around.enter(task.definition?.env.vars, task.options);
    } catch (error) {
      throw new Failure(
        "environment",
        "CwdError",
        `the working directory cannot be used: ${(error as Error).message}`,
      );
    }
  }

  async #call(task: Task, args: unknown[]): Promise<unknown> {
    const { definition } = task;
    if (!definition)
      throw new Failure(
        "function_invalid",
        "FunctionUnknown",
        "the worker has no definition of this function",
      );
    const stopped = new Promise<never>((_resolve, reject) => {
      this.#fail = reject;
    });
    // Nobody may be waiting when it comes: the race below is the only reader, and is over then.
    stopped.catch(() => undefined);
    try {
      const work = async () => {
        const callable = await this.#loader.load(definition, task.options?.cwd);
        return callable(...args);
      };
      return await Promise.race([work(), stopped]);
    } finally {
      this.#fail = undefined;
    }
  }
}

/** Before anything is decoded: are these the bytes that the caller sent for this task? (P25) */
function checkSeal(task: Task): void {
  if (!sealHolds(task.seals, task.sealAt, task.key, task.raw)) throw corrupt();
}

const EMPTY = Buffer.alloc(0);
const leaveProcess = process.exit.bind(process);

new NodeWorker(JSON.parse(readFileSync(0, "utf8")) as WorkerConfig);
