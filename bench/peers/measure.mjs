/**
 * The three workloads, for peers on Node. measure.py is the same thing for peers on Python; the two must stay alike.
 *
 * A peer hands over three functions; each resolves only when all results are in the client:
 * noopBatch(n), noopOne(), sleepBatch(n).
 */
import { performance } from "node:perf_hooks";

/** Each of three batches, whatever the peer's speed. */
const BATCH_SECONDS = 3;
/** The best one counts: what else runs on the machine only ever makes a peer slower. */
const BATCHES = 3;
const MAX_BATCH = 200_000;
const CALLS = 300;
const SLEEPS = 400;

export const SLEEP_MS = 10;
export const WORKERS = 2;

async function timedSeconds(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

async function bestOf(count, measureOnce) {
  let best = 0;
  for (let i = 0; i < count; i += 1) best = Math.max(best, await measureOnce());
  return best;
}

/** Nearest rank: a value that was measured, never one between two. */
function percentile(sorted, percent) {
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}

/** Warms the peer up, runs the workloads and prints the result as the last line of stdout. */
export async function measure({ name, version, note, noopBatch, noopOne, sleepBatch }) {
  await noopBatch(100); // not timed: the peer may still be starting its workers
  let n = 100;
  let took;
  for (;;) {
    // Warm up, and learn the speed on the way.
    took = await timedSeconds(() => noopBatch(n));
    if (took >= BATCH_SECONDS / 3 || n >= MAX_BATCH) break;
    n = Math.min(n * 4, MAX_BATCH);
  }
  n = Math.max(100, Math.min(MAX_BATCH, Math.round((n / took) * BATCH_SECONDS)));
  const noopPerS = await bestOf(BATCHES, async () => n / (await timedSeconds(() => noopBatch(n))));

  for (let i = 0; i < 50; i += 1) await noopOne();
  const calls = [];
  for (let i = 0; i < CALLS; i += 1) calls.push((await timedSeconds(noopOne)) * 1000);
  calls.sort((a, b) => a - b);

  await sleepBatch(20);
  const idealSeconds = (SLEEPS * SLEEP_MS) / 1000 / WORKERS;
  const efficiency = await bestOf(
    BATCHES,
    async () => idealSeconds / (await timedSeconds(() => sleepBatch(SLEEPS))),
  );

  const result = {
    name,
    version,
    durable: false,
    noop_per_s: round(noopPerS, 1),
    noop_batch: n,
    rtt_ms: Object.fromEntries([50, 95, 99].map((p) => [`p${p}`, round(percentile(calls, p), 3)])),
    sleep10_efficiency: round(efficiency, 4),
    note,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
