/**
 * What a user wants done on a node before its workers start: modules, conda, variables. The lines run in bash, once for
 * each node, and the environment that they leave is that of the node program and of its workers.
 *
 * The lines travel in the parameters file and reach bash over a pipe: they are never part of an argv or of a script
 * that somebody else wrote.
 */
import { spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";

/** Constant: the lines come in by fd 4, the environment goes out by fd 3. */
const READ_AND_TELL = 'eval "$(cat <&4)" && env -0 >&3';
/** Modules on a file system that has a bad day. */
const TIMEOUT_MS = 300_000;
/** Of what it said last, for people. */
const MAX_SAID_CHARS = 2_000;
/** The kernel's own bound for all arguments and variables of a program. */
const MAX_ENV_BYTES = 2 * 1024 * 1024;

/** The environment after these lines. Throws an Error with what bash said where they fail, exit or hang. */
export async function environmentAfter(
  lines: string,
  env: Readonly<Record<string, string | undefined>>,
  timeoutMs = TIMEOUT_MS,
): Promise<Record<string, string>> {
  const child = spawn("bash", ["-c", READ_AND_TELL], {
    env: { ...env },
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "pipe", "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-MAX_SAID_CHARS);
    });
  }
  const told: Buffer[] = [];
  let toldBytes = 0;
  const [, , , out, script] = child.stdio as unknown as [null, Readable, Readable, Readable, Writable];
  out.on("data", (chunk: Buffer) => {
    toldBytes += chunk.length;
    if (toldBytes <= MAX_ENV_BYTES) told.push(chunk);
  });
  // Bash may end before it has read all.
  script.on("error", () => undefined);
  script.end(`${lines}\n`);
  const end = await new Promise<string>((resolve) => {
    const timer = setTimeout(() => {
      killAll(child.pid);
      resolve(`it took longer than ${timeoutMs / 1000} s`);
    }, timeoutMs);
    child.once("error", (error) => resolve(error.message));
    // `exit`, not `close`: what it left running in the background may hold its pipes open.
    child.once("exit", (code, signal) => {
      clearTimeout(timer);
      setImmediate(() => resolve(code === 0 ? "" : `it ended with ${signal ?? `exit code ${code}`}`));
    });
  });
  for (const stream of [child.stdout!, child.stderr!, out]) stream.destroy();
  if (end !== "" || toldBytes === 0 || toldBytes > MAX_ENV_BYTES) {
    throw new Error(
      `worker_init failed: ${end || "it left no environment"}. It said last: ${said.trim() || "nothing"}`,
    );
  }
  const after: Record<string, string> = {};
  for (const entry of Buffer.concat(told).toString("utf8").split("\0")) {
    const at = entry.indexOf("=");
    if (at > 0) after[entry.slice(0, at)] = entry.slice(at + 1);
  }
  return after;
}

function killAll(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, "SIGKILL");
  } catch {
    // Gone meanwhile.
  }
}
