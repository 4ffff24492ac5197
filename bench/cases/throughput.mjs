/** No-ops: in batches through `map`, one by one through `submit`, in Node workers, and against an echo agent. */
import { noArguments, runBatch } from "../support/bench-fabric.mjs";
import { startEchoProcess } from "../support/echo-process.mjs";
import { cpuByPart, cpuPerTask, PARTS, processTree, rssMb, sharedMb } from "../support/proc.mjs";
import { figure, ratesOf } from "../support/stats.mjs";

/** The peers' batches, so that the two can be compared: bench/peers/measure.mjs. */
const BATCH_SECONDS = 3;
/** Single submissions that wait for their result at once. */
const IN_FLIGHT = 2_000;

/** Durable no-ops for one client, and what each costs every part. */
export async function noopBatch({ bench }) {
  const { fabric, noop } = bench;
  const costs = [];
  const batch = async (n) => {
    const before = cpuByPart(fabric.pids);
    await runBatch(noop, noArguments(n));
    costs.push({ n, ...cpuPerTask(before, cpuByPart(fabric.pids), n) });
  };
  const { n, rates } = await ratesOf(batch, { seconds: BATCH_SECONDS });
  const timed = costs.slice(-rates.length);
  return [
    figure("noop_batch_per_s", `no-ops by map, batches of ${n}`, "tasks/s", rates, { pick: "best" }),
    figure("cpu_total_us_per_task", "CPU of all parts for one of them", "µs", timed.map(totalOf)),
    ...PARTS.map((part) =>
      figure(
        `cpu_${part}_us_per_task`,
        `CPU of ${nameOf(part)} for one of them`,
        "µs",
        timed.map((c) => c[part]),
      ),
    ),
  ];
}

function totalOf(cost) {
  return PARTS.reduce((sum, part) => sum + cost[part], 0);
}

function nameOf(part) {
  return part === "workers" ? "the workers" : `the ${part}`;
}

/** `submit` one by one, without waiting for each; at most IN_FLIGHT of them wait for their result. */
async function submitSingles(fn, n) {
  let open = 0;
  /** @type {(value?: unknown) => void} */
  let wake = () => {};
  let failed;
  const onEnd = (error) => {
    failed ??= error;
    open--;
    wake();
  };
  for (let i = 0; i < n && !failed; i++) {
    open++;
    fn.submit([])
      .result()
      .then(() => onEnd(undefined), onEnd);
    while (open >= IN_FLIGHT) await new Promise((resolve) => (wake = resolve));
  }
  while (open > 0) await new Promise((resolve) => (wake = resolve));
  if (failed) throw failed;
}

export async function noopSingle({ bench, quick }) {
  const { n, rates } = await ratesOf((count) => submitSingles(bench.noop, count), {
    seconds: quick ? 1 : 3,
    start: 500,
  });
  const label = `no-ops by submit, ${n} one by one, at most ${IN_FLIGHT} in flight`;
  return [figure("noop_single_per_s", label, "tasks/s", rates, { pick: "best" })];
}

/** A Node worker is at its speed once its code has been optimised, some ten thousand calls later. */
const NODE_WARM_TASKS = 20_000;

/** The same in warm Node workers. */
export async function noopNode({ bench, quick }) {
  const noop = await bench.client.register({ name: "noop-node", fn: () => null });
  await runBatch(noop, noArguments(NODE_WARM_TASKS));
  const { n, rates } = await ratesOf((count) => runBatch(noop, noArguments(count)), {
    seconds: quick ? 1 : 3,
    start: 1_000,
  });
  const label = `no-ops in Node workers, batches of ${n}`;
  return [figure("noop_node_batch_per_s", label, "tasks/s", rates, { pick: "best" })];
}

/** The service alone: an agent without journal and workers answers at once. */
export async function noopEcho({ bench, quick }) {
  const { fabric, noop } = bench;
  const echo = await startEchoProcess(fabric, { count: 1, prefix: "echo" });
  try {
    const [endpoint] = echo.endpointIds;
    const batch = (n) => runBatch(noop, noArguments(n), { endpoint });
    const { n, rates } = await ratesOf(batch, { seconds: quick ? 1 : 3 });
    const label = `no-ops to an agent that only echoes, batches of ${n}`;
    return [figure("echo_batch_per_s", label, "tasks/s", rates, { pick: "best" })];
  } finally {
    await echo.stop();
  }
}

/** Memory after all that load. */
export async function memory({ bench }) {
  const { fabric, agent } = bench;
  return [
    figure("service_rss_mb", "memory of the service after the load above", "MiB", rssMb(fabric.pid)),
    figure("agent_rss_mb", "memory of the agent", "MiB", rssMb(agent.pid)),
    figure(
      "database_pss_mb",
      "memory of PostgreSQL, shared pages once",
      "MiB",
      sharedMb(processTree(fabric.postgresPid)),
    ),
  ];
}
