#!/usr/bin/env node
/**
 * `npm run faults`: the fault campaign of test/faults, contained.
 *
 *   1. Nothing that it starts outlives it: reaper.py adopts and ends whatever is left, and names it.
 *   2. Where this may be done (root on Linux), it has namespaces of its own for mounts and the network: full disks
 *      and dropped packets are its own affair, and end with it. Elsewhere it does without those faults.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { startContained } from "./lib/contain.mjs";
import { ROOT } from "./lib/run.mjs";

const MAIN = join(ROOT, "test/faults/main.mjs");
const BUILT = [
  "apps/web-service/dist/bundle/main.js",
  "apps/endpoint-agent/dist/bundle/main.js",
  "packages/sdk/dist/index.js",
];
const UNSHARE = ["--mount", "--net", "--propagation", "private"];

/** Inside of the namespaces: the loopback interface comes down. */
const UP = 'ip link set lo up && exec "$@"';

function ensureBuilt() {
  if (BUILT.every((file) => existsSync(join(ROOT, file)))) return;
  process.stderr.write("building …\n");
  const { status } = spawnSync("npm", ["run", "--silent", "build"], { cwd: ROOT, stdio: ["ignore", 2, 2] });
  if (status === 0) return;
  process.stderr.write("faults: the build failed; 'npm start' says more\n");
  process.exit(3);
}

function mayUnshare() {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return false;
  return spawnSync("unshare", [...UNSHARE, "sh", "-c", UP, "sh", "true"], { stdio: "ignore" }).status === 0;
}

ensureBuilt();
const program = [process.execPath, MAIN, ...process.argv.slice(2)];
const contained = mayUnshare();
const [command, ...args] = contained ? ["unshare", ...UNSHARE, "sh", "-c", UP, "sh", ...program] : program;
const {
  PGHOST,
  PGPORT,
  PGUSER,
  PGPASSWORD,
  PGDATABASE,
  DATABASE_URL,
  FARLOOM_TENANT_DATABASE_URL,
  REDIS_URL,
  ...env
} = process.env;
const run = startContained(command, args, {
  cwd: ROOT,
  env: { ...env, ...(contained && { FARLOOM_FAULTS_CONTAINED: "1" }) },
  stdio: ["ignore", "inherit", "inherit"],
});
for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"]))
  process.on(signal, () => void run.stop());
const { status, left } = await run.ended;
for (const what of left) process.stderr.write(`faults: left behind: ${what}\n`);
process.exitCode = status === 0 && left.length > 0 ? 1 : status;
