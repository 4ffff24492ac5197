/**
 * A clock of the day that jumps, for one process: libfaketime, read anew from a file; the monotonic clock stays the
 * machine's. Undefined where it is not installed.
 */
import { existsSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PLACES = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];

function findLibrary() {
  for (const place of PLACES) {
    if (!existsSync(place)) continue;
    const folders = [
      join(place, "faketime"),
      ...readdirSync(place).map((name) => join(place, name, "faketime")),
    ];
    const found = folders
      .map((folder) => join(folder, "libfaketimeMT.so.1"))
      .find((path) => existsSync(path));
    if (found) return found;
  }
  return undefined;
}

const library = findLibrary();

/** @type {undefined | (() => {env: Record<string, string>, jump: (seconds: number) => void})} */
export const clockEnv =
  library === undefined
    ? undefined
    : () => {
        const file = join(mkdtempSync(join(tmpdir(), "farloom-clock-")), "offset");
        const jump = (seconds) => writeFileSync(file, `${seconds >= 0 ? "+" : ""}${seconds}s\n`);
        jump(0);
        const env = {
          LD_PRELOAD: library,
          FAKETIME_TIMESTAMP_FILE: file,
          FAKETIME_NO_CACHE: "1",
          FAKETIME_DONT_FAKE_MONOTONIC: "1",
        };
        return { env, jump };
      };
