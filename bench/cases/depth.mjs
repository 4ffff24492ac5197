/**
 * What a task costs while 10, 10,000 and 1,000,000 others wait (100,000 at most in a quick run).
 *
 * For each depth: that many tasks are queued for an endpoint whose agent is away, as batches that are durable one
 * after the other. Then (a) no-ops go through another endpoint of the same service, the queue behind them unchanged,
 * and (b) the agent of the first endpoint connects and drains its queue. Where the queue is long, marker tasks lie
 * in it at its head, after its first and before its last tenth, so that tenths can be told apart without a client
 * that waits for every result. One more lies at its end: only once that has ended is an empty queue believed, as the
 * service reads a queue by pages.
 */
import { newClient, noArguments, registerPython, runBatch, WORKERS } from "../support/bench-fabric.mjs";
import { cpuByPart, cpuPerTask, PARTS, rssMb } from "../support/proc.mjs";
import { figure, timedSeconds } from "../support/stats.mjs";

const DEPTHS = [10, 10_000, 1_000_000];
const QUICK_DEPTHS = [10, 10_000, 100_000];
/** A client lets go of nothing before it closes; this bounds its memory. */
const CHUNK = 100_000;
/** Below this the tasks that are under way at once (some 4,096) are too large a part of a tenth. */
const TENTHS_FROM = 1_000_000;
const BESIDE_TASKS = 20_000;
const BESIDE_ROUNDS = 3;
const POLL_MS = 20;
const DRAIN_MS = 480_000;

/** Durable when it resolves: `close` waits for the service's word. Resolves with tasks per second. */
async function queueTasks(fabric, endpointId, n) {
  const took = await timedSeconds(async () => {
    for (let left = n; left > 0; left -= CHUNK) {
      const client = newClient(fabric, endpointId);
      const fn = await registerPython(client, "noop");
      fn.map(noArguments(Math.min(CHUNK, left)), { keepResults: false });
      await client.close({ timeoutMs: DRAIN_MS });
    }
  });
  return n / took;
}

async function queueMarker(fabric, endpointId, fn) {
  const body = { function: fn.ref, endpoint: endpointId, args: [] };
  const { id } = await fabric.request("POST", "/v1/tasks", body);
  return id;
}

/** Resolves with a reading of the clocks at the moment the task has ended. */
async function readingAtEnd(fabric, id) {
  for (;;) {
    const { state } = await fabric.request("GET", `/v1/tasks/${id}?wait=30`);
    if (state === "SUCCEEDED") return reading(fabric);
    if (state !== "QUEUED" && state !== "LEASED" && state !== "STARTED")
      throw new Error(`a marker ended ${state}`);
  }
}

function reading(fabric) {
  return { atMs: performance.now(), cpu: cpuByPart(fabric.pids) };
}

/** Resolves with a reading once nothing waits and nothing is under way at the endpoint. */
async function readingWhenEmpty(fabric, endpointId) {
  const deadline = performance.now() + DRAIN_MS;
  while (performance.now() < deadline) {
    const { queued, leased } = await fabric.request("GET", `/v1/endpoints/${endpointId}`);
    if (queued === 0 && leased === 0) return reading(fabric);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error(`the queue was not empty after ${DRAIN_MS / 1000} s`);
}

/** Rate and cost between two readings, the client's own work left out: it only watches. */
function spanOf(from, to, tasks) {
  const cost = cpuPerTask(from.cpu, to.cpu, tasks);
  const us = PARTS.filter((part) => part !== "client").reduce((sum, part) => sum + cost[part], 0);
  const note = ["service", "database", "agent", "workers"].map((part) => `${part} ${cost[part].toFixed(1)}`);
  return { rate: tasks / ((to.atMs - from.atMs) / 1000), us, note: note.join(", ") };
}

/** (a) No-ops through the other endpoint, the queue unchanged. */
async function beside({ fabric, noop }, depth) {
  const rates = [];
  const costs = [];
  for (let i = 0; i < BESIDE_ROUNDS; i++) {
    const before = cpuByPart(fabric.pids);
    const took = await timedSeconds(() => runBatch(noop, noArguments(BESIDE_TASKS)));
    const cost = cpuPerTask(before, cpuByPart(fabric.pids), BESIDE_TASKS);
    rates.push(BESIDE_TASKS / took);
    costs.push(PARTS.reduce((sum, part) => sum + cost[part], 0));
  }
  const waiting = `while ${depth.toLocaleString("en")} tasks wait`;
  return [
    figure(`depth_${depth}_noop_per_s`, `no-ops by map ${waiting}`, "tasks/s", rates, { pick: "best" }),
    figure(`depth_${depth}_cpu_us_per_task`, `CPU of all parts for one, ${waiting}`, "µs", costs),
  ];
}

/** (b) The agent comes; `markers` are the ids of the tasks at its end, or at nought, one, nine and ten tenths. */
async function drain(fabric, identity, { depth, markers }) {
  const agent = await fabric.startAgent(identity, { workers: WORKERS });
  const connected = reading(fabric);
  const tenths = await Promise.all(markers.map((id) => readingAtEnd(fabric, id)));
  // Before the tail marker has ended, an empty queue may be one whose next page is on its way.
  const empty = await readingWhenEmpty(fabric, identity.endpointId);
  await fabric.stopAgent(agent);
  const text = depth.toLocaleString("en");
  const whole = spanOf(connected, empty, depth);
  const figures = [
    figure(`depth_${depth}_drain_per_s`, `${text} queued tasks drained`, "tasks/s", whole.rate),
  ];
  if (depth >= TENTHS_FROM) {
    const spans = {
      first: spanOf(tenths[0], tenths[1], depth / 10),
      last: spanOf(tenths[2], empty, depth / 10),
    };
    for (const [name, { rate, us, note }] of Object.entries(spans)) {
      const label = `the ${name} tenth of ${text}`;
      figures.push(
        figure(`depth_${depth}_drain_${name}_per_s`, `${label}, drained`, "tasks/s", rate),
        figure(`depth_${depth}_drain_${name}_cpu_us`, `${label}, CPU without a client`, "µs", us, { note }),
      );
    }
  }
  return figures;
}

async function atDepth(bench, identity, depth) {
  const { fabric, noop } = bench;
  const text = depth.toLocaleString("en");
  const { endpointId } = identity;
  const tenth = Math.floor(depth / 10);
  const markers = [];
  const rates = [];
  for (const n of [tenth, depth - 2 * tenth, tenth]) {
    if (depth >= TENTHS_FROM) markers.push(await queueMarker(fabric, endpointId, noop));
    rates.push(await queueTasks(fabric, endpointId, n));
  }
  markers.push(await queueMarker(fabric, endpointId, noop));
  const figures = [];
  if (depth > DEPTHS[0]) {
    figures.push(
      figure(
        `depth_${depth}_submit_per_s`,
        `the last tenth of ${text} submitted, durable`,
        "tasks/s",
        rates[2],
      ),
      figure(
        `depth_${depth}_service_rss_mb`,
        `memory of the service, ${text} waiting`,
        "MiB",
        rssMb(fabric.pid),
      ),
    );
  }
  figures.push(...(await beside(bench, depth)));
  figures.push(...(await drain(fabric, identity, { depth, markers })));
  return figures;
}

export async function depths({ quick, freshFabric, progress }) {
  const bench = await freshFabric();
  try {
    const figures = [];
    for (const depth of quick ? QUICK_DEPTHS : DEPTHS) {
      progress(`  ${depth.toLocaleString("en")} queued`);
      const identity = await bench.fabric.enrol(`away-${depth}`);
      figures.push(...(await atDepth(bench, identity, depth)));
    }
    return figures;
  } finally {
    await bench.stop();
  }
}
