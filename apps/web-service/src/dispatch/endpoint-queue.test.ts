import { CODEC_REFERENCE, TaskIdAllocator } from "@farloom/protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { FunctionRecord } from "../functions/registry.js";
import { ALL_RING_ENTRIES, EndpointQueue, RING_ENTRIES } from "./endpoint-queue.js";
import { TaskEntry } from "./task-entry.js";

const ids = new TaskIdAllocator();
const owner = ids.next();
const fn = { definition: { mode: "at_most_once", retries: 0, backoffMs: 0 } } as unknown as FunctionRecord;

function entry(sizeBytes = 7, key = ids.next(), codec = 1): TaskEntry {
  const source = Buffer.alloc(sizeBytes);
  return new TaskEntry({
    key,
    ownerKey: owner,
    endpointKey: owner,
    groupKey: owner,
    fn,
    source,
    start: 0,
    end: sizeBytes,
    codec,
    attempt: 1,
    options: undefined,
  });
}

function queue(budget = { entries: 0 }): EndpointQueue {
  const made = new EndpointQueue(owner, { epoch: 1, floorSeq: 0 }, budget);
  made.backlog = false;
  return made;
}

describe("an endpoint's queue", () => {
  it("gives tasks in the order in which it took them, each once", () => {
    const q = queue();
    const entries = Array.from({ length: 5000 }, () => entry());
    for (const e of entries) expect(q.offer(e)).toBe(true);
    const out = [...q.take(1000, 1e9), ...q.take(10_000, 1e9)];
    expect(out).toEqual(entries);
    expect(q.length).toBe(0);
    expect(q.leased).toBe(5000);
  });

  it("recognises a task that it holds, queued or leased (Q1)", () => {
    const q = queue();
    const one = entry();
    q.offer(one);
    expect(q.add(entry(7, one.key))).toBe(false);
    q.take(1, 1e9);
    expect(q.add(entry(7, one.key))).toBe(false);
  });

  it("says of what is leased alone that it is: in the attempt that the agent has, and by the file that it is called with", () => {
    const q = queue();
    const one = entry(40, ids.next(), CODEC_REFERENCE | 1);
    const inline = entry(40);
    const digest = Buffer.alloc(32);
    const first = { task: one.key, attempt: 1 };
    for (const e of [inline, one]) q.offer(e);
    for (const asked of [first, { digest }]) expect(q.leasedAs(asked)).toBeUndefined();
    q.take(2, 1e9);
    for (const asked of [first, { digest }]) expect(q.leasedAs(asked)).toBe(one);
    for (const asked of [{ task: one.key, attempt: 2 }, { digest: Buffer.alloc(32, 1) }])
      expect(q.leasedAs(asked)).toBeUndefined();
    one.attempt = 2;
    one.awaits = 1;
    for (const attempt of [1, 2]) expect(q.leasedAs({ task: one.key, attempt })).toBeUndefined();
    expect(q.leasedAs({ digest }), "the older attempt has the file too").toBe(one);
    q.requeue(one);
    expect(q.leasedAs({ digest })).toBeUndefined();
  });

  it("keeps what is parked, and gives it once where it is queued again", () => {
    const q = queue();
    const one = entry();
    q.offer(one);
    expect(q.take(1, 1e9)).toEqual([one]);
    q.park(one);
    expect(one.state).toBe("QUEUED");
    expect(q.take(10, 1e9)).toEqual([]);
    expect(q.add(entry(7, one.key))).toBe(false);
    q.requeue(one);
    q.requeue(one);
    expect(q.take(10, 1e9)).toEqual([one]);
    expect(q.take(10, 1e9)).toEqual([]);
  });

  it("lets an entry of a queue that was closed be queued in the next", () => {
    const [old, next] = [queue(), queue()];
    const one = entry();
    old.offer(one);
    old.close();
    next.add(one);
    expect(next.take(1, 1e9)).toEqual([one]);
  });

  it("lets nothing pass the backlog (Q3)", () => {
    const q = queue();
    q.backlog = true;
    expect(q.offer(entry())).toBe(false);
    expect(q.length).toBe(0);
  });

  it("is bounded by count, by bytes, and by what all rings share", () => {
    const byCount = queue();
    let all = 0;
    while (byCount.offer(entry(1))) all++;
    expect(all).toBe(RING_ENTRIES);
    expect(byCount.backlog).toBe(true);

    const byBytes = queue();
    let taken = 0;
    while (byBytes.offer(entry(8 * 1024 * 1024))) taken++;
    expect(taken).toBe(8);

    const budget = { entries: ALL_RING_ENTRIES };
    const crowded = queue(budget);
    let few = 0;
    while (crowded.offer(entry(1))) few++;
    expect(few).toBeLessThan(RING_ENTRIES / 10);
    crowded.close();
    expect(budget.entries).toBe(ALL_RING_ENTRIES);
  });

  it("does not take back from an old page what ended while it was read (Q4)", () => {
    const q = queue();
    const one = entry();
    q.offer(one);
    q.take(1, 1e9);
    q.beginPage();
    q.forget(one);
    expect(q.add(entry(7, one.key))).toBe(false);
    q.endPage();
    expect(q.add(entry(7, one.key))).toBe(true);
  });

  it("never sends what has ended", () => {
    const q = queue();
    const [a, b] = [entry(), entry()];
    q.offer(a);
    q.offer(b);
    q.forget(a);
    expect(q.take(10, 1e9)).toEqual([b]);
  });

  it("keeps its floor below everything that may be open", () => {
    const q = queue();
    q.cursor = 100;
    const long = entry();
    long.committed = true;
    long.seq = 42;
    q.addLeased(long);
    expect(q.floor()).toBe(41);
    q.forget(long);
    expect(q.floor()).toBe(100);
  });

  it("counts the shared budget right over any sequence of moves", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom("offer", "take", "requeue", "forget"), { maxLength: 300 }),
        (moves) => {
          const budget = { entries: 0 };
          const q = queue(budget);
          const leased: TaskEntry[] = [];
          for (const move of moves) {
            if (move === "offer") q.offer(entry());
            else if (move === "take") leased.push(...q.take(3, 1e9));
            else if (move === "requeue" && leased.length > 0) q.requeue(leased.pop()!);
            else if (move === "forget" && leased.length > 0) q.forget(leased.pop()!);
            expect(budget.entries).toBe(q.length);
            expect(q.leased).toBe(leased.length);
          }
          q.close();
          expect(budget.entries).toBe(0);
        },
      ),
    );
  });
});
