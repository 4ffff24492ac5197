/**
 * The fault campaign as a program; `scripts/faults.mjs` starts it, contained. README.md says what it does.
 *
 * Progress goes to stderr; stdout carries the result alone.
 */
import { parseArgs } from "node:util";
import { runCampaign } from "./campaign.mjs";
import { checkFolder } from "./checker/check.mjs";
import { endKernelFaults } from "./kinds/kernel.mjs";
import { campaignJson, campaignText, scheduleText } from "./report.mjs";

const EXIT = { kept: 0, violated: 1, usage: 2, broken: 3, floor: 4 };

export const HELP = `Usage: npm run faults -- [OPTIONS]

Starts PostgreSQL, Redis, two web services, two agents and three clients, breaks them by a seeded schedule, and holds
what happened against the guarantees. See test/faults/README.md.

  --minutes N          how long faults come (default 2)
  --seed S             schedule and workload follow from it (default: random, printed)
  --rate R             tasks a second of all clients (default 60; soak: 200)
  --only KINDS         only these kinds of faults, by comma; * at the end of one stands for any
  --except KINDS       all but these
  --every MS           mean time between two faults (default 6500)
  --least N            fewer acknowledged tasks than N say nothing (default: half of what the rate asks for)
  --soak               a constant rate of plain calls, with faults; prints the slopes of memory and descriptors
  --recovery           measures how long recovery takes, and nothing else
  --with-recovery      measures it after the campaign
  --planted [NAME]     every planted bug (or one) must be caught
  --crash-points       every labelled crash point, one by one; --only LABEL for some
  --plant NAME         runs a campaign with a planted bug
  --crash-at ROLE=L:N  FARLOOM_CRASH_AT=L:N for the first start of service-0, agent-0, client-0 …; may be repeated
  --check FOLDER       the checker alone, on what a run kept
  --keep FOLDER        evidence, histories and logs stay there
  --json               one JSON object on stdout
  -h, --help           this

Exit status: 0 all rules kept, 1 violations, 2 wrong usage, 3 the campaign could not run, 4 too little happened.
`;

const progress = (line) => process.stderr.write(`${line}\n`);

function parse() {
  const text = /** @type {const} */ ({ type: "string" });
  const flag = /** @type {const} */ ({ type: "boolean", default: false });
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      minutes: text,
      seed: text,
      rate: text,
      every: text,
      least: text,
      only: { ...text, multiple: true },
      except: { ...text, multiple: true },
      "crash-at": { ...text, multiple: true },
      plant: text,
      check: text,
      keep: text,
      soak: flag,
      recovery: flag,
      "with-recovery": flag,
      planted: flag,
      "crash-points": flag,
      json: flag,
      help: { ...flag, short: "h" },
    },
  });
  const number = (name, least, fallback) => {
    const value = values[name] === undefined ? fallback : Number(values[name]);
    if (!(value >= least)) throw new Error(`--${name} is a number, at least ${least}`);
    return value;
  };
  const list = (given) => given?.flatMap((one) => one.split(",")).filter(Boolean);
  return {
    ...values,
    names: positionals,
    minutes: number("minutes", 0.05, values.soak ? 30 : 2),
    rate: number("rate", 1, values.soak ? 200 : 60),
    everyMs: number("every", 100, 6_500),
    least: values.least === undefined ? undefined : number("least", 1, 1),
    seed: values.seed ?? String(Math.floor(Math.random() * 1e9)),
    only: list(values.only),
    except: list(values.except),
    crashAt: Object.fromEntries((values["crash-at"] ?? []).map((one) => one.split(/=(.*)/s).slice(0, 2))),
    env: values.plant ? { all: { FARLOOM_PLANT: values.plant, FARLOOM_TEST_ONLY: "1" } } : {},
  };
}

/** @returns {Promise<number>} the exit status */
async function main() {
  let options;
  try {
    options = parse();
  } catch (error) {
    process.stderr.write(`faults: ${error.message}\nTry --help.\n`);
    return EXIT.usage;
  }
  const print = (json, text) => process.stdout.write(`${options.json ? JSON.stringify(json) : text}\n`);
  if (options.help) {
    process.stdout.write(HELP);
    return EXIT.kept;
  }
  if (options.check) {
    const { violations, counts } = checkFolder(options.check);
    print(
      { violations: violations.length, found: violations, counts },
      JSON.stringify({ counts, violations }, undefined, 2),
    );
    return violations.length > 0 ? EXIT.violated : EXIT.kept;
  }
  if (options.planted || options["crash-points"]) {
    const { run } = await import(options.planted ? "./planted/run.mjs" : "./crash/run.mjs");
    const report = await run({ ...options, progress });
    const { failures } = report;
    print(report, [...failures, JSON.stringify({ ...report, failures: failures.length })].join("\n"));
    return failures.length > 0 ? EXIT.violated : EXIT.kept;
  }
  if (options.recovery) {
    const { measureRecovery, recoveryText } = await import("./recovery.mjs");
    const recovery = await measureRecovery({ progress, only: options.only });
    print({ recovery }, recoveryText(recovery));
    return recovery.every(({ met }) => met) ? EXIT.kept : EXIT.violated;
  }
  return campaign(options, print);
}

async function campaign(options, print) {
  progress(`seed ${options.seed}, ${options.minutes} minutes`);
  const extra = options.soak ? (await import("./soak.mjs")).soakOptions() : {};
  const report = await runCampaign({ ...options, ...extra, folder: options.keep, progress });
  if (options.soak) report.slopes = report.samples;
  if (options["with-recovery"]) {
    const { measureRecovery } = await import("./recovery.mjs");
    report.recovery = await measureRecovery({ progress });
  }
  progress(`\nschedule\n${scheduleText(report)}\n`);
  print(campaignJson(report, options), campaignText(report, options));
  if (options.soak && !options.json) print(undefined, (await import("./soak.mjs")).slopesText(report.slopes));
  if (report.recovery && !options.json)
    print(undefined, (await import("./recovery.mjs")).recoveryText(report.recovery));
  if (report.violations.length > 0) return EXIT.violated;
  if (report.missed.length > 0) return EXIT.floor;
  if (options.keep === undefined) report.forget();
  return EXIT.kept;
}

process.on("exit", endKernelFaults);
for (const [signal, status] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }))
  process.on(signal, () => process.exit(status));

try {
  process.exit(await main());
} catch (error) {
  process.stderr.write(`faults: ${error instanceof Error ? error.stack : error}\n`);
  process.exit(EXIT.broken);
}
