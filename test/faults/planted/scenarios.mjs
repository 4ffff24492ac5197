/**
 * For each planted bug the shortest run that shows it: the calls, and the faults that bring it out. Without the bug
 * the same run must keep every rule.
 */
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { readEvidence } from "../record.mjs";

/**
 * @typedef {object} Scenario
 * @property {(bench: any, run: any) => Promise<void>} drive starts the client and breaks things
 * @property {string[]} rules those of the checker of which one must be violated
 * @property {number} [services]
 * @property {number} [reclaimMs] of the agent
 * @property {boolean} [clocks] needs libfaketime
 * @property {boolean} [agentSaysLost] the agent itself says that a worker is gone: sooner than any reclaim time
 */

const ONCE = { mode: "at_most_once" };
const AGAIN = { mode: "at_least_once" };
/** Shorter than a task that outlasts it, longer than a reconnect. */
const RECLAIM_MS = 1_500;
const SECOND_ATTEMPT = "SELECT 1 FROM task WHERE attempt = 2";

const noop = (n, options = ONCE) => ({ fn: "noop", n, options });
const sleeping = (n, seconds, options = ONCE) => ({ fn: "sleep", n, args: [seconds], options });

/** Until the functions have written `n` lines of this kind. */
async function untilTraces(run, what, n, timeoutMs = 15_000) {
  const deadline = performance.now() + timeoutMs;
  while (performance.now() < deadline) {
    if (readEvidence(run.folder).filter((trace) => trace.what === what).length >= n) return;
    await sleep(20);
  }
}

/** Until a row of the database says so. */
async function untilRow(bench, sql, timeoutMs = 40_000) {
  const deadline = performance.now() + timeoutMs;
  while (performance.now() < deadline) {
    if ((await bench.pool.query(sql)).rowCount > 0) return;
    await sleep(50);
  }
}

/** Tasks run and their results cannot be committed; then `thenBreak`, and what waited to be written never is. */
async function withoutOutcomes(bench, run, calls, thenBreak) {
  await bench.withLock(
    "outcome",
    async () => {
      await run.start({ calls });
      await untilTraces(run, "end", calls[0].n);
      await sleep(500);
      await thenBreak();
    },
    { cut: true },
  );
}

/** The agent dies with all its workers while they run two tasks, and comes back. */
async function loseAgentAndWorkers(bench, run) {
  await run.start({ calls: [sleeping(2, 4)] });
  await untilTraces(run, "start", 2);
  await bench.killAgentAndWorkers();
  await bench.agent.start();
}

/** The agent is away for longer than its reclaim time, and its task ends meanwhile. */
async function outstay(bench, run, { options, until }) {
  await run.start({ calls: [sleeping(1, 2, options)] });
  await untilTraces(run, "start", 1);
  const link = bench.fabric.link("agent-0");
  link.cut();
  await untilTraces(run, "end", 1);
  await until();
  link.heal();
}

/** @type {Record<string, Scenario>} */
export const SCENARIOS = {
  "acknowledge-before-commit": {
    rules: ["lost"],
    async drive(bench, run) {
      await bench.withLock(
        "task",
        async () => {
          await run.start({ calls: [noop(3)] });
          await run.until("acked", 3, 4_000);
          await bench.service.kill();
        },
        { cut: true },
      );
      await bench.service.start();
    },
  },

  "outcome-without-fence": {
    rules: ["stale"],
    reclaimMs: RECLAIM_MS,
    // The first attempt's result waits for its commit until the second has started under another lease.
    async drive(bench, run) {
      const link = bench.fabric.link("agent-0");
      await bench.withLock("outcome", async () => {
        await run.start({ calls: [sleeping(1, 2, AGAIN)] });
        await untilTraces(run, "end", 1);
        await sleep(500);
        link.cut();
        await untilRow(bench, SECOND_ATTEMPT);
        link.heal();
        await untilTraces(run, "start", 2, 30_000);
      });
    },
  },

  "no-attempt-check": {
    rules: ["from-nothing", "stale"],
    reclaimMs: RECLAIM_MS,
    drive: (bench, run) =>
      outstay(bench, run, { options: AGAIN, until: () => untilRow(bench, SECOND_ATTEMPT) }),
  },

  "journal-without-write": { rules: ["started-twice"], agentSaysLost: true, drive: loseAgentAndWorkers },

  "forget-before-ack": {
    rules: ["started-twice"],
    async drive(bench, run) {
      await withoutOutcomes(bench, run, [noop(3)], async () => {
        await Promise.all([bench.agent.kill(), bench.service.kill()]);
      });
      await bench.service.start();
      await bench.agent.start();
    },
  },

  "mark-before-commit": {
    rules: ["started-twice"],
    async drive(bench, run) {
      await withoutOutcomes(bench, run, [noop(3)], () => bench.service.kill());
      await bench.service.start();
    },
  },

  "lease-by-wall-clock": {
    rules: ["lost-early"],
    clocks: true,
    reclaimMs: 60_000,
    async drive(bench, run) {
      await run.start({ calls: [sleeping(1, 6)] });
      await untilTraces(run, "start", 1);
      bench.fabric.link("agent-0").cut();
      // Whoever goes by that clock gives the task up at one of its jumps; everybody else waits for the agent.
      for (let day = 1; day <= 10; day++) {
        bench.jumpClock(day * 86_400);
        if (await run.until("told", 1, 2_000)) break;
      }
      bench.fabric.link("agent-0").heal();
    },
  },

  "retry-at-most-once": {
    rules: ["started-twice"],
    drive: (_bench, run) => run.start({ calls: [{ fn: "deadly", options: ONCE }] }),
  },

  "started-after-handover": { rules: ["started-twice"], agentSaysLost: true, drive: loseAgentAndWorkers },

  "notify-is-truth": {
    rules: ["lost"],
    services: 2,
    drive: (_bench, run) => run.start({ calls: [noop(3)] }),
  },

  "resubmit-new-id": {
    rules: ["swapped"],
    async drive(bench, run) {
      bench.orderCrash("service.intake.after-commit", 1);
      // Longer than the service is away: the client must still wait for them when it sends them again.
      await run.start({ calls: [sleeping(3, 6)] });
    },
  },

  "outcome-overwritten": {
    rules: ["changed"],
    reclaimMs: RECLAIM_MS,
    async drive(bench, run) {
      await outstay(bench, run, {
        options: ONCE,
        until: () => run.until("told", 1, 60_000),
      });
      await untilRow(
        bench,
        "SELECT 1 FROM late_result UNION ALL SELECT 1 FROM outcome WHERE state = 1",
        20_000,
      );
    },
  },

  "results-swapped": {
    rules: ["swapped"],
    // What waits for one commit is written by the next, all together.
    drive: (bench, run) =>
      bench.withLock("outcome", async () => {
        await run.start({ calls: [noop(20)] });
        await untilTraces(run, "end", 20);
        await sleep(500);
      }),
  },

  "cancel-confirmed-unkilled": {
    rules: ["after-cancel"],
    async drive(_bench, run) {
      await run.start({ calls: [{ fn: "slow", args: [3], options: ONCE, cancelAfterMs: 300 }] });
      await run.until("told", 1);
      await sleep(1_000);
    },
  },

  "requeue-held-on-reconnect": {
    rules: ["lost", "started-twice"],
    async drive(bench, run) {
      await run.start({ calls: [sleeping(2, 2)] });
      await untilTraces(run, "start", 2);
      bench.fabric.link("agent-0").reset();
    },
  },

  "idempotency-ignored": {
    rules: ["idempotency"],
    drive: (_bench, run) => run.start({ calls: [{ ...noop(1), via: "rest", again: true }] }),
  },

  "outbox-drops-results": {
    rules: ["lost"],
    async drive(bench, run) {
      await withoutOutcomes(bench, run, [noop(3)], () => bench.service.kill());
      await bench.service.start();
    },
  },

  "attempt-not-raised": {
    rules: ["started-twice"],
    drive: (_bench, run) =>
      run.start({ calls: [{ fn: "flaky", args: [1], options: { ...AGAIN, retries: 2, backoffMs: 50 } }] }),
  },

  "replay-skips-last-segment": { rules: ["started-twice"], agentSaysLost: true, drive: loseAgentAndWorkers },

  "payload-digest-unchecked": {
    rules: ["swapped"],
    async drive(bench, run) {
      await bench.agent.kill();
      await run.start({ calls: [{ fn: "large", args: ["a".repeat(100_000)], options: ONCE }] });
      await run.until("acked", 1);
      await bench.service.kill();
      flipByte(join(bench.fabric.folder, "service", "payloads"));
      await bench.service.start();
      await bench.agent.start();
    },
  },
};

/** In the middle of the one payload file there is. */
function flipByte(folder) {
  const files = /** @type {string[]} */ (readdirSync(folder, { recursive: true }))
    .map((name) => join(folder, name))
    .filter((path) => /\/[0-9a-f]{64}$/.test(path) && statSync(path).isFile());
  for (const path of files) {
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    writeFileSync(path, bytes);
  }
}
