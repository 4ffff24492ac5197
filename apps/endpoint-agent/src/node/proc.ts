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
 * How often the kernel ended a process of our cgroup, or of this machine, for lack of memory; undefined where nothing
 * tells. A rise between two looks tells a SIGKILL by the kernel from any other.
 */
export function oomKills(): number | undefined {
  let groups: string;
  try {
    groups = readFileSync("/proc/self/cgroup", "latin1");
  } catch {
    return undefined;
  }
  const v2 = groups.match(/^0::(.*)$/m)?.[1];
  const v1 = groups.match(/^\d+:memory:(.*)$/m)?.[1];
  const paths: [string, RegExp][] = [];
  if (v2 !== undefined) paths.push([`/sys/fs/cgroup${v2}/memory.events`, /^oom_kill (\d+)$/m]);
  if (v1 !== undefined) {
    // In a container the path is the host's, and the files of the own group lie at the top.
    paths.push([`/sys/fs/cgroup/memory${v1}/memory.oom_control`, /^oom_kill (\d+)$/m]);
    paths.push(["/sys/fs/cgroup/memory/memory.oom_control", /^oom_kill (\d+)$/m]);
  }
  paths.push(["/sys/fs/cgroup/memory.events", /^oom_kill (\d+)$/m], ["/proc/vmstat", /^oom_kill (\d+)$/m]);
  for (const [path, pattern] of paths) {
    const n = number(path, pattern);
    if (n !== undefined) return n;
  }
  return undefined;
}

function number(path: string, pattern: RegExp): number | undefined {
  try {
    const found = readFileSync(path, "latin1").match(pattern)?.[1];
    return found === undefined ? undefined : Number(found);
  } catch {
    return undefined;
  }
}
