/**
 * Every crash point, one by one, in both modes: the process that passes the label for the first (then a later) time
 * dies there as from kill -9, is started again, and everything that was acknowledged must end as it should.
 *
 *     npm run faults -- --crash-points [--only label,label] [--lanes N]
 *
 * Several small fabrics share one PostgreSQL and take the points in turn.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { checkFolder } from "../checker/check.mjs";
import { Bench, shareCluster } from "./bench.mjs";
import { callsOf, MODES, POINTS } from "./points.mjs";

const LANES = 3;
const CLIENT_MS = 60_000;
const QUIET_MS = 30_000;
/** What a drive sets going may pass the label a little later than the client is done. */
const CRASH_MS = 5_000;
/** Violations of one run, in its line. */
const MOST_TOLD = 3;

/** @typedef {{label: string, passing: number, mode: string, bench: string}} Job */

/** All runs, or those whose label is among `only` (a whole label, or the beginning of several). */
export function jobsOf({ only, modes = MODES, passings } = {}) {
  const wanted = (label) => only === undefined || only.some((part) => label.startsWith(part));
  const jobs = [];
  for (const passing of passings ?? [1, 2]) {
    for (const mode of modes) {
      for (const [label, point] of POINTS) {
        if (wanted(label) && point.passings.includes(passing))
          jobs.push({ label, passing, mode, bench: point.bench });
      }
    }
  }
  return jobs;
}

/**
 * @param {{only?: string[] | string, lanes?: number | string, keep?: string, modes?: string[], passings?: number[], progress?: (line: string) => void}} options
 */
export async function run({ only, lanes = LANES, keep, modes, passings, progress: say = () => {} } = {}) {
  const parts = typeof only === "string" ? only.split(",") : only;
  const jobs = jobsOf({ only: parts, modes, passings });
  if (jobs.length === 0) throw new Error(`no crash point is named ${parts}`);
  const home = keep ?? mkdtempSync(join(tmpdir(), "farloom-crash-"));
  mkdirSync(home, { recursive: true });
  const started = performance.now();
  const postgres = await shareCluster();
  const failures = [];
  let passed = 0;
  const lane = async (kind, queue) => {
    let bench;
    try {
      for (let job = queue.shift(); job; job = queue.shift()) {
        bench ??= await Bench.open({ postgres, services: kind === "two" ? 2 : 1 });
        const name = `${job.label}:${job.passing} ${job.mode}`;
        const begun = performance.now();
        const bad = await runOne(bench, job, home).catch((error) => [error.stack]);
        const seconds = ((performance.now() - begun) / 1000).toFixed(1);
        say(`${bad.length === 0 ? "passed" : "FAILED"}  ${name}  (${seconds} s)`);
        for (const what of bad) say(`        ${what}`);
        if (bad.length === 0) passed++;
        else failures.push(`${name}: ${bad.join("; ")}`);
        // After a failure nothing is known of what is left: the next point gets a fabric of its own.
        if (bad.length > 0) {
          await bench.close({ byForce: true }).catch(() => {});
          bench = undefined;
        }
      }
    } finally {
      const left = await bench?.close();
      for (const what of left ?? []) failures.push(`left behind: ${what}`);
    }
  };
  try {
    const one = jobs.filter(({ bench }) => bench === "one");
    const two = jobs.filter(({ bench }) => bench === "two");
    const n = Math.max(1, Math.min(Number(lanes), one.length));
    await Promise.all(Array.from({ length: n }, () => lane("one", one)));
    await lane("two", two);
  } finally {
    await postgres.stop();
    if (keep === undefined && failures.length === 0) rmSync(home, { recursive: true, force: true });
  }
  const seconds = Math.round((performance.now() - started) / 1000);
  return {
    points: new Set(jobs.map(({ label }) => label)).size,
    runs: jobs.length,
    passed,
    failures,
    seconds,
    folder: home,
  };
}

/** One crash; what was wrong about it. @returns {Promise<string[]>} */
async function runOne(bench, { label, passing, mode }, home) {
  const { drive } = POINTS.get(label) ?? {};
  for (const service of bench.fabric.services) await service.untilReady();
  // An agent that lost its service again and again waits long before it tries again; a new one is back at once.
  if (label.startsWith("service.")) await bench.agent.kill();
  await bench.agent.start();
  bench.takeCrashes(false);
  const run = bench.begin(home, `${label}-${passing}-${mode}`);
  bench.orderCrash(label, passing);
  try {
    await run.start({ calls: callsOf(mode) });
    await drive?.(bench, run);
    const bad = [];
    const complaint = await run.finished(CLIENT_MS);
    if (complaint) bad.push(complaint);
    if (!(await bench.untilCrashed(CRASH_MS))) bad.push(`nobody passed the label ${passing} times`);
    const open = await bench.quiet(QUIET_MS);
    if (open !== 0) bad.push(`${open} tasks have no end after ${QUIET_MS / 1000} s`);
    // Agents and services that died are started by their supervisor.
    for (const member of [...bench.fabric.services, ...bench.fabric.agents]) await member.untilReady();
    await run.audit();
    run.close();
    bad.push(...bench.takeCrashes(true).filter((text) => !/ended by itself with 0/.test(text)));
    bad.push(...violationsOf(await checkFolder(run.folder)));
    if (bad.length > 0)
      cpSync(join(bench.fabric.folder, "logs"), join(run.folder, "logs"), { recursive: true });
    return bad;
  } finally {
    bench.withdrawCrash();
  }
}

/** The first few in words: one cause mostly breaks one rule many times. */
function violationsOf({ violations }) {
  const texts = violations.slice(0, MOST_TOLD).map(({ rule, text }) => `${rule}: ${text}`);
  if (violations.length > MOST_TOLD) texts.push(`and ${violations.length - MOST_TOLD} more`);
  return texts;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const options = {
    only: { type: "string" },
    lanes: { type: "string" },
    keep: { type: "string" },
    mode: { type: "string" },
    passing: { type: "string" },
  };
  const { values } = parseArgs({ options: /** @type {const} */ (options) });
  const { mode, passing, ...rest } = values;
  const say = (line) => process.stdout.write(`${line}\n`);
  const outcome = await run({
    ...rest,
    ...(mode && { modes: [mode] }),
    ...(passing && { passings: [Number(passing)] }),
    progress: say,
  });
  say(JSON.stringify(outcome, undefined, 2));
  process.exit(outcome.failures.length === 0 ? 0 : 1);
}
