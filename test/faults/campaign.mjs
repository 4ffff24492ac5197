/**
 * One campaign: the fabric up, clients at work, faults by the schedule, quiet, an audit, a restart and a second
 * audit, and then the judge.
 */
import { rmSync } from "node:fs";
import { checkFolder } from "./checker/check.mjs";
import { nowNs } from "./record.mjs";
import { carryOut, chooseKinds, describeFault, drawSchedule } from "./schedule.mjs";
import { FaultFabric } from "./topology/fabric.mjs";
import { DEFAULT_MIX } from "./workload/mix.mjs";

const CLIENTS = 3;
/** Between two faults, in the mean: sixty in ten minutes, and some to spare. */
const EVERY_MS = 6_500;
/** Before the first fault: something must be there to break. */
const WARM_UP_MS = 2_000;
const QUIET_MS = 150_000;
/** Tasks a second, of all clients. Below what the fabric can do even while half of it is down. */
const RATE = 60;

/** What a run of that length has to show, or it says nothing. */
export function floorOf({ minutes, rate, faults, kinds, least, mix = DEFAULT_MIX }) {
  return {
    acknowledged: least ?? Math.floor(0.55 * rate * 60 * minutes),
    succeeded: 0.9,
    recipes: minutes >= 5 ? mix.map(({ name }) => name) : ["batch", "single", "rest"],
    faults,
    kinds,
  };
}

/**
 * @param {{seed: number | string, minutes: number, rate?: number, least?: number | undefined, only?: string[], except?: string[], everyMs?: number, env?: Record<string, Record<string, string>>, crashAt?: Record<string, string>, folder?: string, mix?: any, only?: string[], progress?: (line: string) => void, onFabric?: (fabric: FaultFabric) => void, sample?: (fabric: FaultFabric) => () => any}} options
 */
export async function runCampaign(options) {
  const {
    seed,
    minutes,
    rate = RATE,
    only,
    except,
    everyMs = EVERY_MS,
    env = {},
    crashAt = {},
    mix,
  } = options;
  const progress = options.progress ?? (() => {});
  const startedAt = performance.now();
  const fabric = await FaultFabric.open({
    env,
    crashAt,
    disks: true,
    clocks: true,
    ...(options.folder && { folder: options.folder }),
  });
  options.onFabric?.(fabric);
  progress(`the fabric is up in ${fabric.folder} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
  let carried = { failures: /** @type {string[]} */ ([]) };
  let stillOpen = 0;
  let samples;
  const forMs = minutes * 60_000;
  const shape = { ...fabric.shape, clients: CLIENTS };
  const { kinds, missing } = chooseKinds(shape, { only, ...(except && { except }) });
  const schedule = drawSchedule({
    seed,
    kinds,
    shape,
    count: Math.max(1, Math.floor((forMs - WARM_UP_MS) / everyMs)),
    everyMs,
  });
  try {
    await fabric.startClients({ seed, rate: rate / CLIENTS, clients: CLIENTS, ...(mix && { mix }) });
    await new Promise((resolve) => setTimeout(resolve, WARM_UP_MS));
    const endSamples = options.sample?.(fabric);
    carried = await carryOut(fabric, schedule, { untilMs: forMs - WARM_UP_MS, progress });
    samples = endSamples?.();
    progress("no more faults; waiting for quiet");
    const quietFrom = nowNs();
    await fabric.stopClients({ timeoutMs: QUIET_MS });
    stillOpen = await fabric.quiet({ timeoutMs: QUIET_MS });
    progress(`quiet after ${((nowNs() - quietFrom) / 1e9).toFixed(1)} s, ${stillOpen} tasks still open`);
    await fabric.audit({ name: "audit-1" });
    // What is true must be true after a restart too.
    await Promise.all(fabric.services.map((service) => service.kill()));
    await Promise.all(fabric.services.map((service) => service.start()));
    progress(`${await fabric.audit({ name: "audit-2" })} tasks audited twice, by every replica`);
  } finally {
    await fabric.close();
  }
  const floor = floorOf({
    minutes,
    rate,
    least: options.least,
    ...(mix && { mix }),
    faults: Math.floor(0.8 * schedule.length),
    kinds: Math.floor(0.8 * Math.min(kinds.length, schedule.length)),
  });
  const verdict = checkFolder(fabric.folder, { floor });
  fabric.remove();
  return {
    seed,
    minutes,
    folder: fabric.folder,
    schedule: schedule.map((fault) => ({ atMs: fault.atMs, fault: describeFault(fault) })),
    missing,
    could_not: carried.failures,
    crashes: fabric.crashes,
    seconds: Math.round((performance.now() - startedAt) / 1000),
    ...verdict,
    ...(samples && { samples }),
    /** Once nobody wants to look. */
    forget: () => rmSync(fabric.folder, { recursive: true, force: true, maxRetries: 5 }),
  };
}
