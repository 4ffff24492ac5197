#!/usr/bin/env node
/**
 * `npm start`: from a fresh clone to a running fabric with one real job done on it.
 *
 * 1. Plain Node and its built-in modules, as nothing is installed when it starts.
 * 2. With --once the exit status is 0 only where the job's answer is right and every process has ended.
 * 3. Ctrl-C stops everything in order; nothing that was started here outlives this process (Linux).
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { clientEnv, startFabric } from "./lib/fabric.mjs";
import { prepare } from "./lib/prepare.mjs";
import { ROOT } from "./lib/run.mjs";
import { bold, dim, StepFailed, say, sayFailure, step } from "./lib/terminal.mjs";

const DEFAULT_PORT = 8722;
const HELP = `Usage: npm start [-- OPTIONS]

Installs, builds, starts Farloom in this terminal (web service, PostgreSQL and one endpoint, all on this machine),
and runs forty forecasts of Seattle's rain on it. Stays up until Ctrl-C.

  --once             end after the job; exit status 0 only if its answer is right
  --port N           the web service's port (default ${DEFAULT_PORT}, or the next free one)
  --state-dir DIR    where the database, the keys and the logs are (default .farloom)
  -h, --help         this
`;

/** The answer of examples/forecast, by an independent computation (test/e2e/forecast.test.ts). */
const EXPECTED = { models: 40, harmonics: 4, lags: 1, rmse: "6.978", rmseOfMean: "7.677" };

function parseOptions() {
  try {
    const { values } = parseArgs({
      options: {
        once: { type: "boolean", default: false },
        port: { type: "string" },
        "state-dir": { type: "string", default: join(ROOT, ".farloom") },
        help: { type: "boolean", default: false, short: "h" },
      },
    });
    const port = values.port === undefined ? undefined : Number(values.port);
    if (port !== undefined && !(Number.isInteger(port) && port >= 0 && port < 65_536))
      throw new Error(`"${values.port}" is no port`);
    return { once: values.once, help: values.help, port, stateDir: resolve(values["state-dir"]) };
  } catch (error) {
    process.stderr.write(`npm start: ${error.message}\nTry npm start -- --help\n`);
    process.exit(2);
  }
}

/** The example, as anyone would run it: with an address, a key and an endpoint in its environment. */
function runForecasts(fabric) {
  const results = join(fabric.stateDir, "forecast.json");
  const args = [join(ROOT, "examples/forecast/forecast.mjs"), "--out", results];
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, args, { cwd: ROOT, env: clientEnv(fabric), stdio: "inherit" });
    child.once("error", fail);
    child.once("exit", (status) => {
      if (status === 0) done(JSON.parse(readFileSync(results, "utf8")));
      else fail(new StepFailed(`The example ended with status ${status}.`));
    });
  });
}

function checkAnswer({ models, rmseOfMean }) {
  const [best] = models.toSorted((a, b) => a.rmse - b.rmse);
  const found = {
    models: models.length,
    harmonics: best?.harmonics,
    lags: best?.lags,
    rmse: best?.rmse.toFixed(3),
    rmseOfMean: rmseOfMean.toFixed(3),
  };
  if (JSON.stringify(found) !== JSON.stringify(EXPECTED)) {
    throw new StepFailed(`The answer is wrong: ${JSON.stringify(found)}, not ${JSON.stringify(EXPECTED)}.`);
  }
}

function sayWhatNext({ url, endpoint, apiKeyFile, stateDir }) {
  const key = relative(process.cwd(), apiKeyFile);
  say(`\n${bold(`Farloom is up: ${url}`)}   ${dim("(Ctrl-C stops it)")}`);
  say(`  API page   ${url}/docs`);
  say(`  API key    ${key}`);
  say(`  logs       ${relative(process.cwd(), join(stateDir, "logs"))}`);
  say("\nTry next, in another terminal:");
  say(`  npx farloom run ${relative(process.cwd(), join(stateDir, "hello.py"))} World`);
  say(`  curl -s "${url}/v1/tasks?wait=60" -H "Authorization: Bearer $(cat ${key})" \\`);
  say(
    `    -H "Content-Type: application/json" -d '${JSON.stringify({ function: "hello", endpoint, args: ["curl"] })}'`,
  );
}

/** Aborted when the user wants to stop. From here on, Ctrl-C means an orderly end. */
function listenForStop() {
  const stopping = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => stopping.abort());
  return stopping.signal;
}

async function stopFabric(fabric) {
  await step("Stopping", async () => {
    const { status, left } = await fabric.stop();
    if (left.length > 0) {
      throw new StepFailed("Processes were left behind, and killed.", { detail: left.join("\n") });
    }
    if (status !== 0)
      throw new StepFailed(`The fabric ended with status ${status}. Its log: ${fabric.logFile}`);
    return "Stopped";
  });
}

async function runJob(fabric, options, stopping) {
  const answer = await runForecasts(fabric).catch((error) => {
    // Ctrl-C reaches the example too, and that is no failure of it.
    if (!stopping.aborted) throw error;
  });
  if (stopping.aborted) return;
  checkAnswer(answer);
  if (options.once) return;
  sayWhatNext(fabric);
  const interrupted = new Promise((resolve) => stopping.addEventListener("abort", resolve, { once: true }));
  await Promise.race([interrupted, fabric.ended]);
}

async function main() {
  const options = parseOptions();
  if (options.help) {
    process.stdout.write(HELP);
    return;
  }
  say(bold("Farloom"));
  await prepare();
  const stopping = listenForStop();
  const parts = "web service, PostgreSQL and one endpoint";
  let fabric;
  await step(`Starting ${parts}`, async () => {
    fabric = await startFabric({
      stateDir: options.stateDir,
      port: options.port,
      // What is gone after the job is nobody's default.
      configFile: options.once ? join(options.stateDir, "config.json") : undefined,
      stopping,
    });
    return `Started ${parts}`;
  });
  try {
    const port = Number(new URL(fabric.url).port);
    if (options.port === undefined && port !== DEFAULT_PORT)
      say(`    Port ${DEFAULT_PORT} was taken: this is on ${port}.`);
    say();
    await runJob(fabric, options, stopping);
  } finally {
    say();
    await stopFabric(fabric);
  }
}

await main().catch((error) => {
  sayFailure(error);
  process.exitCode = 1;
});
