/** Shares of GPUs, memory and whole nodes: no walk gives anything twice, and nothing that fits somewhere waits for ever. */
import {
  buildTasks,
  CODECS,
  type IdKey,
  type NodeCapacity,
  type Resources,
  TaskIdAllocator,
} from "@farloom/protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { demandOf } from "./node-state.js";
import { Scheduler, type SchedulerEvent } from "./scheduler.js";
import { tasksFrames } from "./task-frames.js";

const ids = new TaskIdAllocator();
const CAPACITY: NodeCapacity = { places: 4, cores: 4, memoryMb: 1000, gpus: 2, gpuSlots: 4, host: "h" };
const NODES = ["b1/node0", "b1/node1", "b1/node2", "b2/node0", "b2/node1"];

const KINDS: readonly Resources[] = [
  {},
  { cores: 3 },
  { gpus: 0.25 },
  { gpus: 0.6 },
  { gpus: 2 },
  { memoryMb: 600 },
  { memoryMb: 300, gpus: 1 },
  { nodes: 1, ranks: 4 },
  { nodes: 2, ranksPerNode: 2 },
  { nodes: 3 },
];

class World {
  readonly scheduler = new Scheduler((digest) => demandOf(KINDS[digest[0]!]!));
  readonly kind = new Map<IdKey, Resources>();
  readonly at = new Map<IdKey, readonly string[]>();
  now = 0;

  up(node: string, held: readonly IdKey[] = [], more: Partial<NodeCapacity> = {}): void {
    const capacity = { ...CAPACITY, host: `host-${node}`, ...more };
    this.apply({ kind: "node_up", node, held: new Set(held), whole: true, capacity });
    this.apply({ kind: "node_credit", node, tasks: 1e6, bytes: 1e9 });
  }

  submit(kind: number, n = 1): IdKey[] {
    const items = Array.from({ length: n }, () => {
      const key = ids.next();
      this.kind.set(key, KINDS[kind]!);
      const part = { codec: CODECS.json, attempt: 1, options: undefined, source: Buffer.alloc(1) };
      return { key, ...part, start: 0, end: 1 };
    });
    const frame = buildTasks(items, 0, n, () => Buffer.alloc(32, kind));
    this.apply({ kind: "accepted", frame, atMs: this.now++ });
    return items.map(({ key }) => key);
  }

  apply(event: SchedulerEvent): void {
    for (const effect of this.scheduler.handle(event)) {
      if (effect.do === "hand") {
        for (const task of effect.tasks) this.at.set(task.key, task.whole?.names ?? [effect.node]);
      } else if (effect.do === "unhand") for (const task of effect.tasks) this.at.delete(task.key);
      else if (effect.do === "finish") this.finish(...effect.tasks.map(({ key }) => key));
    }
    this.check();
  }

  dispatch(): void {
    this.apply({ kind: "dispatch", atMs: this.now, paused: false });
  }

  finish(...keys: readonly IdKey[]): void {
    for (const key of keys) this.at.delete(key);
    this.scheduler.handle({ kind: "finished", tasks: keys.map((key) => this.scheduler.get(key)!) });
  }

  on(node: string): IdKey[] {
    return [...this.at].filter(([, nodes]) => nodes[0] === node).map(([key]) => key);
  }

  check(): void {
    for (const node of NODES) {
      const here = [...this.at]
        .filter(([, nodes]) => nodes.includes(node))
        .map(([key]) => this.kind.get(key)!);
      const whole = here.filter(({ nodes }) => nodes !== undefined).length;
      if (whole > 0) expect(here, `${node} is one task's alone`).toHaveLength(1);
      const parts = here.filter(({ nodes }) => nodes === undefined);
      const sum = (of: (r: Resources) => number) => parts.reduce((all, r) => all + of(r), 0);
      expect(sum(({ gpus = 0 }) => (gpus < 1 ? Math.ceil(gpus * 4) : gpus * 4))).toBeLessThanOrEqual(8);
      expect(sum(({ memoryMb = 0 }) => memoryMb)).toBeLessThanOrEqual(1000);
      const needy = parts.filter(({ cores, gpus, memoryMb }) => cores ?? gpus ?? memoryMb);
      expect(needy.reduce((all, { cores = 1 }) => all + cores, 0)).toBeLessThanOrEqual(4);
    }
    for (const [key, nodes] of this.at) {
      if (nodes[0] !== "local") expect(nodes).toHaveLength(this.kind.get(key)!.nodes ?? 1);
      expect(new Set(nodes.map((name) => name.split("/")[0])).size, "nodes of one block").toBe(1);
    }
  }
}

describe("resources", () => {
  it("are never given twice, over any walk, and everything is handed out in the end (N2, N3, S6, S9)", () => {
    const step = fc.record({
      act: fc.constantFrom("submit", "submit", "finish", "dispatch", "return", "cut", "lose"),
      a: fc.nat({ max: 30 }),
      kind: fc.nat({ max: KINDS.length - 1 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 70 }), (steps) => {
        const world = new World();
        for (const node of NODES) world.up(node);
        for (const { act, a, kind } of steps) {
          const node = NODES[a % NODES.length]!;
          if (act === "submit") world.submit(kind, 1 + (a % 3));
          else if (act === "finish") world.finish(...[...world.at.keys()].slice(0, a % 5));
          else if (act === "dispatch") world.dispatch();
          else if (act === "return") {
            const keys = [...world.at.keys()].slice(0, a % 3);
            world.apply({ kind: "node_returned", keys, atMs: world.now });
          } else {
            const keeps = act === "cut" ? world.on(node).filter((_, i) => (i + a) % 3 > 0) : [];
            world.apply({ kind: act === "cut" ? "node_away" : "node_lost", node });
            world.up(node, keeps);
          }
        }
        for (let round = 0; round <= 400 && world.scheduler.count("queued") > 0; round++) {
          world.dispatch();
          world.finish(...[...world.at.keys()].slice(0, 3));
        }
        expect(world.scheduler.count("queued")).toBe(0);
      }),
      { numRuns: 150 },
    );
  }, 60_000);

  it("a task over whole nodes is not passed for ever by small ones (S6)", () => {
    const world = new World();
    for (const node of NODES) world.up(node);
    world.submit(0, 20);
    world.dispatch();
    const [large] = world.submit(9);
    for (let i = 0; i < 40 && !world.at.has(large!); i++) {
      world.submit(0, 3);
      world.dispatch();
      world.finish(...[...world.at.keys()].slice(0, 3));
    }
    expect(world.at.get(large!)).toEqual(["b1/node0", "b1/node1", "b1/node2"]);
  });

  it("a task over whole nodes goes to the first of them, and says what they are called", () => {
    const world = new World();
    for (const node of ["b1/node10", "b1/node2"]) world.up(node);
    const [key] = world.submit(8);
    world.dispatch();
    const task = world.scheduler.get(key!)!;
    expect(task.node).toBe("b1/node2");
    const [frame] = tasksFrames([task]);
    expect(frame!.opts?.[0]?.whole).toEqual({ nodes: ["host-b1/node2", "host-b1/node10"] });
    expect(world.scheduler.queuedPlaces, "handed out, it waits for no place").toBe(0);
    world.submit(8);
    expect(world.scheduler.queuedPlaces, "two whole nodes of four places").toBe(8);
  });

  it("after a restart, when nobody knows which nodes such a task has, it keeps its whole block until it ends", () => {
    const world = new World();
    const [key] = world.submit(8);
    world.apply({ kind: "restored", node: "b1/node0", keys: [key!] });
    world.up("b1/node0", [key!]);
    for (const node of NODES.slice(1)) world.up(node);
    world.submit(0, 100);
    world.dispatch();
    expect(NODES.filter((node) => world.on(node).length > 0)).toEqual(["b2/node0", "b2/node1"]);
    world.finish(key!);
    world.submit(0, 100);
    world.dispatch();
    expect(world.on("b1/node0").length).toBeGreaterThan(0);
  });

  it("what a node that is there alone can never run is handed to it, as it must answer; all else waits for room", () => {
    const world = new World();
    world.up("local", [], { alone: true });
    const [three, gpus] = [world.submit(9)[0]!, world.submit(4)[0]!];
    world.dispatch();
    expect(world.scheduler.get(three)!.node).toBe("local");
    world.finish(three);
    world.dispatch();
    expect(world.scheduler.get(gpus)!.node).toBe("local");
    const [second] = world.submit(4);
    world.dispatch();
    expect(world.scheduler.get(second!)!.state).toBe("queued");
  });
});
