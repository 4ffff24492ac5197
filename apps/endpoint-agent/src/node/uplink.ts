/**
 * The node's end of its link to the agent, over any number of connections. To the node manager it is one port that
 * never breaks; to the agent each connection is a session with positions of its own.
 *
 *   U1  A result is kept until the agent's durable mark covers it, and is sent again in every session until then,
 *       before the first credit (P11, P15a).
 *   U2  Positions in a session count from zero: marks and credit are shifted by what was marked, and received, before.
 *   U3  What else goes up may be lost with a connection: the hello of the next one says what is held, and the agent
 *       concludes the rest. An unanswered `ask` is sent again.
 *   U4  Once it drains, a session gets no credit.
 *
 * Bound: results without a mark, of tasks in hand and of MAX_UNMARKED of the node manager.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  FRAMES_DOWN,
  type Frame,
  type HelloFrame,
  type IdKey,
  keyAt,
  keysToColumn,
  limits,
  type ResultsFrame,
} from "@farloom/protocol";
import type { Logger } from "pino";
import { Backoff } from "../link/backoff.js";
import type { Dialled } from "./dial.js";
import type { FramePort } from "./port.js";
import { StreamPort } from "./stream-port.js";

/** A session that lasted longer proves that the agent is well: the next break is a new one. */
const PROVEN_MS = 10_000;

/** How the link came to its end. */
export type UplinkEnd =
  /** Everything is with the agent, and nothing more will come. */
  | { readonly why: "drained" }
  /** The agent does not take this node, or not any more. */
  | { readonly why: "refused"; readonly message: string }
  /** Nothing runs, and the agent was not reached for too long. */
  | { readonly why: "gave up"; readonly message: string }
  | { readonly why: "stopped" };

export interface UplinkOptions {
  readonly log: Logger;
  readonly dial: (signal: AbortSignal) => Promise<Dialled>;
  /** Who this node is; what it holds is added here. */
  readonly identity: () => Omit<HelloFrame, "t" | "role" | "held" | "whole">;
  /** A session begins: what the node holds, and it forgets what it could only do in the last one. */
  readonly resume: () => readonly IdKey[];
  /** The agent has taken the node. */
  readonly onWelcome: () => void;
  readonly giveUpMs: number;
}

export class Uplink implements FramePort {
  readonly #options: UplinkOptions;
  readonly #stop = new AbortController();
  readonly #backoff = new Backoff();
  #onFrame: ((frame: Frame) => void) | undefined;
  /** Sent or not, and not marked (U1). */
  #unmarked: ResultsFrame[] = [];
  #marked = 0;
  #received = { tasks: 0, bytes: 0 };
  #credit = { tasks: 0, bytes: 0 };
  #base = { marked: 0, tasks: 0, bytes: 0 };
  readonly #asks = new Map<IdKey, Frame>();
  #session: StreamPort | undefined;
  #draining = false;
  #bye: Extract<Frame, { t: "bye" }> | undefined;
  #end: UplinkEnd | undefined;
  #heardAtMs = performance.now();
  #openedAtMs = 0;

  constructor(options: UplinkOptions) {
    this.#options = options;
  }

  /** Keeps the node connected until there is nothing more to be connected for. */
  async run(): Promise<UplinkEnd> {
    const { log, giveUpMs } = this.#options;
    while (this.#end === undefined) {
      const reason = await this.#connectAndServe();
      if (this.#end !== undefined) break;
      const silentMs = performance.now() - this.#heardAtMs;
      if (silentMs > giveUpMs && this.#options.resume().length === 0) {
        this.#end = { why: "gave up", message: reason };
        break;
      }
      const waitMs = this.#backoff.next();
      log.warn({ reason, waitMs: Math.round(waitMs) }, "not connected to the agent");
      await sleep(waitMs, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
    return this.#end!;
  }

  /** Nothing more is asked for; what has not started goes back, and the link ends when the rest is with the agent. */
  drain(): void {
    if (this.#draining) return;
    const frame: Frame = { t: "drain", code: "DRAINING", message: "the node takes nothing more" };
    this.#session?.send(frame);
    this.#down(frame);
  }

  /** Ends for good, whatever is still running: the agent is told where it can be. */
  async stop(message: string): Promise<void> {
    this.#session?.send({ t: "bye", code: "DRAINING", message });
    this.#finish({ why: "stopped" });
  }

  // ─── the node manager's side ───────────────────────────────────────────────────────────────────────────

  onFrame(listener: (frame: Frame) => void): void {
    this.#onFrame = listener;
  }

  /** Where there is no session, output waits in its files for the next. */
  get crowded(): boolean {
    return this.#session?.crowded ?? true;
  }

  /** It never closes by itself: whoever runs the node hears how `run` ends. */
  onClose(): void {}

  close(): void {
    this.#finish({ why: "stopped" });
  }

  send(frame: Frame): void {
    switch (frame.t) {
      case "hello":
        // Each session has one of its own.
        return;
      case "credit":
        this.#credit = { tasks: frame.tasks, bytes: frame.bytes };
        this.#sendCredit();
        return;
      case "results":
        this.#unmarked.push(frame);
        this.#session?.send(frame);
        return;
      case "ask":
        this.#asks.set(keyAt(frame.ids), frame);
        this.#session?.send(frame);
        return;
      case "bye":
        this.#bye = frame;
        this.#checkDrained();
        return;
      default:
        this.#session?.send(frame); // U3
    }
  }

  // ─── the agent's side ──────────────────────────────────────────────────────────────────────────────────

  /** One connection, from its dial to its end. Returns why it ended. */
  async #connectAndServe(): Promise<string> {
    const { signal } = this.#stop;
    const dialled = await this.#options.dial(signal);
    if (!dialled.ok) return dialled.message;
    const port = new StreamPort(dialled.socket, FRAMES_DOWN.node);
    const ended = new Promise<string>((resolve) => port.onClose(resolve));
    const abort = (): void => port.close("the node ends");
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
    const timer = setTimeout(() => port.close("no welcome came"), limits.HELLO_TIMEOUT_MS);
    port.onFrame((frame) => {
      if (frame.t === "refuse") {
        this.#finish({ why: "refused", message: frame.message });
        port.close(frame.message);
      } else if (frame.t === "welcome") {
        clearTimeout(timer);
        this.#opened(port, frame);
      } else if (frame.t === "bye") port.close(frame.message);
    });
    this.#base = { marked: this.#marked, ...this.#received }; // U2
    port.send({
      ...this.#options.identity(),
      t: "hello",
      role: "node",
      held: keysToColumn([...this.#options.resume()]),
      whole: true,
    });
    const reason = await ended;
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    if (this.#session === port && performance.now() - this.#openedAtMs > PROVEN_MS) this.#backoff.reset();
    this.#session = undefined;
    // Two seconds at most: the last words of a node that ends must have left before its process does.
    await port.gone;
    return reason;
  }

  #opened(port: StreamPort, welcome: Extract<Frame, { t: "welcome" }>): void {
    this.#session = port;
    this.#openedAtMs = this.#heardAtMs = performance.now();
    this.#options.onWelcome();
    this.#options.log.info({ session: welcome.session, agent: welcome.software }, "connected to the agent");
    port.onFrame((frame) => this.#receive(frame));
    port.keepAlive({ ...welcome, pings: true });
    for (const frame of this.#unmarked) port.send(frame); // U1
    for (const frame of this.#asks.values()) port.send(frame);
    this.#sendCredit();
    this.#checkDrained();
  }

  #receive(frame: Frame): void {
    this.#heardAtMs = performance.now();
    switch (frame.t) {
      case "mark":
        this.#markUpTo(this.#base.marked + frame.durable);
        return;
      case "tasks":
        this.#received.tasks += frame.n;
        this.#received.bytes += frame.args.length;
        this.#down(frame);
        return;
      case "grant":
        this.#asks.delete(keyAt(frame.ids));
        this.#down(frame);
        return;
      case "bye":
        this.#session?.close(frame.message);
        return;
      default:
        this.#down(frame);
    }
  }

  #down(frame: Frame): void {
    if (frame.t === "drain") this.#draining = true;
    this.#onFrame?.(frame);
  }

  #markUpTo(position: number): void {
    let n = 0;
    while (n < this.#unmarked.length && this.#marked + this.#unmarked[n]!.n <= position)
      this.#marked += this.#unmarked[n++]!.n;
    if (n === 0) return;
    this.#unmarked.splice(0, n);
    this.#down({ t: "mark", accepted: this.#marked, durable: this.#marked });
    this.#checkDrained();
  }

  #sendCredit(): void {
    // Of tasks that left for this session's agent and never came, nothing is counted.
    const tasks = this.#draining ? 0 : Math.max(0, this.#credit.tasks - this.#base.tasks); // U4
    const bytes = Math.max(0, this.#credit.bytes - this.#base.bytes);
    this.#session?.send({ t: "credit", tasks, bytes });
  }

  #checkDrained(): void {
    if (this.#bye === undefined || this.#unmarked.length > 0) return;
    // Without a connection there is nothing to wait for: it has nothing that the agent lacks.
    this.#session?.send(this.#bye);
    this.#finish({ why: "drained" });
  }

  #finish(end: UplinkEnd): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    this.#stop.abort();
  }
}
