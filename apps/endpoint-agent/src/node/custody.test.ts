/** Seals, fences and what a function may know of its task, with real workers of every runtime. */
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CODEC_REFERENCE,
  CODECS,
  encodeReference,
  type FunctionDefinition,
  fenceFor,
  hasSeal,
  type IdKey,
  keyToUuid,
  SEAL_BYTES,
  sealHolds,
  writeSeal,
} from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { command, NodeHarness, node, type Outcome, python } from "../../../../test/support/node-harness.js";

// Real processes on a busy machine.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 30_000 });

let h: NodeHarness;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "fl-c-"));
  h = await new NodeHarness({ workers: 1 }).start();
});
afterAll(async () => {
  await h[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

const seal = (key: IdKey, bytes: Buffer): Buffer => {
  const out = Buffer.alloc(SEAL_BYTES);
  writeSeal(out, 0, key, bytes);
  return out;
};
const ofAnother = (key: IdKey, bytes: Buffer): Buffer =>
  seal(`${key.slice(0, 15)}${String.fromCharCode(key.charCodeAt(15) ^ 1)}`, bytes);
/** Whether it is sealed, and the seal is that of its task and bytes. */
const bearsSeal = (end: Outcome): boolean => hasSeal(end.seal) && sealHolds(end.seal, 0, end.key, end.bytes);

/** A function that appends to a file and returns the path, in each runtime. */
const TOUCH: [string, FunctionDefinition][] = [
  ["python", python("def touch(p):\n    open(p, 'a').write('x')\n    return p\n")],
  [
    "node",
    node(
      "import { appendFileSync } from 'node:fs';\nexport const main = (p) => { appendFileSync(p, 'x'); return p; };",
    ),
  ],
  ["command", command({ argv: ["sh", "-c", "printf x >> {0}"] })],
];

describe.each(TOUCH)("a seal, in runtime %s", (name, fn) => {
  it("that holds lets the task run; its result is sealed, and bears its fence", async () => {
    const fence = fenceFor(2 ** 31 - 1, 3);
    const end = await h.call(fn, [join(dir, `${name}-good`)], { seal, fence, attempt: 3 });
    expect([end.state, end.attempt, end.fence]).toEqual(["SUCCEEDED", 3, fence]);
    expect(bearsSeal(end)).toBe(true);
  });

  it("that does not hold ends the task before anything is run, and may be tried again (P25)", async () => {
    const path = join(dir, `${name}-bad`);
    for (const wrong of [ofAnother, (key: IdKey) => seal(key, Buffer.from("[[],{}]"))]) {
      const end = await h.call(fn, [path], { seal: wrong, fence: fenceFor(4, 1) });
      expect([end.state, end.reason, end.fence]).toEqual(["FAILED", "payload_corrupt", fenceFor(4, 1)]);
      expect(end.detail.error).toMatchObject({ type: "PayloadCorrupt" });
      expect(hasSeal(end.seal)).toBe(false);
    }
    expect(existsSync(path)).toBe(false);
  });

  it("that is not there, from an older service, is not missed", async () => {
    const end = await h.call(fn, [join(dir, `${name}-none`)]);
    expect([end.state, end.fence]).toEqual(["SUCCEEDED", 0]);
    expect(bearsSeal(end)).toBe(true);
    const zero = await h.call(fn, [join(dir, `${name}-none`)], { seal: () => Buffer.alloc(SEAL_BYTES) });
    expect(zero.state).toBe("SUCCEEDED");
  });

  it("is kept for each of a batch, with and without", async () => {
    const keys = h.send(
      ...Array.from({ length: 60 }, (_, i) => ({
        fn,
        args: [join(dir, `${name}-batch`)],
        fence: fenceFor(5, 1 + (i % 2)),
        attempt: 1 + (i % 2),
        ...(i % 3 === 0 ? { seal } : i % 3 === 1 ? { seal: ofAnother } : {}),
      })),
    );
    const ends = await h.ends(keys);
    expect(ends.map((end) => end.fence)).toEqual(ends.map((_, i) => fenceFor(5, 1 + (i % 2))));
    expect(ends.map((end) => end.state)).toEqual(ends.map((_, i) => (i % 3 === 1 ? "FAILED" : "SUCCEEDED")));
    expect(ends.map(bearsSeal)).toEqual(ends.map((_, i) => i % 3 !== 1));
  });
});

describe.each(TOUCH.slice(0, 2))("a payload file, in runtime %s", (name, fn) => {
  it("that has other bytes than its digest says ends the task before anything is run, and is fetched anew", async () => {
    const path = join(dir, `${name}-payload`);
    const bytes = Buffer.from(JSON.stringify([[path], {}]));
    const digest = createHash("sha256").update(bytes).digest();
    const file = join(h.stateDir, "payloads", digest.toString("hex"));
    const raw = encodeReference(digest, bytes.length);
    const call = { raw, rawCodec: CODECS.json | CODEC_REFERENCE, seal };
    const damaged = Buffer.from(bytes);
    damaged[3]! ^= 1;
    writeFileSync(file, damaged);
    const end = await h.call(fn, [], call);
    expect([end.state, end.reason]).toEqual(["FAILED", "payload_corrupt"]);
    expect([existsSync(path), existsSync(file)]).toEqual([false, false]);
    writeFileSync(file, bytes);
    expect((await h.call(fn, [], call)).state).toBe("SUCCEEDED");
  });
});

describe("a large result", () => {
  it("is sealed over its reference", async () => {
    for (const fn of [
      python("def large():\n    return 'y' * 100000\n"),
      node("export const main = () => 'y'.repeat(100000);"),
    ]) {
      const end = await h.call(fn);
      expect(end.codec & CODEC_REFERENCE).toBe(CODEC_REFERENCE);
      expect(bearsSeal(end)).toBe(true);
    }
  });
});

describe("a worker's death", () => {
  it("loses neither seal nor fence of what it had finished", async () => {
    const fn = python(
      "import os, signal\ndef f(die):\n    if die: os.kill(os.getpid(), signal.SIGKILL)\n    return 'done'\n",
    );
    await h.call(fn, [false]);
    const keys = h.send(
      ...Array.from({ length: 40 }, (_, i) => ({ fn, args: [i === 39], fence: fenceFor(6, 1 + i), seal })),
    );
    const ends = await h.ends(keys);
    expect(ends.map((end) => end.fence)).toEqual(ends.map((_, i) => fenceFor(6, 1 + i)));
    expect(ends.slice(0, 39).every(bearsSeal)).toBe(true);
    expect([ends[39]!.state, ends[39]!.reason, hasSeal(ends[39]!.seal)]).toEqual([
      "FAILED",
      "worker_died",
      false,
    ]);
  });
});

describe("what a function may know of its task", () => {
  const fence = fenceFor(70_000, 4);
  const more = { attempt: 4, fence, options: { timeoutMs: 60_000, deadlineMs: 20_000 } };

  it("is farloom.task in Python: id, attempt, fence, and the seconds that are left", async () => {
    const fn = python(
      "import sys, threading, farloom\ndef f():\n    t = farloom.task\n    same = sys.modules['farloom_worker_context'] is farloom\n    return [t.id, t.attempt, t.fence, t.deadline, bool(t), same]\n",
    );
    const end = await h.call(fn, [], more);
    const [id, attempt, fenceSaid, deadline, ...truths] = end.value as unknown[];
    expect([id, attempt, fenceSaid, ...truths]).toEqual([keyToUuid(end.key), 4, fence, true, true]);
    expect(deadline).toBeGreaterThan(10);
    expect(deadline).toBeLessThanOrEqual(20);
    const free = await h.call(fn);
    expect((free.value as unknown[]).slice(1, 4)).toEqual([1, 0, null]);
  });

  it("is nothing between tasks, in Python", async () => {
    const path = join(dir, "between");
    const start = python(
      "import farloom, threading, time\ndef f(path):\n    def look():\n        time.sleep(0.3)\n        t = farloom.task\n        open(path, 'w').write(repr([t.id, t.attempt, t.fence, t.deadline, bool(t)]))\n    threading.Thread(target=look).start()\n",
    );
    expect((await h.call(start, [path])).state).toBe("SUCCEEDED");
    await vi.waitFor(() => expect(readFileSync(path, "utf8")).toBe("[None, None, None, None, False]"), 5_000);
  });

  it("gives way to an installed module of its name, in Python", async () => {
    const fn = python(
      "import os, sys\ndef f(folder):\n    open(os.path.join(folder, 'farloom.py'), 'w').write('mine = 7')\n    sys.modules.pop('farloom', None)\n    sys.path.insert(0, folder)\n    try:\n        import farloom\n        return [farloom.mine, sys.modules['farloom_worker_context'].task.attempt]\n    finally:\n        sys.path.remove(folder)\n        del sys.modules['farloom']\n",
    );
    expect((await h.call(fn, [dir], more)).value).toEqual([7, 4]);
  });

  it("is globalThis.farloom.task in Node", async () => {
    const fn = node(
      "export const main = () => { const t = globalThis.farloom.task; return [t.id, t.attempt, t.fence, t.deadline]; };",
    );
    const end = await h.call(fn, [], more);
    const [id, attempt, fenceSaid, deadline] = end.value as unknown[];
    expect([id, attempt, fenceSaid]).toEqual([keyToUuid(end.key), 4, fence]);
    expect(deadline).toBeGreaterThan(10);
    expect(deadline).toBeLessThanOrEqual(20);
  });

  it("is in the environment of a command, and of none after it", async () => {
    const spec = {
      argv: ["sh", "-c", 'printf "%s %s %s" "$FARLOOM_TASK_ID" "$FARLOOM_ATTEMPT" "$FARLOOM_FENCE"'],
    };
    const end = await h.call(command(spec), [], more);
    expect(end.value).toMatchObject({ stdout: `${keyToUuid(end.key)} 4 ${fence}` });
  });
});
