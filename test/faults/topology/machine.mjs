/**
 * What of the machine the campaign may bend: small disks, clocks, packets. Only within namespaces of its own (`npm run
 * faults` makes them where it may): nothing that it mounts or filters is ever seen outside, and all ends with it.
 */
import { execFileSync } from "node:child_process";
import { existsSync, renameSync, writeFileSync } from "node:fs";

const LIBFAKETIME = [
  "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
  "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
  "/usr/lib/faketime/libfaketimeMT.so.1",
].find((file) => existsSync(file));

/** Whether this process has namespaces of its own for mounts and the network. */
export function isContained() {
  return process.env.FARLOOM_FAULTS_CONTAINED === "1";
}

export function disksAvailable() {
  return isContained();
}

export function mountDisk(dir, sizeMb, mode) {
  execFileSync("mount", [
    "-t",
    "tmpfs",
    "-o",
    `size=${sizeMb}m,mode=${mode.toString(8)}`,
    "farloom-faults",
    dir,
  ]);
}

export function unmountDisk(dir) {
  try {
    execFileSync("umount", ["-l", dir], { stdio: "ignore" });
  } catch {
    // It goes with the namespace.
  }
}

export function clocksAvailable() {
  return LIBFAKETIME !== undefined;
}

/** For a process whose wall clock follows the file. Monotonic clocks stay true. */
export function clockEnv(file) {
  return {
    LD_PRELOAD: LIBFAKETIME ?? "",
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_CACHE_DURATION: "1",
    FAKETIME_DONT_FAKE_MONOTONIC: "1",
    FAKETIME_DONT_RESET: "1",
  };
}

/** The offset of a wall clock: "+24h", "-90s", "+0". Whole or not at all: a process may read it at any moment. */
export function setClock(file, offset) {
  writeFileSync(`${file}.new`, `${offset}\n`);
  renameSync(`${file}.new`, file);
}
