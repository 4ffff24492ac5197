/**
 * How each crash point is brought about: the calls that a client makes meanwhile, and what else has to happen so that
 * somebody passes the label. Most are passed by the calls alone.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CRASH_POINTS } from "@farloom/protocol/testing";

export const MODES = ["at_most_once", "at_least_once"];

/** @typedef {{passings: number[], bench?: "two" | "one", drive?: (bench: any, run: any) => Promise<void>, before?: (bench: any, run: any) => Promise<void>}} Point */

/** The first passing, and a later one: the second time something is at stake already. */
const TWICE = [1, 2];
/** A process passes these once in its life. */
const ONCE = [1];

/** A little of everything, in the given mode; about two seconds. */
export function callsOf(mode) {
  const options = { mode };
  return [
    { fn: "noop", n: 6, options, waitFor: "told" },
    { fn: "sleep", args: [0.1], n: 3, options },
    { fn: "large", args: [text("a")], options },
    { fn: "noop", n: 2, via: "rest", again: true, options },
    { fn: "noop", via: "rest", options, waitFor: "acked" },
    { fn: "flaky", args: [1], options: { mode, retries: 3, backoffMs: 100 } },
    { fn: "noop", options: { mode, delayMs: 300 } },
    { fn: "slow", args: [4], options, cancelAfterMs: 200 },
    { fn: "noop", options: { mode, delayMs: 60_000 }, cancelAfterMs: 0 },
    { fn: "large", args: [text("b")], options, afterMs: 150 },
    { fn: "flaky", args: [1], options: { mode, retries: 3, backoffMs: 100 } },
    { fn: "noop", options: { mode, delayMs: 300 } },
    { fn: "slow", args: [4], options, cancelAfterMs: 200 },
    { fn: "noop", options: { mode, delayMs: 60_000 }, cancelAfterMs: 0 },
    { fn: "noop", n: 6, options, afterMs: 300, waitFor: "told" },
    { fn: "noop", n: 6, options, waitFor: "told" },
  ];
}

function text(letter) {
  return letter.repeat(100_000);
}

async function restartAgent(bench) {
  await sleep(300);
  await bench.agent.kill();
  await bench.agent.start({ waits: false });
}

/** Twice, so that the second passing comes too. */
async function resetAgentLink(bench) {
  for (let i = 0; i < 2; i++) {
    await sleep(300);
    bench.fabric.link("agent-0").reset();
    await sleep(1_200);
  }
}

async function stopAgent(bench) {
  await sleep(300);
  bench.agent.child?.kill("SIGTERM");
}

/** What is older than any retention, and the jobs made anew, so that the service looks for it as soon as it starts. */
async function ageTasks(bench) {
  await bench.service.kill();
  await bench.pool.query("DROP SCHEMA IF EXISTS bullmq CASCADE");
  await bench.pool.query(OLD_TASKS);
  await bench.service.start({ waits: false });
}

/** Copies of tasks that have ended, under other ids and from long ago: were one to be open again, it would run again. */
const OLD_TASKS = `
  WITH old AS (
    INSERT INTO task (id, owner_id, endpoint_id, function_key, group_id, args, codec, options, submitted_at)
    SELECT gen_random_uuid(), t.owner_id, t.endpoint_id, t.function_key, t.group_id, t.args, t.codec, t.options,
           now() - interval '40 days'
      FROM task t JOIN outcome o ON o.task_id = t.id WHERE t.codec < 128 LIMIT 20
    RETURNING id)
  INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb, finished_at)
  SELECT id, 1, 0, 1, 'null'::bytea, 1, 0, 0, 0, 0, now() - interval '30 days' FROM old`;

/** @type {Readonly<Record<string, Partial<Point>>>} */
const SPECIAL = {
  "service.claim.before": { drive: resetAgentLink },
  "service.claim.after": { drive: resetAgentLink },
  "service.claim.attached": { drive: resetAgentLink },
  "service.hint.before-send": { bench: "two" },
  "service.retention.before-delete": { drive: ageTasks, passings: ONCE },
  "service.retention.after-delete": { drive: ageTasks, passings: ONCE },
  "agent.boot.before-snapshot": { drive: restartAgent, passings: ONCE },
  "agent.hello.before-send": { drive: resetAgentLink },
  "agent.compact.before-rename": { drive: restartAgent, passings: ONCE },
  "agent.compact.after-rename": { drive: restartAgent, passings: ONCE },
  "agent.drain.begun": { drive: stopAgent, passings: ONCE },
};

/** Label to how it is brought about: every label that there is. @type {ReadonlyMap<string, Point>} */
export const POINTS = new Map(
  CRASH_POINTS.map((label) => [label, { passings: TWICE, bench: "one", ...SPECIAL[label] }]),
);
