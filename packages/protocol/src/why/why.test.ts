import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { boundReport, type EndpointReport, readReport } from "./report.js";
import { WAIT_CODES, type WaitFacts, whyWaiting } from "./why.js";

const NOW = Date.UTC(2026, 0, 2, 3, 4, 5);
const HOUR = 3_600_000;
const at = (ms: number): string => new Date(NOW + ms).toISOString();

const facts = (more: Partial<WaitFacts> = {}): WaitFacts => ({
  nowMs: NOW,
  attempt: 1,
  endpoint: { connected: true, wasConnected: true },
  leased: false,
  ...more,
});
const report = (more: Partial<EndpointReport> = {}): EndpointReport => ({
  draining: false,
  queued: 0,
  handed: 0,
  nodes: 1,
  ...more,
});
/** An endpoint whose nodes come from blocks, and none is there. */
const bare = (more: Partial<EndpointReport>): Partial<WaitFacts> => ({
  report: report({ provider: "slurm", nodes: 0, queued: 1, ...more }),
  reportedAtMs: NOW - 1_000,
});

const TABLE: readonly [string, Partial<WaitFacts>, string, RegExp][] = [
  ["a delay", { notBeforeMs: NOW + HOUR }, "delayed", /delay until 2026-01-02T04:04:05/],
  [
    "a backoff",
    { notBeforeMs: NOW + HOUR, attempt: 2 },
    "backoff",
    /^Attempt 2 begins .* 2026-01-02T04:04:05/,
  ],
  ["a delay that is over", { notBeforeMs: NOW - 1, before: 0 }, "no_worker_free", /next/],
  [
    "no agent ever",
    { endpoint: { connected: false, wasConnected: false } },
    "endpoint_never_connected",
    /never connected.*farloom endpoint start/,
  ],
  [
    "an agent away",
    { endpoint: { connected: false, wasConnected: true, awaySinceMs: NOW - HOUR } },
    "endpoint_away",
    /away since 2026-01-02T02:04:05/,
  ],
  [
    "an agent away since nobody knows when",
    { endpoint: { connected: false, wasConnected: true } },
    "endpoint_away",
    /is away\./,
  ],
  ["an agent that drains", { report: report({ draining: true }) }, "endpoint_draining", /stopping/],
  [
    "more GPUs than any node has",
    {
      needs: { gpus: 2 },
      report: report({
        capacities: [
          { places: 4, cores: 8 },
          { places: 2, gpus: 1 },
        ],
      }),
    },
    "nothing_fits",
    /needs 2 GPUs, .* the most is 1 GPUs/,
  ],
  [
    "cores and memory that no node has together",
    {
      needs: { cores: 8, memoryMb: 1_000 },
      report: report({
        capacities: [
          { places: 1, cores: 8, memoryMb: 500 },
          { places: 1, cores: 1, memoryMb: 2_000 },
        ],
      }),
    },
    "nothing_fits",
    /8 cores and 1000 MB of memory.*on different nodes/,
  ],
  [
    "what a node can hold",
    { needs: { cores: 8 }, report: report({ capacities: [{ places: 1, cores: 8 }] }) },
    "no_worker_free",
    /No worker/,
  ],
  [
    "a node that takes whatever comes",
    { needs: { gpus: 9 }, report: report() },
    "no_worker_free",
    /No worker/,
  ],
  [
    "a block that Slurm has not begun",
    bare({
      blocks: [
        {
          state: "pending",
          reason: "Priority",
          detail: "job 7 waits: Priority",
          startsInMs: 2 * HOUR + 1_000,
        },
      ],
    }),
    "block_pending",
    /Slurm says: job 7 waits: Priority, and expects it to begin at 2026-01-02T05:04:05/,
  ],
  [
    "of two blocks the one that begins first",
    bare({
      blocks: [
        { state: "pending", reason: "Resources", startsInMs: HOUR },
        { state: "pending", reason: "Priority", startsInMs: 5 },
      ],
    }),
    "block_pending",
    /Slurm says: Priority/,
  ],
  [
    "a block of another provider",
    bare({ provider: "ssh", blocks: [{ state: "unknown" }] }),
    "block_pending",
    /the provider ssh has not begun it/,
  ],
  [
    "a block whose nodes are on their way",
    bare({ blocks: [{ state: "running" }] }),
    "node_starting",
    /on their way/,
  ],
  ["nodes that are away", bare({ blocks: [{ state: "away" }] }), "node_away", /lost the connection/],
  [
    "blocks that fail",
    bare({
      blocks: [{ state: "asked" }],
      failure: { message: "sbatch: invalid account", retryInMs: 61_000 },
    }),
    "block_failed",
    /last block failed: sbatch: invalid account\. Another is asked for at 2026-01-02T03:05:05/,
  ],
  ["a block that is asked for", bare({ blocks: [] }), "block_asked", /a block is being asked for \(slurm\)/],
  ["others before it", { before: 12 }, "no_worker_free", /12 tasks wait before it/],
  ["one before it", { before: 1 }, "no_worker_free", /1 task waits before it/],
  ["a place in the queue that nobody knows here", {}, "no_worker_free", /is free\.$/],
  [
    "workers that are all busy",
    { leased: true, before: 0, report: report({ places: 4, handed: 4 }) },
    "no_worker_free",
    /as all 4 have work; it is the next/,
  ],
  [
    "a worker that starts",
    { leased: true, before: 0, report: report({ places: 4, handed: 1 }) },
    "about_to_begin",
    /made ready/,
  ],
];

describe("why a task waits", () => {
  it.each(TABLE)("%s", (_what, more, code, sentence) => {
    const why = whyWaiting(facts(more));
    expect(why.code).toBe(code);
    expect(why.sentence).toMatch(sentence);
  });

  it("every code is reached by a row of the table, and stands in the page for people", () => {
    expect(new Set(TABLE.map(([, , code]) => code))).toEqual(new Set(Object.keys(WAIT_CODES)));
    const page = readFileSync(new URL("../../../../docs/waiting.md", import.meta.url), "utf8");
    const told = [...page.matchAll(/^\| `(\w+)` +\| (.+?) +\|$/gm)].map(([, code, text]) => [code, text]);
    expect(Object.fromEntries(told)).toEqual(WAIT_CODES);
  });

  it("times are given as they are said", () => {
    expect(whyWaiting(facts({ notBeforeMs: NOW + HOUR })).untilMs).toBe(NOW + HOUR);
    const pending = whyWaiting(facts(bare({ blocks: [{ state: "pending", startsInMs: 11_000 }] })));
    expect(pending.estimatedStartMs).toBe(NOW + 10_000);
    expect(pending.sentence).toContain(at(10_000));
  });
});

describe("a report", () => {
  it("of whatever shape becomes one of bounded size", () => {
    const long = "x".repeat(10_000);
    const read = readReport({
      draining: "yes",
      queued: -1,
      handed: Number.NaN,
      nodes: 3,
      provider: long,
      blocks: Array.from({ length: 1_000 }, () => ({ state: "dancing", detail: long, startsInMs: "soon" })),
      capacities: [null, 7, { places: 2, gpus: -1 }],
      failure: "none",
      more: long,
    });
    expect(read).toMatchObject({ draining: false, queued: 0, handed: 0, nodes: 3, failure: undefined });
    expect(read.blocks).toHaveLength(8);
    expect(read.blocks![0]!.state).toBe("unknown");
    expect(read.capacities).toEqual([{ places: 2 }]);
    expect(JSON.stringify(read).length).toBeLessThan(4_000);
  });

  it("is the same on both sides", () => {
    const sent = report({
      provider: "slurm",
      blocks: [{ state: "pending", reason: "Resources", startsInMs: 5 }],
    });
    expect(readReport(boundReport(sent))).toEqual(readReport(sent as never));
  });
});
