/**
 * Runs the programs of peers: to their end, within a time, and so that nothing they start outlives them (the reaper
 * of scripts/lib sees to that).
 */
import { startContained as start } from "../../scripts/lib/contain.mjs";

/** How much of a failed program's last words a reason may quote. */
const REASON_CHARS = 300;

/** What runs now, for the signal handler of the main file. */
const running = new Set();

export function startContained(command, args, { cwd, env, onStdout, onStderr }) {
  const run = start(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  run.child.stdout.setEncoding("utf8").on("data", (text) => onStdout?.(text));
  run.child.stderr.setEncoding("utf8").on("data", (text) => onStderr?.(text));
  const ended = run.ended.catch((error) => ({ status: -1, error }));
  const contained = { ended, stop: () => run.stop().catch(() => undefined) };
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
