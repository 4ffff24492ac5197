// Workers that ask to be replaced, and functions that tell how far they are: real workers over their sockets.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keyAt, type ProgressFrame } from "@farloom/protocol";
import { afterEach, describe, expect, it, vi } from "vitest";
import { NodeHarness, python } from "../../../../test/support/node-harness.js";
import type { NodeManagerOptions } from "./options.js";

vi.setConfig({ testTimeout: 40_000 });

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

async function start(options: Partial<NodeManagerOptions> = {}): Promise<NodeHarness> {
  const h = new NodeHarness(options);
  undo.push(() => h[Symbol.asyncDispose]());
  return h.start();
}

/** Notes each run in a file, which stands whatever becomes of its worker. */
const noting = python(
  "import os\ndef note(n, path):\n  with open(path, 'a') as f: f.write(f'{n} {os.getpid()}\\n')\n  return os.getpid()\n",
);

describe("a worker that is to be replaced", () => {
  it("gives back what it has not begun, and every task runs once, none on more than the rule allows", async () => {
    const dir = mkdtempSync(join(tmpdir(), "fl-replaced-"));
    undo.push(() => rmSync(dir, { recursive: true }));
    const path = join(dir, "runs");
    const h = await start({ recycle: { tasks: 30, memoryKb: 0 } });
    const keys = h.send(...Array.from({ length: 100 }, (_, n) => ({ fn: noting, args: [n, path] })));
    const ends = await h.ends(keys);
    expect(new Set(ends.map((end) => end.state))).toEqual(new Set(["SUCCEEDED"]));
    const runs = readFileSync(path, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => line.split(" "));
    expect(runs.map(([n]) => Number(n))).toEqual(Array.from({ length: 100 }, (_, n) => n));
    expect([...grouped(runs).values()].map((list) => list.length)).toEqual([30, 30, 30, 10]);
    // Nothing of it was charged to a task, and nothing went back to the agent.
    expect(h.returned.size).toBe(0);
  });

  it("keeps its results until they are marked, though it wants to leave", async () => {
    const h = await start({ recycle: { tasks: 1, memoryKb: 0 }, killGraceMs: 20_000 });
    h.autoMark = false;
    const [key] = h.send({ fn: python("import os\ndef f(): return os.getpid()\n") });
    const [end] = await h.ends([key!]);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(() => process.kill(end!.value as number, 0)).not.toThrow();
    h.port.send({ t: "mark", accepted: 1, durable: 1 });
    await vi.waitFor(() => expect(() => process.kill(end!.value as number, 0)).toThrow(), 10_000);
  });

  it("is not replaced where no rule says so", async () => {
    const h = await start();
    const fn = python("import os\ndef f(): return os.getpid()\n");
    const ends = await h.ends(h.send(...Array.from({ length: 300 }, () => ({ fn }))));
    expect(new Set(ends.map((end) => end.value)).size).toBe(1);
  });
});

describe("progress", () => {
  const told = (h: NodeHarness): ProgressFrame[] =>
    h.frames.filter((frame): frame is ProgressFrame => frame.t === "progress");

  it("goes up behind the start of its task, a few times in a second, the last word among them", async () => {
    const h = await start();
    const fn = python(
      "import farloom, time\ndef f(n):\n  for i in range(n):\n    farloom.progress(i + 1, n)\n    time.sleep(0.001)\n  time.sleep(0.6)\n",
    );
    const end = await h.call(fn, [400]);
    expect(end.state).toBe("SUCCEEDED");
    const frames = told(h);
    expect(frames[0]).toMatchObject({ kind: "started" });
    const words = frames.slice(1);
    expect(words[0]).toMatchObject({ kind: "progress", done: 1, total: 400 });
    expect(words.at(-1)).toMatchObject({ done: 400, total: 400 });
    expect(words.length).toBeLessThanOrEqual(3 + end.runUs / 250_000);
    expect(new Set(words.map((frame) => keyAt(frame.ids)))).toEqual(new Set([end.key]));
  });

  it("is of the task that runs: what user code writes for another one is dropped", async () => {
    const h = await start();
    const forging = python(
      [
        "import sys, time",
        "def f():",
        "  worker = sys.modules['farloom_worker_context'].task._worker",
        "  worker.say({'t': 'progress', 'ids': b'x' * 16, 'kind': 'progress', 'done': 1})",
        "  for n in range(200):",
        "    worker.say({'t': 'progress', 'ids': worker.current.key, 'kind': 'progress', 'done': n})",
        "  time.sleep(0.2)",
      ].join("\n"),
    );
    const end = await h.call(forging);
    expect(end.state).toBe("SUCCEEDED");
    const words = told(h).filter((frame) => frame.kind === "progress");
    expect(words.every((frame) => keyAt(frame.ids) === end.key)).toBe(true);
    expect(words.length).toBeLessThanOrEqual(2 + end.runUs / 100_000);
  });
});

function grouped(runs: readonly string[][]): Map<string | undefined, string[][]> {
  const groups = new Map<string | undefined, string[][]>();
  for (const run of runs) groups.set(run[1], [...(groups.get(run[1]) ?? []), run]);
  return groups;
}
