/** Child processes of the scripts: run to the end with the output kept, or passed on as it comes. */
import { spawn, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { StepFailed } from "./terminal.mjs";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Output kept of a step: enough for the errors of a build. */
const KEPT_CHARS = 64_000;

/** What every child gets: no telemetry, no colour codes in what is kept, no update notices. */
export const QUIET_ENV = Object.freeze({
  ...process.env,
  TURBO_TELEMETRY_DISABLED: "1",
  DO_NOT_TRACK: "1",
  CHECKPOINT_DISABLE: "1",
  PYTHONDONTWRITEBYTECODE: "1",
});

/** Runs a program to its end. Resolves with `{ status, output }`, whatever the status; rejects where there is no such program. */
export function run(command, args, { cwd = ROOT, env = QUIET_ENV } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output = (output + text).slice(-KEPT_CHARS);
      });
    }
    child.once("error", reject);
    child.once("close", (status, signal) =>
      resolve({ status: status ?? 128, signal: signal ?? undefined, output }),
    );
  });
}

/** The same where only success will do. */
export async function runOrFail(command, args, { message, ...options }) {
  const { status, output } = await run(command, args, options);
  if (status !== 0) throw new StepFailed(message, { detail: output });
  return output;
}

/** The output of a short program, or undefined where it is missing or fails. */
export function outputOf(command, args, env = QUIET_ENV) {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8", env });
  return status === 0 ? (stdout || stderr).trim() : undefined;
}
