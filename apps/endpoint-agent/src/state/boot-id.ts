/**
 * Which boot of which machine this is. The journal carries it: what the page cache held survives kill -9 but
 * not another boot.
 */
import { readFileSync } from "node:fs";
import { hostname, uptime } from "node:os";

/**
 * The kernel's boot id; where there is none (macOS), the host and the minute it booted in. Tests that let a machine
 * "die" give another one in FARLOOM_TEST_BOOT_ID; nothing else should set it.
 */
export function readBootId(env: Readonly<Record<string, string | undefined>> = process.env): string {
  const forged = env.FARLOOM_TEST_BOOT_ID;
  if (forged !== undefined && forged !== "") return forged.slice(0, 36);
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    // A corrected clock may change this for the same boot, which only errs on the careful side.
    return `${hostname()}-${Math.round((Date.now() / 1000 - uptime()) / 60)}`.slice(0, 36);
  }
}

/** When process `pid` started, in ticks since boot: with the pid it names one process for ever. Undefined where it is gone. */
export function processStart(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; field 22 is the 20th after it.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A zombie has ended; where nobody reaps it, it stays for ever.
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    try {
      process.kill(pid, 0);
      return "unknown";
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EPERM" ? "unknown" : undefined;
    }
  }
}
