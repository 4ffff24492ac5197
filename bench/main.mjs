/**
 * The benchmark: which cases there are, in which order, on which fabric, and the one report they make.
 *
 * The cases with `shares` run one after another on one fabric, in this order: what must not follow upon load comes
 * first. The others start fabrics of their own. Every fabric begins with nothing, and its first call is timed, so
 * `first-call` has a sample of each.
 */
import { depths } from "./cases/depth.mjs";
import { idle, idleEndpoints } from "./cases/idle.mjs";
import { restRoundTrip, roundTrip } from "./cases/latency.mjs";
import { liveOutput } from "./cases/live-output.mjs";
import { memory, noopBatch, noopEcho, noopNode, noopSingle } from "./cases/throughput.mjs";
import { payloads, sleep10 } from "./cases/work.mjs";
import { startBenchFabric } from "./support/bench-fabric.mjs";
import { busyShare, describeMachine, measureFloor, measureSync } from "./support/machine.mjs";
import { profileArgs } from "./support/profile.mjs";
import { figure, median } from "./support/stats.mjs";

export { stopEverything } from "./support/fabric.mjs";

/** The first call is measured at every start; this many at least in a full run. */
const FIRST_CALLS = 3;

const SHARED = [
  { name: "idle", title: "Doing nothing", run: idle },
  { name: "rtt", title: "One call at a time", run: roundTrip },
  { name: "rest", title: "One call at a time", run: restRoundTrip },
  { name: "batch", title: "No-ops", run: noopBatch },
  { name: "single", title: "No-ops", run: noopSingle },
  { name: "node", title: "No-ops", run: noopNode },
  { name: "echo", title: "No-ops", run: noopEcho },
  { name: "sleep10", title: "Work", run: sleep10 },
  { name: "payloads", title: "Work", run: payloads },
  { name: "live-output", title: "Work", run: liveOutput },
  { name: "memory", title: "Memory", run: memory },
];
const ALONE = [
  { name: "endpoints", title: "Doing nothing", run: idleEndpoints },
  { name: "depth", title: "A long queue", run: depths },
];

/** Names for --only. */
export const CASES = [...SHARED, ...ALONE].map(({ name }) => name).concat("first-call");

/**
 * Runs the cases that `wants` names. A case that fails is reported with its reason, and the rest still run.
 * `profile` is a folder for CPU profiles of the shared fabric.
 * @param {{quick: boolean, profile?: string, wants: (name: string) => boolean, progress: (line: string) => void}} options
 */
export async function runBench({ quick, profile, wants, progress }) {
  const figures = [];
  const failures = [];
  const starts = [];
  const left = [];
  /** Looked at between the cases. */
  const busy = [await busyShare()];
  progress(`machine ${Math.round(busy[0] * 100)} % busy with other things`);
  const floor = [measureSync(), ...(await measureFloor())];
  for (const one of floor) progress(lineOf(one));

  /** @type {Record<string, unknown> | undefined} */
  let machine;
  const freshFabric = async (options = {}) => {
    const bench = await startBenchFabric(options);
    if (bench.starts) starts.push(bench.starts);
    machine ??= describeMachine(bench.fabric.postgresPid);
    const stop = async () => left.push(...(await bench.stop()).left);
    return { ...bench, stop };
  };

  const runCase = async ({ name, title, run }, bench) => {
    busy.push(await busyShare());
    progress(`${name} …`);
    try {
      const found = await run({ bench, quick, freshFabric, progress });
      for (const one of found) progress(lineOf(one));
      figures.push(...found.map((one) => ({ title, ...one })));
    } catch (error) {
      failures.push({ name, reason: error instanceof Error ? error.message : String(error) });
      progress(`  failed: ${error instanceof Error ? error.stack : error}`);
    }
  };

  const shared = SHARED.filter(({ name }) => wants(name));
  if (shared.length > 0) {
    const profiled = profile && {
      serviceArgs: profileArgs(profile, "service"),
      agentArgs: profileArgs(profile, "agent"),
    };
    const bench = await freshFabric(profiled);
    try {
      for (const one of shared) await runCase(one, bench);
    } finally {
      await bench.stop();
    }
  }
  for (const one of ALONE.filter(({ name }) => wants(name))) await runCase(one, undefined);
  if (wants("first-call")) {
    while (starts.length < (quick ? 1 : FIRST_CALLS)) await (await freshFabric()).stop();
    const found = firstCallFigures(starts);
    for (const one of found) progress(lineOf(one));
    figures.push(...found.map((one) => ({ title: "From nothing", ...one })));
  }
  figures.push(...ratioFigures([...floor, ...figures]));
  if (left.length > 0) failures.push({ name: "cleanup", reason: left.join("\n") });
  busy.push(await busyShare());
  return {
    date: new Date().toISOString().slice(0, 10),
    quick,
    machine: machine ?? describeMachine(0),
    busy_beside: median(busy),
    figures: [...floor.map((one) => ({ title: "The floor, in the same run", ...one })), ...figures],
    failures,
  };
}

/** What carries over to another machine. */
function ratioFigures(all) {
  const measured = (name) => all.find(({ key }) => key === name)?.value;
  return [
    ["noop_batch_per_s", "floor_noop_per_s", "noop_batch_to_floor", "no-ops by map ÷ the floor's"],
    ["rtt_p50_ms", "floor_rtt_p50_ms", "rtt_p50_to_floor", "round trip p50 by the SDK ÷ the floor's"],
    ["sleep10_efficiency", "floor_sleep10_efficiency", "sleep10_to_floor", "10 ms tasks ÷ the floor's"],
    [
      "sleep10_efficiency",
      "bare_sleep10_efficiency",
      "sleep10_to_bare",
      "10 ms tasks ÷ bare loops that sleep",
    ],
  ]
    .filter(([ours, theirs]) => measured(ours) !== undefined && measured(theirs) !== undefined)
    .map(([ours, theirs, key, label]) => ({
      title: "Against the floor",
      ...figure(key, label, "", measured(ours) / measured(theirs)),
    }));
}

function firstCallFigures(starts) {
  const of = (pick) => starts.map(pick);
  const steps = "from a service with no database yet to a result";
  return [
    figure(
      "first_call_ms",
      steps,
      "ms",
      of((s) => s.readyMs + s.connectedMs + s.firstResultMs),
      {
        note: "the sum of the three below; the enrolment between them is left out",
      },
    ),
    figure(
      "service_ready_ms",
      "the service's start, the making of its database included",
      "ms",
      of((s) => s.readyMs),
    ),
    figure(
      "agent_connected_ms",
      "the agent's start until it is connected",
      "ms",
      of((s) => s.connectedMs),
    ),
    figure(
      "first_result_ms",
      "the first call, a worker's start included",
      "ms",
      of((s) => s.firstResultMs),
    ),
  ];
}

function lineOf({ key, value, unit, min, max, samples }) {
  const spread = samples > 1 ? `  (${min}–${max})` : "";
  return `  ${key} ${value} ${unit}${spread}`;
}
