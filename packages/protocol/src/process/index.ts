/**
 * How every program of Farloom that has keys in its memory begins, on a machine that others use too. For Node alone, and so
 * apart from the contract: `@farloom/protocol/process`.
 */
import { execFileSync } from "node:child_process";

/**
 * First thing in a program: whatever it and its children make is for its user alone (umask 077), and a crash of theirs
 * writes no core file. Where the system has no `prlimit`, the limit is as the shell gave it.
 */
export function beginPrivately(): void {
  process.umask(0o077);
  try {
    // The soft limit alone: a function that wants a dump of its own program can raise it again.
    execFileSync("prlimit", [`--pid=${process.pid}`, "--core=0:"], { stdio: "ignore" });
  } catch {
    // As the shell gave it.
  }
}
