/** The strategy against simulated clusters: queues that take their time, bursts, long tasks, blocks that fail. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type BlockView, decide, retryAfterMs, type StrategyLimits } from "./strategy.js";

const LIMITS: StrategyLimits = {
  minBlocks: 0,
  initBlocks: 0,
  maxBlocks: 8,
  placesPerBlock: 4,
  parallelism: 1,
  idleMs: 60_000,
};
const TICK_MS = 1_000;

interface SimBlock {
  readonly id: string;
  startsAtMs: number;
  tasks: number[];
  idleSinceMs: number | undefined;
}

/** A cluster whose queue takes `queueMs`, under the strategy. Time goes in steps of a second. */
class Cluster {
  nowMs = 0;
  queue: number[] = [];
  blocks: SimBlock[] = [];
  done = 0;
  submits: number[] = [];
  releases = 0;
  most = 0;
  failures = 0;
  #retryAtMs = 0;
  #surplusSinceMs: number | undefined;
  #names = 0;
  #isFirst = true;
  readonly limits: StrategyLimits;
  readonly queueMs: number;
  readonly fails: () => boolean;

  constructor(limits: Partial<StrategyLimits> = {}, queueMs = 5_000, fails = () => false) {
    this.limits = { ...LIMITS, ...limits };
    this.queueMs = queueMs;
    this.fails = fails;
  }

  submit(count: number, runMs: number): void {
    for (let i = 0; i < count; i++) this.queue.push(runMs);
  }

  run(ms: number): void {
    for (const untilMs = this.nowMs + ms; this.nowMs < untilMs; this.nowMs += TICK_MS) this.#tick();
  }

  #isRunning(block: SimBlock): boolean {
    return block.startsAtMs <= this.nowMs;
  }

  #tick(): void {
    for (const block of this.blocks) {
      if (!this.#isRunning(block)) continue;
      block.tasks = block.tasks
        .map((leftMs) => leftMs - TICK_MS)
        .filter((leftMs) => leftMs > 0 || !++this.done);
      while (block.tasks.length < this.limits.placesPerBlock && this.queue.length > 0)
        block.tasks.push(this.queue.shift()!);
      if (block.tasks.length > 0) block.idleSinceMs = undefined;
      else block.idleSinceMs ??= this.nowMs;
    }
    const views = this.blocks.map(
      (block): BlockView => ({
        id: block.id,
        state: this.#isRunning(block) ? "running" : "pending",
        idleMs: block.idleSinceMs === undefined ? undefined : this.nowMs - block.idleSinceMs,
      }),
    );
    const decision = decide(this.limits, {
      queuedPlaces: this.queue.length,
      handed: this.blocks.reduce((sum, block) => sum + block.tasks.length, 0),
      blocks: views,
      isFirst: this.#isFirst,
      surplusMs: this.#surplusSinceMs === undefined ? 0 : this.nowMs - this.#surplusSinceMs,
      failures: this.failures,
      retryInMs: Math.max(0, this.#retryAtMs - this.nowMs),
    });
    if (views.length > 0 && views.every((view) => view.state === "running")) this.#isFirst = false;
    if (this.queue.length > 0 || this.done > 0) this.#isFirst = false;
    if (this.blocks.length > decision.wanted) this.#surplusSinceMs ??= this.nowMs;
    else this.#surplusSinceMs = undefined;
    for (let i = 0; i < decision.submit; i++) {
      this.submits.push(this.nowMs);
      if (this.fails()) {
        this.failures++;
        this.#retryAtMs = this.nowMs + retryAfterMs(this.failures, 0.5);
        continue;
      }
      this.failures = 0;
      this.blocks.push({
        id: `b${++this.#names}`,
        startsAtMs: this.nowMs + this.queueMs,
        tasks: [],
        idleSinceMs: undefined,
      });
    }
    for (const id of decision.release) {
      const block = this.blocks.find((one) => one.id === id)!;
      expect(block.tasks, "a block that works is not let go").toEqual([]);
      this.blocks = this.blocks.filter((one) => one !== block);
      this.releases++;
    }
    this.most = Math.max(this.most, this.blocks.length);
    expect(this.blocks.length).toBeLessThanOrEqual(this.limits.maxBlocks);
  }
}

describe("growing and shrinking", () => {
  it("grows with the queue at once, to what the work needs, and goes back to zero when it is idle", () => {
    const cluster = new Cluster();
    cluster.submit(20, 10_000);
    cluster.run(1_000);
    expect(cluster.blocks).toHaveLength(5);
    cluster.run(40_000);
    expect(cluster.done).toBe(20);
    expect(cluster.blocks).toHaveLength(5);
    cluster.run(LIMITS.idleMs + 5_000);
    expect(cluster.blocks).toEqual([]);
    cluster.submit(1, 1_000);
    cluster.run(10_000);
    expect(cluster.done).toBe(21);
  });

  it("begins with the initial blocks, keeps the least, and never has more than the most (S1)", () => {
    const cluster = new Cluster({ minBlocks: 1, initBlocks: 3, maxBlocks: 4 });
    cluster.run(1_000);
    expect(cluster.blocks).toHaveLength(3);
    cluster.run(LIMITS.idleMs + 10_000);
    expect(cluster.blocks).toHaveLength(1);
    cluster.submit(1_000, 1_000);
    cluster.run(20_000);
    expect(cluster.most).toBe(4);
  });

  it("waits for its initial blocks as long as the batch system takes for them", () => {
    const cluster = new Cluster({ initBlocks: 2 }, 3_600_000);
    cluster.run(3_590_000);
    expect(cluster.blocks).toHaveLength(2);
    expect(cluster.submits).toHaveLength(2);
  });

  it("asks for nothing twice while a batch system lets blocks wait for an hour (S2)", () => {
    const cluster = new Cluster({}, 3_600_000);
    cluster.submit(100, 10_000);
    cluster.run(3_000_000);
    expect(cluster.submits).toHaveLength(8);
  });

  it("withdraws a block that still waits when its work is gone (S3)", () => {
    const cluster = new Cluster({}, 3_600_000);
    cluster.submit(4, 10_000);
    cluster.run(10_000);
    cluster.queue = [];
    cluster.run(LIMITS.idleMs + 5_000);
    expect(cluster.blocks).toEqual([]);
  });

  it("with parallelism one half wants a place for two tasks, and one block at least", () => {
    const cluster = new Cluster({ parallelism: 0.5 });
    cluster.submit(16, 10_000);
    cluster.run(1_000);
    expect(cluster.blocks).toHaveLength(2);
    const sparing = new Cluster({ parallelism: 0 });
    sparing.submit(16, 1_000);
    sparing.run(60_000);
    expect([sparing.most, sparing.done]).toEqual([1, 16]);
  });
});

describe("no oscillation", () => {
  it("bursts that come more often than blocks are given up find the same blocks", () => {
    const cluster = new Cluster();
    for (let i = 0; i < 60; i++) {
      cluster.submit(16, 5_000);
      cluster.run(45_000);
    }
    expect(cluster.done).toBe(60 * 16);
    expect(cluster.submits).toHaveLength(4);
    expect(cluster.releases).toBe(0);
  });

  it("a steady load makes no block come or go once it is served", () => {
    const cluster = new Cluster();
    for (let i = 0; i < 1_800; i++) {
      cluster.submit(1, 10_000);
      cluster.run(1_000);
    }
    const early = cluster.submits.filter((atMs) => atMs < 120_000).length;
    expect(cluster.submits.length - early).toBe(0);
    expect(cluster.releases).toBeLessThanOrEqual(early);
  });
});

it("starves nothing, never exceeds its bounds and comes back to the least, whatever the work and the queue", () => {
  const burst = fc.record({
    count: fc.nat({ max: 40 }),
    runMs: fc.integer({ min: 1, max: 40 }).map((s) => s * 1_000),
    gapMs: fc.integer({ min: 1, max: 300 }).map((s) => s * 1_000),
  });
  const limits = fc.record({
    minBlocks: fc.nat({ max: 2 }),
    initBlocks: fc.nat({ max: 3 }),
    maxBlocks: fc.integer({ min: 3, max: 6 }),
    placesPerBlock: fc.integer({ min: 1, max: 8 }),
    parallelism: fc.constantFrom(0, 0.5, 1),
  });
  fc.assert(
    fc.property(limits, fc.nat({ max: 300 }), fc.array(burst, { maxLength: 8 }), (given, queueS, bursts) => {
      const cluster = new Cluster(given, queueS * 1_000);
      let work = 0;
      for (const { count, runMs, gapMs } of bursts) {
        cluster.submit(count, runMs);
        work += count * runMs;
        cluster.run(gapMs);
      }
      cluster.run(work + 1_000 * queueS + 10_000);
      expect(cluster.done).toBe(bursts.reduce((sum, { count }) => sum + count, 0));
      cluster.run(3 * LIMITS.idleMs + 1_000 * queueS);
      expect(cluster.blocks.length).toBe(given.minBlocks);
      // What was asked for is there or was let go: nothing is submitted and dropped in a circle.
      expect(cluster.submits.length).toBeLessThanOrEqual(given.maxBlocks * (bursts.length + 1));
    }),
    { numRuns: 80 },
  );
}, 60_000);

describe("blocks that fail at once (S4)", () => {
  it("are not asked for in a storm: alone, after waits that double, up to five minutes", () => {
    const cluster = new Cluster({}, 0, () => true);
    cluster.submit(100, 1_000);
    cluster.run(3_600_000);
    // The first eight came together, before any had failed.
    const later = cluster.submits.slice(8);
    expect(later.length).toBeLessThan(20);
    const gaps = later.slice(1).map((atMs, i) => atMs - later[i]!);
    expect(Math.max(...gaps)).toBeLessThanOrEqual(301_000);
    for (const [i, gap] of gaps.entries()) expect(gap).toBeGreaterThanOrEqual(gaps[i - 1] ?? 0);
  });

  it("are asked for as before once one works", () => {
    let broken = true;
    const cluster = new Cluster({}, 0, () => broken);
    cluster.submit(8, 1_000);
    cluster.run(30_000);
    broken = false;
    cluster.run(900_000);
    expect(cluster.done).toBe(8);
    expect(cluster.failures).toBe(0);
  });

  it("wait at random in the upper half, so that agents do not come back together", () => {
    expect(retryAfterMs(0, 1)).toBe(0);
    expect([retryAfterMs(1, 0), retryAfterMs(1, 1)]).toEqual([2_500, 5_000]);
    expect(retryAfterMs(50, 1)).toBe(300_000);
  });
});
