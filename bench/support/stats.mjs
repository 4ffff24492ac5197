/** Figures from samples, and batches sized to a machine's speed. */

/** Nearest rank: a value that was measured, never one between two. */
export function percentile(sorted, percent) {
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
}

export function median(samples) {
  const sorted = samples.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Four significant digits: what is behind them is noise. */
export function round(value) {
  return Number(value.toPrecision(4));
}

/**
 * One figure of the report. `value` is the median of the samples, or the best one where `pick` says so: what
 * else runs on a machine only ever makes a batch slower.
 * @param {number | number[]} samples
 * @param {{pick?: "median" | "best", note?: string}} [how]
 */
export function figure(key, label, unit, samples, how = {}) {
  const { pick = "median", note } = how;
  const list = [samples].flat();
  const value = pick === "best" ? Math.max(...list) : median(list);
  return {
    key,
    label,
    unit,
    value: round(value),
    pick: list.length > 1 ? pick : "once",
    median: round(median(list)),
    min: round(Math.min(...list)),
    max: round(Math.max(...list)),
    samples: list.length,
    ...(note && { note }),
  };
}

export async function timedSeconds(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** The number of items that take `seconds`, learnt with growing batches, which warm everything up on the way. */
export async function sizeBatch(work, { seconds, start = 100, max = 200_000 }) {
  let n = start;
  for (;;) {
    const took = await timedSeconds(() => work(n));
    if (took >= seconds / 3 || n >= max) {
      return Math.max(Math.min(start, max), Math.min(max, Math.round((n / took) * seconds)));
    }
    n = Math.min(n * 4, max);
  }
}

/**
 * Items per second in each of `rounds` batches of about `seconds`; `work(n)` ends when the last result is here.
 * @param {(n: number) => Promise<unknown>} work
 * @param {{seconds: number, rounds?: number, start?: number, max?: number}} options
 */
export async function ratesOf(work, { seconds, rounds = 3, start, max }) {
  const n = await sizeBatch(work, { seconds, ...(start && { start }), ...(max && { max }) });
  const rates = [];
  for (let i = 0; i < rounds; i++) rates.push(n / (await timedSeconds(() => work(n))));
  return { n, rates };
}

/** Milliseconds of each of `calls` calls, one after the other, sorted; fewer where `forMs` is over before. */
export async function latencies(call, { calls, forMs }) {
  const ms = [];
  const until = performance.now() + forMs;
  while (ms.length < calls && performance.now() < until) ms.push((await timedSeconds(call)) * 1000);
  return ms.sort((a, b) => a - b);
}
