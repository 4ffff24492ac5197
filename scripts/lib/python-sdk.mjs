/**
 * The Python SDK's checks and tests: ruff, mypy and pytest, in a virtual environment of their own (python/.venv).
 *
 * 1. The environment holds exactly python/requirements-test.txt; it is made anew when that file or the interpreter is
 *    another one, and by nobody else. To it come, in a second step, the libraries that the drop-ins are tested with
 *    (python/requirements-dropins.txt), as wheels alone.
 * 2. Where it cannot be made (no Python, no network), the tests are left out and a note says so: that is no failure.
 *    Where only the drop-ins' libraries cannot be had (no wheel for this Python), only their tests are.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, relative } from "node:path";
import { outputOf, ROOT, run, runOrFail } from "./run.mjs";

const FOLDER = join(ROOT, "python");
const VENV = join(FOLDER, ".venv");
const REQUIREMENTS = join(FOLDER, "requirements-test.txt");
const DROPINS = join(FOLDER, "requirements-dropins.txt");
/** Written last, so that a half-made environment is made again. */
const STAMP = join(VENV, "farloom-requirements");
const DROPINS_STAMP = join(VENV, "farloom-dropins");
export const SDK_PYTHON = join(VENV, "bin/python");

/** Preferred first: one that comes with the standard library's own tests, which are run against the executor. */
const INTERPRETERS = ["python3.13", "python3.12", "python3.11", "python3.10", "python3.14", "python3"];
const IS_NEW_ENOUGH =
  "import sys, ensurepip, venv; assert sys.version_info >= (3, 10); print(sys.executable, sys.version)";

/** What a program prints; undefined where there is none, or it fails. */
function asked(command, code) {
  try {
    return outputOf(command, ["-c", code]);
  } catch {
    return undefined;
  }
}

/** Those on the PATH, then those that pyenv keeps. */
function interpreters() {
  const versions = join(process.env.PYENV_ROOT || join(homedir(), ".pyenv"), "versions");
  const kept = existsSync(versions) ? readdirSync(versions).sort().reverse() : [];
  return [...INTERPRETERS, ...kept.map((name) => join(versions, name, "bin/python3"))];
}

function chooseInterpreter() {
  const good = interpreters().filter((name) => asked(name, IS_NEW_ENOUGH) !== undefined);
  return good.find((name) => asked(name, "import test.test_concurrent_futures") !== undefined) ?? good[0];
}

const PIP_INSTALL = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];

/** Makes the environment where it is not there. Resolves with a title, and a note where there is none. */
async function bringPython() {
  const interpreter = chooseInterpreter();
  if (interpreter === undefined) return missing("there is no Python of 3.10 or later with venv and pip");
  const wanted = createHash("sha256")
    .update(readFileSync(REQUIREMENTS))
    .update(asked(interpreter, IS_NEW_ENOUGH) ?? "")
    .digest("hex");
  if (existsSync(STAMP) && readFileSync(STAMP, "utf8") === wanted)
    return { title: "Python environment is there" };
  const made = await run(interpreter, ["-m", "venv", "--clear", VENV]);
  if (made.status !== 0) return missing(`${interpreter} -m venv failed: ${lastLine(made.output)}`);
  const installed = await run(SDK_PYTHON, [...PIP_INSTALL, "-r", REQUIREMENTS]);
  if (installed.status !== 0) return missing(`pip could not install: ${lastLine(installed.output)}`);
  writeFileSync(STAMP, wanted);
  return { title: `Python environment made with ${interpreter}` };
}

/** Adds the drop-ins' libraries where they are not there. Resolves with a title, and a note where they cannot be had. */
async function bringDropIns() {
  const wanted = createHash("sha256").update(readFileSync(DROPINS)).digest("hex");
  if (existsSync(DROPINS_STAMP) && readFileSync(DROPINS_STAMP, "utf8") === wanted)
    return { title: "Drop-ins' libraries are there" };
  const installed = await run(SDK_PYTHON, [...PIP_INSTALL, "--only-binary", ":all:", "-r", DROPINS]);
  if (installed.status === 0) {
    writeFileSync(DROPINS_STAMP, wanted);
    return { title: "Drop-ins' libraries installed" };
  }
  const why = lastLine(installed.output);
  const note = `the libraries of ${relative(ROOT, DROPINS)} could not be installed (${why}): tests of drop-ins are skipped`;
  return { title: "Drop-ins' libraries are missing", note };
}

/** Begins to make all of it: most of that is waiting for downloads, and other work may go on meanwhile. */
export function bringSdkEnvironment() {
  const python = bringPython();
  const dropIns = python.then(({ note }) => (note === undefined ? bringDropIns() : { title: "no drop-ins" }));
  // Whoever needs them hears of a failure; until then nobody is listening.
  for (const bringing of [python, dropIns]) bringing.catch(() => undefined);
  return { python, dropIns };
}

function missing(why) {
  return {
    title: "Python environment is missing",
    note: `${why}, so the tests of the Python SDK are left out. To run them: npm run test:python`,
  };
}

function lastLine(output) {
  return output.trimEnd().split("\n").at(-1) ?? "";
}

/** Format and lint. */
export async function ruff() {
  for (const args of [
    ["check", "."],
    ["format", "--check", "."],
  ]) {
    await runOrFail(SDK_PYTHON, ["-m", "ruff", ...args], {
      cwd: FOLDER,
      message: `ruff ${args[0]} found something.`,
    });
  }
}

export async function mypy() {
  await runOrFail(SDK_PYTHON, ["-m", "mypy", "--no-incremental"], {
    cwd: FOLDER,
    message: "mypy found something.",
  });
}

/** The command line of the tests; their counts go to a file (tests/conftest.py). */
export function pytestCommand(countsFile, filters = []) {
  const args = ["-m", "pytest", "-rs", `--rootdir=${FOLDER}`, "-c", join(FOLDER, "pyproject.toml")];
  return [
    SDK_PYTHON,
    ...args,
    "--counts",
    countsFile,
    ...filters,
    // `--counts` is the tests' own: pytest knows it where it is told of their folder.
    ...(filters.some((filter) => existsSync(filter.split("::")[0])) ? [] : [join(FOLDER, "tests")]),
  ];
}
