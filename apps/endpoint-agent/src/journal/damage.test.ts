/**
 * Whatever becomes of the bytes of a journal (cut or flipped anywhere), the agent that starts on it never crashes and
 * never starts a task that had started before. The engine is the real one, over a node that hands out nothing.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildResults, buildTasks, encodeFrame, type IdKey, keysToColumn } from "@farloom/protocol";
import { pino } from "pino";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { EchoNode } from "../../../../test/support/echo-node.js";
import { defineFunction } from "../../../../test/support/fake-service.js";
import { AllowedFunctions } from "../allowed-functions.js";
import { AuditLog } from "../audit/audit-log.js";
import { TaskAudit } from "../audit/task-audit.js";
import { Engine } from "../engine.js";
import { FunctionsCache } from "../functions-cache.js";
import { createPortPair } from "../node/port.js";
import { LOCAL_NODE } from "../nodes/names.js";
import { PayloadStore } from "../payloads/payload-store.js";
import { PayloadTransfer } from "../payloads/payload-transfer.js";
import { TaskFiles } from "../payloads/task-files.js";
import { TaskTokens } from "../task-tokens.js";
import { FunctionTrust } from "../trust/function-trust.js";
import { InvocationLedger } from "../trust/invocation-ledger.js";
import { TrustSource } from "../trust/trust-source.js";
import { RECORD } from "./format.js";
import { Journal } from "./journal.js";

vi.setConfig({ testTimeout: 120_000 });

const log = pino({ level: "silent" });
const def = defineFunction();
const BOOT = "boot-a";
const key = (i: number): IdKey => `task-number-${String(i).padStart(4, "0")}`;
const ids = (...numbers: number[]) => keysToColumn(numbers.map(key));

let root: string;
let journalDir: string;
let segment: string;
let whole: Buffer;

/** Tasks 0 to 5: 0 is done with, 1 has a result, 2 runs, 3 and 5 have not started, 4 was given back and started again. */
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "farloom-damage-"));
  journalDir = join(root, "journal");
  for (const name of ["journal", "functions", "payloads"]) mkdirSync(join(root, name));
  new FunctionsCache(join(root, "functions")).put(def);
  const { journal } = Journal.open({ dir: journalDir, bootId: BOOT, log });
  journal.compact([]);
  journal.append(RECORD.accepted, tasks(0, 1, 2, 3, 4));
  journal.commit();
  journal.append(RECORD.started, ids(0, 1, 2, 4));
  journal.commit();
  journal.append(RECORD.result, results(0, 1));
  journal.append(RECORD.unstarted, ids(4));
  journal.commit();
  journal.append(RECORD.accepted, tasks(5));
  journal.append(RECORD.acked, ids(0));
  journal.append(RECORD.started, ids(4));
  journal.commit();
  journal.close();
  segment = join(journalDir, readdirSync(journalDir)[0]!);
  whole = readFileSync(segment);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

function tasks(...numbers: number[]): Buffer {
  const source = Buffer.from("[[],{}]");
  const items = numbers.map((i) => ({
    key: key(i),
    codec: 1,
    attempt: 1,
    options: undefined,
    source,
    start: 0,
    end: source.length,
  }));
  return encodeFrame(buildTasks(items, 0, items.length, () => def.digest));
}

function results(...numbers: number[]): Buffer {
  const source = Buffer.from("1");
  const items = numbers.map((i) => ({
    key: key(i),
    codec: 1,
    attempt: 1,
    state: 1,
    reason: 0,
    queueUs: 0,
    runUs: 0,
    cpuUs: 0,
    peakKb: 0,
    detail: undefined,
    source,
    start: 0,
    end: 1,
  }));
  return encodeFrame(buildResults(items, 0, items.length));
}

/** Lets an agent's engine live on these bytes, over a node that says it holds nothing. What it hands out. */
async function startOn(bytes: Buffer): Promise<{ given: number[]; damaged: boolean }> {
  for (const name of readdirSync(journalDir)) rmSync(join(journalDir, name));
  writeFileSync(segment, bytes);
  const { journal, replay } = Journal.open({ dir: journalDir, bootId: BOOT, log });
  const store = new PayloadStore(join(root, "payloads"), 0);
  const transfer = new PayloadTransfer({
    serviceUrl: "http://127.0.0.1:1",
    store,
    token: async () => "",
    log,
  });
  const [upper, lower] = createPortPair();
  const functions = new FunctionsCache(join(root, "functions"));
  const audit = AuditLog.open({ dir: join(root, "audit"), mode: "off", keepBytes: 0, log });
  const engine = new Engine({
    journal,
    replay,
    bootId: BOOT,
    functions,
    allowed: new AllowedFunctions([], "test", functions),
    trust: new FunctionTrust({
      source: new TrustSource(join(root, "trust.toml"), { mode: "off", byDefault: "off" }),
      cache: functions,
      ledger: new InvocationLedger(join(root, "invocations")),
      endpoint: { id: "test", name: "test" },
      audit,
      log,
    }),
    audit,
    taskAudit: new TaskAudit({ log: audit, functions, signerOf: () => undefined, isolation: "none" }),
    service: "http://127.0.0.1:1",
    files: new TaskFiles(store, transfer),
    taskTokens: new TaskTokens({ serviceUrl: "http://127.0.0.1:1", token: async () => "", log }),
    hasLocalNode: true,
    localPlaces: 1,
    windowTasks: 64,
    windowBytes: 1 << 20,
    reclaimMs: 60_000,
    software: "test",
    agentInfo: {
      host: "h",
      os: "o",
      bootId: BOOT,
      nodeVersion: "0",
      runtimes: {},
      workers: 1,
      cores: 1,
      memoryMb: 1,
    },
    log,
  });
  engine.attachNode({ name: LOCAL_NODE }, upper);
  const node = new EchoNode(lower, { answers: false, whole: true });
  await node.start();
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  engine.expectEnd();
  engine.close();
  transfer.close();
  return { given: node.given.map((task) => Number(task.key.slice(-4))), damaged: replay.damaged };
}

it("starts what had not started, and only that, on a whole journal", async () => {
  // A node that lost nothing (whole) and holds nothing: what was handed down provably did not begin.
  expect((await startOn(whole)).given.sort()).toEqual([2, 3, 4, 5]);
});

it("starts nothing again on a journal that was cut, at whatever byte", async () => {
  for (let length = 0; length < whole.length; length++) {
    const { given, damaged } = await startOn(whole.subarray(0, length));
    expect([length, damaged, given]).toEqual([length, true, []]);
  }
});

it("starts nothing again on a journal with a flipped bit, at whatever byte", async () => {
  // Beyond the header's fields lie zeros that mean nothing: a bit there changes nothing, and nothing is lost.
  for (let at = 0; at < whole.length; at++) {
    const bytes = Buffer.from(whole);
    bytes[at]! ^= 1 << (at % 8);
    const { given, damaged } = await startOn(bytes);
    if (damaged) expect([at, given]).toEqual([at, []]);
    else expect([at, given.sort()]).toEqual([at, [2, 3, 4, 5]]);
  }
});
