/**
 * The schedule of faults: drawn from the seed before anything starts, printed, and then carried out.
 *
 *   S1  Every kind comes once before any comes twice.
 *   S2  Two faults never touch the same part at the same time; a fault waits for its parts, and later ones with it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { KINDS } from "./kinds/kinds.mjs";
import { seededRandom } from "./random.mjs";
import { nowNs } from "./record.mjs";

/** Faults overlap, as they do in life; this many at once. */
const AT_ONCE = 3;

/**
 * Kinds that this machine allows, and why the others are missing.
 * @param {import("./kinds/kinds.mjs").Shape} shape
 * @param {{only?: readonly string[] | undefined, except?: readonly string[]}} [choice]
 */
export function chooseKinds(shape, { only, except = [] } = {}) {
  const fits = (patterns, name) =>
    patterns.some(
      (pattern) => name === pattern || (pattern.endsWith("*") && name.startsWith(pattern.slice(0, -1))),
    );
  const wanted = KINDS.filter(({ name }) => (only === undefined || fits(only, name)) && !fits(except, name));
  const missing = wanted.flatMap(({ name, needs }) => {
    const why = needs?.(shape);
    return why === undefined ? [] : [{ name, why }];
  });
  return { kinds: wanted.filter(({ name }) => !missing.some((one) => one.name === name)), missing };
}

/**
 * @param {{seed: number | string, kinds: readonly import("./kinds/kinds.mjs").Kind[], shape: import("./kinds/kinds.mjs").Shape, count: number, everyMs: number}} options
 */
export function drawSchedule({ seed, kinds, shape, count, everyMs }) {
  const random = seededRandom(seed, "schedule");
  const order = [];
  while (kinds.length > 0 && order.length < count) order.push(...random.shuffle(kinds)); // S1
  return order.slice(0, count).map((kind, i) => ({
    atMs: Math.round(everyMs * (i + random.next())),
    kind,
    plan: kind.plan(random, shape),
  }));
}

export function describeFault({ kind, plan }) {
  const { touches, ...rest } = plan;
  const words = Object.entries(rest).map(
    ([name, value]) => `${name}=${typeof value === "number" ? Number(value.toFixed(3)) : value}`,
  );
  return `${kind.name} ${words.join(" ")}`;
}

/**
 * Carries it out; resolves when all faults are over, or `untilMs` (of this call) has come.
 * @param {import("./topology/fabric.mjs").FaultFabric} fabric
 */
export async function carryOut(
  fabric,
  schedule,
  { untilMs = Number.POSITIVE_INFINITY, progress = (_line) => {} } = {},
) {
  const startMs = performance.now();
  const passedMs = () => performance.now() - startMs;
  const busy = new Set();
  const running = new Set();
  const failures = [];
  for (const fault of schedule) {
    if (passedMs() < fault.atMs) await sleep(Math.min(fault.atMs, untilMs) - passedMs());
    const { touches } = fault.plan;
    while (running.size >= AT_ONCE || touches.some((part) => busy.has(part))) await Promise.race(running); // S2
    if (passedMs() >= untilMs) break;
    for (const part of touches) busy.add(part);
    const text = describeFault(fault);
    const from = nowNs();
    progress(`${(passedMs() / 1000).toFixed(1).padStart(6)} s  ${text}`);
    const run = fault.kind
      .run(fabric, fault.plan)
      .catch((error) => {
        failures.push(`${text}: ${error.message}`);
        progress(`          ${text} could not be done: ${error.message.split("\n")[0]}`);
      })
      .then(() => {
        fabric.run.write("fault", { kind: fault.kind.name, plan: fault.plan, from, to: nowNs() });
        for (const part of touches) busy.delete(part);
        running.delete(run);
      });
    running.add(run);
  }
  await Promise.all(running);
  return { failures };
}
