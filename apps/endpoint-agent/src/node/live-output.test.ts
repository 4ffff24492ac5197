import { appendFileSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type IdKey, keyToBytes, TaskIdAllocator } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Masks } from "../secrets/masks.js";
import { LiveOutput, rangeOf } from "./live-output.js";
import { foreignTask } from "./node-task.js";
import { FLOOD_BYTES, OutputWatch } from "./worker-files.js";

const ids = new TaskIdAllocator();
let dir: string;
let watch: OutputWatch;
let live: LiveOutput;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "fl-live-"));
  for (const name of ["stdout", "stderr"]) writeFileSync(join(dir, name), "");
  watch = new OutputWatch(dir);
  live = new LiveOutput(dir, watch);
});
afterEach(() => rmSync(dir, { recursive: true }));

/** The worker's results file says that it runs this task, or none. */
function runs(key: IdKey | undefined, hasSecrets = false): void {
  const head = Buffer.alloc(32);
  head[6] = hasSecrets ? 1 : 0;
  head[4] = key === undefined ? 0 : 1;
  if (key !== undefined) keyToBytes(key).copy(head, 8);
  writeFileSync(join(dir, "results"), head);
}
const write = (name: string, text: string): void => appendFileSync(join(dir, name), text);
const told = (task = foreignTask(ids.next(), 0), most = 1_000) =>
  live.look(task, most).map(({ stream, at, data }) => [stream, at, data.toString()]);

describe("what a running task has written", () => {
  it("is told once, by stream, from where the last look ended", () => {
    const task = foreignTask(ids.next(), 0);
    runs(task.key);
    write("stdout", "one ");
    write("stderr", "uh");
    expect(told(task)).toEqual([
      [1, 0, "one "],
      [2, 0, "uh"],
    ]);
    expect(told(task)).toEqual([]);
    write("stdout", "two");
    expect(told(task)).toEqual([[1, 4, "two"]]);
    // No more than it may, and the rest at the next look.
    write("stdout", "threefour");
    expect([told(task, 5), told(task, 5)]).toEqual([[[1, 7, "three"]], [[1, 12, "four"]]]);
  });

  it("is not told of a task with secrets before these are known, and then with stars for them", () => {
    const task = foreignTask(ids.next(), 0);
    runs(task.key, true);
    write("stdout", "of hunter2-hunter2, hun");
    expect(told(task)).toEqual([]);
    task.masks = new Masks(["hunter2-hunter2"]);
    expect(told(task)).toEqual([[1, 0, "of ***************, "]]);
    write("stdout", "ter2-hunter2!");
    expect(told(task)).toEqual([[1, 20, "***************!"]]);
  });

  it("is never told of a task that the worker does not run: those bytes may be the next one's", () => {
    const task = foreignTask(ids.next(), 0);
    runs(task.key);
    write("stdout", "mine");
    expect(told(task)).toEqual([[1, 0, "mine"]]);
    // It has ended, and the next one writes more than it did; nobody here knows of that yet.
    truncateSync(join(dir, "stdout"), 0);
    runs(ids.next());
    write("stdout", "another's secret");
    expect(told(task)).toEqual([]);
    runs(undefined);
    expect(told(task)).toEqual([]);
  });

  it("is not read from a link that the task has put there", () => {
    const task = foreignTask(ids.next(), 0);
    runs(task.key);
    writeFileSync(join(dir, "key"), "the agent's secret");
    rmSync(join(dir, "stdout"));
    symlinkSync(join(dir, "key"), join(dir, "stdout"));
    expect(told(task)).toEqual([]);
  });

  it("keeps its positions over a flood that was cut, and for the agent that comes later", () => {
    const task = foreignTask(ids.next(), 0);
    runs(task.key);
    write("stdout", "x".repeat(FLOOD_BYTES + 1));
    expect(watch.check()).toBe(true);
    write("stdout", "after");
    expect(told(task)).toEqual([[1, FLOOD_BYTES + 1, "after"]]);
    live = new LiveOutput(dir, new OutputWatch(dir));
    expect(told(task)).toEqual([[1, FLOOD_BYTES + 1, "after"]]);
    // Its end is the end of that: the next task begins at 0.
    watch.merge(undefined);
    expect(new OutputWatch(dir).cutBytes("stdout")).toBe(0);
  });

  it("begins anew with another task", () => {
    const [one, two] = [foreignTask(ids.next(), 0), foreignTask(ids.next(), 0)];
    runs(one.key);
    write("stdout", "a long line");
    told(one);
    truncateSync(join(dir, "stdout"), 0);
    runs(two.key);
    write("stdout", "b");
    expect(told(two)).toEqual([[1, 0, "b"]]);
  });
});

describe("the range that is read", () => {
  it.each([
    ["nothing new", 5, 0, 5, undefined],
    ["all", 0, 0, 50, { from: 0, bytes: 50 }],
    ["as much as may be", 10, 0, 500, { from: 10, bytes: 100 }],
    ["from where the file begins now", 10, 40, 60, { from: 40, bytes: 20 }],
    ["the newest of what is far behind", 0, 0, 1024 * 1024, { from: 1024 * 1024 - 100, bytes: 100 }],
  ] as const)("%s", (_what, next, base, end, range) => expect(rangeOf(next, base, end, 100)).toEqual(range));
});
