/**
 * The Node worker's connection to its node manager: dials, says hello, sends results, and dials again when the
 * link breaks (P17). It keeps every result until the durable mark covers it (P11).
 *
 * Bound: results await marks for as many tasks as there was credit.
 */
import { renameSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import {
  buildResults,
  decodeFrame,
  encodeFrame,
  FRAMES_DOWN,
  type Frame,
  type IdKey,
  keysToColumn,
  keyToBytes,
  LengthPrefixReader,
  limits,
  type ResultItem,
  type ResultsFrame,
} from "@farloom/protocol";

export interface WorkerConfig {
  readonly socket: string;
  readonly worker: string;
  readonly secret: string;
  readonly runtime: string;
  readonly dir: string;
  readonly payloads: string;
  /** How what a task leaves running is ended before the next; absent: it is not. */
  readonly clear?: "namespace" | "descendants";
}

/** What the worker holds, for its hello. */
export interface Holding {
  readonly held: IdKey[];
  readonly running: IdKey | undefined;
  readonly runningMs: number;
  readonly limitMs: number;
  /** That `running` was given. */
  readonly secrets: Readonly<Record<string, string>> | undefined;
}

export interface LinkListener {
  holding(): Holding;
  /** A new session: definitions come again. */
  onWelcome(): void;
  onFrame(frame: Frame): void;
  /** A mark came: it does not cover the last `left` results. */
  onMarked(left: number): void;
  /** Nobody answers any more, or the node manager wants no such worker. */
  onGone(): void;
}

const FIRST_WAIT_MS = 20;
const MAX_WAIT_MS = 500;

/** Tests do not wait a minute. */
const ORPHAN_MS = Number(process.env.FARLOOM_TEST_ORPHAN_S ?? 0) * 1000 || limits.WORKER_ORPHAN_MS;

function withLength(frame: Frame): Buffer {
  const body = encodeFrame(frame);
  const bytes = Buffer.allocUnsafe(4 + body.length);
  bytes.writeUInt32BE(body.length, 0);
  body.copy(bytes, 4);
  return bytes;
}

export class NodeLink {
  readonly #config: WorkerConfig;
  readonly #listener: LinkListener;
  #socket: Socket | undefined;
  #welcome = false;
  #unmarked: { readonly upto: number; readonly frame: ResultsFrame }[] = [];
  #sent = 0;
  #brokenMs = performance.now();
  #waitMs = FIRST_WAIT_MS;

  constructor(config: WorkerConfig, listener: LinkListener) {
    this.#config = config;
    this.#listener = listener;
    this.#dial();
  }

  /** Takes a result into custody, and sends it where there is a link. */
  result(item: ResultItem): void {
    const frame = buildResults([item], 0, 1);
    this.#sent++;
    this.#unmarked.push({ upto: this.#sent, frame });
    if (this.#welcome) this.#write(frame);
  }

  send(frame: Frame): void {
    if (this.#welcome) this.#write(frame);
  }

  #write(frame: Frame): void {
    this.#socket?.write(withLength(frame));
  }

  #dial(): void {
    const socket = connect(this.#config.socket);
    const reader = new LengthPrefixReader();
    this.#socket = socket;
    socket.on("connect", () => {
      const { held, running, runningMs, limitMs, secrets } = this.#listener.holding();
      this.#write({
        t: "hello",
        role: "worker",
        versions: [...limits.SUPPORTED_VERSIONS],
        caps: ["ref", "cancel-running"],
        software: `farloom-worker node/${process.versions.node}`,
        worker: this.#config.worker,
        secret: this.#config.secret,
        pid: process.pid,
        runtime: this.#config.runtime,
        held: keysToColumn(held),
        ...(running === undefined
          ? {}
          : { running: keyToBytes(running), runningMs: Math.round(runningMs), limitMs }),
        ...(secrets && { secrets: { ...secrets } }),
      });
    });
    socket.on("data", (chunk: Buffer) => {
      const frames = reader.push(chunk);
      if ("bad" in frames) return void socket.destroy();
      for (const bytes of frames) {
        const decoded = decodeFrame(bytes, FRAMES_DOWN.worker);
        if (decoded.ok) this.#receive(decoded.frame);
        else if (decoded.code !== "FRAME_UNKNOWN") return void socket.destroy();
      }
    });
    socket.on("error", () => undefined);
    socket.on("close", () => this.#broken(socket));
  }

  #receive(frame: Frame): void {
    if (frame.t === "refuse") {
      this.#listener.onGone();
      return;
    }
    if (frame.t === "mark") {
      let n = 0;
      while (n < this.#unmarked.length && this.#unmarked[n]!.upto <= frame.durable) n++;
      if (n === 0) return;
      this.#unmarked.splice(0, n);
      this.#listener.onMarked(this.#unmarked.length);
      return;
    }
    if (frame.t !== "welcome") {
      this.#listener.onFrame(frame);
      return;
    }
    this.#welcome = true;
    this.#waitMs = FIRST_WAIT_MS;
    const again = this.#unmarked;
    this.#unmarked = [];
    this.#sent = 0;
    this.#listener.onWelcome();
    for (const { frame: results } of again) {
      this.#sent += results.n;
      this.#unmarked.push({ upto: this.#sent, frame: results });
      this.#write(results);
    }
    this.#write({ t: "credit", tasks: 0xffffffff, bytes: 2 ** 48 });
  }

  /** Nobody came for these results: they go to a file, which the next agent reads (node/worker-files.ts). */
  #leaveBehind(): void {
    if (this.#unmarked.length === 0) return;
    const path = join(this.#config.dir, "kept");
    try {
      writeFileSync(`${path}.new`, Buffer.concat(this.#unmarked.map(({ frame }) => withLength(frame))));
      renameSync(`${path}.new`, path);
    } catch {
      // A full disk: the results are lost with this process, and their tasks count as lost.
    }
  }

  #broken(socket: Socket): void {
    if (socket !== this.#socket) return;
    if (this.#welcome) this.#brokenMs = performance.now();
    this.#welcome = false;
    const { held } = this.#listener.holding();
    if (held.length > 0) this.#brokenMs = performance.now();
    if (performance.now() - this.#brokenMs > ORPHAN_MS) {
      this.#leaveBehind();
      this.#listener.onGone();
      return;
    }
    setTimeout(() => this.#dial(), this.#waitMs);
    this.#waitMs = Math.min(MAX_WAIT_MS, this.#waitMs * 2);
  }
}
