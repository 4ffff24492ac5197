/**
 * Writes vectors/frames.json: frames as this package encodes them, in hexadecimal, beside what they mean. Byte
 * strings are written `{"$bin": "hex"}`. TypeScript and Python tests read the same file, which holds the two
 * codecs together. Run after a deliberate change of the encoding: node packages/protocol/scripts/make-vectors.mjs
 */
import { writeFileSync } from "node:fs";
import { buildResults, buildTasks, encodeFrame, fenceFor, functionDigest, writeSeal } from "../dist/index.js";

const key = (n) => Buffer.from([1, 0x90, 0, 0, 0, 0, 0x80, 0, 0x80, 1, 2, 3, 4, 0, 0, n]).toString("latin1");
const slice = (text) => {
  const source = Buffer.from(text);
  return { source, start: 0, end: source.length };
};
const part = {
  runtime: "python",
  format: "source",
  code: Buffer.from("def f(a):\n    return a\n"),
  entry: "f",
  mode: "at_least_once",
  timeoutMs: 60_000,
  retries: 3,
  backoffMs: 250,
  env: { interpreter: "py311", vars: { A: "1" }, python: "3.11" },
  resources: { cores: 1 },
};
const digest = functionDigest(part);
const digest2 = Buffer.alloc(32, 7);
const task = (n, text, more = {}) => ({
  key: key(n),
  ...slice(text),
  codec: 1,
  attempt: 1,
  options: undefined,
  ...more,
});
const result = (n, text, more = {}) => ({
  key: key(n),
  ...slice(text),
  codec: 1,
  attempt: 1,
  state: 1,
  reason: 0,
  queueUs: 12,
  runUs: 34,
  cpuUs: 30,
  peakKb: 9000,
  detail: undefined,
  ...more,
});

const sealed = (item) => {
  const seals = Buffer.alloc(32);
  writeSeal(seals, 0, item.key, item.source, item.start, item.end);
  return { ...item, seals, sealAt: 0 };
};

const simple = [task(0, "[[],{}]"), task(1, "[[1,2],{}]")];
const mixed = [
  task(2, "[[],{}]"),
  task(3, "\x92\x90\x80", {
    codec: 2,
    attempt: 3,
    options: { timeoutMs: 1500, env: { LANG: "C" }, cwd: "/tmp" },
  }),
];
const frames = {
  "hello of a worker": {
    t: "hello",
    role: "worker",
    versions: [1],
    caps: ["ref"],
    software: "test",
    worker: "python-1",
    secret: "s",
    pid: 70_000,
    runtime: "python",
    held: Buffer.from(key(1), "latin1"),
    running: Buffer.from(key(1), "latin1"),
    runningMs: 5_000_000_000,
    limitMs: 0,
  },
  welcome: {
    t: "welcome",
    version: 1,
    caps: ["ref", "cancel-running"],
    session: "python-1.1",
    heartbeatMs: 0,
    deadAfterMs: 0,
    maxFrameBytes: 8_388_608,
    software: "farloom",
  },
  credit: { t: "credit", tasks: 4_294_967_295, bytes: 2 ** 48 },
  mark: { t: "mark", accepted: 300, durable: 299 },
  cancel: { t: "cancel", ids: Buffer.from(key(1) + key(2), "latin1") },
  "returned, nothing": { t: "returned", ids: Buffer.alloc(0) },
  functions: { t: "functions", defs: [{ ...part, digest }] },
  "tasks, one function, all alike": buildTasks(simple, 0, 2, () => digest),
  "tasks, two functions, codecs, attempts, options": buildTasks(mixed, 0, 2, (t) =>
    t === mixed[0] ? digest : digest2,
  ),
  "tasks, sealed, of one lease": buildTasks(
    [
      sealed(task(4, "[[1],{}]", { fence: fenceFor(7, 1) })),
      sealed(task(5, "[[],{}]", { fence: fenceFor(7, 1) })),
    ],
    0,
    2,
    () => digest,
  ),
  "tasks, one sealed, of several leases": buildTasks(
    [
      task(6, "[[],{}]", { fence: fenceFor(70_000, 1) }),
      sealed(task(7, "[[2],{}]", { attempt: 2, fence: fenceFor(70_000, 2) })),
    ],
    0,
    2,
    () => digest,
  ),
  "results, sealed": buildResults(
    [
      sealed(result(4, "1", { fence: fenceFor(7, 1) })),
      sealed(result(7, "[2]", { attempt: 2, fence: fenceFor(70_000, 2) })),
      result(6, "", { state: 2, reason: 2, fence: fenceFor(70_000, 1) }),
    ],
    0,
    3,
  ),
  "results, all succeeded": buildResults([result(0, "null"), result(1, "3")], 0, 2),
  "results, a failure with detail": buildResults(
    [
      result(2, "null"),
      result(3, "", {
        state: 2,
        reason: 1,
        attempt: 2,
        runUs: 3_600_000_000,
        detail: {
          error: { type: "ValueError", message: "größer", traceback: "Traceback …" },
          stderr: "x".repeat(300),
          stderrBytes: 100_000,
          exitCode: 1,
          worker: "python-1 (pid 7)",
        },
      }),
    ],
    0,
    2,
  ),
  progress: { t: "progress", ids: Buffer.alloc(16, 9), kind: "progress", done: 3, total: 4.5 },
  bye: { t: "bye", code: "DRAINING", message: "💤" },
};

const plain = (value) => {
  if (Buffer.isBuffer(value)) return { $bin: value.toString("hex") };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(
      Object.entries(value)
        .filter(([, v]) => v !== undefined)
        .map(([k, v]) => [k, plain(v)]),
    );
  }
  return value;
};
const vectors = Object.entries(frames).map(([name, frame]) => ({
  name,
  hex: encodeFrame(frame).toString("hex"),
  frame: plain(frame),
}));
const path = new URL("../vectors/frames.json", import.meta.url);
writeFileSync(path, `${JSON.stringify(vectors, null, 1)}\n`);
