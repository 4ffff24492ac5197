/**
 * A program under reaper.py: nothing it starts outlives it unnoticed.
 *
 * 1. `ended` resolves when the program and everything below it are gone, with what had to be killed (`left`).
 * 2. When this process dies, in whatever way, the program is told to stop (Linux).
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const REAPER = fileURLToPath(new URL("./reaper.py", import.meta.url));
/** Beyond the reaper's own grace: after this it is killed itself. */
const STOP_MS = 30_000;

/** Starts it. `stdio` as for `spawn`; `stop()` asks it to end, is idempotent, and resolves as `ended` does. */
export function startContained(command, args, options) {
  const folder = mkdtempSync(join(tmpdir(), "farloom-run-"));
  const report = join(folder, "left");
  const child = spawn("python3", [REAPER, report, command, ...args], {
    ...options,
    // A terminal's Ctrl-C is ours to answer; the reaper hears of it from `stop`.
    detached: true,
  });
  const ended = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => {
      resolve({ status: status ?? 128, signal: signal ?? undefined, left: readReport(report) });
      rmSync(folder, { recursive: true, force: true });
    });
  });
  return {
    child,
    ended,
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
      return ended.finally(() => clearTimeout(timer));
    },
  };
}

function readReport(file) {
  try {
    return readFileSync(file, "utf8").split("\n").filter(Boolean);
  } catch {
    // The reaper itself was killed, so nobody looked.
    return ["(unknown: the process that watches was killed)"];
  }
}
