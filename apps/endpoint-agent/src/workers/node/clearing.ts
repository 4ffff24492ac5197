/**
 * What a task leaves running is gone before the next task begins, where the level of isolation promises that
 * (Clearing in farloom_worker.py says the same for Python).
 *
 * In a PID namespace everything but this process and the first belongs to the task. Outside of one its processes are
 * found by group, session and mark (node/remains.ts), which is looked for only once a function has loaded what starts
 * processes.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { processStartTime } from "../../node/proc.js";
import { clearRemains, MARKER_VARIABLE } from "../../node/remains.js";

/** What hangs in the kernel for longer ends this worker. */
const GIVE_UP_MS = 2_000;
/** As it was before any function could change it. */
const MARKER = process.env[MARKER_VARIABLE] ?? "";

export type Clear = "namespace" | "descendants";

/** Resolves once nothing of the task runs; ends the process where that cannot be had. */
export async function clearProcesses(how: Clear, leave: (code: number) => never): Promise<void> {
  if (!(how === "namespace" ? await clearNamespace() : await clearMarked())) leave(70);
}

async function clearNamespace(): Promise<boolean> {
  const untilMs = performance.now() + GIVE_UP_MS;
  while (isAnyoneLeft("SIGKILL")) {
    if (performance.now() > untilMs) return false;
    // Children are waited for by the event loop.
    await sleep(1);
  }
  return true;
}

/** kill(-1) spares the caller and the first process. */
function isAnyoneLeft(signal: NodeJS.Signals): boolean {
  try {
    process.kill(-1, signal);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

async function clearMarked(): Promise<boolean> {
  const loaded = (process as unknown as { moduleLoadList?: readonly string[] }).moduleLoadList;
  if (loaded && !loaded.includes("NativeModule child_process")) return true;
  const startTime = processStartTime(process.pid) ?? "0";
  return clearRemains({ pid: process.pid, startTime, marker: MARKER }, () => 0);
}
