import { describe, expect, it } from "vitest";
import { SETTLED_MS, SettledCursor } from "./settled-cursor.js";

/** No statement runs longer. */
const STATEMENT_MS = SETTLED_MS / 2;

interface Task {
  readonly seq: number;
  readonly commitsMs: number;
}

/** Tasks are drawn one a second and commit within STATEMENT_MS; no hint of any of them arrives. */
function unseen(gaps: readonly number[], fails: (scan: number) => boolean): number[] {
  let nowMs = 0;
  const settled = new SettledCursor(0, () => nowMs);
  const tasks: Task[] = Array.from({ length: 600 }, (_, i) => ({
    seq: i + 1,
    commitsMs: 1000 * i + ((i * 7919) % STATEMENT_MS),
  }));
  const seen = new Set<number>();
  gaps.forEach((gapMs, scan) => {
    nowMs += gapMs;
    const cursor = Math.floor(nowMs / 1000);
    const done = settled.scan(cursor);
    if (fails(scan)) return;
    for (const { seq, commitsMs } of tasks)
      if (seq > settled.seq && seq <= cursor && commitsMs <= nowMs) seen.add(seq);
    done();
  });
  return tasks.filter((task) => task.seq <= settled.seq && !seen.has(task.seq)).map((task) => task.seq);
}

describe("the settled cursor", () => {
  it.each([
    ["as often as two replicas sweep", [15_000, 15_000, 15_000, 15_000, 15_000, 15_000]],
    ["as rarely as one that is alone", [60_000, 60_000, 60_000, 60_000]],
    ["at uneven distances", [1_000, 60_000, 2_000, 29_000, 15_000, 90_000, 3_000, 40_000]],
  ])("passes no task that no scan has seen: %s", (_, gaps) => {
    expect(unseen(gaps, () => false)).toEqual([]);
    expect(unseen(gaps, (scan) => scan % 3 !== 0)).toEqual([]);
  });

  it("rises where scans succeed, and not where they fail", () => {
    let nowMs = 0;
    const settled = new SettledCursor(5, () => nowMs);
    settled.scan(100)();
    expect(settled.seq).toBe(5);
    nowMs = SETTLED_MS;
    settled.scan(200);
    expect(settled.seq).toBe(5);
    settled.scan(200)();
    expect(settled.seq).toBe(100);
  });

  it("remembers few cursors, however long scans fail", () => {
    let nowMs = 0;
    const settled = new SettledCursor(0, () => nowMs);
    for (; nowMs < 1_000 * SETTLED_MS; nowMs += SETTLED_MS) settled.scan(nowMs);
    settled.scan(nowMs)();
    // The oldest were kept: they are what settles.
    expect(settled.seq).toBeGreaterThan(0);
    expect(settled.seq).toBeLessThan(10 * SETTLED_MS);
  });
});
