/**
 * Crash points: labelled places in the code paths around each acknowledgement (A1–A6) where a test may have the
 * process die as from `kill -9`. Unset, a call is an empty function, decided when the module is loaded.
 *
 *   FARLOOM_CRASH_AT=label:n   dies at the n-th passing of `label` in this process
 *   FARLOOM_CRASH_AT=@path     the file holds `label:n`, and is read at every passing; counting begins when its text
 *                              changes. Whoever dies takes the file away first, so that one order kills one process.
 *
 * The worker for Python has a copy of its own (farloom_worker.py), with the labels that begin with `worker.`.
 */
import { readFileSync, unlinkSync } from "node:fs";

/** Every label there is, with the place where it stands. A test holds this list against the sources. */
export const CRASH_POINTS = [
  // The service takes a submission (A1).
  "service.intake.before-insert",
  "service.intake.after-commit",
  "service.intake.before-durable",
  "service.intake.after-durable",
  "service.idempotency.recorded",
  "service.rest.before-reply",
  "service.rest.after-reply",
  "service.payload.after-sync",
  "service.payload.after-row",
  // It claims an endpoint and sends to its agent.
  "service.claim.before",
  "service.claim.after",
  "service.claim.attached",
  "service.dispatch.before-send",
  "service.dispatch.after-send",
  "service.hint.before-send",
  // It takes results (A4, A5).
  "service.collect.before-insert",
  "service.collect.after-commit",
  "service.collect.before-publish",
  "service.collect.before-mark",
  "service.collect.after-mark",
  "service.deliver.before-send",
  "service.deliver.after-send",
  // Another attempt, a cancel, a delay, an end of retention.
  "service.reattempt.before-write",
  "service.reattempt.after-write",
  "service.cancel.before-write",
  "service.cancel.after-write",
  "service.cancel.after-end",
  "service.release.before-write",
  "service.release.after-write",
  "service.retention.before-delete",
  "service.retention.after-delete",
  // The agent takes tasks (A2) and starts them (A3).
  "agent.boot.before-snapshot",
  "agent.hello.before-send",
  "agent.journal.before-write",
  "agent.journal.after-write",
  "agent.accepted.before-mark",
  "agent.accepted.after-mark",
  "agent.start.before-record",
  "agent.start.recorded",
  "agent.start.handed",
  // It takes results, sends them, and forgets them (A5).
  "agent.result.before-journal",
  "agent.result.journalled",
  "agent.result.node-marked",
  "agent.result.sent",
  "agent.ack.before-record",
  "agent.ack.recorded",
  "agent.compact.before-rename",
  "agent.compact.after-rename",
  "agent.drain.begun",
  // The node manager and its Python worker.
  "node.worker.before-feed",
  "node.worker.after-feed",
  "worker.task.begun",
  "worker.task.ran",
  "worker.result.stored",
  "worker.result.sent",
  // The TypeScript SDK.
  "client.submit.before-send",
  "client.submit.after-send",
  "client.submit.durable",
  "client.result.received",
  "client.result.settled",
] as const;

export type CrashPoint = (typeof CRASH_POINTS)[number];

/** Dies here where the environment says so (see above); nothing otherwise. */
export const crashPoint: (label: CrashPoint) => void = armed();

function armed(): (label: CrashPoint) => void {
  // The SDK also runs where there is no process object.
  const order = typeof process === "undefined" ? undefined : process.env.FARLOOM_CRASH_AT;
  if (order === undefined || order === "") return () => {};
  if (order.startsWith("@")) return byFile(order.slice(1));
  const at = parseOrder(order);
  if (at === undefined) throw new Error(`FARLOOM_CRASH_AT is ${JSON.stringify(order)}, not label:n`);
  let passed = 0;
  return (label) => {
    if (label === at.label && ++passed === at.passing) die();
  };
}

function byFile(path: string): (label: CrashPoint) => void {
  let seen = "";
  let passed = 0;
  return (label) => {
    let order: string;
    try {
      order = readFileSync(path, "latin1");
    } catch {
      return;
    }
    if (order !== seen) {
      seen = order;
      passed = 0;
    }
    const at = parseOrder(order);
    if (at === undefined || at.label !== label || ++passed !== at.passing) return;
    try {
      unlinkSync(path);
    } catch {
      return; // Another process carries the order out.
    }
    die();
  };
}

/** `label:n`, or undefined for anything else. What follows a second colon tells one order from the next. */
function parseOrder(order: string): { label: string; passing: number } | undefined {
  const [label, n] = order.trim().split(":");
  const passing = Number(n);
  return label && Number.isInteger(passing) && passing >= 1 ? { label, passing } : undefined;
}

/** The kernel ends a process that kills itself before the call returns. */
function die(): never {
  process.kill(process.pid, "SIGKILL");
  throw new Error("this process is dead");
}
