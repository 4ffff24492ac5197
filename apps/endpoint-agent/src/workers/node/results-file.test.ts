/** What a Node worker leaves behind is read as it was written, as long as no mark covers it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { REASONS, type ResultItem, SEAL_BYTES, TaskIdAllocator, TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readLeftover } from "../../node/worker-files.js";
import { ResultsFile } from "./results-file.js";

const ids = new TaskIdAllocator();
let dir: string;
let file: ResultsFile;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-results-"));
  file = new ResultsFile(join(dir, "results"));
});
afterEach(() => {
  file.close();
  rmSync(dir, { recursive: true });
});

function result(bytes: number, fill = 7): ResultItem {
  const source = Buffer.alloc(bytes + 2, fill);
  return {
    key: ids.next(),
    source,
    start: 1,
    end: bytes + 1,
    codec: 1,
    attempt: 3,
    fence: 65_539,
    seals: Buffer.alloc(SEAL_BYTES, fill),
    sealAt: 0,
    state: TERMINAL_STATES.SUCCEEDED,
    reason: REASONS.none,
    queueUs: 5,
    runUs: 6,
    cpuUs: 7,
    peakKb: 8,
    detail: { stdout: "said", stdoutBytes: 4 },
  };
}

const told = () =>
  readLeftover(dir).results.map(({ key, source, start, end }) => [key, source.toString("hex", start, end)]);
const written = (items: readonly ResultItem[]) =>
  items.map(({ key, source, start, end }) => [key, source.toString("hex", start, end)]);

describe("the results file of a Node worker", () => {
  it("says which task runs", () => {
    expect(readLeftover(dir)).toEqual({ running: undefined, results: [] });
    const key = ids.next();
    file.begin(key);
    expect(readLeftover(dir).running).toBe(key);
    file.end();
    expect(readLeftover(dir).running).toBeUndefined();
  });

  it("has every result whole, with fence, seal and detail", () => {
    const item = result(50);
    file.add(item);
    const [read] = readLeftover(dir).results;
    expect(read).toMatchObject({
      key: item.key,
      codec: 1,
      attempt: 3,
      fence: 65_539,
      state: item.state,
      reason: item.reason,
      queueUs: 5,
      runUs: 6,
      cpuUs: 7,
      peakKb: 8,
      detail: item.detail,
    });
    expect(read!.seals!.subarray(read!.sealAt!, read!.sealAt! + SEAL_BYTES)).toEqual(item.seals);
    expect(told()).toEqual(written([item]));
  });

  it("forgets what a mark covers, and nothing else, however much went through it", () => {
    let wanted: ResultItem[] = [];
    for (let i = 0; i < 400; i++) {
      const item = result(10_000 + i, i % 251);
      file.add(item);
      wanted.push(item);
      if (i % 7 === 0) {
        wanted = wanted.slice(-3);
        file.keep(wanted.length);
      }
      if (i % 20 === 0) expect(told()).toEqual(written(wanted));
    }
    expect(told()).toEqual(written(wanted));
    file.keep(0);
    expect(told()).toEqual([]);
  });

  it("passes over what has no room, and takes the next again once marks have made room", () => {
    const first = result(900_000);
    const second = result(500_000);
    file.add(first);
    file.add(second);
    expect(told()).toEqual(written([first]));
    file.keep(1);
    expect(told()).toEqual([]);
    const third = result(600_000);
    file.add(third);
    expect(told()).toEqual(written([third]));
    file.keep(1);
    expect(told()).toEqual(written([third]));
  });
});
