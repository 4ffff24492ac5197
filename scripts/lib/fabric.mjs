/** The embedded fabric, as `farloom dev` runs it: started for a script, and gone with it. */
import { createWriteStream, existsSync, mkdirSync, readFileSync, rmSync, watch } from "node:fs";
import { dirname, join } from "node:path";
import { startContained } from "./contain.mjs";
import { QUIET_ENV, ROOT } from "./run.mjs";
import { StepFailed } from "./terminal.mjs";

export const CLI = join(ROOT, "packages/cli/bin/farloom.js");
/** A first start makes a database; a slow disk takes its time. */
const READY_MS = 120_000;
/** Of the log, when the start fails. */
const TAIL_CHARS = 4_000;

/**
 * Starts it and waits until an endpoint is connected. Resolves with what `farloom dev` says of itself in its
 * ready file, and how to stop it. Without `port` it takes 8722, or the next free one. `configFile` keeps it from
 * becoming the default of the user's own `farloom`.
 */
export async function startFabric({ stateDir, port, configFile, stopping }) {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const readyFile = join(stateDir, "ready.json");
  const logFile = join(stateDir, "dev.log");
  rmSync(readyFile, { force: true });
  const log = createWriteStream(logFile);
  const args = [CLI, "dev", "--state-dir", stateDir, "--ready-file", readyFile];
  if (port !== undefined) args.push("--port", String(port));
  // All embedded, whatever databases other projects have put into this environment.
  const { DATABASE_URL, REDIS_URL, ...env } = QUIET_ENV;
  if (configFile) env.FARLOOM_CONFIG = configFile;
  const run = startContained(process.execPath, args, {
    cwd: ROOT,
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  run.child.stdout.pipe(log, { end: false });
  run.child.stderr.pipe(log, { end: false });
  const stop = async () => {
    const outcome = await run.stop();
    log.end();
    return outcome;
  };
  try {
    await untilReady(readyFile, run.ended, stopping);
  } catch (error) {
    await stop();
    const text = existsSync(logFile) ? readFileSync(logFile, "utf8") : "";
    throw new StepFailed(`${error.message} Its log: ${logFile}`, { detail: text.slice(-TAIL_CHARS) });
  }
  return { ...JSON.parse(readFileSync(readyFile, "utf8")), stateDir, logFile, ended: run.ended, stop };
}

/** The environment in which a program finds the fabric and its endpoint. */
export function clientEnv({ url, endpoint, apiKeyFile }) {
  const apiKey = readFileSync(apiKeyFile, "utf8").trim();
  return { ...QUIET_ENV, FARLOOM_URL: url, FARLOOM_API_KEY: apiKey, FARLOOM_ENDPOINT: endpoint };
}

/** The file appears whole (written aside, then renamed), so its presence is enough. */
function untilReady(readyFile, ended, stopping) {
  return new Promise((resolve, reject) => {
    const watcher = watch(dirname(readyFile), () => existsSync(readyFile) && settle(resolve));
    const fail = (message) => settle(() => reject(new Error(message)));
    const timer = setTimeout(() => fail(`The fabric was not ready after ${READY_MS / 1000} s.`), READY_MS);
    const onStop = () => fail("Stopped while the fabric was starting.");
    const settle = (how) => {
      clearTimeout(timer);
      watcher.close();
      stopping.removeEventListener("abort", onStop);
      how();
    };
    stopping.addEventListener("abort", onStop);
    void ended.then(({ status }) => fail(`The fabric ended at its start (status ${status}).`));
    if (existsSync(readyFile)) settle(resolve);
  });
}
