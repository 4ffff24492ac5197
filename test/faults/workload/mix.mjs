/**
 * What clients ask for: a seeded mix of calls. Most are short; the rest are what breaks fabrics: large payloads,
 * retries, cancels at every stage, time limits, functions that kill their worker, idempotency keys.
 *
 * A recipe draws one order: {fn, args (after folder and nonce), options, n, via, cancelAfterMs?}.
 */
const MODES = ["at_most_once", "at_least_once"];

/** @typedef {ReturnType<typeof import("../random.mjs").seededRandom>} Random */

const RECIPES = {
  batch: (r) => ({ fn: "noop", options: { mode: r.pick(MODES) }, n: r.int(20, 150), via: "link" }),
  single: (r) => ({ fn: "noop", options: { mode: r.pick(MODES) }, via: "link" }),
  sleep100: (r) => ({ fn: "sleep", args: [0.1], options: { mode: r.pick(MODES) }, via: "link" }),
  large: (r) => ({
    fn: "large",
    args: [text(r, r.int(100_000, 300_000))],
    options: { mode: r.pick(MODES) },
    via: "link",
  }),
  retries: (r) => ({
    fn: "flaky",
    args: [r.int(1, 2)],
    options: { mode: r.pick(MODES), retries: 3, backoffMs: r.int(20, 200) },
    via: r.pick(["link", "rest"]),
  }),
  raises: (r) => ({ fn: "raises", options: { mode: r.pick(MODES) }, via: "link" }),
  "cancel-queued": (r) => ({
    fn: "slow",
    args: [1],
    options: { mode: r.pick(MODES) },
    via: r.pick(["link", "rest"]),
    cancelAfterMs: 0,
  }),
  "cancel-running": (r) => ({
    fn: "slow",
    args: [3],
    options: { mode: r.pick(MODES) },
    via: r.pick(["link", "rest"]),
    cancelAfterMs: r.int(200, 900),
  }),
  "cancel-stubborn": (r) => ({
    fn: "stubborn",
    args: [3],
    options: { mode: r.pick(MODES) },
    via: "link",
    cancelAfterMs: r.int(300, 900),
  }),
  "time-limit": (r) => ({
    fn: "slow",
    args: [4],
    options: { mode: r.pick(MODES), timeoutMs: 300 },
    via: "link",
  }),
  "queue-limit": (r) => ({
    fn: "noop",
    options: { mode: r.pick(MODES), queueTimeoutMs: r.int(1, 40) },
    via: "link",
    n: r.int(1, 20),
  }),
  deadline: (r) => ({
    fn: "slow",
    args: [4],
    options: { mode: r.pick(MODES), deadlineMs: 600 },
    via: "rest",
  }),
  delay: (r) => ({ fn: "noop", options: { mode: r.pick(MODES), delayMs: r.int(200, 1_500) }, via: "link" }),
  rest: (r) => ({ fn: "noop", options: { mode: r.pick(MODES) }, via: "rest" }),
  "rest-batch": (r) => ({ fn: "noop", options: { mode: r.pick(MODES) }, via: "rest", n: r.int(5, 60) }),
  deadly: () => ({ fn: "deadly", options: { mode: "at_most_once" }, via: "link" }),
  poison: () => ({ fn: "deadly", options: { mode: "at_least_once" }, via: "link" }),
};

/** @type {readonly {name: string, weight: number}[]} */
export const DEFAULT_MIX = [
  { name: "batch", weight: 10 },
  { name: "single", weight: 30 },
  { name: "sleep100", weight: 10 },
  { name: "large", weight: 2 },
  { name: "retries", weight: 5 },
  { name: "raises", weight: 2 },
  { name: "cancel-queued", weight: 3 },
  { name: "cancel-running", weight: 2 },
  { name: "cancel-stubborn", weight: 1 },
  { name: "time-limit", weight: 1 },
  { name: "queue-limit", weight: 2 },
  { name: "deadline", weight: 1 },
  { name: "delay", weight: 3 },
  { name: "rest", weight: 15 },
  { name: "rest-batch", weight: 2 },
  { name: "deadly", weight: 1 },
  { name: "poison", weight: 1 },
];

/** No call that is slow, fails or is cancelled: for measurements. */
export const PLAIN_MIX = [
  { name: "batch", weight: 2 },
  { name: "single", weight: 20 },
  { name: "rest", weight: 4 },
];

/** One order of the mix. */
export function drawOrder(mix, random) {
  const { name } = random.weighted(mix);
  const recipe = RECIPES[name];
  if (recipe === undefined)
    throw new Error(`the mix names "${name}"; there are ${Object.keys(RECIPES).join(", ")}`);
  return { recipe: name, n: 1, args: [], ...recipe(random) };
}

function text(random, sizeBytes) {
  const block = Array.from({ length: 64 }, () => random.int(0, 35).toString(36)).join("");
  return block.repeat(Math.ceil(sizeBytes / 64)).slice(0, sizeBytes);
}
