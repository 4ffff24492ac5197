/** The parts of `npm test`. Each resolves with its counts, or throws `StepFailed`; none stops another from running. */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { startContained } from "./contain.mjs";
import { bringSdkEnvironment, mypy, pytestCommand, ruff } from "./python-sdk.mjs";
import { ROOT, runOrFail } from "./run.mjs";
import { StepFailed, sayFailure } from "./terminal.mjs";
import { testEnv } from "./test-needs.mjs";

/** Projects of vitest.config.ts. */
export const VITEST_PROJECTS = ["unit", "simulation", "integration", "e2e", "security", "faults", "slurm"];
const PYTHON_TEST_FOLDERS = ["scripts/lib", "apps/endpoint-agent/src/workers/python"];
/** Twelve to fourteen minutes on two cores; what runs longer than this hangs. */
const VITEST_LIMIT_MS = 20 * 60_000;
const PYTHON_LIMIT_MS = 3 * 60_000;
const PYTHON_SDK_LIMIT_MS = 12 * 60_000;

export const NO_COUNTS = Object.freeze({ passed: 0, failed: 0, skipped: 0 });

export function addCounts(a, b) {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed, skipped: a.skipped + b.skipped };
}

export async function lint() {
  await runOrFail("npx", ["--no-install", "biome", "check", "."], {
    message: "biome check found something.",
  });
}

export async function typecheck() {
  await runOrFail("npm", ["run", "--silent", "typecheck"], { message: "The types do not check." });
}

/** Runs the projects; `filters` are parts of file names. What vitest prints goes straight to the terminal. */
export async function vitest(projects, filters) {
  const { status, counts, complaints } = await counted("vitest", VITEST_LIMIT_MS, (countsFile) => [
    join(ROOT, "node_modules/.bin/vitest"),
    "run",
    ...projects.flatMap((project) => ["--project", project]),
    "--passWithNoTests",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${countsFile}`,
    ...filters,
  ]);
  const totals = counts && {
    passed: counts.numPassedTests,
    failed: counts.numFailedTests + counts.testResults.filter(brokenFile).length,
    skipped: counts.numPendingTests + counts.numTodoTests,
  };
  if (status !== 0 && totals?.failed === 0) complaints.push("vitest reported an error outside of the tests");
  return { counts: totals ?? NO_COUNTS, complaints };
}

/** A file that did not load has no tests to fail, and counts as one. */
function brokenFile({ status, assertionResults }) {
  return status === "failed" && !assertionResults.some((test) => test.status === "failed");
}

export function pythonTestFiles() {
  return PYTHON_TEST_FOLDERS.map((folder) => join(ROOT, folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder, { recursive: true }).map((name) => join(folder, name)))
    .filter((file) => /(^|\/)test_[^/]*\.py$/.test(file) && !/\/(\.venv|node_modules|__pycache__)/.test(file))
    .sort();
}

/** One file, in a Python process of its own. */
export async function pythonTests(file) {
  const runner = join(ROOT, "scripts/lib/run_unittests.py");
  const title = relative(ROOT, file);
  const { counts, complaints } = await counted(title, PYTHON_LIMIT_MS, (countsFile) => [
    "python3",
    runner,
    file,
    countsFile,
  ]);
  return { counts: counts ?? NO_COUNTS, complaints };
}

/**
 * Begins pytest as soon as its environment is there; `filters` are its own. Resolves with its counts and complaints, and
 * with nothing where there is no environment. `isShown`: what it prints goes straight to the terminal; else it is
 * `output`, for later: it runs beside other tests.
 */
export async function startPytest(environment, { filters = [], isShown = false } = {}) {
  const { note } = await environment.python;
  if (note !== undefined) return undefined;
  await environment.dropIns;
  return counted("pytest", PYTHON_SDK_LIMIT_MS, (countsFile) => pytestCommand(countsFile, filters), isShown);
}

/**
 * The Python SDK: its environment, ruff, mypy and pytest. Notes say what was left out.
 * @param {ReturnType<typeof startPytest>} [begun] where pytest runs already
 */
export async function pythonSdk(step, { filters = [], environment = bringSdkEnvironment(), begun } = {}) {
  const complaints = [];
  const notes = [];
  for (const [title, bringing] of [
    ["Python environment", environment.python],
    ["Drop-ins' libraries", environment.dropIns],
  ]) {
    await step(title, async () => {
      const { title, note } = await bringing;
      if (note !== undefined) notes.push(note);
      return title;
    });
    if (bringing === environment.python && notes.length > 0) return { counts: NO_COUNTS, complaints, notes };
  }
  for (const [title, check] of [
    ["Lint and format (ruff)", ruff],
    ["Types (mypy)", mypy],
  ]) {
    await step(title, check).catch((error) => {
      sayFailure(error);
      complaints.push(error.message);
    });
  }
  const outcome = await (begun ?? startPytest(environment, { filters, isShown: true }));
  process.stdout.write(outcome.output);
  complaints.push(...outcome.complaints);
  return { counts: outcome.counts ?? NO_COUNTS, complaints, notes };
}

/**
 * Runs a program that writes its counts to a file, and holds it to leaving no process behind. Where it is not shown, what
 * it prints is `output`.
 */
async function counted(title, limitMs, commandLine, isShown = true) {
  const folder = mkdtempSync(join(tmpdir(), "farloom-counts-"));
  const countsFile = join(folder, "counts.json");
  const outputFile = join(folder, "output");
  const sink = isShown ? "inherit" : openSync(outputFile, "w");
  try {
    const [command, ...args] = commandLine(countsFile);
    const run = startContained(command, args, {
      cwd: ROOT,
      env: testEnv(),
      stdio: ["ignore", sink, sink],
    });
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      void run.stop();
    }, limitMs);
    const stop = () => void run.stop();
    process.once("SIGINT", stop).once("SIGTERM", stop);
    const { status, left } = await run.ended;
    clearTimeout(timer);
    process.off("SIGINT", stop).off("SIGTERM", stop);
    const complaints = left.map((process) => `${title} left a process behind: ${process}`);
    if (late) complaints.push(`${title} was stopped after ${limitMs / 60_000} minutes`);
    const counts = existsSync(countsFile) ? JSON.parse(readFileSync(countsFile, "utf8")) : undefined;
    if (counts === undefined) complaints.push(`${title} ended with status ${status} and no counts`);
    return { status, counts, complaints, output: isShown ? "" : readFileSync(outputFile, "utf8") };
  } catch (error) {
    throw new StepFailed(`${title} could not be run: ${error.message}`);
  } finally {
    if (!isShown) closeSync(sink);
    rmSync(folder, { recursive: true, force: true });
  }
}
