// What the agent's own audit costs a task: `node bench/agent-audit.mjs`, some seconds, after `npm run build`.
//
// A task's beginning and end, as the engine tells of them, in batches as they come: a call at a time (1), a busy
// endpoint (16), a flood (256). For each batch two records and two writes at worst; in a flood an end goes along with the
// next beginning, so one. Prints the median of the rounds, in nanoseconds of
// this process's time on the CPU for a task: a machine that has other things to do tells the same.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildResults, buildTasks, TaskIdAllocator } from "@farloom/protocol";
import { pino } from "pino";
import { AuditLog } from "../apps/endpoint-agent/dist/audit/audit-log.js";
import { TaskAudit } from "../apps/endpoint-agent/dist/audit/task-audit.js";

const ROUNDS = 9;
/** Of a round; of single calls a part of that. */
const TASKS = 32_768;
const CALLS = 4_096;
const source = Buffer.from("null");
const digest = Buffer.alloc(32, 7);
const ids = new TaskIdAllocator();
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

function batch(n, options) {
  /** @type {any[]} of both, a task's items and its result's */
  const items = Array.from({ length: n }, () => ({
    ...{
      key: ids.next(),
      codec: 1,
      attempt: 1,
      state: 1,
      reason: 0,
      source,
      start: 0,
      end: 4,
      seals: undefined,
    },
    ...{ sealAt: 0, queueUs: 1, runUs: 1, cpuUs: 1, peakKb: 1, options },
  }));
  return { tasks: buildTasks(items, 0, n, () => digest), results: buildResults(items, 0, n) };
}

const tasksOf = (n) => (n === 1 ? CALLS : TASKS);

/** Nanoseconds a task. `together`: an end waits for the next beginning. */
function round(mode, n, { options, together }) {
  const dir = mkdtempSync(join(tmpdir(), "farloom-audit-"));
  const log = AuditLog.open({ dir, mode, keepBytes: 64 << 20, log: pino({ level: "silent" }) });
  /** @type {any} what the audit asks of the functions' cache */
  const functions = { has: () => true, get: () => ({ env: {} }) };
  const audit = new TaskAudit({ log, functions, signerOf: () => undefined, isolation: "none" });
  const batches = Array.from({ length: tasksOf(n) / n }, () => batch(n, options));
  const before = process.cpuUsage();
  for (const { tasks, results } of batches) {
    audit.started("local", tasks);
    log.write();
    audit.ended(results);
    if (!together) log.write();
  }
  const { user, system } = process.cpuUsage(before);
  const ns = ((user + system) * 1e3) / tasksOf(n);
  log.close();
  rmSync(dir, { recursive: true });
  return ns;
}

for (const mode of ["tasks", "decisions"])
  for (const n of [1, 16, 256])
    for (const [what, options] of [
      ["the owner's", undefined],
      ["others'", { submitter: "0197f000-0000-7000-8000-000000000001" }],
    ]) {
      const measure = (together) => {
        round(mode, n, { options, together });
        return median(Array.from({ length: ROUNDS }, () => round(mode, n, { options, together }))).toFixed(0);
      };
      console.log(
        `${mode}, batches of ${n}, ${what} tasks: ${measure(false)} ns a task, ${measure(true)} where ends wait`,
      );
    }
