/**
 * Plain BullMQ on Redis: one producer, two worker processes.
 *
 * Settings, from BullMQ's documentation:
 * - queue.addBulk for a batch, in slices of 1,000 (each slice is one pipeline); queue.add for a single job
 * - a QueueEvents listener settles each job in the client; no second trip to Redis as job.waitUntilFinished makes one
 * - removeOnComplete, so that Redis does not grow with the run
 * - no-op jobs: concurrency 50 in each worker process, as the documentation advises for short asynchronous jobs;
 *   10 ms jobs: concurrency 1 in each, so that two run at a time as on every other peer
 * REDIS_URL names the Redis of this run, PEER_DIR the folder BullMQ is installed in.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { env } from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { measure, SLEEP_MS, WORKERS } from "./measure.mjs";

const require = createRequire(`${env.PEER_DIR}/package.json`);
const { Queue, QueueEvents, Worker } = require("bullmq");

const SLICE = 1_000;
const CONCURRENCY = { noop: 50, sleep10: 1 };
const PROCESSORS = { noop: async () => null, sleep10: () => sleep(SLEEP_MS, null) };

const { hostname: host, port } = new URL(env.REDIS_URL);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

async function work() {
  for (const [name, processor] of Object.entries(PROCESSORS)) {
    const worker = new Worker(name, processor, { connection, concurrency: CONCURRENCY[name] });
    worker.on("error", (error) => console.error(error.message));
    await worker.waitUntilReady();
  }
  process.send("ready");
}

/** A queue whose jobs settle in this process. Job ids are made here, so a waiter exists before its job does. */
async function openQueue(name) {
  const queue = new Queue(name, { connection, defaultJobOptions: { removeOnComplete: true } });
  const events = new QueueEvents(name, { connection });
  const waiters = new Map();
  let nextId = 0;
  events.on("completed", ({ jobId }) => {
    waiters.get(jobId)?.resolve();
    waiters.delete(jobId);
  });
  events.on("failed", ({ jobId, failedReason }) => {
    waiters.get(jobId)?.reject(new Error(failedReason));
    waiters.delete(jobId);
  });
  await events.waitUntilReady();

  const expect = () => {
    nextId += 1;
    const jobId = `job-${nextId}`;
    const settled = new Promise((resolve, reject) => waiters.set(jobId, { resolve, reject }));
    return { jobId, settled };
  };
  return {
    async one() {
      const { jobId, settled } = expect();
      await queue.add(name, null, { jobId });
      await settled;
    },
    async batch(n) {
      const jobs = Array.from({ length: n }, expect);
      for (let at = 0; at < n; at += SLICE) {
        const slice = jobs.slice(at, at + SLICE);
        await queue.addBulk(slice.map(({ jobId }) => ({ name, data: null, opts: { jobId } })));
      }
      await Promise.all(jobs.map(({ settled }) => settled));
    },
    async close() {
      await events.close();
      await queue.close();
    },
  };
}

async function main() {
  const workers = Array.from({ length: WORKERS }, () => fork(fileURLToPath(import.meta.url), ["--worker"]));
  await Promise.all(workers.map((worker) => once(worker, "message")));
  const noop = await openQueue("noop");
  const sleep10 = await openQueue("sleep10");
  await measure({
    name: "BullMQ",
    version: require("bullmq/package.json").version,
    note: "Redis, 2 worker processes, addBulk, QueueEvents",
    noopBatch: (n) => noop.batch(n),
    noopOne: () => noop.one(),
    sleepBatch: (n) => sleep10.batch(n),
  });
  await noop.close();
  await sleep10.close();
  for (const worker of workers) worker.kill();
}

await (process.argv.includes("--worker") ? work() : main());
