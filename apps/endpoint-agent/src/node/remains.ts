/**
 * What a worker's tasks started and left behind, found by /proc and ended. A process belongs to a worker where any of
 * these holds:
 *
 *   group    its process group is the worker's (everything that did not ask for another)
 *   session  its session is the worker's (shells with job control, process pools)
 *   marker   its environment holds FARLOOM_WORKER with the worker's own unguessable value, which everything inherits
 *            that the worker or its tasks start (daemons that fork twice and call setsid)
 *
 * What is not found: a process that left group and session and was started with an environment of its own (`env -i`,
 * `sudo`), and what others start on a task's behalf (a container daemon, `at`, `ssh` to elsewhere). A zombie has
 * ended; only its parent has not asked yet.
 *
 * Where there is no /proc only the group can be signalled, and nothing is confirmed.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { killGroup } from "./proc.js";

/** The variable that marks everything a worker starts. */
export const MARKER_VARIABLE = "FARLOOM_WORKER";
/** Between two looks: a process that was signalled needs a moment to go. */
const LOOK_MS = 20;
/** SIGKILL that has not ended a process after this long will not: it hangs in the kernel. */
const GIVE_UP_MS = 2_000;
/** Processes looked at before the event loop has its turn. */
const SLICE = 100;

/** Whose processes are looked for. */
export interface Lineage {
  readonly pid: number;
  /** When the worker started, in ticks since boot: nothing older can be its own. */
  readonly startTime: string;
  /** Empty: unknown. */
  readonly marker: string;
  /** The variable that holds the marker. Default: that of workers. */
  readonly variable?: string;
}

interface Found {
  readonly pid: number;
  readonly inGroup: boolean;
}

/** Every live process of this lineage but the worker itself, or undefined where there is no /proc. */
export async function findRemains(of: Lineage): Promise<readonly Found[] | undefined> {
  if (of.pid <= 1) return [];
  let names: string[];
  try {
    names = readdirSync("/proc");
  } catch {
    return undefined;
  }
  const marker = of.marker === "" ? undefined : `${of.variable ?? MARKER_VARIABLE}=${of.marker}\0`;
  const since = /^\d+$/.test(of.startTime) ? BigInt(of.startTime) : 0n;
  let isReused = false;
  let found: Found[] = [];
  let looked = 0;
  for (const name of names) {
    const pid = Number(name);
    if (!(pid > 1) || pid === process.pid) continue;
    if (++looked % SLICE === 0) await new Promise((resolve) => setImmediate(resolve));
    const stat = readStat(pid);
    if (stat === undefined || stat.startTime < since) continue;
    if (pid === of.pid) {
      // The number went to another process: its group and session are not the worker's any more.
      if (stat.startTime !== since) isReused = true;
      continue;
    }
    const inGroup = stat.group === of.pid;
    if (inGroup || stat.session === of.pid) found.push({ pid, inGroup });
    else if (marker !== undefined && hasMarker(pid, marker)) found.push({ pid, inGroup: false });
  }
  if (isReused) found = found.filter(({ pid }) => marker !== undefined && hasMarker(pid, marker));
  return found;
}

/** Asks what has left the worker's group to end; the group itself has been asked. */
export async function askRemains(of: Lineage): Promise<void> {
  for (const { pid, inGroup } of (await findRemains(of)) ?? []) if (!inGroup) signal(pid, "SIGTERM");
}

/**
 * Ends what a dead worker left behind: from `killAtMs()` on (monotonic) by SIGKILL, until then it may end by itself.
 * True: nothing of it is left, for certain.
 */
export async function clearRemains(of: Lineage, killAtMs: () => number): Promise<boolean> {
  if (of.pid <= 1) return true;
  let giveUpAtMs: number | undefined;
  for (;;) {
    const left = await findRemains(of);
    if (left === undefined) {
      killGroup(of.pid, "SIGKILL");
      return false;
    }
    if (left.length === 0) return true;
    const now = performance.now();
    if (now >= killAtMs()) {
      giveUpAtMs ??= now + GIVE_UP_MS;
      if (now >= giveUpAtMs) return false;
      for (const { pid } of left) signal(pid, "SIGKILL");
    }
    await sleep(LOOK_MS);
  }
}

interface Stat {
  readonly group: number;
  readonly session: number;
  readonly startTime: bigint;
}

/** Undefined where the process is gone or has ended. */
function readStat(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may hold anything; the fields after it are plain.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    return { group: Number(fields[2]), session: Number(fields[3]), startTime: BigInt(fields[19] ?? "0") };
  } catch {
    return undefined;
  }
}

function hasMarker(pid: number, marker: string): boolean {
  try {
    return `${readFileSync(`/proc/${pid}/environ`, "latin1")}\0`.includes(marker);
  } catch {
    // Another user's, or gone.
    return false;
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // Gone already, or not ours to end: the next look tells.
  }
}
