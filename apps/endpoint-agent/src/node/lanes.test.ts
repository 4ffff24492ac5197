import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FunctionDefinition, keyAt, REASONS, type ResultItem } from "@farloom/protocol";
import { pino } from "pino";
import { expect, it } from "vitest";
import { Dispatcher, type Upstream } from "./dispatcher.js";
import { foreignTask, type NodeTask } from "./node-task.js";
import { WorkerRecords } from "./worker-records.js";

/** People, or environments, that each come once. */
const LANES = 140;
/** MANY_LANES: none of them has a task or a worker when the next comes. */
const MOST = 128;

it("the lanes of environments and people that come no more are forgotten, and made anew where they come again", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "farloom-lanes-"));
  const ended: ResultItem[] = [];
  let heard: () => void = () => undefined;
  const nothing = () => undefined;
  const up: Upstream = {
    outcomes: (items) => {
      ended.push(...items);
      heard();
    },
    results: nothing,
    nothing,
    returned: nothing,
    started: nothing,
    progress: nothing,
    ask: nothing,
    output: nothing,
    hearsOutput: false,
    ended: nothing,
    left: nothing,
  };
  const dispatcher = new Dispatcher({
    log: pino({ level: "silent" }),
    workers: 2,
    runDir,
    place: {
      socketPath: join(runDir, "none.sock"),
      payloadsDir: runDir,
      killGraceMs: 100,
      recycle: { tasks: 0, memoryKb: 0 },
    },
    idleRetireMs: 60_000,
    records: new WorkerRecords(runDir),
    gear: undefined,
    // A program that is not there fails at once.
    programOf: () => ({ command: join(runDir, "missing"), args: [], env: {}, runtime: "python" }),
    up,
  });
  const call = async (lane: number): Promise<void> => {
    const next = new Promise<void>((resolve) => {
      heard = resolve;
    });
    dispatcher.add([taskOf(`python:${lane}`)]);
    await next;
  };
  try {
    for (let lane = 0; lane < LANES; lane++) {
      await call(lane);
      expect(dispatcher.lanes).toBeLessThanOrEqual(MOST);
    }
    await call(0);
    expect(ended).toHaveLength(LANES + 1);
    expect(new Set(ended.map(({ reason }) => reason))).toEqual(new Set([REASONS.runtime_missing]));
  } finally {
    await dispatcher.close(false);
    rmSync(runDir, { recursive: true, force: true });
  }
});

function taskOf(laneName: string): NodeTask {
  const definition = { digest: randomBytes(32), env: {} } as FunctionDefinition;
  return {
    ...foreignTask(keyAt(randomBytes(16)), 0),
    fn: {
      digest: definition.digest,
      digestKey: laneName,
      definition,
      laneName,
      impossible: undefined,
      costUs: undefined,
    },
  };
}
