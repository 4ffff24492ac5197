/**
 * Starts a program under contain.py, so that nothing it starts outlives it, and waits for it.
 *
 * Invariant: when `runContained` or `stop` has resolved, every process of that program is gone; when this process
 * dies in whatever way, the same happens on Linux.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const CONTAIN = fileURLToPath(new URL("./contain.py", import.meta.url));
/** How much of a failed program's last words a reason may quote. */
const REASON_CHARS = 300;
/** Containment kills a tree in well under a second; past this the whole group is killed. */
const STOP_GRACE_MS = 5_000;

/** The groups that run now, for the signal handler of the main file. */
const running = new Set();

export function startContained(command, args, { cwd, env, onStdout, onStderr }) {
  const child = spawn("python3", [CONTAIN, command, ...args], {
    cwd,
    env,
    detached: true, // a process group of its own
    stdio: ["ignore", "pipe", "pipe"],
  });
  child.stdout.setEncoding("utf8").on("data", (text) => onStdout?.(text));
  child.stderr.setEncoding("utf8").on("data", (text) => onStderr?.(text));
  const ended = new Promise((resolve) => {
    child.once("error", (error) => resolve({ status: -1, error }));
    child.once("close", (status, signal) => resolve({ status: status ?? -1, signal }));
  });
  const signalGroup = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch {
      // It has ended already.
    }
  };
  const contained = {
    ended,
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => signalGroup("SIGKILL"), STOP_GRACE_MS);
      await ended;
      clearTimeout(timer);
      signalGroup("SIGKILL");
    },
  };
  running.add(contained);
  void ended.then(() => running.delete(contained));
  return contained;
}

export async function stopAll() {
  await Promise.all([...running].map((contained) => contained.stop()));
}

function lastWords(text) {
  const lines = text.split("\n").map((line) => line.trim());
  return (lines.filter(Boolean).at(-1) ?? "no output").slice(-REASON_CHARS);
}

/** Runs a program to its end. Resolves with `{ ok: true, stdout }` or `{ ok: false, reason }`; never rejects. */
export async function runContained(command, args, { cwd, env = process.env, timeoutMs, onStderr }) {
  let stdout = "";
  let stderr = "";
  const contained = startContained(command, args, {
    cwd,
    env,
    onStdout: (text) => {
      stdout += text;
    },
    onStderr: (text) => {
      stderr = (stderr + text).slice(-20_000);
      onStderr?.(text);
    },
  });
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    void contained.stop();
  }, timeoutMs);
  const { status, error } = await contained.ended;
  clearTimeout(timer);
  await contained.stop();
  if (timedOut) return { ok: false, reason: `no result within ${timeoutMs / 1000} s` };
  if (error) return { ok: false, reason: `could not be started: ${error.message}` };
  if (status !== 0) return { ok: false, reason: `exit ${status}: ${lastWords(stderr || stdout)}` };
  return { ok: true, stdout };
}

/** The JSON object on the last line of what a program printed, or undefined. */
export function lastJsonLine(stdout) {
  const line = stdout.trimEnd().split("\n").at(-1) ?? "";
  try {
    const value = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
