/**
 * The nodes of all blocks: who may come in, who is here, who is away and for how long, and who is given up.
 *
 *     connected ──► away ──► lost          its connection ended, and it did not come back in time
 *         ▲           │
 *         └───────────┘                    it came back with its token, and keeps its tasks
 *     connected ──► gone                   it said bye, or its block has ended
 *
 *   D1  A node that is lost or gone was given up in the book before the engine hears of it: it is not admitted again,
 *       so that no task of its can be at two nodes.
 *   D2  A restarted agent waits for the nodes that it knew, longer than the longest wait between two of their dials.
 */
import { randomBytes } from "node:crypto";
import { agree, errorMessage, type HelloFrame, limits, type NodeCapacity } from "@farloom/protocol";
import type { Logger } from "pino";
import type { BlockBook } from "../blocks/block-book.js";
import type { FramePort } from "../node/port.js";
import type { StreamPort } from "../node/stream-port.js";
import type { AttachedNode } from "./node-lines.js";

const CAPS = ["ref", "stream", "cancel-running", "progress"];
/** D2: a node dials every 15 s at least, and needs some seconds for it on a machine under load. */
const RESTART_GRACE_MS = 30_000;

/** The engine as the pool sees it. */
export interface PoolEngine {
  attachNode(node: AttachedNode, port: FramePort): void;
  nodeLost(node: string): void;
  drainNode(node: string): void;
  handedTo(node: string): number;
  nodesWithTasks(): ReadonlySet<string>;
}

export interface NodePoolOptions {
  readonly engine: PoolEngine;
  readonly book: BlockBook;
  readonly software: string;
  /** How long a node may be away, after its connection has ended, before its tasks count as lost. */
  readonly graceMs: number;
  readonly log: Logger;
  /** Nodes came or went: whoever counts blocks looks again. */
  readonly onChange: (block: string, change: "came" | "gone") => void;
}

export interface PoolNode {
  readonly name: string;
  readonly connected: boolean;
  readonly handed: number;
  readonly capacity: NodeCapacity | undefined;
}

interface Member {
  readonly block: string;
  port: StreamPort | undefined;
  capacity: NodeCapacity | undefined;
  timer: NodeJS.Timeout | undefined;
}

export class NodePool {
  readonly #options: NodePoolOptions;
  readonly #members = new Map<string, Member>();
  #closed = false;

  constructor(options: NodePoolOptions) {
    this.#options = options;
  }

  /** An agent begins: the nodes that it knew may come back (D2); what any other node had is lost. */
  begin(): void {
    const { book, engine } = this.#options;
    for (const block of book.blocks.keys()) {
      for (const name of book.nodesOf(block)) {
        const member = this.#member(name, block);
        this.#expect(name, member, Math.max(RESTART_GRACE_MS, this.#options.graceMs));
      }
    }
    for (const name of engine.nodesWithTasks()) {
      if (name.includes("/") && !this.#members.has(name)) engine.nodeLost(name);
    }
  }

  /** The nodes of a block that may still speak. */
  nodesOf(block: string): PoolNode[] {
    const nodes: PoolNode[] = [];
    for (const [name, member] of this.#members) {
      if (member.block !== block) continue;
      const { port, capacity } = member;
      nodes.push({
        name,
        connected: port !== undefined,
        handed: this.#options.engine.handedTo(name),
        capacity,
      });
    }
    return nodes;
  }

  /** A connection says who it is. */
  hello(hello: HelloFrame, port: StreamPort): void {
    const { book, engine, log, software } = this.#options;
    const agreement = agree(hello, { caps: CAPS });
    if (!agreement.ok) {
      port.send({
        t: "refuse",
        code: agreement.code,
        message: errorMessage(agreement.code, { detail: agreement.message }),
      });
      port.close("no common version");
      return;
    }
    if (this.#closed) {
      port.close("the agent stops");
      return;
    }
    const admission = book.admit(hello);
    if (!admission.ok) {
      const { reason, mayTryAgain } = admission;
      log.warn({ block: hello.block, node: hello.node, reason }, "a node was refused");
      if (!mayTryAgain)
        port.send({ t: "refuse", code: "NODE_REFUSED", message: errorMessage("NODE_REFUSED") });
      port.close(reason);
      return;
    }
    const { node: name, block } = admission;
    // First the new one, so that its block is never without a node.
    const member = this.#member(name, block);
    for (const old of admission.fenced) this.#gone(old, "its block was started again");
    const isBack = member.timer !== undefined || member.port !== undefined;
    clearTimeout(member.timer);
    member.timer = undefined;
    member.port = port;
    member.capacity = hello.capacity;
    port.trust();
    engine.attachNode({ name, onAway: (saidBye) => this.#away(name, member, port, saidBye) }, port);
    port.send({
      t: "welcome",
      version: agreement.version,
      caps: agreement.caps,
      session: randomBytes(8).toString("hex"),
      heartbeatMs: limits.HEARTBEAT_MS,
      deadAfterMs: limits.DEAD_AFTER_MS,
      maxFrameBytes: limits.MAX_FRAME_BYTES,
      software,
    });
    port.keepAlive({ heartbeatMs: limits.HEARTBEAT_MS, deadAfterMs: limits.DEAD_AFTER_MS, pings: false });
    log.info(
      { node: name, held: (hello.held?.length ?? 0) / 16, ...hello.capacity },
      isBack ? "a node is back" : "a node came",
    );
    port.deliver(hello);
    this.#options.onChange(block, "came");
  }

  /** The block's nodes take nothing more, finish what they run, and end. */
  drainBlock(block: string): void {
    for (const { name } of this.nodesOf(block)) this.#options.engine.drainNode(name);
  }

  /** The provider says that the block is over: whatever its nodes had is lost now. */
  blockEnded(block: string): void {
    for (const { name } of this.nodesOf(block)) this.#gone(name, "its block has ended");
  }

  /** Resolves when no node is connected any more, or after `withinMs`. */
  async ended(withinMs: number): Promise<void> {
    const gone = [...this.#members.values()].flatMap(({ port }) => port?.gone ?? []);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, withinMs);
    });
    await Promise.race([Promise.all(gone), late]);
    clearTimeout(timer);
  }

  /** Lets go of the nodes: they dial again, for the agent that comes next. */
  close(): void {
    this.#closed = true;
    for (const member of this.#members.values()) {
      clearTimeout(member.timer);
      member.port?.close("the agent stops");
    }
    this.#members.clear();
  }

  #member(name: string, block: string): Member {
    let member = this.#members.get(name);
    if (member === undefined) {
      member = { block, port: undefined, capacity: undefined, timer: undefined };
      this.#members.set(name, member);
    }
    return member;
  }

  #away(name: string, member: Member, port: StreamPort, saidBye: boolean): void {
    if (this.#closed || member.port !== port) return;
    member.port = undefined;
    if (saidBye) this.#gone(name, "it has ended");
    else {
      this.#options.log.warn({ node: name, graceMs: this.#options.graceMs }, "a node is away");
      this.#expect(name, member, this.#options.graceMs);
    }
  }

  #expect(name: string, member: Member, withinMs: number): void {
    member.timer = setTimeout(() => this.#gone(name, "it did not come back"), withinMs);
  }

  #gone(name: string, why: string): void {
    const member = this.#members.get(name);
    if (member === undefined) return;
    clearTimeout(member.timer);
    this.#members.delete(name);
    const { book, engine, log } = this.#options;
    try {
      book.giveUp(name); // D1
    } catch (error) {
      log.error({ err: error, node: name }, "that a node was given up cannot be written");
    }
    log.info({ node: name, why, tasks: engine.handedTo(name) }, "a node is gone");
    engine.nodeLost(name);
    member.port?.close(why);
    this.#options.onChange(member.block, "gone");
  }
}
