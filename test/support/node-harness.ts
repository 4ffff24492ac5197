/**
 * An agent's side of the agent–node hop for tests: real node manager, real workers, a port pair between. It
 * answers every result with a durable mark, and waits for outcomes by task.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  buildTasks,
  CODECS,
  columnToKeys,
  encodeValue,
  type Frame,
  type FunctionDefinition,
  functionDigest,
  type IdKey,
  type OutcomeDetail,
  reasonName,
  SEAL_BYTES,
  stateName,
  TaskIdAllocator,
  type TaskItem,
  type TaskOptions,
} from "@farloom/protocol";
import { pino } from "pino";
import { resultAt } from "../../apps/endpoint-agent/src/node/frame-items.js";
import { NodeManager } from "../../apps/endpoint-agent/src/node/node-manager.js";
import type { NodeManagerOptions } from "../../apps/endpoint-agent/src/node/options.js";
import { createPortPair, type FramePort } from "../../apps/endpoint-agent/src/node/port.js";

/** A task's end as tests look at it. */
export interface Outcome {
  readonly key: IdKey;
  readonly state: string;
  readonly reason: string;
  readonly codec: number;
  readonly bytes: Buffer;
  readonly attempt: number;
  readonly fence: number;
  /** The worker's seal, where there is a column of seals. */
  readonly seal: Buffer | undefined;
  readonly queueUs: number;
  readonly runUs: number;
  readonly cpuUs: number;
  readonly peakKb: number;
  readonly detail: OutcomeDetail;
  /** The value, where the codec is JSON and there is one. */
  readonly value: unknown;
}

/** The interpreter itself: a version manager's wrapper takes longer to start than Python. */
export const PYTHON = execFileSync("python3", ["-c", "import sys; print(sys.executable)"], {
  encoding: "utf8",
}).trim();

const ids = new TaskIdAllocator();

/** A Python function from its source; `entry` is the first `def`. */
export function python(code: string, more: Partial<FunctionDefinition> = {}): FunctionDefinition {
  const entry = /def\s+(\w+)/.exec(code)?.[1] ?? "main";
  return define({ runtime: "python", code: Buffer.from(code), entry, ...more });
}

/** A Node function from its source. */
export function node(code: string, more: Partial<FunctionDefinition> = {}): FunctionDefinition {
  return define({ runtime: "node", code: Buffer.from(code), entry: "main", ...more });
}

/** A command. */
export function command(
  spec: FunctionDefinition["command"],
  more: Partial<FunctionDefinition> = {},
): FunctionDefinition {
  return define({ runtime: "command", command: spec, ...more });
}

function define(part: Partial<FunctionDefinition>): FunctionDefinition {
  const full: Omit<FunctionDefinition, "digest"> = {
    runtime: "python",
    format: "source",
    code: Buffer.alloc(0),
    entry: "main",
    mode: "at_most_once",
    timeoutMs: 0,
    retries: 0,
    backoffMs: 0,
    env: {},
    resources: {},
    ...part,
  };
  return { ...full, digest: functionDigest(full) };
}

/** A call: a function, its arguments and what is special about it. */
export interface Call {
  readonly fn: FunctionDefinition;
  readonly args?: unknown[];
  readonly kwargs?: Record<string, unknown>;
  readonly codec?: "json" | "msgpack";
  /** Argument bytes as they are, with their codec. */
  readonly raw?: Buffer;
  readonly rawCodec?: number;
  readonly options?: TaskOptions;
  readonly attempt?: number;
  readonly fence?: number;
  /** The caller's seal over the bytes; default: none, as from a service of before seals. */
  readonly seal?: (key: IdKey, bytes: Buffer) => Buffer;
}

export class NodeHarness {
  readonly stateDir: string;
  readonly manager: NodeManager;
  readonly frames: Frame[] = [];
  readonly outcomes = new Map<IdKey, Outcome>();
  readonly returned = new Set<IdKey>();
  readonly started = new Set<IdKey>();
  held: IdKey[] = [];
  creditTasks = 0;
  autoMark = true;
  readonly port: FramePort;
  #sentTasks = 0;
  #results = 0;
  readonly #known = new Set<FunctionDefinition>();
  readonly #waiters = new Set<() => void>();
  readonly #ownDir: boolean;

  constructor(options: Partial<NodeManagerOptions> = {}) {
    this.#ownDir = options.stateDir === undefined;
    this.stateDir = options.stateDir ?? mkdtempSync(join(tmpdir(), "fl-"));
    const [ours, theirs] = createPortPair();
    this.port = ours;
    ours.onFrame((frame) => this.#receive(frame));
    this.manager = new NodeManager({
      log: pino({ level: process.env.FARLOOM_TEST_LOG ?? "silent" }),
      workers: 1,
      runtimes: { python: { default: PYTHON } },
      killGraceMs: 500,
      ...options,
      stateDir: this.stateDir,
      port: theirs,
    });
  }

  async start(): Promise<this> {
    await this.manager.start();
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.manager.close();
    if (this.#ownDir) rmSync(this.stateDir, { recursive: true, force: true });
  }

  /** Sends calls as one batch; returns their ids. */
  send(...calls: Call[]): IdKey[] {
    const items: (TaskItem & { readonly digest: Buffer })[] = calls.map((call) => {
      const value = [call.args ?? [], call.kwargs ?? {}];
      const codec = call.rawCodec ?? CODECS[call.codec ?? "json"];
      const source =
        call.raw ?? (call.codec === "msgpack" ? encodeValue(value) : Buffer.from(JSON.stringify(value)));
      const key = ids.next();
      return {
        key,
        source,
        start: 0,
        end: source.length,
        codec,
        attempt: call.attempt ?? 1,
        fence: call.fence,
        seals: call.seal?.(key, source),
        options: call.options,
        digest: call.fn.digest,
      };
    });
    const fresh = [...new Set(calls.map((call) => call.fn))].filter((fn) => !this.#known.has(fn));
    for (const fn of fresh) this.#known.add(fn);
    if (fresh.length > 0) this.port.send({ t: "functions", defs: fresh });
    this.port.send(buildTasks(items, 0, items.length, (item) => item.digest));
    this.#sentTasks += items.length;
    return items.map((item) => item.key);
  }

  /** Sends one call and waits for its end. */
  async call(
    fn: FunctionDefinition,
    args: unknown[] = [],
    more: Omit<Call, "fn" | "args"> = {},
  ): Promise<Outcome> {
    const [key] = this.send({ fn, args, ...more });
    return (await this.ends([key!]))[0]!;
  }

  /** The outcomes of these tasks, when all have one. */
  async ends(keys: readonly IdKey[], timeoutMs = 20_000): Promise<Outcome[]> {
    await this.until(() => keys.every((key) => this.outcomes.has(key)), timeoutMs);
    return keys.map((key) => this.outcomes.get(key)!);
  }

  /** Waits until what the frames have told makes `condition` true. */
  async until(condition: () => boolean, timeoutMs = 20_000): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!condition()) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new Error("what the test waits for did not come");
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          this.#waiters.delete(done);
          resolve();
        };
        const timer = setTimeout(done, Math.min(leftMs, 1_000));
        this.#waiters.add(done);
      });
    }
  }

  /** Process ids of the workers. */
  get pids(): number[] {
    return [...this.manager.workers.values()].map((worker) => worker.pid);
  }

  #receive(frame: Frame): void {
    this.frames.push(frame);
    switch (frame.t) {
      case "hello":
        this.held = frame.held ? columnToKeys(frame.held) : [];
        break;
      case "credit":
        this.creditTasks = frame.tasks;
        break;
      case "returned":
        for (const key of columnToKeys(frame.ids)) this.returned.add(key);
        break;
      case "progress":
        for (const key of columnToKeys(frame.ids)) this.started.add(key);
        break;
      case "results":
        for (let i = 0; i < frame.n; i++) {
          const item = resultAt(frame, i);
          const bytes = item.source.subarray(item.start, item.end);
          if (this.outcomes.has(item.key)) throw new Error("a task ended twice");
          this.outcomes.set(item.key, {
            key: item.key,
            state: stateName(item.state) ?? "?",
            reason: reasonName(item.reason),
            codec: item.codec,
            bytes,
            attempt: item.attempt,
            fence: item.fence ?? 0,
            seal: item.seals?.subarray(item.sealAt, item.sealAt! + SEAL_BYTES),
            queueUs: item.queueUs,
            runUs: item.runUs,
            cpuUs: item.cpuUs,
            peakKb: item.peakKb,
            detail: item.detail ?? {},
            value: item.codec === CODECS.json && bytes.length > 0 ? JSON.parse(bytes.toString()) : undefined,
          });
        }
        this.#results += frame.n;
        if (this.autoMark) this.port.send({ t: "mark", accepted: this.#results, durable: this.#results });
        break;
    }
    for (const done of this.#waiters) done();
  }
}
