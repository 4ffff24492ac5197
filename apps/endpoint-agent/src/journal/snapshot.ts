/**
 * Live custody as journal records, and back. A replay feeds the scheduler the same events that a running agent
 * does, so that both agree about duplicates, raised attempts and kept results.
 */
import {
  batchLength,
  buildTasks,
  columnToKeys,
  decodeFrame,
  encodeFrame,
  type IdKey,
  keyAt,
  keysToColumn,
  type ResultsFrame,
  type TasksFrame,
} from "@farloom/protocol";
import { LOCAL_NODE } from "../nodes/names.js";
import { batchesOf } from "../results/result-sender.js";
import { functionOf, type HeldTask, toTaskItem } from "../scheduler/held-task.js";
import type { Scheduler } from "../scheduler/scheduler.js";
import { type JournalRecord, RECORD } from "./format.js";

const TASKS = new Set(["tasks"] as const);
const RESULTS = new Set(["results"] as const);

/** Everything in custody as the records of a new segment. */
export function* liveRecords(scheduler: Scheduler): Generator<JournalRecord> {
  const open: HeldTask[] = [];
  const finished: HeldTask[] = [];
  const kept: HeldTask[] = [];
  for (const task of scheduler.tasks()) {
    if (task.state === "done") finished.push(task);
    else if (task.state === "kept") kept.push(task);
    else open.push(task);
  }
  const items = open.map(toTaskItem);
  for (let from = 0; from < items.length; ) {
    const n = batchLength(items.length, from, (i) => open[i]!.sizeBytes + 64);
    const frame = buildTasks(items, from, n, (item) => functionOf(item.task));
    yield { type: RECORD.accepted, payload: encodeFrame(frame) };
    from += n;
  }
  const handed = new Map<string, HeldTask[]>();
  for (const task of open) {
    if (task.state !== "handed") continue;
    const list = handed.get(task.node!);
    if (list) list.push(task);
    else handed.set(task.node!, [task]);
  }
  for (const [node, list] of handed) yield startedRecord(node, keysToColumn(list.map((task) => task.key)));
  for (const batch of batchesOf([...finished, ...kept], false))
    yield { type: RECORD.result, payload: batch.bytes };
  if (kept.length > 0) yield idsRecord(RECORD.kept, kept);
}

/** A record of nothing but ids. */
export function idsRecord(type: JournalRecord["type"], tasks: readonly HeldTask[]): JournalRecord {
  return { type, payload: keysToColumn(tasks.map((task) => task.key)) };
}

/** These tasks (16·n) were handed to this node. */
export function startedRecord(node: string, ids: Buffer): JournalRecord {
  if (node === LOCAL_NODE) return { type: RECORD.started, payload: ids };
  const name = Buffer.from(node);
  return { type: RECORD.placed, payload: Buffer.concat([Buffer.from([name.length]), name, ids]) };
}

/** Node and ids of a `placed` record, or undefined where it makes no sense. */
function readPlaced(payload: Buffer): { readonly node: string; readonly keys: IdKey[] } | undefined {
  const end = 1 + (payload[0] ?? 0);
  if (end > payload.length || (payload.length - end) % 16 !== 0) return undefined;
  return { node: payload.toString("utf8", 1, end), keys: columnToKeys(payload.subarray(end)) };
}

export interface ReplayTarget {
  readonly scheduler: Scheduler;
  readonly nowMs: number;
  /** How many things a task of a batch waits for. */
  readonly needsOf: (frame: TasksFrame) => ((i: number) => number) | undefined;
  readonly onKept: (task: HeldTask) => void;
  readonly onWanted: (key: IdKey) => void;
}

/** Applies what an earlier process wrote. Returns how many records made no sense. */
export function replayRecords(records: readonly JournalRecord[], target: ReplayTarget): number {
  let bad = 0;
  for (const record of records) if (!replayRecord(record, target)) bad++;
  return bad;
}

function replayRecord({ type, payload }: JournalRecord, target: ReplayTarget): boolean {
  const { scheduler, nowMs } = target;
  switch (type) {
    case RECORD.accepted: {
      const decoded = decodeFrame(payload, TASKS);
      if (!decoded.ok) return false;
      const needs = target.needsOf(decoded.frame);
      const effects = scheduler.handle({
        kind: "accepted",
        frame: decoded.frame,
        atMs: nowMs,
        ...(needs ? { needs } : {}),
      });
      for (const effect of effects) if (effect.do === "answer") target.onWanted(effect.task.key);
      return true;
    }
    case RECORD.result: {
      const decoded = decodeFrame(payload, RESULTS);
      if (!decoded.ok) return false;
      replayResults(decoded.frame, target);
      return true;
    }
    case RECORD.started:
      scheduler.handle({ kind: "restored", node: LOCAL_NODE, keys: columnToKeys(payload) });
      return true;
    case RECORD.placed: {
      const placed = readPlaced(payload);
      if (placed === undefined) return false;
      scheduler.handle({ kind: "restored", ...placed });
      return true;
    }
    case RECORD.unstarted:
      scheduler.handle({ kind: "node_returned", keys: columnToKeys(payload), atMs: nowMs });
      return true;
    case RECORD.acked:
    case RECORD.returned: {
      const tasks = columnToKeys(payload).map((key) => scheduler.get(key));
      for (const task of tasks) if (task?.state === "kept") target.onWanted(task.key);
      scheduler.handle({ kind: "forget", tasks: tasks.filter((task) => task !== undefined) });
      return true;
    }
    case RECORD.kept:
      for (const key of columnToKeys(payload)) {
        scheduler.handle({ kind: "unknown", key });
        const task = scheduler.get(key);
        if (task?.state === "kept") target.onKept(task);
      }
      return true;
    case RECORD.snapshotEnd:
      return true;
  }
}

function replayResults(frame: ResultsFrame, { scheduler, nowMs }: ReplayTarget): void {
  // A snapshot keeps of a finished task only its result: the rest is made up, and never looked at.
  scheduler.handle({ kind: "accepted", frame: withoutArguments(frame), atMs: nowMs });
  const tasks: HeldTask[] = [];
  for (let i = 0; i < frame.n; i++) {
    const task = scheduler.get(keyAt(frame.ids, 16 * i));
    if (task === undefined || task.result !== undefined) continue;
    task.result = { frame, index: i };
    tasks.push(task);
  }
  scheduler.handle({ kind: "finished", tasks });
}

function withoutArguments(frame: ResultsFrame): TasksFrame {
  const { n, ids, attempts, fences } = frame;
  return {
    t: "tasks",
    n,
    ids,
    fns: [Buffer.alloc(32)],
    codecs: 1,
    ends: Buffer.alloc(4 * n),
    args: Buffer.alloc(0),
    ...(attempts ? { attempts } : {}),
    ...(fences === undefined ? {} : { fences }),
  };
}
