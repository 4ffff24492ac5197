/**
 * A fabric with one agent of two workers and a client, as most cases need it; and the functions that they call.
 * Its first call is timed, as every fabric makes one.
 */
import { Farloom } from "@farloom/sdk";
import { startFabric } from "./fabric.mjs";
import { timedSeconds } from "./stats.mjs";

/** Ours and the peers' number of workers: bench/peers/README.md. */
export const WORKERS = 2;
export const SLEEP_MS = 10;

const PYTHON = {
  noop: "def noop():\n    return None\n",
  echo: "def echo(value):\n    return value\n",
  sleep10: `import time\n\n\ndef sleep10():\n    time.sleep(${SLEEP_MS / 1000})\n`,
};

/** Checks every result: a figure of failed tasks would be worth nothing. */
export async function runBatch(fn, input, options) {
  const group = fn.map(input, options);
  let n = 0;
  for await (const { error } of group.asCompleted()) {
    if (error) throw error;
    n++;
  }
  return n;
}

/** `n` calls without arguments. */
export function* noArguments(n) {
  for (let i = 0; i < n; i++) yield [];
}

export function newClient(fabric, endpoint) {
  return new Farloom({ url: fabric.url, apiKey: fabric.apiKey, ...(endpoint && { endpoint }) });
}

export async function registerPython(client, name) {
  return client.register({ name, runtime: "python", code: PYTHON[name], entry: name });
}

/** @param {{agent?: boolean, serviceArgs?: string[], agentArgs?: string[]}} options */
export async function startBenchFabric({ agent = true, serviceArgs = [], agentArgs = [] } = {}) {
  const fabric = await startFabric({ nodeArgs: serviceArgs });
  if (!agent) return { fabric, stop: () => fabric.stop() };
  try {
    return await withAgent(fabric, agentArgs);
  } catch (error) {
    await fabric.stop();
    throw error;
  }
}

async function withAgent(fabric, agentArgs) {
  const identity = await fabric.enrol("main");
  const running = await fabric.startAgent(identity, { workers: WORKERS, nodeArgs: agentArgs });
  const client = newClient(fabric, identity.endpointId);
  const noop = await registerPython(client, "noop");
  const firstResultMs = 1000 * (await timedSeconds(() => noop.call([])));
  return {
    fabric,
    agent: running,
    client,
    noop,
    starts: { readyMs: fabric.readyMs, connectedMs: running.connectedMs, firstResultMs },
    async stop() {
      await client.close({ timeoutMs: 2_000 });
      return fabric.stop();
    },
  };
}
