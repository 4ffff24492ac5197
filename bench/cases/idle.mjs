/** What a fabric costs that does nothing: alone, and with five hundred connected endpoints. */
import { setTimeout as sleep } from "node:timers/promises";
import { startEchoProcess } from "../support/echo-process.mjs";
import { preciseCpuUs, processTree, rssMb } from "../support/proc.mjs";
import { figure, timedSeconds } from "../support/stats.mjs";

const IDLE_SECONDS = 10;
/** What follows upon the last call has passed by then: workers' reports, write-behind, sweeps. */
const SETTLE_SECONDS = 3;
const ENDPOINTS = 500;

/** Per cent of one core that each part uses while nobody asks for anything. */
async function idlePercent(trees, seconds) {
  const before = trees.map((tree) => preciseCpuUs(tree));
  const took = await timedSeconds(() => sleep(seconds * 1000));
  return trees.map((tree, i) => {
    let us = 0;
    // What has ended meanwhile reads as less than before, and worked for next to nothing.
    for (const [pid, now] of preciseCpuUs(tree)) us += Math.max(0, now - before[i].get(pid));
    return us / took / 10_000;
  });
}

export async function idle({ bench, quick }) {
  const { fabric, agent } = bench;
  await sleep(SETTLE_SECONDS * 1000);
  const seconds = quick ? IDLE_SECONDS : 3 * IDLE_SECONDS;
  const trees = [
    processTree(agent.pid).slice(0, 1),
    processTree(agent.pid).slice(1),
    processTree(fabric.pid, { except: fabric.postgresPid }),
    processTree(fabric.postgresPid),
  ];
  const [agentShare, workers, service, database] = await idlePercent(trees, seconds);
  const over = `over ${seconds} s`;
  return [
    figure("agent_idle_core_percent", `the idle agent ${over}`, "% of a core", agentShare),
    figure("workers_idle_core_percent", `its idle workers ${over}`, "% of a core", workers),
    figure("service_idle_core_percent", `the idle service ${over}`, "% of a core", service),
    figure("database_idle_core_percent", `its idle PostgreSQL ${over}`, "% of a core", database),
    figure("service_fresh_rss_mb", "memory of the service after its first call", "MiB", rssMb(fabric.pid)),
  ];
}

/** Every one is enrolled as a real agent is, and connected; they lie in a process of their own. */
export async function idleEndpoints({ quick, freshFabric }) {
  const bench = await freshFabric({ agent: false });
  const { fabric } = bench;
  const freshMb = rssMb(fabric.pid);
  let echo;
  const took = await timedSeconds(async () => {
    echo = await startEchoProcess(fabric, { count: ENDPOINTS, prefix: "idle" });
  });
  try {
    await sleep(SETTLE_SECONDS * 1000);
    const trees = [processTree(fabric.pid, { except: fabric.postgresPid }), processTree(fabric.postgresPid)];
    const [service, database] = await idlePercent(trees, quick ? IDLE_SECONDS : 3 * IDLE_SECONDS);
    const idleMb = rssMb(fabric.pid);
    const name = `${ENDPOINTS} idle endpoints`;
    return [
      figure("service_500_idle_rss_mb", `memory of the service with ${name}`, "MiB", idleMb, {
        note: `${(idleMb - freshMb).toFixed(1)} MiB more than before they came`,
      }),
      figure("service_500_idle_core_percent", `the service with ${name}`, "% of a core", service),
      figure("database_500_idle_core_percent", `PostgreSQL with ${name}`, "% of a core", database),
      figure("enrol_per_s", "endpoints made, enrolled and connected", "endpoints/s", ENDPOINTS / took),
    ];
  } finally {
    await echo?.stop();
    await bench.stop();
  }
}
