/**
 * The scheduler against a model of custody, with two nodes that come, go and come back, tasks that wait for what they
 * need, time limits, cancels, drains, results that are kept aside, and forgetting, in every order.
 */
import {
  buildTasks,
  CODECS,
  type IdKey,
  REASONS,
  TaskIdAllocator,
  type TasksFrame,
  TERMINAL_STATES,
} from "@farloom/protocol";
import fc from "fast-check";
import { expect, it } from "vitest";
import type { HeldTask } from "./held-task.js";
import { Scheduler, type SchedulerEffect, type SchedulerEvent } from "./scheduler.js";

const DIGEST = Buffer.alloc(32, 7);
const NODES = ["n", "m"] as const;
const ids = new TaskIdAllocator();

type State = "waiting" | "queued" | "handed" | "done" | "kept";
interface Held {
  state: State;
  node: string | undefined;
  attempt: number;
  /** How often it was handed out under this custody, but for what came back unstarted. */
  handed: number;
  readonly sizeBytes: number;
}
interface Node {
  credit: { tasks: number; bytes: number };
  used: { tasks: number; bytes: number };
}

function batch(
  items: readonly { readonly key: IdKey; readonly attempt: number; readonly sizeBytes: number }[],
): TasksFrame {
  const list = items.map(({ key, attempt, sizeBytes }) => ({
    key,
    attempt,
    codec: CODECS.json,
    options: undefined,
    source: Buffer.alloc(sizeBytes),
    start: 0,
    end: sizeBytes,
    seals: undefined,
    sealAt: 0,
  }));
  return buildTasks(list, 0, list.length, () => DIGEST);
}

/** The model, and the scheduler that it watches. */
class Walk {
  readonly scheduler = new Scheduler();
  readonly model = new Map<IdKey, Held>();
  readonly nodes = new Map<string, Node>();
  draining = false;

  in(...states: State[]): IdKey[] {
    return [...this.model].filter(([, held]) => states.includes(held.state)).map(([key]) => key);
  }

  apply(event: SchedulerEvent): void {
    for (const effect of this.scheduler.handle(event)) this.#carryOut(effect);
  }

  finish(keys: readonly IdKey[]): void {
    this.apply({ kind: "finished", tasks: keys.map((key) => this.scheduler.get(key)!) });
    for (const key of keys) this.#move(key, "done");
  }

  forget(keys: readonly IdKey[]): void {
    this.apply({ kind: "forget", tasks: keys.map((key) => this.scheduler.get(key)!) });
    for (const key of keys) this.model.delete(key);
  }

  #move(key: IdKey, state: State, node?: string): void {
    const held = this.model.get(key)!;
    held.state = state;
    held.node = node;
  }

  #carryOut(effect: SchedulerEffect): void {
    const keysOf = (tasks: readonly HeldTask[]): IdKey[] => tasks.map((task) => task.key);
    switch (effect.do) {
      case "hand": {
        expect(this.draining).toBe(false);
        const node = this.nodes.get(effect.node)!;
        for (const key of keysOf(effect.tasks)) {
          const held = this.model.get(key)!;
          expect(held.state).toBe("queued");
          expect(++held.handed).toBe(1);
          this.#move(key, "handed", effect.node);
          node.used.tasks++;
          // One task alone may overdraw the bytes.
          expect(node.used.bytes).toBeLessThan(node.credit.bytes);
          node.used.bytes += held.sizeBytes;
          expect(node.used.tasks).toBeLessThanOrEqual(node.credit.tasks);
        }
        return;
      }
      case "unhand":
        for (const key of keysOf(effect.tasks)) {
          expect(this.model.get(key)!.state).toBe("handed");
          this.model.get(key)!.handed--;
          this.#move(key, "queued");
        }
        return;
      case "return":
        for (const key of keysOf(effect.tasks))
          expect(["queued", "waiting"]).toContain(this.model.get(key)!.state);
        this.forget(keysOf(effect.tasks));
        return;
      case "finish":
        for (const key of keysOf(effect.tasks)) {
          // Only what may have started is lost; only what has not is cancelled or out of time here.
          const isLoss = effect.state === TERMINAL_STATES.LOST;
          expect(this.model.get(key)!.state === "handed").toBe(isLoss);
          if (isLoss) expect(effect.reason).toBe(REASONS.agent_lost);
        }
        this.finish(keysOf(effect.tasks));
        return;
      case "answer":
        expect(this.model.get(effect.task.key)!.state).toBe("kept");
        this.#move(effect.task.key, "done");
        return;
      case "cancel_on_node":
        for (const key of effect.keys)
          expect(this.model.get(key)).toMatchObject({ state: "handed", node: effect.node });
        return;
      case "wait":
        for (const key of keysOf(effect.tasks)) expect(this.model.get(key)!.state).toBe("waiting");
    }
  }

  /** Model and scheduler agree about every task and every sum. */
  check(): void {
    let heldBytes = 0;
    for (const [key, held] of this.model) {
      const task = this.scheduler.get(key);
      expect(task).toMatchObject({ state: held.state, attempt: held.attempt, node: held.node });
      if (held.state !== "kept") heldBytes += held.sizeBytes;
    }
    expect([...this.scheduler.tasks()].length).toBe(this.model.size);
    expect(this.scheduler.heldTasks).toBe(this.model.size - this.in("kept").length);
    expect(this.scheduler.heldBytes).toBe(heldBytes);
  }
}

type Act = (walk: Walk, a: number, b: number) => void;
const some = (walk: Walk, n: number, ...states: State[]): IdKey[] => walk.in(...states).slice(0, n);

const ACTS: Readonly<Record<string, Act>> = {
  accept(walk, a, b) {
    const items = Array.from({ length: 1 + b }, (_, i) => ({
      key: ids.next(),
      attempt: 1,
      sizeBytes: (a + i) % 30,
    }));
    const waits = a % 3 === 0;
    for (const { key, sizeBytes } of items)
      walk.model.set(key, {
        state: waits ? "waiting" : "queued",
        node: undefined,
        attempt: 1,
        handed: 0,
        sizeBytes,
      });
    walk.apply({ kind: "accepted", frame: batch(items), atMs: 0, ...(waits ? { needs: () => 1 } : {}) });
  },
  /** The service sends again what it is not sure of, here and there under a newer attempt. */
  again(walk, a, b) {
    const items = [...walk.model].slice(a % 7, (a % 7) + b).map(([key, held]) => {
      const attempt = held.attempt + (a % 4 === 0 ? 1 : 0);
      const isNew = attempt > held.attempt && (held.state === "done" || held.state === "kept");
      if (isNew)
        walk.model.set(key, {
          state: "queued",
          node: undefined,
          attempt,
          handed: 0,
          sizeBytes: held.sizeBytes,
        });
      else if (held.state !== "done" && held.state !== "kept") held.attempt = attempt;
      return {
        key,
        attempt: isNew || held.state !== "done" ? attempt : held.attempt,
        sizeBytes: held.sizeBytes,
      };
    });
    if (items.length > 0) walk.apply({ kind: "accepted", frame: batch(items), atMs: 0 });
  },
  ready(walk, _, b) {
    for (const key of some(walk, b, "waiting")) {
      walk.model.get(key)!.state = "queued";
      walk.apply({ kind: "ready", task: walk.scheduler.get(key)! });
    }
  },
  credit(walk, a, b) {
    const name = NODES[a % 2]!;
    const node = walk.nodes.get(name);
    if (!node) return;
    node.credit = { tasks: node.credit.tasks + b, bytes: node.credit.bytes + 10 * b };
    walk.apply({ kind: "node_credit", node: name, ...node.credit });
  },
  dispatch: (walk, a) => walk.apply({ kind: "dispatch", atMs: 0, paused: a % 10 === 0 }),
  finish: (walk, _, b) => walk.finish(some(walk, b, "handed")),
  giveBack: (walk, _, b) => walk.apply({ kind: "node_returned", keys: some(walk, b, "handed"), atMs: 0 }),
  cancel: (walk, a, b) =>
    walk.apply({ kind: "cancel", keys: [...walk.model.keys()].slice(a % 9, (a % 9) + b) }),
  expire(walk) {
    for (const key of some(walk, 1, "queued", "waiting", "handed"))
      walk.apply({ kind: "expired", task: walk.scheduler.get(key)! });
  },
  unknown(walk, _, b) {
    for (const key of some(walk, b, "done")) {
      walk.model.get(key)!.state = "kept";
      walk.apply({ kind: "unknown", key });
    }
  },
  ack: (walk, _, b) => walk.forget(some(walk, b, "done")),
  nodeUp(walk, a, b) {
    const name = NODES[a % 2]!;
    const handed = walk.in("handed").filter((key) => walk.model.get(key)!.node === name);
    walk.nodes.set(name, { credit: { tasks: 0, bytes: 0 }, used: { tasks: 0, bytes: 0 } });
    walk.apply({
      kind: "node_up",
      node: name,
      held: new Set(handed.filter((_, i) => (i + b) % 2 === 0)),
      whole: a % 4 < 2,
    });
  },
  nodeLost(walk, a) {
    const name = NODES[a % 2]!;
    walk.nodes.delete(name);
    walk.apply({ kind: "node_lost", node: name });
  },
  nodeAway(walk, a) {
    const name = NODES[a % 2]!;
    walk.nodes.delete(name);
    walk.apply({ kind: "node_away", node: name });
  },
  drain(walk, a) {
    if (a % 10 > 0) return;
    walk.draining = true;
    walk.apply({ kind: "drain" });
  },
};

const step = fc.record({
  act: fc.constantFrom(...Object.keys(ACTS)),
  a: fc.nat({ max: 59 }),
  b: fc.nat({ max: 6 }),
});

it("agrees with a model of custody over any walk: nothing lost, nothing handed twice, nothing beyond credit (S1–S5)", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
      const walk = new Walk();
      for (const a of [0, 1]) ACTS.nodeUp!(walk, a, 0);
      for (const { act, a, b } of steps) {
        ACTS[act]!(walk, a, b);
        walk.check();
      }
      // Whatever happened: with what it needs and with credit, everything that waits goes out, unless it drains.
      ACTS.nodeUp!(walk, 0, 0);
      ACTS.ready!(walk, 0, 1e6);
      ACTS.credit!(walk, 0, 1e6);
      walk.apply({ kind: "dispatch", atMs: 0, paused: false });
      if (!walk.draining) expect(walk.in("queued", "waiting")).toEqual([]);
      walk.check();
    }),
    { numRuns: 500 },
  );
}, 60_000);
