/**
 * A light agent over a real WebSocket: enrols as every agent does, keeps a connection alive, and answers each task
 * at once with its own arguments. It has no journal and no workers, so what is measured with it is the service.
 *
 * Run as a program (`node echo-agent.mjs`, forked with an IPC channel) it holds any number of them in a process of
 * its own: it hears {url, apiKey, count, prefix} and answers {endpointIds}, or {failed}.
 */
import { generateKeyPairSync, sign } from "node:crypto";
import { fileURLToPath } from "node:url";
import {
  buildResults,
  byteOf,
  decodeFrame,
  encodeFrame,
  endOf,
  FRAMES_DOWN,
  keyAt,
  limits,
  startOf,
  TERMINAL_STATES,
  u32Of,
} from "@farloom/protocol";
import WebSocket from "ws";

/** As an agent with its default window has room for. */
const CREDIT_TASKS = 4096;
const CREDIT_BYTES = 64 * 1024 * 1024;
const RAW_KEY_BYTES = 32;
/** Enrolments under way at once. */
const ENROL_AT_ONCE = 16;

async function post(url, path, json, apiKey) {
  const response = await fetch(url + path, {
    method: "POST",
    headers: {
      ...(apiKey && { authorization: `Bearer ${apiKey}` }),
      ...(json && { "content-type": "application/json" }),
    },
    ...(json && { body: JSON.stringify(json) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${text.slice(0, 300)}`);
  return text === "" ? undefined : JSON.parse(text);
}

/** Makes an endpoint, enrols a key of its own with the one-time code, and gets a session by a signed challenge. */
async function openSession(url, apiKey, name) {
  const { id, enrolmentCode } = await post(url, "/v1/endpoints", { name }, apiKey);
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-RAW_KEY_BYTES);
  await post(url, "/v1/endpoints/enroll", { code: enrolmentCode, publicKey: raw.toString("base64") });
  const { nonce } = await post(url, `/v1/endpoints/${id}/challenge`);
  const text = `farloom-agent-v1\n${new URL(url).host}\n${id}\n${nonce}`;
  const signature = sign(null, Buffer.from(text), privateKey).toString("base64url");
  const { token } = await post(url, `/v1/endpoints/${id}/session`, { nonce, signature });
  return { endpointId: id, token };
}

function answersTo(frame) {
  const items = [];
  for (let i = 0; i < frame.n; i++) {
    items.push({
      key: keyAt(frame.ids, 16 * i),
      source: frame.args,
      start: startOf(frame.ends, i),
      end: endOf(frame.ends, i),
      codec: byteOf(frame.codecs, i),
      attempt: u32Of(frame.attempts, i, 1),
      state: TERMINAL_STATES.SUCCEEDED,
      reason: 0,
      queueUs: 0,
      runUs: 0,
      cpuUs: 0,
      peakKb: 0,
    });
  }
  return buildResults(items, 0, items.length);
}

/** Enrols and connects; resolves with the endpoint's id and `close` once tasks may come. */
export async function startEchoAgent({ url, apiKey, name }) {
  const { endpointId, token } = await openSession(url, apiKey, name);
  const ws = new WebSocket(`${url.replace(/^http/, "ws")}${limits.AGENT_LINK_PATH}`, "farloom.v1", {
    headers: { authorization: `Bearer ${token}` },
    perMessageDeflate: false,
  });
  const send = (frame) => ws.send(encodeFrame(frame));
  let heartbeat;
  await new Promise((resolve, reject) => {
    let received = 0;
    let receivedBytes = 0;
    const grant = () =>
      send({ t: "credit", tasks: received + CREDIT_TASKS, bytes: receivedBytes + CREDIT_BYTES });
    const take = (frame) => {
      if (frame.t === "welcome") {
        grant();
        let n = 0;
        heartbeat = setInterval(() => send({ t: "ping", n: ++n }), frame.heartbeatMs);
        resolve(undefined);
      } else if (frame.t === "tasks") {
        received += frame.n;
        receivedBytes += frame.args.length;
        send({ t: "mark", accepted: received, durable: received });
        send(answersTo(frame));
        grant();
      } else if (frame.t === "refuse" || frame.t === "bye") {
        reject(new Error(`${frame.t} ${frame.code}: ${frame.message}`));
      }
    };
    ws.on("open", () => send(helloFrame()));
    ws.on("message", (data) => {
      const decoded = decodeFrame(/** @type {Buffer} */ (data), FRAMES_DOWN.agent);
      if (decoded.ok) take(decoded.frame);
      else reject(new Error("a frame could not be read"));
    });
    ws.on("error", reject);
    ws.on("close", (code) => {
      clearInterval(heartbeat);
      reject(new Error(`the service closed the connection, ${code}`));
    });
  });
  return { endpointId, close: () => ws.close() };
}

function helloFrame() {
  const agent = { host: "bench", os: "linux", bootId: "bench", nodeVersion: process.versions.node };
  return {
    t: "hello",
    role: "agent",
    versions: [1],
    caps: ["ref"],
    software: "farloom-bench-echo",
    held: Buffer.alloc(0),
    unacked: 0,
    agent: { ...agent, runtimes: {}, workers: 1, cores: 1, memoryMb: 1 },
  };
}

async function startMany({ url, apiKey, count, prefix }) {
  const endpointIds = [];
  let next = 0;
  const enrolRest = async () => {
    while (next < count) {
      const { endpointId } = await startEchoAgent({ url, apiKey, name: `${prefix}-${next++}` });
      endpointIds.push(endpointId);
    }
  };
  await Promise.all(Array.from({ length: Math.min(ENROL_AT_ONCE, count) }, enrolRest));
  return endpointIds;
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.send) {
  // Its parent's end is its own.
  process.on("disconnect", () => process.exit(0));
  process.once("message", (order) => {
    startMany(/** @type {any} */ (order)).then(
      (endpointIds) => process.send?.({ endpointIds }),
      (error) => process.send?.({ failed: error.message }),
    );
  });
}
