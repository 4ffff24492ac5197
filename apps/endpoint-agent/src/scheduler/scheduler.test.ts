import {
  buildTasks,
  CODECS,
  type IdKey,
  REASONS,
  TaskIdAllocator,
  type TaskItem,
  type TasksFrame,
  TERMINAL_STATES,
} from "@farloom/protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Scheduler, type SchedulerEffect, type SchedulerEvent } from "./scheduler.js";
import { tasksFrames } from "./task-frames.js";

const digest = Buffer.alloc(32, 7);
const ids = new TaskIdAllocator();

function batch(keys: readonly IdKey[], { attempt = 1, sizeBytes = 10 } = {}): TasksFrame {
  const source = Buffer.alloc(sizeBytes);
  const items = keys.map(
    (key): TaskItem => ({
      key,
      codec: CODECS.json,
      attempt,
      options: undefined,
      source,
      start: 0,
      end: sizeBytes,
    }),
  );
  return buildTasks(items, 0, items.length, () => digest);
}
const some = (n: number): IdKey[] => Array.from({ length: n }, () => ids.next());

/** A scheduler with a node that has credit. */
function withNode(tasks: number, bytes = Number.MAX_SAFE_INTEGER): Scheduler {
  const scheduler = new Scheduler();
  scheduler.handle({ kind: "node_up", node: "n", held: new Set(), whole: true });
  scheduler.handle({ kind: "node_credit", node: "n", tasks, bytes });
  return scheduler;
}
const accept = (s: Scheduler, keys: readonly IdKey[], attempt = 1) =>
  s.handle({ kind: "accepted", frame: batch(keys, { attempt }), atMs: 0 });
const dispatch = (s: Scheduler) => handed(s.handle({ kind: "dispatch", atMs: 0, paused: false }));
const handed = (effects: readonly SchedulerEffect[]): IdKey[] =>
  effects.flatMap((e) => (e.do === "hand" ? e.tasks.map((t) => t.key) : []));

describe("handing out", () => {
  it("is first in, first out, within credit (S2, S3)", () => {
    const s = withNode(3);
    const keys = some(5);
    accept(s, keys);
    expect(dispatch(s)).toEqual(keys.slice(0, 3));
    expect(dispatch(s)).toEqual([]);
    s.handle({ kind: "node_credit", node: "n", tasks: 5, bytes: 1e9 });
    expect(dispatch(s)).toEqual(keys.slice(3));
  });

  it("lets one task alone overdraw the bytes (P9)", () => {
    const s = withNode(10, 15);
    const keys = some(3);
    accept(s, keys);
    expect(dispatch(s)).toEqual(keys.slice(0, 2));
    expect(dispatch(s)).toEqual([]);
  });

  it("spreads a burst over nodes", () => {
    const s = withNode(100);
    s.handle({ kind: "node_up", node: "m", held: new Set(), whole: true });
    s.handle({ kind: "node_credit", node: "m", tasks: 100, bytes: 1e9 });
    accept(s, some(100));
    const sizes = s
      .handle({ kind: "dispatch", atMs: 0, paused: false })
      .flatMap((e) => (e.do === "hand" ? [e.tasks.length] : []));
    expect(sizes[0]).toBe(50);
    expect(sizes.reduce((a, b) => a + b)).toBe(100);
  });

  it("puts what a node gave back in front", () => {
    const s = withNode(2);
    const [a, b, c] = some(3) as [IdKey, IdKey, IdKey];
    accept(s, [a, b, c]);
    dispatch(s);
    s.handle({ kind: "node_returned", keys: [a, b], atMs: 0 });
    s.handle({ kind: "node_credit", node: "n", tasks: 10, bytes: 1e9 });
    expect(dispatch(s)).toEqual([a, b, c]);
  });

  it("passes a whole batch on as the frame that it came in", () => {
    const s = withNode(1000);
    const frame = batch(some(100));
    s.handle({ kind: "accepted", frame, atMs: 0 });
    const effects = s.handle({ kind: "dispatch", atMs: 0, paused: false });
    const tasks = effects.flatMap((e) => (e.do === "hand" ? [...e.tasks] : []));
    expect(tasksFrames(tasks)[0]).toBe(frame);
    expect(tasksFrames(tasks.slice(1))[0]!.n).toBe(99);
  });
});

describe("ids", () => {
  it("does not take a task twice; a higher attempt renames an unfinished one (S4)", () => {
    const s = withNode(10);
    const [key] = some(1) as [IdKey];
    accept(s, [key]);
    accept(s, [key], 2);
    expect(dispatch(s)).toEqual([key]);
    expect(s.get(key)!.attempt).toBe(2);
    expect(s.heldTasks).toBe(1);
  });

  it("answers with a kept result, but runs a newer attempt", () => {
    const s = withNode(10);
    const [key] = some(1) as [IdKey];
    accept(s, [key]);
    dispatch(s);
    s.handle({ kind: "finished", tasks: [s.get(key)!] });
    s.handle({ kind: "unknown", key });
    expect(s.heldTasks).toBe(0);
    expect(accept(s, [key])).toMatchObject([{ do: "answer" }]);
    s.handle({ kind: "unknown", key });
    expect(accept(s, [key], 2)).toEqual([]);
    expect(dispatch(s)).toEqual([key]);
  });
});

describe("loss", () => {
  it("charges what may have started, whoever raised it, without raising the attempt (S5)", () => {
    const s = withNode(1);
    const [a, b] = some(2) as [IdKey, IdKey];
    accept(s, [a, b]);
    dispatch(s);
    expect(s.handle({ kind: "node_lost", node: "n" })).toMatchObject([
      {
        do: "finish",
        state: TERMINAL_STATES.LOST,
        reason: REASONS.agent_lost,
        tasks: [{ key: a, attempt: 1 }],
      },
    ]);
    expect(s.get(b)!.state).toBe("queued");
  });

  it("runs again what a whole node does not hold", () => {
    const s = withNode(2);
    const [a, b] = some(2) as [IdKey, IdKey];
    accept(s, [a, b]);
    dispatch(s);
    const effects = s.handle({ kind: "node_up", node: "n", held: new Set([b]), whole: true });
    expect(effects).toMatchObject([{ do: "unhand", tasks: [{ key: a }] }]);
    s.handle({ kind: "node_credit", node: "n", tasks: 5, bytes: 1e9 });
    expect(dispatch(s)).toEqual([a]);
  });
});

describe("against a model", () => {
  type Model = Map<IdKey, "queued" | "handed" | "done" | "gone">;
  /** What a random walk may do; the numbers choose among what is possible. */
  const step = fc.record({
    act: fc.constantFrom(
      "accept",
      "again",
      "credit",
      "dispatch",
      "finish",
      "return",
      "cancel",
      "ack",
      "restart",
    ),
    a: fc.nat(50),
    b: fc.nat(7),
  });

  it("no task is lost, run twice, or handed out beyond credit, whatever happens", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const s = new Scheduler();
        const model: Model = new Map();
        let credit = 0;
        let used = 0;
        const inState = (state: string) => [...model].filter(([, v]) => v === state).map(([k]) => k);
        const finish = (keys: readonly IdKey[]): void => {
          s.handle({ kind: "finished", tasks: keys.map((key) => s.get(key)!) });
          for (const key of keys) model.set(key, "done");
        };
        const apply = (event: SchedulerEvent): void => {
          for (const effect of s.handle(event)) {
            if (effect.do === "hand") {
              for (const task of effect.tasks) {
                expect(model.get(task.key)).toBe("queued");
                model.set(task.key, "handed");
              }
              used += effect.tasks.length;
              expect(used).toBeLessThanOrEqual(credit);
            } else if (effect.do === "finish") finish(effect.tasks.map((t) => t.key));
            else if (effect.do === "unhand") for (const task of effect.tasks) model.set(task.key, "queued");
          }
        };
        const up = (held: ReadonlySet<IdKey>, whole: boolean): void => {
          credit = used = 0;
          apply({ kind: "node_up", node: "n", held, whole });
        };
        up(new Set(), true);
        for (const { act, a, b } of steps) {
          if (act === "accept") {
            const keys = some(1 + b);
            for (const key of keys) model.set(key, "queued");
            apply({ kind: "accepted", frame: batch(keys), atMs: 0 });
          } else if (act === "again") {
            const keys = [...model]
              .filter(([, v]) => v !== "gone")
              .map(([k]) => k)
              .slice(a, a + b + 1);
            if (keys.length > 0) apply({ kind: "accepted", frame: batch(keys), atMs: 0 });
          } else if (act === "credit") {
            credit += b;
            apply({ kind: "node_credit", node: "n", tasks: credit, bytes: 1e9 });
          } else if (act === "dispatch") apply({ kind: "dispatch", atMs: 0, paused: false });
          else if (act === "finish") finish(inState("handed").slice(0, b));
          else if (act === "return")
            apply({ kind: "node_returned", keys: inState("handed").slice(0, b), atMs: 0 });
          else if (act === "cancel") apply({ kind: "cancel", keys: [...model.keys()].slice(a, a + b) });
          else if (act === "ack") {
            const keys = inState("done").slice(0, b);
            s.handle({ kind: "forget", tasks: keys.map((key) => s.get(key)!) });
            for (const key of keys) model.set(key, "gone");
          } else up(new Set(inState("handed").filter((_, i) => i % 2 === 0)), a % 2 === 0);
          for (const [key, state] of model) expect(s.get(key)?.state ?? "gone").toBe(state);
          const open = [...model.values()].filter((v) => v !== "gone").length;
          expect(s.heldTasks).toBe(open);
          expect(s.heldBytes).toBe(open * 10);
        }
        // Given credit, everything that waits is handed out.
        credit = used + 10_000;
        apply({ kind: "node_credit", node: "n", tasks: credit, bytes: 1e9 });
        apply({ kind: "dispatch", atMs: 0, paused: false });
        expect(inState("queued")).toEqual([]);
      }),
      { numRuns: 300 },
    );
  }, 60_000);
});
