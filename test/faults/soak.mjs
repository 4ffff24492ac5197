/**
 * A soak: plain calls at a constant rate, with faults now and then, and how the memory and the descriptors of services
 * and agents move. A process that was restarted begins anew, so the slope is that of its longest life, by least
 * squares, after the first minute of it, in which every process grows.
 */
import { readdirSync, readFileSync } from "node:fs";
import { PLAIN_MIX } from "./workload/mix.mjs";

const SAMPLE_MS = 2_000;
const SETTLE_MS = 60_000;
/** Seldom, so that lives are long; nothing that ends a service or an agent but once in a while. */
const EVERY_MS = 30_000;
const KINDS = [
  "net.*",
  "worker.*",
  "postgres.terminate",
  "postgres.restart",
  "redis.*",
  "client.*",
  "agent.pause",
  "service.pause",
];
/** Too few for a line. */
const LEAST_SAMPLES = 10;

export function soakOptions() {
  return { mix: PLAIN_MIX, everyMs: EVERY_MS, only: KINDS, except: ["net.*.silent"], sample: sampleFabric };
}

/** @param {import("./topology/fabric.mjs").FaultFabric} fabric */
function sampleFabric(fabric) {
  const lives = new Map();
  const timer = setInterval(() => {
    for (const member of [...fabric.services, ...fabric.agents]) {
      const life = `${member.name} ${member.starts}`;
      const sample = member.isUp ? read(member.pid) : undefined;
      if (sample === undefined) continue;
      if (!lives.has(life)) lives.set(life, { name: member.name, from: performance.now(), samples: [] });
      const { from, samples } = lives.get(life);
      samples.push({ ms: performance.now() - from, ...sample });
    }
  }, SAMPLE_MS);
  return () => {
    clearInterval(timer);
    return slopesOf([...lives.values()]);
  };
}

function read(pid) {
  try {
    const rss = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"));
    return { rssMb: Number(rss?.[1] ?? 0) / 1024, fds: readdirSync(`/proc/${pid}/fd`).length };
  } catch {
    return undefined;
  }
}

function slopesOf(lives) {
  const longest = new Map();
  for (const life of lives) {
    const settled = life.samples.filter(({ ms }) => ms >= SETTLE_MS);
    if (settled.length > (longest.get(life.name)?.length ?? 0)) longest.set(life.name, settled);
  }
  return [...longest].map(([name, samples]) => ({
    name,
    minutes: Number(((samples.at(-1).ms - samples[0].ms) / 60_000).toFixed(1)),
    rss_mb: Math.round(samples.at(-1).rssMb),
    rss_mb_per_h: slope(samples, ({ rssMb }) => rssMb),
    fds: samples.at(-1).fds,
    fds_per_h: slope(samples, ({ fds }) => fds),
  }));
}

/** By least squares, in units an hour; undefined where there is too little to say. */
function slope(samples, pick) {
  if (samples.length < LEAST_SAMPLES) return undefined;
  const n = samples.length;
  const hours = samples.map(({ ms }) => ms / 3_600_000);
  const meanX = hours.reduce((a, b) => a + b, 0) / n;
  const meanY = samples.reduce((sum, one) => sum + pick(one), 0) / n;
  let above = 0;
  let below = 0;
  for (let i = 0; i < n; i++) {
    above += (hours[i] - meanX) * (pick(samples[i]) - meanY);
    below += (hours[i] - meanX) ** 2;
  }
  return Number((above / below).toFixed(2));
}

export function slopesText(slopes) {
  return slopes
    .map(
      ({ name, minutes, rss_mb: mb, rss_mb_per_h: mbPerH, fds, fds_per_h: fdsPerH }) =>
        `  ${name.padEnd(12)} ${mb} MB, ${mbPerH ?? "?"} MB/h; ${fds} descriptors, ${fdsPerH ?? "?"} an hour; over ${minutes} minutes`,
    )
    .join("\n");
}
