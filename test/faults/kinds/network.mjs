/**
 * Faults of links, made in the proxies: cut, reset, silent in one direction or both, slow, narrow, garbled frames,
 * and the reply after a COMMIT that never comes.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "../random.mjs";
import { loseCommits } from "../topology/pg-tap.mjs";
import { garble } from "../topology/ws-tap.mjs";

/** @typedef {import("./kinds.mjs").Kind} Kind */

const ROLES = [
  { role: "client", count: "clients" },
  { role: "agent", count: "agents" },
  { role: "postgres", count: "services" },
  { role: "redis", count: "services" },
];

/** What a disturbance draws, and how it begins; all of them end with `heal`. */
const DISTURBANCES = {
  cut: { draw: (random) => ({ ms: random.int(100, 8_000) }), begin: (link) => link.cut() },
  reset: {
    draw: (random) => ({ ms: 0, gracefully: random.chance(0.5) }),
    begin: (link, { gracefully }) => link.reset({ gracefully }),
  },
  // Above 12 s the silence is noticed by both sides; below, what was lost in it has to be noticed otherwise.
  silent: {
    draw: (random) => ({ ms: random.pick([1_000, 5_000, 14_000]) }),
    begin: (link) => link.silence("both"),
  },
  "one-way": {
    draw: (random) => ({ ms: random.pick([1_000, 5_000, 14_000]), direction: random.pick(["up", "down"]) }),
    begin: (link, { direction }) => link.silence(direction),
  },
  slow: {
    draw: (random) => ({ ms: random.int(2_000, 6_000), delayMs: random.int(20, 600) }),
    begin: (link, { delayMs }) => link.delay(delayMs, delayMs),
  },
  narrow: {
    draw: (random) => ({ ms: random.int(2_000, 6_000), bytesPerS: random.int(5_000, 100_000) }),
    begin: (link, { bytesPerS }) => link.throttle(bytesPerS),
  },
};

/** @type {Kind[]} */
const DISTURBED = ROLES.flatMap(({ role, count }) =>
  Object.entries(DISTURBANCES).map(([how, { draw, begin }]) => ({
    name: `net.${role}.${how}`,
    needs: role === "redis" ? (shape) => (shape.redis ? undefined : "no redis-server") : undefined,
    plan(random, shape) {
      const link = `${role}-${random.int(0, shape[count] - 1)}`;
      return { touches: [`link ${link}`], link, ...draw(random) };
    },
    async run(fabric, plan) {
      const link = fabric.link(plan.link);
      begin(link, plan);
      await sleep(plan.ms);
      link.heal();
    },
  })),
);

const GARBLINGS = /** @type {const} */ (["duplicate", "reorder", "truncate", "malform", "oversize", "drop"]);

/** @type {Kind[]} */
const GARBLED = ROLES.slice(0, 2).flatMap(({ role, count }) =>
  GARBLINGS.map((how) => ({
    name: `frames.${role}.${how}`,
    plan(random, shape) {
      const link = `${role}-${random.int(0, shape[count] - 1)}`;
      const direction = random.pick(["up", "down"]);
      return {
        touches: [`link ${link}`],
        link,
        direction,
        every: random.int(2, 8),
        ms: random.int(1_000, 4_000),
        salt: random.int(0, 1e9),
      };
    },
    async run(fabric, { link: name, direction, every, ms, salt }) {
      const link = fabric.link(name);
      const random = seededRandom(salt, how);
      link.tap(garble(how, { every, direction, random }));
      await sleep(ms);
      link.heal();
    },
  })),
);

/** @type {Kind[]} */
export const NETWORK_KINDS = [
  ...DISTURBED,
  ...GARBLED,
  {
    name: "net.postgres.lose-commit",
    plan(random, shape) {
      const link = `postgres-${random.int(0, shape.services - 1)}`;
      return {
        touches: [`link ${link}`],
        link,
        after: random.int(1, 20),
        count: random.int(1, 4),
        ms: 4_000,
      };
    },
    async run(fabric, { link: name, after, count, ms }) {
      const link = fabric.link(name);
      link.tap(loseCommits({ after, count }));
      // A tap reads from the first byte of a connection on: those that are there begin anew.
      link.reset();
      await sleep(ms);
      link.heal();
    },
  },
];
