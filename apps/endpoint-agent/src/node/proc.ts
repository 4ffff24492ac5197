/** What /proc tells of a process: alive or not, and the same process or only the same number. */
import { readFileSync } from "node:fs";

/** The start time of a live process in clock ticks since boot; undefined where it is gone or a zombie. */
export function processStartTime(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The second field is the name in parentheses and may hold anything; the fields after it are plain.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Signals a whole process group; silent where it is gone. */
export function killGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // ESRCH: it is gone already, which is what the caller wants.
  }
}

/**
 * How often the kernel ended a process of ours, or of this machine, for lack of memory. A rise between two
 * looks tells a SIGKILL by the kernel from any other.
 */
export function oomKills(): number {
  try {
    const group = readFileSync("/proc/self/cgroup", "latin1").match(/^0::(.*)$/m)?.[1];
    if (group !== undefined) {
      for (const path of [`/sys/fs/cgroup${group}/memory.events`, "/sys/fs/cgroup/memory.events"]) {
        const n = number(path, /^oom_kill (\d+)$/m);
        if (n !== undefined) return n;
      }
    }
    return number("/proc/vmstat", /^oom_kill (\d+)$/m) ?? 0;
  } catch {
    return 0;
  }
}

function number(path: string, pattern: RegExp): number | undefined {
  try {
    const found = readFileSync(path, "latin1").match(pattern)?.[1];
    return found === undefined ? undefined : Number(found);
  } catch {
    return undefined;
  }
}
