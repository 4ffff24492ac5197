/** The manager against providers that are slow, refuse, forget and come back; the book is a real file. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { PoolNode } from "../nodes/node-pool.js";
import { BlockBook } from "./block-book.js";
import { BlockManager, type BlockManagerOptions } from "./block-manager.js";
import type { BlockRequest, BlockStatus, Provider } from "./provider.js";

vi.setConfig({ testTimeout: 30_000 });
const log = pino({ level: "silent" });

/** A batch system that does what the test says. */
class Batch implements Provider {
  readonly name = "batch";
  readonly requests: BlockRequest[] = [];
  readonly states = new Map<string, BlockStatus>();
  readonly cancelled: string[] = [];
  submitting: (id: string) => Promise<string> = async (id) => id;

  async submit(request: BlockRequest): Promise<string> {
    this.requests.push(request);
    const id = await this.submitting(request.id!);
    this.states.set(id, { id, state: "pending" });
    return id;
  }

  async status(ids: readonly string[]): Promise<readonly BlockStatus[]> {
    return ids.map((id) => this.states.get(id) ?? { id, state: "unknown" });
  }

  async cancel(ids: readonly string[]): Promise<void> {
    for (const id of ids) {
      this.cancelled.push(id);
      if (this.states.has(id)) this.states.set(id, { id, state: "ended" });
    }
  }

  async list(): Promise<readonly BlockStatus[]> {
    return [...this.states.values()].filter(({ state }) => state === "pending" || state === "running");
  }
}

let dir: string;
let book: BlockBook;
let batch: Batch;
let manager: BlockManager;
const nodes = new Map<string, PoolNode>();
const told: string[] = [];
let queued = 0;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-manager-"));
  book = new BlockBook(join(dir, "book.json"));
  batch = new Batch();
  nodes.clear();
  told.length = 0;
  queued = 0;
});
afterEach(async () => {
  await manager.close({ cancel: false });
  rmSync(dir, { recursive: true, force: true });
});

async function begin(options: Partial<BlockManagerOptions> = {}): Promise<void> {
  manager = new BlockManager({
    provider: batch,
    nodes: {
      nodesOf: (block) => [...nodes.values()].filter((node) => node.name.startsWith(`${block}/`)),
      drainBlock: (block) => told.push(`drain ${block}`),
      blockEnded: (block) => told.push(`ended ${block}`),
    },
    book,
    limits: {
      minBlocks: 0,
      initBlocks: 0,
      maxBlocks: 4,
      placesPerBlock: 2,
      parallelism: 1,
      idleMs: 300,
    },
    nodesPerBlock: 1,
    workersPerNode: 2,
    walltimeMs: undefined,
    drainBeforeMs: 0,
    statusMs: 100,
    command: ["node"],
    writeParameters: (entry) => join(dir, entry.id),
    removeParameters: () => undefined,
    work: () => ({ queuedPlaces: queued, handed: 0, draining: false }),
    log,
    ...options,
  });
  await manager.begin();
}

function nodeOf(block: string): string {
  const name = `${block}/n`;
  nodes.set(name, { name, connected: true, handed: 0, capacity: undefined });
  manager.nodesChanged(block, "came");
  return name;
}

const until = (holds: () => boolean) => expect.poll(holds, { timeout: 20_000, interval: 20 }).toBe(true);

it("asks once for what the work needs while the batch system takes its time, under ids that are in the book (M1)", async () => {
  queued = 5;
  batch.submitting = async (id) => {
    expect([...new BlockBook(join(dir, "book.json")).blocks.keys()]).toContain(id);
    await new Promise((resolve) => setTimeout(resolve, 50));
    return `job of ${id}`;
  };
  await begin();
  await until(() => batch.requests.length === 3);
  for (let i = 0; i < 10; i++) {
    manager.workChanged();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(batch.requests).toHaveLength(3);
  expect([...book.blocks.values()].map((entry) => entry.providerId)).toEqual(
    batch.requests.map(({ id }) => `job of ${id}`),
  );
});

it("takes up the blocks of an earlier agent, one whose submission nobody saw answered too, and cancels strangers (M1)", async () => {
  const { entry: known } = book.add(1, 2);
  known.providerId = "job-1";
  book.save();
  const { entry: unclear } = book.add(1, 2);
  for (const id of ["job-1", unclear.id, "stranger"]) batch.states.set(id, { id, state: "running" });
  book = new BlockBook(join(dir, "book.json"));
  queued = 4;
  await begin();
  await until(() => manager.report.blocks.every(({ state }) => state === "running"));
  expect(manager.report.blocks.map(({ id }) => id)).toEqual([known.id, unclear.id]);
  expect(batch.cancelled).toEqual(["stranger"]);
  expect(batch.requests).toEqual([]);
});

it("does not take unknown for over (M2)", async () => {
  queued = 1;
  await begin();
  await until(() => book.blocks.size === 1);
  const [id] = book.blocks.keys();
  nodeOf(id!);
  batch.states.clear();
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  expect([...book.blocks.keys()]).toEqual([id]);
  expect([told, batch.cancelled]).toEqual([[], []]);
});

it("keeps the reason why no block is taken, forgets the block, and does not ask in a storm (M4)", async () => {
  queued = 8;
  batch.submitting = async () => {
    throw new Error("no such partition: gpu");
  };
  await begin();
  await until(() => manager.report.failures === 1);
  for (let i = 0; i < 10; i++) {
    manager.workChanged();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect(batch.requests).toHaveLength(1);
  expect(manager.report).toMatchObject({
    blocks: [],
    failures: 1,
    lastFailure: expect.stringMatching(/gpu/),
  });
  expect(book.blocks.size).toBe(0);
});

it("asks again after the wait, also where the timer for it ends a little before it (M4)", async () => {
  queued = 1;
  batch.submitting = async () => {
    throw new Error("not now");
  };
  let nowMs = 1_000;
  let lookTakesMs = 0;
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  vi.spyOn(performance, "now").mockImplementation(() => nowMs);
  try {
    await begin({ onStanding: () => (nowMs += lookTakesMs) });
    await vi.advanceTimersToNextTimerAsync();
    expect(manager.report.failures).toBe(1);
    // Too early as it looks, over before it sets its next timer.
    nowMs += manager.standing.failure!.retryInMs - 1;
    lookTakesMs = 2;
    await vi.advanceTimersToNextTimerAsync();
    expect(manager.report.failures).toBe(1);
    await vi.advanceTimersToNextTimerAsync();
    expect(manager.report.failures).toBe(2);
  } finally {
    vi.useRealTimers();
    vi.restoreAllMocks();
  }
});

it("tells the nodes when the provider calls their block over, and asks for another where there is work", async () => {
  queued = 1;
  await begin();
  await until(() => batch.requests.length === 1);
  const [first] = book.blocks.keys();
  nodeOf(first!);
  book.blocks.get(first!)!.startedAtMs = Date.now() - 60_000;
  batch.states.set(first!, { id: first!, state: "failed", detail: "NODE_FAIL" });
  nodes.clear();
  await until(() => batch.requests.length === 2);
  expect(told).toEqual([`ended ${first}`]);
  expect(book.blocks.has(first!)).toBe(false);
  // It had lived: no wait before the next.
  expect(manager.report.failures).toBe(0);
});

it("waits for the new nodes of a block that is begun anew, and cancels one that runs without nodes", async () => {
  queued = 1;
  await begin();
  await until(() => batch.requests.length === 1);
  const [id] = book.blocks.keys();
  nodeOf(id!);
  nodes.clear();
  batch.states.set(id!, { id: id!, state: "pending", restarts: 1 });
  manager.nodesChanged(id!, "gone");
  await new Promise((resolve) => setTimeout(resolve, 500));
  batch.states.set(id!, { id: id!, state: "running", restarts: 1 });
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect([batch.cancelled, batch.requests.length]).toEqual([[], 1]);
  book.blocks.get(id!)!.restart = 1;
  await until(() => batch.cancelled.length > 0);
  expect(manager.report.lastFailure).toMatch(/its nodes ended/);
});

it("drains an idle block, and cancels it once its nodes have left", async () => {
  queued = 1;
  await begin();
  await until(() => batch.requests.length === 1);
  const [id] = book.blocks.keys();
  const node = nodeOf(id!);
  queued = 0;
  manager.workChanged();
  await until(() => told.includes(`drain ${id}`));
  expect(batch.cancelled).toEqual([]);
  nodes.delete(node);
  manager.nodesChanged(id!, "gone");
  await until(() => book.blocks.size === 0);
  expect(batch.cancelled).toContain(id);
});

it("drains a block before its walltime, and asks for the next beside it (M3)", async () => {
  queued = 1;
  await begin({ walltimeMs: 60_000, drainBeforeMs: 10_000 });
  await until(() => batch.requests.length === 1);
  const [id] = book.blocks.keys();
  nodeOf(id!);
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(told).toEqual([]);
  book.blocks.get(id!)!.startedAtMs = Date.now() - 51_000;
  await until(() => told.includes(`drain ${id}`) && batch.requests.length === 2);
});
