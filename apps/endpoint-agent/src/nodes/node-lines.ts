/**
 * The agent's ends of the agent–node hop: a line for each node that is connected. What comes up is told to the
 * engine; what goes down waits here until the journal's commit.
 *
 *   L1  Nothing staged is sent before `release`, which the engine calls after its commit (E1).
 *   L2  A node's tasks are looked at with its first credit, which follows all results that it kept (P15a): what
 *       it was handed, does not list and has no result of, is missing.
 *   L3  The end of a connection says nothing about the tasks of a node that may come back; `lost` does.
 *
 * Bound: what is staged is what one turn produces, within credit; a line that ends takes what is staged with it.
 */
import {
  columnToKeys,
  type Frame,
  type HelloFrame,
  limits,
  type OutputFrame,
  type ResultsFrame,
} from "@farloom/protocol";
import { crashPoint } from "@farloom/protocol/testing";
import type { Logger } from "pino";
import { functionKey } from "../functions-cache.js";
import type { FunctionsDesk } from "../functions-desk.js";
import type { FramePort } from "../node/port.js";
import type { SchedulerEvent } from "../scheduler/scheduler.js";
import type { TaskTokens } from "../task-tokens.js";
import { LOCAL_NODE } from "./names.js";

export interface NodeLinesOptions {
  readonly functions: FunctionsDesk;
  readonly taskTokens: TaskTokens;
  readonly log: Logger;
  /** What a node says of its tasks, as an event for the scheduler. */
  readonly apply: (event: SchedulerEvent) => void;
  readonly onResults: (frame: ResultsFrame, node: string) => void;
  readonly onProgress: (frame: Extract<Frame, { t: "progress" }>) => void;
  readonly onOutput: (frame: OutputFrame, node: string) => void;
  /** The node holds these, as its hello said. */
  readonly onHeld: (node: string, keys: ReadonlySet<string>) => void;
  /** Something came that the end of this turn must look at. */
  readonly onTurn: () => void;
}

/** A node as whoever connects it knows it. */
export interface AttachedNode {
  readonly name: string;
  /**
   * The connection has ended; `saidBye` where the node ended it for good. The node keeps its tasks until `lost` is
   * called. Absent: the end of the connection is the loss of the node.
   */
  readonly onAway?: (saidBye: boolean) => void;
}

interface Line {
  readonly node: AttachedNode;
  readonly port: FramePort;
  staged: Frame[];
  hello: HelloFrame | undefined;
  /** Results taken in this session, and marked. */
  received: number;
  marked: number;
  saidBye: boolean;
}

export class NodeLines {
  readonly #options: NodeLinesOptions;
  readonly #lines = new Map<string, Line>();
  /** Lines with something to send, so that a turn costs nothing for all the others. */
  readonly #dirty = new Set<Line>();
  /** Nodes whose tasks of an earlier life may be more than the journal knows: what they do not hold may have run. */
  readonly #doubted = new Set<string>();
  /** Nodes that are to take nothing more, over any reconnect. */
  readonly #draining = new Set<string>();
  #recallsAll = false;
  #ending = false;

  constructor(options: NodeLinesOptions) {
    this.#options = options;
  }

  /** What the journal says of this node's tasks may lack its last words. */
  doubt(node: string): void {
    this.#doubted.add(node);
  }

  /** A session begins: the node's hello is the first frame that `port` delivers. A line that it had before ends. */
  attach(node: AttachedNode, port: FramePort): void {
    const before = this.#lines.get(node.name);
    const line: Line = {
      node,
      port,
      staged: [],
      hello: undefined,
      received: 0,
      marked: 0,
      saidBye: false,
    };
    this.#lines.set(node.name, line);
    if (before !== undefined) {
      this.#dirty.delete(before);
      before.port.close("the node has a newer connection");
    }
    port.onFrame((frame) => {
      if (this.#lines.get(node.name) === line) this.#receive(line, frame);
    });
    port.onClose((reason) => {
      if (this.#lines.get(node.name) === line) this.#closed(line, reason);
    });
  }

  /** Goes down with the next release, if the node is there (L1). */
  stage(node: string, frame: Frame): void {
    const line = this.#lines.get(node);
    if (line === undefined) return;
    line.staged.push(frame);
    this.#dirty.add(line);
  }

  /** It takes nothing more, and gives back what has not started; what runs goes on. */
  drain(node: string, frame: Extract<Frame, { t: "drain" }>): void {
    this.#draining.add(node);
    this.#options.apply({ kind: "node_drain", node });
    this.stage(node, frame);
    this.#options.onTurn();
  }

  /** Asks the nodes of blocks for all that has not begun, those too that come later; they live on, as what they run does. */
  recallAll(): void {
    this.#recallsAll = true;
    for (const name of this.#lines.keys()) this.#recallFrom(name);
  }

  #recallFrom(name: string): void {
    if (this.#recallsAll && name !== LOCAL_NODE) this.stage(name, RECALL_ALL);
  }

  /** The node is given up: what it had, or may have, started is lost (L3). */
  lost(node: string): void {
    const line = this.#lines.get(node);
    this.#forget(node);
    line?.port.close("the node is given up");
    this.#options.apply({ kind: "node_lost", node });
    this.#options.onTurn();
  }

  /** Everything staged leaves, and the marks of what was taken: the commit covers it. */
  release(): void {
    if (this.#dirty.size === 0) return;
    for (const line of this.#dirty) {
      const frames = line.staged;
      line.staged = [];
      if (frames.length > 0) crashPoint("agent.start.recorded");
      for (const frame of frames) {
        line.port.send(frame);
        crashPoint("agent.start.handed");
      }
      if (line.marked < line.received) {
        crashPoint("agent.result.journalled");
        line.marked = line.received;
        line.port.send({ t: "mark", accepted: line.marked, durable: line.marked });
        crashPoint("agent.result.node-marked");
      }
    }
    this.#dirty.clear();
  }

  /** The agent is about to close the nodes' connections itself: their end says nothing. */
  expectEnd(): void {
    this.#ending = true;
  }

  // ─── a node speaks ─────────────────────────────────────────────────────────────────────────────────────

  #receive(line: Line, frame: Frame): void {
    const { name } = line.node;
    const { functions, log, taskTokens, apply } = this.#options;
    switch (frame.t) {
      case "hello":
        line.hello = frame; // L2
        functions.nodeCame(name);
        return;
      case "credit":
        this.#meet(line);
        apply({ kind: "node_credit", node: name, tasks: frame.tasks, bytes: frame.bytes });
        break;
      case "results":
        line.received += frame.n;
        this.#dirty.add(line);
        this.#options.onResults(frame, name);
        break;
      case "returned":
        apply({ kind: "node_returned", keys: columnToKeys(frame.ids), atMs: performance.now(), node: name });
        break;
      case "progress":
        this.#options.onProgress(frame);
        break;
      case "output":
        // Nothing of this is durable (P33): it passes by the journal.
        this.#options.onOutput(frame, name);
        return;
      case "need":
        for (const digest of frame.functions) functions.give(name, functionKey(digest));
        break;
      case "ask":
        // Nothing of this is durable (P28): it passes by the journal.
        void taskTokens.ask(frame).then((grant) => this.#ending || line.port.send(grant));
        return;
      case "drain":
        apply({ kind: "node_drain", node: name });
        break;
      case "bye":
        // Any other bye is of this connection alone.
        line.saidBye = frame.code === "DRAINING";
        apply({ kind: "node_drain", node: name });
        break;
      case "problem":
        log.warn({ node: name, code: frame.code, reason: frame.message }, "the node complains");
        return;
      default:
        return;
    }
    this.#options.onTurn();
  }

  #meet(line: Line): void {
    const { hello } = line;
    if (hello === undefined) return;
    line.hello = undefined;
    const { name } = line.node;
    const held = new Set([...columnToKeys(hello.held ?? NO_IDS), ...columnToKeys(hello.running ?? NO_IDS)]);
    const whole = hello.whole === true && !this.#doubted.delete(name);
    this.#options.apply({ kind: "node_up", node: name, held, whole, capacity: hello.capacity });
    this.#options.onHeld(name, held);
    this.#recallFrom(name);
    if (this.#draining.has(name)) {
      this.#options.apply({ kind: "node_drain", node: name });
      this.stage(name, { t: "drain", code: "DRAINING", message: "the agent takes this node back" });
    }
  }

  #closed(line: Line, reason: string): void {
    const { name, onAway } = line.node;
    this.#lines.delete(name);
    this.#dirty.delete(line);
    this.#options.functions.nodeWent(name);
    if (this.#ending) return;
    if (onAway === undefined) {
      this.#options.log.error({ node: name, reason }, "the node manager is gone");
      this.#options.apply({ kind: "node_lost", node: name });
    } else {
      this.#options.apply({ kind: "node_away", node: name });
      onAway(line.saidBye);
    }
    this.#options.onTurn();
  }

  #forget(node: string): void {
    const line = this.#lines.get(node);
    if (line) this.#dirty.delete(line);
    this.#lines.delete(node);
    this.#doubted.delete(node);
    this.#draining.delete(node);
    this.#options.functions.nodeWent(node);
  }
}

const NO_IDS = Buffer.alloc(0);
/** An older node knows nothing of `all`, and gives back what waits in it. */
const RECALL_ALL = { t: "recall", tasks: limits.MAX_BATCH_ITEMS, all: true } as const;
