/** Faults of PostgreSQL and Redis themselves. */
import { setTimeout as sleep } from "node:timers/promises";

/** @typedef {import("./kinds.mjs").Kind} Kind */

const touches = ["postgres"];
const withRedis = (shape) => (shape.redis ? undefined : "no redis-server");

/** @type {Kind[]} */
export const STORE_KINDS = [
  {
    name: "postgres.kill",
    plan: (random) => ({ touches, downMs: random.int(0, 3_000) }),
    async run(fabric, { downMs }) {
      await fabric.postgres.kill();
      await sleep(downMs);
      await fabric.postgres.start();
    },
  },
  {
    name: "postgres.restart",
    plan: (random) => ({ touches, downMs: random.int(0, 1_000) }),
    async run(fabric, { downMs }) {
      await fabric.postgres.stop();
      await sleep(downMs);
      await fabric.postgres.start();
    },
  },
  {
    name: "postgres.terminate",
    plan: (random) => ({ touches, times: random.int(1, 4) }),
    async run(fabric, { times }) {
      for (let i = 0; i < times; i++) {
        await fabric.postgres.terminate(fabric.database);
        await sleep(250);
      }
    },
  },
  {
    name: "postgres.pause",
    plan: (random) => ({ touches, ms: random.pick([500, 3_000, 9_000]) }),
    async run(fabric, { ms }) {
      fabric.postgres.pause();
      await sleep(ms);
      fabric.postgres.resume();
    },
  },
  {
    // Without persistence: what was in it is gone.
    name: "redis.kill",
    needs: withRedis,
    plan: (random) => ({ touches: ["redis"], downMs: random.int(0, 2_000) }),
    async run(fabric, { downMs }) {
      await fabric.redis.kill();
      await sleep(downMs);
      await fabric.redis.start();
    },
  },
  {
    name: "redis.flush",
    needs: withRedis,
    plan: (random) => ({ touches: ["redis"], times: random.int(1, 3) }),
    async run(fabric, { times }) {
      for (let i = 0; i < times; i++) {
        await fabric.redis.flush();
        await sleep(200);
      }
    },
  },
  {
    name: "redis.pause",
    needs: withRedis,
    plan: (random) => ({ touches: ["redis"], ms: random.pick([500, 4_000, 9_000]) }),
    async run(fabric, { ms }) {
      fabric.redis.pause();
      await sleep(ms);
      fabric.redis.resume();
    },
  },
  {
    name: "redis.absent",
    needs: withRedis,
    plan: (random) => ({ touches: ["redis"], ms: random.int(8_000, 15_000) }),
    async run(fabric, { ms }) {
      await fabric.redis.kill();
      await sleep(ms);
      await fabric.redis.start();
    },
  },
];
