/**
 * Many agents in one process: each has an identity, a key and the agent's own link (its handshake, its backoff, its
 * heartbeat), and nothing behind it. For measuring what a service does when all come back at once.
 *
 * Hears {url, key, count} and says {open: count} once all are connected; hears {again} and says so again once each has
 * lost its connection and has another.
 */
import { generateKeyPairSync } from "node:crypto";
import { pino } from "pino";
import { SessionTokens } from "../../../apps/endpoint-agent/dist/link/session-token.js";
import { LinkSupervisor } from "../../../apps/endpoint-agent/dist/link/supervisor.js";

const ENROL_AT_ONCE = 8;
const RAW_KEY_BYTES = 32;
const HELLO = {
  t: "hello",
  role: "agent",
  versions: [1],
  caps: ["ref"],
  software: "farloom-faults",
  held: Buffer.alloc(0),
  unacked: 0,
  agent: {
    host: "faults",
    os: "linux",
    bootId: "faults",
    nodeVersion: process.versions.node,
    runtimes: {},
    workers: 1,
    cores: 1,
    memoryMb: 1,
  },
};

let count = 0;
/** Connected, in this round: by their number. */
let open = new Set();

async function post(url, path, json, key) {
  for (let tries = 0; ; tries++) {
    const response = await fetch(url + path, {
      method: "POST",
      headers: { ...(key && { authorization: `Bearer ${key}` }), "content-type": "application/json" },
      body: JSON.stringify(json),
    });
    const text = await response.text();
    if (response.ok) return text === "" ? undefined : JSON.parse(text);
    if (tries === 10) throw new Error(`${path}: ${response.status} ${text.slice(0, 200)}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

async function startOne(url, key, n) {
  const { id, enrolmentCode } = await post(url, "/v1/endpoints", { name: `many-${n}` }, key);
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-RAW_KEY_BYTES);
  await post(url, "/v1/endpoints/enroll", { code: enrolmentCode, publicKey: raw.toString("base64") });
  const user = {
    hello: () => HELLO,
    opened: () => {
      open.add(n);
      if (open.size === count) process.send?.({ open: count });
    },
    frame: () => {},
    writable: () => {},
    closed: () => open.delete(n),
  };
  const tokens = new SessionTokens(url, id, privateKey);
  const log = pino({ level: "silent" });
  new LinkSupervisor({ serviceUrl: url, tokens, user: /** @type {any} */ (user), log }).start();
}

process.on("message", (message) => {
  const order = /** @type {any} */ (message);
  if (order.again) {
    open = new Set();
    return;
  }
  count = order.count;
  let next = 0;
  const rest = async () => {
    while (next < count) await startOne(order.url, order.key, next++);
  };
  for (let i = 0; i < ENROL_AT_ONCE; i++) void rest();
});
process.on("disconnect", () => process.exit(0));
