/**
 * Drives a provider: asks for blocks as the strategy decides, watches them, and lets them go.
 *
 *     asked for ──► pending ──► running ──► over          the provider's words, looked at every `statusMs`
 *                      │           │
 *                      └─ release ─┴─► drained ──► cancelled ──► over
 *
 *   M1  A block is in the book before it is asked for, so that no end of this process leaves one that nobody knows.
 *       What the provider has and the book does not is cancelled.
 *   M2  `unknown` is not over. A block that nobody knew of for UNKNOWN_MS and none of whose nodes is here is cancelled
 *       and forgotten: should it begin all the same, its nodes are refused and end.
 *   M3  A block is drained before its walltime: what has not started goes back to the queue, what runs has the rest.
 *   M4  A block that ends by itself before it has lived PROVEN_MS counts as failed, as does one that is not taken. The
 *       reason is kept for people, and the strategy waits before the next.
 *   M5  One look at a time; what happens meanwhile is looked at in the next. No timer runs without a block or a wait.
 */
import type { AgentAuditEntry, BlockWait, EndpointReport } from "@farloom/protocol";
import type { Logger } from "pino";
import type { PoolNode } from "../nodes/node-pool.js";
import type { BlockBook, BlockEntry } from "./block-book.js";
import type { BlockState, BlockStatus, Provider } from "./provider.js";
import { type BlockView, decide, retryAfterMs, type StrategyLimits } from "./strategy.js";

/** A burst of tasks is one look. */
const LOOK_GAP_MS = 200;
const UNKNOWN_MS = 600_000;
const PROVEN_MS = 30_000;
/** Of a reason, as it is told. */
const MAX_TOLD_CHARS = 300;

/** The nodes as the manager sees them. */
export interface ManagedNodes {
  nodesOf(block: string): readonly PoolNode[];
  drainBlock(block: string): void;
  blockEnded(block: string): void;
}

export interface BlockManagerOptions {
  readonly provider: Provider;
  readonly nodes: ManagedNodes;
  readonly book: BlockBook;
  readonly limits: StrategyLimits;
  readonly nodesPerBlock: number;
  readonly workersPerNode: number;
  readonly walltimeMs: number | undefined;
  readonly drainBeforeMs: number;
  readonly statusMs: number;
  /** Starts a node; the parameters file is its last argument. */
  readonly command: readonly string[];
  readonly writeParameters: (entry: BlockEntry, secret: string) => string;
  readonly removeParameters: (block: string) => void;
  /** What waits and what is at the nodes. `draining`: nothing is asked for any more. */
  readonly work: () => { readonly queuedPlaces: number; readonly handed: number; readonly draining: boolean };
  /** What `standing` gives may have changed. */
  readonly onStanding?: () => void;
  /** A block was asked for, refused, let go, or is over. */
  readonly onChange?: (entry: AgentAuditEntry) => void;
  readonly log: Logger;
}

/** A block as people see it. */
export interface BlockReport {
  readonly id: string;
  readonly state: BlockState | "asked" | "releasing";
  readonly detail?: string;
  readonly nodes: readonly PoolNode[];
}

interface Block {
  readonly entry: BlockEntry;
  status: BlockStatus | undefined;
  hadNode: boolean;
  idleSinceMs: number | undefined;
  unknownSinceMs: number | undefined;
}

export class BlockManager {
  readonly #options: BlockManagerOptions;
  readonly #blocks = new Map<string, Block>();
  #isFirst: boolean;
  #failures = 0;
  #retryAtMs = 0;
  #lastFailure: string | undefined;
  #surplusSinceMs: number | undefined;
  #lastStatusMs = Number.NEGATIVE_INFINITY;
  #wantsStatus = false;
  #lookAgain = false;
  #looking: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #closed = false;

  constructor(options: BlockManagerOptions) {
    this.#options = options;
    for (const entry of options.book.blocks.values()) this.#add(entry);
    this.#isFirst = this.#blocks.size === 0;
  }

  /** Looks after the blocks of an earlier agent, and begins. */
  async begin(): Promise<void> {
    await this.#cancelStrays();
    this.#wake(0);
  }

  /** The queue, or what is at the nodes, may have changed. */
  workChanged(): void {
    this.#wake(LOOK_GAP_MS);
  }

  /** A node of the block came or went. */
  nodesChanged(id: string, change: "came" | "gone"): void {
    const block = this.#blocks.get(id);
    if (block === undefined) return;
    const { entry } = block;
    if (change === "came") {
      block.hadNode = true;
      entry.startedAtMs ??= Date.now();
      // It began while it was being let go.
      if (entry.releasing) this.#options.nodes.drainBlock(id);
    } else {
      this.#wantsStatus = true;
      if (entry.releasing && this.#options.nodes.nodesOf(id).length === 0) void this.#cancel([block]);
    }
    this.#wake(0);
  }

  get report(): {
    readonly blocks: readonly BlockReport[];
    readonly failures: number;
    readonly lastFailure?: string;
  } {
    const blocks = [...this.#blocks.values()].map(
      ({ entry, status }): BlockReport => ({
        id: entry.id,
        state: entry.releasing ? "releasing" : (status?.state ?? "asked"),
        ...(status?.detail === undefined ? {} : { detail: status.detail }),
        nodes: this.#options.nodes.nodesOf(entry.id),
      }),
    );
    return {
      blocks,
      failures: this.#failures,
      ...(this.#lastFailure === undefined ? {} : { lastFailure: this.#lastFailure }),
    };
  }

  /** The blocks that have not begun, and why the last failed, for whoever waits for them. */
  get standing(): Pick<EndpointReport, "blocks" | "failure"> {
    const blocks: BlockWait[] = [];
    for (const { entry, status } of this.#blocks.values()) {
      const nodes = this.#options.nodes.nodesOf(entry.id);
      if (entry.releasing || nodes.some(({ connected }) => connected)) continue;
      const state = nodes.length > 0 ? "away" : (status?.state ?? "asked");
      if (state === "ended" || state === "failed") continue;
      const { reason, detail, estimatedStartMs } = status ?? {};
      blocks.push({
        state,
        reason,
        detail,
        // Slurm's clock, as this machine's: the two are of one cluster.
        startsInMs: estimatedStartMs === undefined ? undefined : Math.max(0, estimatedStartMs - Date.now()),
      });
    }
    const retryInMs = this.#retryAtMs - performance.now();
    const message = this.#lastFailure;
    const failure =
      message !== undefined && retryInMs > 0 ? { message, retryInMs: Math.round(retryInMs) } : undefined;
    return { blocks, failure };
  }

  /** Stops looking after the blocks; with `cancel` they end, otherwise they wait for the next agent. Idempotent. */
  async close(options: { readonly cancel: boolean }): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#looking;
    if (options.cancel) await this.#cancel([...this.#blocks.values()]);
  }

  #add(entry: BlockEntry): Block {
    const hadNode = Object.keys(entry.admitted).length > 0;
    const block: Block = {
      entry,
      status: undefined,
      hadNode,
      idleSinceMs: undefined,
      unknownSinceMs: undefined,
    };
    this.#blocks.set(entry.id, block);
    return block;
  }

  // ─── looking ───────────────────────────────────────────────────────────────────────────────────────────

  /** A look after so long at the latest. */
  #wake(inMs: number | undefined): void {
    if (this.#closed || inMs === undefined) return;
    const atMs = performance.now() + inMs;
    if (this.#looking !== undefined) this.#lookAgain = true;
    else if (atMs < this.#timerAtMs) {
      clearTimeout(this.#timer);
      this.#timerAtMs = atMs;
      this.#timer = setTimeout(() => {
        this.#timerAtMs = Number.POSITIVE_INFINITY;
        this.#looking = this.#look().finally(() => {
          this.#looking = undefined;
          this.#wake(this.#lookAgain ? LOOK_GAP_MS : this.#nextLookMs());
          this.#lookAgain = false;
        });
      }, inMs);
      this.#timer.unref();
    }
  }

  async #look(): Promise<void> {
    const { statusMs } = this.#options;
    const isDue = performance.now() - this.#lastStatusMs >= statusMs;
    if (this.#blocks.size > 0 && (isDue || this.#wantsStatus)) await this.#askStatus();
    if (this.#closed) return;
    this.#drainBeforeWalltime();
    await this.#decide();
    this.#options.onStanding?.();
  }

  /** Until something is due that no event tells of; undefined where nothing is. */
  #nextLookMs(): number | undefined {
    const now = performance.now();
    const { limits, statusMs } = this.#options;
    let atMs = Number.POSITIVE_INFINITY;
    // Where the last look came a little before it, as timers do, it may have passed by now: only a look can tell.
    if (this.#retryAtMs > 0) atMs = Math.min(atMs, this.#retryAtMs);
    if (this.#blocks.size > 0) {
      atMs = Math.min(atMs, this.#lastStatusMs + statusMs);
      if (this.#surplusSinceMs !== undefined) atMs = Math.min(atMs, now + Math.max(1_000, limits.idleMs / 4));
    }
    return atMs === Number.POSITIVE_INFINITY ? undefined : Math.max(LOOK_GAP_MS, atMs - now);
  }

  async #decide(): Promise<void> {
    const { limits, work, log } = this.#options;
    const { draining, ...load } = work();
    const now = performance.now();
    if (this.#retryAtMs <= now) this.#retryAtMs = 0;
    if (draining) return;
    const there = [...this.#blocks.values()].filter(({ entry }) => !entry.releasing);
    const decision = decide(limits, {
      ...load,
      blocks: there.map((block) => this.#viewOf(block, now)),
      isFirst: this.#isFirst,
      surplusMs: this.#surplusSinceMs === undefined ? 0 : now - this.#surplusSinceMs,
      failures: this.#failures,
      retryInMs: Math.max(0, this.#retryAtMs - now),
    });
    // Until they are all there, or there is work to go by.
    const isBegun = there.length > 0 && there.every(({ hadNode }) => hadNode);
    if (isBegun || load.queuedPlaces + load.handed > 0) this.#isFirst = false;
    if (there.length > decision.wanted) this.#surplusSinceMs ??= now;
    else this.#surplusSinceMs = undefined;
    for (const id of decision.release) await this.#release(this.#blocks.get(id)!, "it is not needed");
    if (decision.submit > 0)
      log.info({ ...load, blocks: there.length, wanted: decision.wanted }, "more blocks");
    for (let i = 0; i < decision.submit && !this.#closed; i++) if (!(await this.#submit())) return;
  }

  #viewOf(block: Block, now: number): BlockView {
    const nodes = this.#options.nodes.nodesOf(block.entry.id);
    // What a node holds while it is away is not known here: it is not idle.
    const isIdle = nodes.length > 0 && nodes.every((node) => node.connected && node.handed === 0);
    if (!isIdle) block.idleSinceMs = undefined;
    else block.idleSinceMs ??= now;
    return {
      id: block.entry.id,
      state: nodes.length > 0 ? "running" : "pending",
      idleMs: block.idleSinceMs === undefined ? undefined : now - block.idleSinceMs,
    };
  }

  async #submit(): Promise<boolean> {
    const { provider, book, nodesPerBlock, workersPerNode, walltimeMs, command, log } = this.#options;
    let block: Block | undefined;
    try {
      const { entry, secret } = book.add(nodesPerBlock, workersPerNode); // M1
      block = this.#add(entry);
      const parametersFile = this.#options.writeParameters(entry, secret);
      entry.providerId = await provider.submit({
        id: entry.id,
        nodes: nodesPerBlock,
        workersPerNode,
        ...(walltimeMs === undefined ? {} : { walltimeMs }),
        command,
        parametersFile,
      });
      book.save();
      log.info({ block: entry.id, provider: provider.name, as: entry.providerId }, "a block was asked for");
      const { id, providerId } = entry;
      this.#tell({
        what: "block.submitted",
        block: id,
        provider: provider.name,
        as: providerId,
        nodes: nodesPerBlock,
      });
      return true;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      // Where the provider has taken it, the book keeps it.
      if (block !== undefined && block.entry.providerId === undefined) this.#forget(block);
      this.#failed(`the provider ${provider.name} does not take a block: ${reason}`);
      return false;
    }
  }

  #tell(entry: AgentAuditEntry): void {
    this.#options.onChange?.(entry);
  }

  // ─── the end of blocks ─────────────────────────────────────────────────────────────────────────────────

  async #release(block: Block, why: string): Promise<void> {
    const { nodes, log } = this.#options;
    const { entry } = block;
    entry.releasing = true;
    this.#save();
    log.info({ block: entry.id, why }, "a block is let go");
    this.#tell({ what: "block.released", block: entry.id, why });
    if (nodes.nodesOf(entry.id).length === 0) await this.#cancel([block]);
    else nodes.drainBlock(entry.id);
  }

  /** M3 */
  #drainBeforeWalltime(): void {
    const { walltimeMs, drainBeforeMs, nodes, log } = this.#options;
    if (walltimeMs === undefined) return;
    for (const { entry } of this.#blocks.values()) {
      if (entry.startedAtMs === undefined || entry.releasing) continue;
      // A wall clock that was set back must not make it live longer than it does.
      const livedMs = Math.max(0, Date.now() - entry.startedAtMs);
      if (livedMs < walltimeMs - drainBeforeMs) continue;
      entry.releasing = true;
      this.#save();
      log.info({ block: entry.id, livedMs }, "a block's walltime ends; it is drained");
      nodes.drainBlock(entry.id);
    }
  }

  /** The provider says that it runs, and none of its nodes is left: it is of no use. */
  #abandon(block: Block): void {
    block.entry.releasing = true;
    this.#save();
    this.#judge(block, "its nodes ended");
  }

  async #cancel(blocks: readonly Block[]): Promise<void> {
    const ids = blocks.flatMap(({ entry }) => entry.providerId ?? entry.id);
    if (ids.length === 0) return;
    this.#wantsStatus = true;
    try {
      await this.#options.provider.cancel(ids);
    } catch (error) {
      this.#options.log.warn({ err: error, blocks: ids }, "blocks cannot be cancelled; it is tried again");
    }
  }

  async #askStatus(): Promise<void> {
    const { provider, log } = this.#options;
    const fresh = this.#wantsStatus;
    this.#wantsStatus = false;
    this.#lastStatusMs = performance.now();
    const blocks = [...this.#blocks.values()];
    let statuses: readonly BlockStatus[];
    try {
      statuses = await provider.status(
        blocks.map(({ entry }) => entry.providerId ?? entry.id),
        fresh,
      );
    } catch (error) {
      log.warn({ err: error, provider: provider.name }, "the provider cannot be asked about its blocks");
      return;
    }
    const again: Block[] = [];
    for (const [i, block] of blocks.entries()) {
      const status = statuses[i]!;
      if (status.state !== "unknown" || block.status === undefined) block.status = status;
      if (status.state === "ended" || status.state === "failed")
        this.#over(block, status.detail ?? status.state);
      else if (status.state === "unknown") this.#unknown(block);
      else {
        block.unknownSinceMs = undefined;
        if (this.#options.nodes.nodesOf(block.entry.id).length > 0) continue;
        // Where the batch system has begun it anew (a requeue), the new nodes are on their way.
        const isHollow =
          block.hadNode && status.state === "running" && (status.restarts ?? 0) <= block.entry.restart;
        if (isHollow && !block.entry.releasing) this.#abandon(block);
        // Perhaps again: a cancel that was not heard, or a node that never came to be drained.
        if (block.entry.releasing) again.push(block);
      }
    }
    if (again.length > 0) await this.#cancel(again);
  }

  /** M2 */
  #unknown(block: Block): void {
    const now = performance.now();
    const { entry } = block;
    block.unknownSinceMs ??= now;
    const isHere = this.#options.nodes.nodesOf(entry.id).length > 0;
    if (isHere || now - block.unknownSinceMs < UNKNOWN_MS) return;
    this.#options.log.warn({ block: entry.id }, "nobody knows of a block any more; it is given up");
    void this.#cancel([block]);
    this.#over(block, "the provider did not know it any more");
  }

  #over(block: Block, detail: string): void {
    const { nodes, log } = this.#options;
    const { entry } = block;
    log.info({ block: entry.id, detail }, "a block is over");
    this.#tell({ what: "block.ended", block: entry.id, why: detail.slice(0, MAX_TOLD_CHARS) });
    if (!entry.releasing) this.#judge(block, detail);
    // No event of its nodes' end is to cancel it again.
    this.#blocks.delete(entry.id);
    nodes.blockEnded(entry.id);
    this.#forget(block);
  }

  /** M4 */
  #judge({ entry, hadNode }: Block, detail: string): void {
    const livedMs = entry.startedAtMs === undefined ? 0 : Date.now() - entry.startedAtMs;
    if (hadNode && livedMs >= PROVEN_MS) this.#failures = 0;
    else
      this.#failed(`a block ended ${hadNode ? "soon after it began" : "before its nodes came"}: ${detail}`);
  }

  #failed(reason: string): void {
    this.#failures++;
    this.#lastFailure = reason;
    this.#tell({ what: "block.failed", why: reason.slice(0, MAX_TOLD_CHARS) });
    const waitMs = retryAfterMs(this.#failures, Math.random());
    this.#retryAtMs = performance.now() + waitMs;
    this.#options.log.error(
      { reason, failures: this.#failures, waitMs: Math.round(waitMs) },
      "a block failed",
    );
  }

  #forget({ entry }: Block): void {
    this.#blocks.delete(entry.id);
    try {
      this.#options.removeParameters(entry.id);
      this.#options.book.remove(entry.id);
    } catch (error) {
      this.#options.log.warn({ err: error, block: entry.id }, "the end of a block cannot be written");
    }
  }

  #save(): void {
    try {
      this.#options.book.save();
    } catch (error) {
      this.#options.log.warn(
        { err: error },
        "the book of blocks cannot be written; it is tried with the next change",
      );
    }
  }

  async #cancelStrays(): Promise<void> {
    const { provider, log } = this.#options;
    if (provider.list === undefined) return;
    try {
      const known = new Set([...this.#blocks.values()].flatMap(({ entry }) => [entry.id, entry.providerId]));
      const strays = (await provider.list()).map(({ id }) => id).filter((id) => !known.has(id));
      if (strays.length === 0) return;
      log.warn({ blocks: strays }, "blocks that this agent does not know are cancelled");
      await provider.cancel(strays);
    } catch (error) {
      log.warn({ err: error, provider: provider.name }, "the provider cannot be asked for its blocks");
    }
  }
}
