/**
 * The lower side of the agent–node hop over a real port: a node that answers each task with its own arguments,
 * at once or when told, and counts what it was given.
 */
import {
  buildResults,
  byteOf,
  CODECS,
  type Frame,
  type IdKey,
  keyAt,
  keysToColumn,
  type ResultItem,
  type ResultsFrame,
  type TasksFrame,
  u32Of,
} from "@farloom/protocol";
import type { FramePort } from "../../apps/endpoint-agent/src/node/port.js";

/** One task as the node got it. */
export interface NodeTask {
  readonly key: IdKey;
  readonly args: Buffer;
  readonly codec: number;
  readonly attempt: number;
}

export interface EchoNodeOptions {
  readonly creditTasks?: number;
  /** False: results are given only by `finish`. Default true. */
  readonly answers?: boolean;
  readonly held?: readonly IdKey[];
  readonly whole?: boolean;
}

export class EchoNode {
  readonly given: NodeTask[] = [];
  readonly frames: Frame[] = [];
  readonly #port: FramePort;
  readonly #options: EchoNodeOptions;
  readonly #creditTasks: number;
  #granted = 0;
  answers: boolean;

  constructor(port: FramePort, options: EchoNodeOptions = {}) {
    this.#port = port;
    this.#options = options;
    this.#creditTasks = options.creditTasks ?? 4096;
    this.answers = options.answers ?? true;
    port.onFrame((frame) => this.#take(frame));
    port.onClose(() => {});
  }

  async start(): Promise<void> {
    const { held = [], whole } = this.#options;
    this.#port.send({
      t: "hello",
      role: "node",
      versions: [1],
      caps: [],
      software: "echo",
      held: keysToColumn([...held]),
      ...(whole === undefined ? {} : { whole }),
    });
    this.#credit(this.#creditTasks);
  }

  async close(): Promise<void> {}

  /** Gives the results of tasks that it holds or held. */
  finish(tasks: readonly NodeTask[], change: Partial<ResultItem> = {}): void {
    const items = tasks.map(
      (task): ResultItem => ({
        key: task.key,
        codec: CODECS.json,
        attempt: task.attempt,
        state: 1,
        reason: 0,
        queueUs: 1,
        runUs: 2,
        cpuUs: 3,
        peakKb: 4,
        detail: undefined,
        source: task.args,
        start: 0,
        end: task.args.length,
        ...change,
      }),
    );
    this.#port.send(buildResults(items, 0, items.length));
    this.#credit(tasks.length);
  }

  returned(keys: readonly IdKey[]): void {
    this.#port.send({ t: "returned", ids: keysToColumn([...keys]) });
    this.#credit(keys.length);
  }

  send(frame: Frame): void {
    this.#port.send(frame);
  }

  #credit(more: number): void {
    this.#granted += more;
    this.#port.send({ t: "credit", tasks: this.#granted, bytes: Number.MAX_SAFE_INTEGER });
  }

  #take(frame: Frame): void {
    if (frame.t !== "mark" && !(frame.t === "tasks" && this.answers)) this.frames.push(frame);
    if (frame.t !== "tasks") return;
    if (this.answers) {
      this.#port.send(echo(frame));
      this.#credit(frame.n);
      return;
    }
    for (let i = 0, start = 0; i < frame.n; i++) {
      const end = frame.ends.readUInt32LE(4 * i);
      this.given.push({
        key: keyAt(frame.ids, 16 * i),
        args: frame.args.subarray(start, end),
        codec: byteOf(frame.codecs, i),
        attempt: u32Of(frame.attempts, i, 1),
      });
      start = end;
    }
  }
}

/** The results of a batch without looking at its tasks: what is measured around it is the engine alone. */
function echo({ n, ids, ends, args, attempts }: TasksFrame): ResultsFrame {
  return {
    t: "results",
    n,
    ids,
    codecs: CODECS.json,
    ends,
    data: args,
    states: 1,
    ...(attempts ? { attempts } : {}),
    queueUs: Buffer.alloc(4 * n),
    runUs: Buffer.alloc(4 * n),
    cpuUs: Buffer.alloc(4 * n),
    peakKb: Buffer.alloc(4 * n),
  };
}
