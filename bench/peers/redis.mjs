/** A Redis of this run's own: loopback, a free port, nothing written to disk, gone at the end. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { runContained, startContained } from "./contained.mjs";

const HOW_TO_GET =
  "redis-server is not installed (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis)";

function findsRedis() {
  return spawnSync("redis-server", ["--version"], { stdio: "ignore" }).status === 0;
}

/** Makes sure there is a redis-server, installing Debian's package where that is allowed. */
export async function ensureRedis(progress) {
  if (findsRedis()) return { ok: true };
  const hasApt = spawnSync("apt-get", ["--version"], { stdio: "ignore" }).status === 0;
  if (!hasApt || process.getuid?.() !== 0) return { ok: false, reason: HOW_TO_GET };
  progress("redis: apt-get install redis-server");
  const args = ["install", "-y", "--no-install-recommends", "redis-server"];
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const installed = await runContained("apt-get", args, { env, timeoutMs: 300_000 });
  return installed.ok && findsRedis() ? { ok: true } : { ok: false, reason: HOW_TO_GET };
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

async function answersPing(port) {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    socket.write("PING\r\n");
    const [reply] = await once(socket, "data");
    return String(reply).startsWith("+PONG");
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** Starts one in `directory`. Resolves with `{ url, stop }`; rejects when it does not answer within five seconds. */
export async function startRedis(directory) {
  const port = await freePort();
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--dir", directory];
  const inMemory = ["--save", "", "--appendonly", "no"];
  const contained = startContained("redis-server", [...args, ...inMemory], {
    cwd: directory,
    env: process.env,
  });
  for (let attempt = 0; attempt < 100; attempt += 1) {
    if (await answersPing(port)) return { url: `redis://127.0.0.1:${port}/0`, stop: () => contained.stop() };
    await sleep(50);
  }
  await contained.stop();
  throw new Error("redis-server did not answer");
}
