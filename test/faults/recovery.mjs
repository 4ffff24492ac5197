/**
 * How long recovery takes, in the six cases that are promised. Each is measured from the moment of the fault to the
 * first thing that works again, as a client sees it: by the SDK, whose connection broke, and by plain requests.
 */
import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Farloom } from "@farloom/sdk";
import { FaultFabric } from "./topology/fabric.mjs";
import { LinkProxy } from "./topology/proxy.mjs";

const MANY_AGENTS = fileURLToPath(new URL("./workload/many-agents.mjs", import.meta.url));
const AGENTS = 500;
/** Where nothing works again by then, that is the figure. */
const MOST_MS = 60_000;
const TRY_MS = 1_000;

/** @typedef {{name: string, what: string, limitMs: number, ms: number, met: boolean}} Recovery */

const CASES = [
  {
    name: "one_of_two_services",
    what: "one of two services killed: first new acknowledgement",
    limitMs: 1_000,
    run: oneOfTwo,
  },
  {
    name: "redis_wiped",
    what: "Redis killed and started empty: a delayed task done",
    limitMs: 5_000,
    run: redisWiped,
    needs: "redis",
  },
  {
    name: "postgres_restarted",
    what: "PostgreSQL killed and started: first new acknowledgement",
    limitMs: 10_000,
    run: postgresRestarted,
  },
  {
    name: "agent_restarted",
    what: "an agent killed and started: its work goes on",
    limitMs: 10_000,
    run: agentRestarted,
  },
  {
    name: "only_service_restarted",
    what: "the only service killed and started: first new acknowledgement",
    limitMs: 3_000,
    run: onlyService,
  },
  {
    name: "agents_reconnected",
    what: `${AGENTS} agents reconnecting at once to a restarted service: all back`,
    limitMs: 30_000,
    run: manyAgents,
  },
];

/**
 * @param {{progress: (line: string) => void, only?: readonly string[] | undefined}} options
 * @returns {Promise<Recovery[]>}
 */
export async function measureRecovery({ progress, only }) {
  const fabric = await FaultFabric.open({ agents: 1 });
  const found = [];
  try {
    const ports = fabric.link("agent-0").targets;
    const link = await LinkProxy.open(ports);
    const url = `http://127.0.0.1:${link.port}`;
    const farloom = new Farloom({ url, apiKey: fabric.key, endpoint: fabric.agents[0].endpointId });
    const parts = {
      fabric,
      farloom,
      url,
      noop: farloom.function("faults-noop"),
      nap: farloom.function("faults-sleep"),
    };
    await parts.noop.call([fabric.evidenceDir, "warm"]);
    for (const one of CASES.filter(({ name }) => only === undefined || only.includes(name))) {
      if (one.needs === "redis" && fabric.redis === undefined) continue;
      const ms = Math.round(await one.run(parts));
      const recovery = { name: one.name, what: one.what, limitMs: one.limitMs, ms, met: ms <= one.limitMs };
      progress(recoveryText([recovery]));
      found.push(recovery);
      await sleep(1_000);
    }
    await farloom.close({ timeoutMs: 1_000 });
    await link.close();
  } finally {
    await fabric.close();
    fabric.remove({ all: true });
  }
  return found;
}

export function recoveryText(list) {
  return list
    .map(
      ({ what, ms, limitMs, met }) =>
        `  ${String(ms).padStart(6)} ms of ${String(limitMs).padStart(6)}  ${met ? "  " : "× "}${what}`,
    )
    .join("\n");
}

/** Milliseconds from now until `work` first succeeds. */
async function until(work) {
  const from = performance.now();
  while (performance.now() - from < MOST_MS) {
    try {
      await work();
      break;
    } catch {
      await sleep(10);
    }
  }
  return performance.now() - from;
}

async function post({ fabric, url }, options = {}) {
  const response = await fetch(`${url}/v1/tasks`, {
    method: "POST",
    signal: AbortSignal.timeout(TRY_MS),
    headers: { authorization: `Bearer ${fabric.key}`, "content-type": "application/json" },
    body: JSON.stringify({
      function: "faults-noop",
      endpoint: fabric.agents[0].endpointId,
      args: [fabric.evidenceDir, "probe"],
      options,
    }),
  });
  if (response.status !== 202 && response.status !== 200) throw new Error(String(response.status));
  return (await response.json()).id;
}

/** The slower of the two ways. */
async function untilAcknowledged(parts) {
  const bySdk = until(() => parts.noop.submit([parts.fabric.evidenceDir, "probe"]).durable());
  const byRest = until(() => post(parts));
  return Math.max(await bySdk, await byRest);
}

async function oneOfTwo(parts) {
  // The one that the client's link goes to first.
  const [first] = parts.fabric.services;
  await first.kill();
  const ms = await untilAcknowledged(parts);
  await first.start();
  return ms;
}

async function onlyService(parts) {
  const [first, ...others] = parts.fabric.services;
  for (const other of others) await other.term();
  await sleep(1_000);
  await first.kill();
  const back = untilAcknowledged(parts);
  await first.start({ waits: false });
  const ms = await back;
  await Promise.all(others.map((other) => other.start()));
  return ms;
}

async function agentRestarted(parts) {
  const [agent] = parts.fabric.agents;
  const backlog = Array.from({ length: 50 }, (_, i) =>
    parts.nap.submit([parts.fabric.evidenceDir, `nap${i}`, 0.05]),
  );
  await Promise.all(backlog.map((handle) => handle.durable()));
  await agent.kill();
  const back = until(() => parts.noop.call([parts.fabric.evidenceDir, "probe"]));
  await agent.start({ waits: false });
  const ms = await back;
  await Promise.all(backlog.map((handle) => handle.result()));
  return ms;
}

async function postgresRestarted(parts) {
  await parts.fabric.postgres.kill();
  const back = untilAcknowledged(parts);
  await parts.fabric.postgres.start();
  return await back;
}

async function redisWiped(parts) {
  const { redis } = parts.fabric;
  await redis.kill();
  const back = until(async () => {
    const id = await post(parts, { delayMs: 100 });
    const reply = await fetch(`${parts.url}/v1/tasks/${id}?wait=20`, {
      headers: { authorization: `Bearer ${parts.fabric.key}` },
    });
    const { state } = await reply.json();
    if (state !== "SUCCEEDED") throw new Error(state);
  });
  await redis.start();
  return await back;
}

async function manyAgents(parts) {
  const [first, ...others] = parts.fabric.services;
  for (const other of others) await other.term();
  const child = spawn(process.execPath, [MANY_AGENTS], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const hear = () =>
    new Promise((resolve, reject) =>
      child.once("message", resolve).once("exit", () => reject(new Error("the agents ended"))),
    );
  try {
    child.send({ url: parts.url, key: parts.fabric.key, count: AGENTS });
    await hear();
    const from = performance.now();
    await first.kill();
    const all = hear();
    child.send({ again: true });
    await first.start({ waits: false });
    await Promise.race([all, sleep(MOST_MS)]);
    return performance.now() - from;
  } finally {
    child.kill();
    await Promise.all(others.map((other) => other.start()));
  }
}
