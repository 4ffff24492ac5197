/**
 * Programs that some tests need and npm cannot bring. They are installed where that is allowed without asking;
 * where it is not, the tests that need them skip themselves, and this says which and how to get them.
 */
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { outputOf, QUIET_ENV, run } from "./run.mjs";

const NEEDED = [
  { program: "redis-server", debian: "redis-server", tests: "the tests of background jobs on Redis" },
];

export function isOnPath(program) {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders.some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** How to become root without asking: a prefix for the command line, or undefined. */
function rootPrefix() {
  if (process.getuid?.() === 0) return [];
  return outputOf("sudo", ["-n", "true"]) === undefined ? undefined : ["sudo", "-n"];
}

async function aptInstall(packages, prefix) {
  // RUNLEVEL=1 keeps Debian from starting what it installs as a service of this machine.
  const settings = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"];
  const apt = async (...args) => {
    const [command, ...rest] = [...prefix, ...settings, "apt-get", "-qq", ...args];
    const { status } = await run(command, rest, { env: QUIET_ENV });
    return status === 0;
  };
  const install = () => apt("install", "-y", "--no-install-recommends", ...packages);
  return (await install()) || ((await apt("update")) && (await install()));
}

/** Brings what is missing; returns a title for the step, and one note for each thing that is still missing. */
export async function bringSystemPackages() {
  const missing = () => NEEDED.filter(({ program }) => !isOnPath(program));
  const wanted = missing();
  const prefix = wanted.length > 0 && existsSync("/usr/bin/apt-get") ? rootPrefix() : undefined;
  if (prefix !== undefined)
    await aptInstall(
      wanted.map(({ debian }) => debian),
      prefix,
    );
  const notes = missing().map(
    ({ program, debian, tests }) =>
      `${program} is missing, so ${tests} are skipped. To run them: sudo apt-get install ${debian}`,
  );
  const names = NEEDED.map(({ program }) => program).join(", ");
  return {
    title: notes.length === 0 ? `Test programs are there (${names})` : "Test programs: some are missing",
    notes,
  };
}
