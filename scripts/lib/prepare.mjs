/**
 * From a fresh clone to something that runs: versions, packages, build. Each step looks first whether it is
 * done, so the second start takes a second.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { outputOf, ROOT, run, runOrFail } from "./run.mjs";
import { StepFailed, step } from "./terminal.mjs";

const NEEDED_NODE = [20, 19];
const NEEDED_PYTHON = [3, 8];

/** Versions, packages and build, as three steps. */
export async function prepare() {
  await step("Looking for Node and Python", checkVersions);
  await step("Installing packages (npm ci)", installPackages);
  await step("Building", build);
}

function atLeast(version, needed) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > needed[0] || (major === needed[0] && minor >= needed[1]);
}

async function checkVersions() {
  const node = process.versions.node;
  if (process.platform === "win32") {
    throw new StepFailed("Farloom runs on Linux and macOS. On Windows, run it inside WSL 2.");
  }
  if (!atLeast(node, NEEDED_NODE)) {
    throw new StepFailed(
      `Node ${NEEDED_NODE.join(".")} or newer is needed; this is ${node}. Get one from https://nodejs.org, or with 'nvm install 22'.`,
    );
  }
  const python = outputOf("python3", ["--version"])?.match(/^Python (\d+\.\d+\S*)/)?.[1];
  if (python === undefined || !atLeast(python, NEEDED_PYTHON)) {
    const found = python ? `python3 is ${python}` : "there is no python3 on the PATH";
    throw new StepFailed(
      `Python ${NEEDED_PYTHON.join(".")} or newer is needed; ${found}. On Debian and Ubuntu: apt-get install python3. On macOS: brew install python3.`,
    );
  }
  return `Node ${node}, Python ${python}`;
}

/**
 * npm writes what it installed to node_modules/.package-lock.json, last of all. So where that agrees with the
 * lock, nothing is missing, and an install that was cut off, or made from another lock, is done again.
 */
function isInstalled() {
  const installedFile = join(ROOT, "node_modules/.package-lock.json");
  if (!existsSync(installedFile)) return false;
  const wanted = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")).packages;
  const installed = JSON.parse(readFileSync(installedFile, "utf8")).packages;
  return Object.entries(wanted).every(([path, { version, integrity, optional, link, peer }]) => {
    // The root and the workspaces are their own folders; optional packages may be for other platforms.
    if (!path.includes("node_modules/") || link) return true;
    const found = installed[path];
    if (found === undefined) return optional === true || peer === true;
    return found.version === version && found.integrity === integrity;
  });
}

async function installPackages() {
  if (isInstalled()) return "Packages are installed";
  // The tools that build are development dependencies, whatever NODE_ENV says.
  const { status, output } = await run("npm", ["ci", "--include=dev", "--no-audit", "--no-fund"]);
  if (status === 0) return "Packages installed";
  // What is wrong comes first; npm's page of usage follows it.
  const detail = output.split("npm error Clean install a project")[0];
  throw new StepFailed("npm ci failed. Is the package registry reachable ('npm ping'), and is there space?", {
    detail: detail.slice(-4000),
  });
}

async function build() {
  await runOrFail("npm", ["run", "--silent", "build"], { message: "The build failed." });
  return "Built";
}
