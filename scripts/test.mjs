#!/usr/bin/env node
/**
 * `npm test`: everything that must hold, from a fresh clone: install, build, lint, types, vitest, Python.
 *
 * 1. The last line on stdout is `N passed, N failed, N skipped`, over vitest, unittest and pytest together. A step that
 *    failed, and a process that was left behind, count as one failed test each: the line never hides a failure.
 * 2. The exit status is 0 only where every part passed and no process was left behind.
 * 3. Plain Node and its built-in modules, as nothing is installed when it starts.
 */
import { relative } from "node:path";
import { parseArgs } from "node:util";
import { prepare } from "./lib/prepare.mjs";
import { bringSdkEnvironment } from "./lib/python-sdk.mjs";
import { ROOT } from "./lib/run.mjs";
import { bold, say, sayFailure, step } from "./lib/terminal.mjs";
import { bringTestNeeds } from "./lib/test-needs.mjs";
import {
  addCounts,
  lint,
  NO_COUNTS,
  pythonSdk,
  pythonTestFiles,
  pythonTests,
  startPytest,
  typecheck,
  VITEST_PROJECTS,
  vitest,
} from "./lib/test-parts.mjs";

const PARTS = ["lint", "types", ...VITEST_PROJECTS, "python", "python-sdk"];
const FAST_PARTS = ["lint", "types", "unit", "simulation", "python"];
const HELP = `Usage: npm test [-- OPTIONS] [FILTER ...]

Installs, builds and runs every check and every test. The last line is "N passed, N failed, N skipped".

  FILTER           only test files of vitest whose path contains it
  --only PARTS     only these parts, by comma: ${PARTS.join(", ")}
  --fast           only ${FAST_PARTS.join(", ")}: no database, no processes
  --no-packages    install nothing but npm packages; tests that need more skip themselves
  -h, --help       this

Exit status: 0 when all passed, 1 when something failed or left a process behind, 2 for wrong usage.
`;

function parseOptions() {
  const flag = { type: "boolean", default: false };
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        only: { type: "string", multiple: true },
        fast: flag,
        "no-packages": flag,
        help: { ...flag, short: "h" },
      },
    });
    const only = values.only?.flatMap((list) => list.split(",")).filter(Boolean);
    const unknown = only?.find((part) => !PARTS.includes(part));
    if (unknown) throw new Error(`there is no part "${unknown}"; there are ${PARTS.join(", ")}`);
    const parts = only ?? (values.fast ? FAST_PARTS : PARTS);
    return { ...values, filters: positionals, parts: new Set(parts) };
  } catch (error) {
    process.stderr.write(`npm test: ${error.message}\nTry npm test -- --help\n`);
    process.exit(2);
  }
}

const options = parseOptions();
if (options.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

let counts = NO_COUNTS;
/** What was wrong besides failed tests. */
const complaints = [];

/** Runs a part; what goes wrong in one does not keep the others from running. */
async function part(work) {
  try {
    const outcome = await work();
    counts = addCounts(counts, outcome?.counts ?? NO_COUNTS);
    complaints.push(...(outcome?.complaints ?? []));
    return true;
  } catch (error) {
    sayFailure(error);
    complaints.push(error.message);
    return false;
  }
}

async function runParts() {
  const notes = [];
  const projects = VITEST_PROJECTS.filter((project) => options.parts.has(project));
  if (projects.length > 0 && !options["no-packages"]) {
    await step("What tests need besides", async () => {
      const { title, notes: missing } = await bringTestNeeds();
      notes.push(...missing);
      return title;
    });
  }
  const environment = options.parts.has("python-sdk") ? bringSdkEnvironment() : undefined;
  if (options.parts.has("lint")) await part(() => step("Lint and format (biome)", lint));
  if (options.parts.has("types")) await part(() => step("Types (tsc)", typecheck));
  // Both wait more than they work.
  const begun = environment && projects.length > 0 ? startPytest(environment) : undefined;
  begun?.catch(() => undefined);
  if (projects.length > 0) {
    say(`\n${bold(`vitest: ${projects.join(", ")}`)}`);
    await part(() => vitest(projects, options.filters));
  }
  if (options.parts.has("python")) {
    for (const file of pythonTestFiles()) {
      say(`\n${bold(`unittest: ${relative(ROOT, file)}`)}`);
      await part(() => pythonTests(file));
    }
  }
  if (options.parts.has("python-sdk")) {
    say(`\n${bold("pytest: python")}`);
    await part(async () => {
      const outcome = await pythonSdk(step, { environment, begun });
      notes.push(...outcome.notes);
      return outcome;
    });
  }
  return notes;
}

let notes = [];
if (await part(prepare)) notes = await runParts();

say();
for (const note of notes) say(`note: ${note}`);
for (const complaint of complaints) say(`failed: ${complaint}`);
const failed = counts.failed + complaints.length;
process.exitCode = failed > 0 ? 1 : 0;
say(`${counts.passed} passed, ${failed} failed, ${counts.skipped} skipped`);
