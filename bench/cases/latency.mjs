/** One call at a time, warm: through the SDK, and as any program would by REST. */
import { Agent, request } from "node:http";
import { figure, latencies, percentile } from "../support/stats.mjs";

const CALLS = 1_000;
const ROUNDS = 3;
/** So that a slow machine has fewer calls, not a longer run. */
const ROUND_MS = 10_000;
/** V8 has compiled the whole road after some thousand calls; the first of them take twice as long. */
const WARM_CALLS = 2_000;
const PERCENTILES = [50, 95, 99];

async function rounds(call, quick) {
  for (let i = 0; i < WARM_CALLS; i++) await call();
  const sorted = [];
  const count = quick ? 1 : ROUNDS;
  for (let i = 0; i < count; i++) sorted.push(await latencies(call, { calls: CALLS, forMs: ROUND_MS }));
  return sorted;
}

function figuresOf(prefix, label, sorted) {
  const calls = Math.min(...sorted.map((ms) => ms.length));
  return PERCENTILES.map((p) => {
    const samples = sorted.map((ms) => percentile(ms, p));
    return figure(`${prefix}_p${p}_ms`, `${label}, p${p} of ${calls} calls`, "ms", samples);
  });
}

export async function roundTrip({ bench, quick }) {
  return figuresOf("rtt", "round trip by the SDK", await rounds(() => bench.noop.call([]), quick));
}

/** One POST for each call, over one connection that is kept; the reply has the result. */
export async function restRoundTrip({ bench, quick }) {
  const { fabric, noop, agent } = bench;
  const connection = new Agent({ keepAlive: true, maxSockets: 1 });
  const body = JSON.stringify({ function: noop.ref, endpoint: agent.endpointId, args: [] });
  const call = () =>
    post(`${fabric.url}/v1/tasks?wait=30`, { body, agent: connection, apiKey: fabric.apiKey });
  try {
    return figuresOf("rest_rtt", "round trip by REST", await rounds(call, quick));
  } finally {
    connection.destroy();
  }
}

function post(url, { body, agent, apiKey }) {
  const headers = {
    authorization: `Bearer ${apiKey}`,
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
  };
  return new Promise((resolve, reject) => {
    const sent = request(url, { method: "POST", agent, headers }, (reply) => {
      let text = "";
      reply.setEncoding("utf8").on("data", (chunk) => (text += chunk));
      reply.on("end", () => {
        const state = reply.statusCode === 200 ? JSON.parse(text).state : undefined;
        if (state === "SUCCEEDED") resolve(undefined);
        else reject(new Error(`POST /v1/tasks: ${reply.statusCode} ${text.slice(0, 300)}`));
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}
