/**
 * Tests of the tests: every planted bug must be caught by the checker in its scenario, and the same scenario without
 * the bug must keep every rule.
 *
 *     npm run faults -- --planted [--only name,name]
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { PLANTED_BUGS } from "@farloom/protocol/testing";
import { checkFolder } from "../checker/check.mjs";
import { Bench, shareCluster } from "../crash/bench.mjs";
import { clockEnv } from "./clock.mjs";
import { SCENARIOS } from "./scenarios.mjs";

const LANES = 2;
/** A sound fabric is done long before; a broken one may never be. */
const CLIENT_MS = 60_000;
const BROKEN_CLIENT_MS = 45_000;
const QUIET_MS = 15_000;
const BROKEN_QUIET_MS = 8_000;

/**
 * @param {{only?: string[] | string, lanes?: number | string, keep?: string, names?: string[], progress?: (line: string) => void}} options
 */
export async function run({ only, lanes = LANES, keep, names: named = [], progress: say = () => {} } = {}) {
  const parts = named.length > 0 ? named : typeof only === "string" ? only.split(",") : only;
  const names = Object.keys(PLANTED_BUGS).filter((name) => parts === undefined || parts.includes(name));
  if (names.length === 0) throw new Error(`no planted bug is named ${parts}`);
  const home = keep ?? mkdtempSync(join(tmpdir(), "farloom-planted-"));
  mkdirSync(home, { recursive: true });
  const postgres = await shareCluster();
  const failures = [];
  const leftOut = [];
  let caught = 0;
  const queue = [...names];
  const lane = async () => {
    for (let name = queue.shift(); name; name = queue.shift()) {
      const scenario = SCENARIOS[name];
      if (scenario.clocks && clockEnv === undefined) {
        leftOut.push(name);
        say(`left out  ${name}: libfaketime is not installed`);
        continue;
      }
      const planted = await runScenario(postgres, name, home, true).catch(asBroken);
      const seen = planted.violations.filter(({ rule }) => scenario.rules.includes(rule));
      const isCaught = seen.length > 0 && planted.broken === undefined;
      say(
        `${isCaught ? "caught  " : "MISSED  "}  ${name}: ${seen[0] ? `${seen[0].rule}: ${seen[0].text}` : describe(planted)}`,
      );
      if (isCaught) caught++;
      else failures.push(`${name} was not caught: ${describe(planted)}`);
      const sound = await runScenario(postgres, name, home, false).catch(asBroken);
      const isSound = sound.violations.length === 0 && sound.broken === undefined;
      say(`${isSound ? "sound   " : "UNSOUND "}  ${name}${isSound ? "" : `: ${describe(sound)}`}`);
      if (!isSound) failures.push(`${name}: without the bug: ${describe(sound)}`);
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.max(1, Number(lanes)) }, lane));
  } finally {
    await postgres.stop();
    if (keep === undefined && failures.length === 0) rmSync(home, { recursive: true, force: true });
  }
  return { planted: names.length - leftOut.length, planted_caught: caught, leftOut, failures, folder: home };
}

function asBroken(error) {
  return { violations: [], broken: error.stack };
}

function describe({ violations, broken }) {
  const texts = violations.map(({ rule, text }) => `${rule}: ${text}`);
  if (broken) texts.unshift(broken);
  return texts.slice(0, 5).join("; ") || "no rule was violated";
}

/** One run of a scenario, with the bug or without. */
async function runScenario(postgres, name, home, isPlanted) {
  const {
    drive,
    rules,
    services = 1,
    reclaimMs = 60_000,
    clocks = false,
    agentSaysLost = false,
  } = SCENARIOS[name];
  const all = isPlanted ? { FARLOOM_PLANT: name, FARLOOM_TEST_ONLY: "1" } : {};
  const service = clocks ? clockEnv?.() : undefined;
  const bench = await Bench.open({
    postgres,
    services,
    reclaimMs,
    env: { all, ...(service && { service: service.env }) },
  });
  if (service) bench.jumpClock = service.jump;
  let broken;
  try {
    const run = bench.begin(
      home,
      `${name}${isPlanted ? "" : "-sound"}`,
      agentSaysLost ? { reclaimMs: 0 } : {},
    );
    await drive(bench, run);
    const seen = () => checkFolder(run.folder).violations.some(({ rule }) => rules.includes(rule));
    const complaint = isPlanted ? await run.finished(BROKEN_CLIENT_MS, seen) : await run.finished(CLIENT_MS);
    const open = await bench.quiet(isPlanted ? BROKEN_QUIET_MS : QUIET_MS);
    if (!isPlanted && complaint) broken = complaint;
    if (!isPlanted && open !== 0) broken ??= `${open} tasks have no end`;
    for (const member of [...bench.fabric.services, ...bench.fabric.agents])
      if (member.isUp) await member.untilReady();
    await run.audit();
    run.close();
    const crashes = bench.takeCrashes(true);
    if (!isPlanted && crashes.length > 0) broken ??= crashes[0];
    return { ...checkFolder(run.folder), broken };
  } finally {
    await bench.close({ byForce: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { values } = parseArgs({
    options: { only: { type: "string" }, lanes: { type: "string" }, keep: { type: "string" } },
  });
  const say = (line) => process.stdout.write(`${line}\n`);
  const outcome = await run({ ...values, progress: say });
  say(JSON.stringify(outcome, undefined, 2));
  process.exit(outcome.failures.length === 0 ? 0 : 1);
}
