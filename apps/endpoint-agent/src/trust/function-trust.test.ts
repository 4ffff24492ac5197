import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AgentAuditEntry,
  buildTasks,
  type Frame,
  functionDigest,
  keyAt,
  makeSignKey,
  newBatchId,
  publicKeyLine,
  signFunction,
} from "@farloom/protocol";
import { pino } from "pino";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { AuditLog } from "../audit/audit-log.js";
import { verifyAudit } from "../audit/verify-audit.js";
import { FunctionsCache } from "../functions-cache.js";
import type { HeldTask } from "../scheduler/held-task.js";
import { FunctionTrust } from "./function-trust.js";
import { InvocationLedger } from "./invocation-ledger.js";
import type { TrustMode } from "./trust-file.js";
import { TrustSource } from "./trust-source.js";

const ada = makeSignKey();
const part = {
  runtime: "python" as const,
  format: "source" as const,
  code: Buffer.from("def f(): pass\n"),
  entry: "f",
  mode: "at_most_once" as const,
  timeoutMs: 0,
  retries: 0,
  backoffMs: 0,
  env: {},
  resources: {},
};
const def = { ...part, digest: functionDigest(part) };
const signature = signFunction({ function: def.digest.toString("hex"), name: "ada/f@1", created: 1 }, ada);

let dir: string;
let trust: FunctionTrust;
let audit: AuditLog;
let cache: FunctionsCache;
let asked: Frame[];
let ready: HeldTask[];
let refused: string[];

function make(mode: TrustMode): FunctionTrust {
  const log = pino({ level: "silent" });
  audit = AuditLog.open({ dir: join(dir, "audit"), mode: "decisions", keepBytes: 1 << 20, log });
  trust = new FunctionTrust({
    source: new TrustSource(join(dir, "trust.toml"), { mode, byDefault: "off" }),
    cache,
    ledger: new InvocationLedger(join(dir, "invocations")),
    endpoint: { id: "", name: "strict" },
    audit,
    log: pino({ level: "silent" }),
  });
  trust.attach({
    toService: (frame) => asked.push(frame),
    onReady: (task) => ready.push(task),
    onRefused: (_task, outcome) => refused.push(outcome.error!.message),
  });
  return trust;
}

/** A task of the function as it waits, or undefined where it need not. */
function come(): HeldTask | undefined {
  const source = Buffer.from("[[],{}]");
  const item = {
    key: keyAt(newBatchId()),
    codec: 1,
    attempt: 1,
    options: undefined,
    source,
    start: 0,
    end: 7,
  };
  const frame = buildTasks([item], 0, 1, () => def.digest);
  const task = { key: item.key, attempt: 1, frame, index: 0, state: "waiting" } as HeldTask;
  if (trust.waitsOf(frame)?.(0) !== true) return undefined;
  expect(trust.holds(task)).toBe(true);
  trust.admit(task, false);
  return task;
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  dir = mkdtempSync(join(tmpdir(), "farloom-trust-"));
  mkdirSync(join(dir, "functions"));
  cache = new FunctionsCache(join(dir, "functions"));
  cache.put(def, "ada/f@1");
  const key = publicKeyLine(ada.raw, "ada");
  writeFileSync(join(dir, "trust.toml"), `[[key]]\nkey = "${key}"\nfunctions = ["ada/*"]\n`, { mode: 0o600 });
  [asked, ready, refused] = [[], [], []];
});
afterEach(() => {
  trust.close();
  vi.useRealTimers();
  rmSync(dir, { recursive: true, force: true });
});

it("asks nothing and holds nothing up where the mode is off", () => {
  make("off").serviceCame();
  expect(come()).toBeUndefined();
  expect(asked).toEqual([]);
});

it("takes no answer for no: after twenty seconds the task is refused", () => {
  make("enforce").serviceCame();
  come();
  expect(asked).toEqual([{ t: "need", functions: [def.digest] }]);
  trust.told(def.digest, undefined);
  vi.advanceTimersByTime(19_000);
  expect([ready, refused]).toEqual([[], []]);
  vi.advanceTimersByTime(1_500);
  expect(refused).toEqual([
    expect.stringMatching(/ada\/f@1 is not: the service does not tell who signed it/),
  ]);
  expect(ready).toEqual([]);
});

it("waits for a service that is away, asks once for many tasks, and asks again when it is back", () => {
  make("enforce");
  for (let i = 0; i < 5; i++) come();
  vi.advanceTimersByTime(60_000);
  expect([asked, refused]).toEqual([[], []]);
  trust.serviceCame();
  expect(asked).toHaveLength(1);
  trust.serviceWent();
  vi.advanceTimersByTime(60_000);
  trust.serviceCame();
  expect(asked).toHaveLength(2);
  trust.told(def.digest, [signature]);
  expect([ready.length, refused]).toEqual([5, []]);
});

it("remembers what is trusted, over a restart without a service too, and never what is not", () => {
  make("enforce").serviceCame();
  come();
  trust.told(def.digest, []);
  expect(refused).toEqual([expect.stringMatching(/nobody has signed it/)]);
  come();
  expect(asked).toHaveLength(2);
  trust.told(def.digest, [signature]);
  expect(ready).toHaveLength(1);
  expect(come()).toBeUndefined();
  trust.close();
  cache = new FunctionsCache(join(dir, "functions"));
  make("enforce");
  expect(come()).toBeUndefined();
  expect(asked).toHaveLength(2);
});

it("lets what is not trusted run where the mode is warn", async () => {
  make("warn").serviceCame();
  come();
  trust.told(def.digest, []);
  expect([ready.length, refused]).toEqual([1, []]);
  audit.close();
  const said: AgentAuditEntry[] = [];
  await verifyAudit(join(dir, "audit"), { onRecord: ({ entries }) => said.push(...entries) });
  expect(said).toMatchObject([{ what: "trust.warned", function: def.digest.toString("hex") }]);
});
