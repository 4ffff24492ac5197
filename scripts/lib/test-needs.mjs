/**
 * What some tests need and npm cannot bring. It is brought where that is allowed without asking; where it is not,
 * the tests that need it skip themselves, and this says which and how to get them.
 *
 * 1. Nothing outside of node_modules is changed but by the system's own package manager.
 * 2. A service that a Debian package would start stays stopped.
 */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { outputOf, QUIET_ENV, ROOT, run } from "./run.mjs";

const CLOUDPICKLE = "3.1.2";
/** A Python with cloudpickle, where the machine's own has none. */
const VENV = join(ROOT, "node_modules/.cache/python");
const VENV_BIN = join(VENV, "bin");
const MOTO = "5.2.5";
/** An S3 server, in a Python of its own: it brings much with it. test/support/s3.ts looks here. */
const MOTO_VENV = join(ROOT, "node_modules/.cache/moto");

/** Makes requests up from the API page, in a Python of its own. test/security/schema looks here. */
const SCHEMATHESIS_VENV = join(ROOT, "node_modules/.cache/schemathesis");
const SCHEMATHESIS_PINS = join(ROOT, "test/security/schema/requirements.txt");
const SCHEMATHESIS = /^schemathesis==(.+)$/m.exec(readFileSync(SCHEMATHESIS_PINS, "utf8"))[1];

const NEEDS = [
  {
    name: "redis-server",
    isThere: () => isOnPath("redis-server"),
    debian: ["redis-server"],
    tests: "the tests of background jobs on Redis",
  },
  {
    name: "slurm",
    isThere: () => ["munged", "slurmctld", "slurmd", "sbatch"].every(isDaemonThere),
    debian: ["munge", "slurmctld", "slurmd", "slurm-wlm-basic-plugins", "slurm-client"],
    tests: "the tests of blocks on Slurm",
  },
  {
    name: "bubblewrap",
    isThere: () => isOnPath("bwrap"),
    debian: ["bubblewrap"],
    tests: "the tests of isolation in namespaces",
  },
  {
    name: "sshd",
    isThere: () => ["ssh", "sshd"].every(isDaemonThere),
    debian: ["openssh-client", "openssh-server"],
    tests: "the tests of blocks through ssh",
  },
  {
    name: "cron and tmux",
    isThere: () => ["cron", "crontab", "tmux"].every(isDaemonThere),
    debian: ["cron", "tmux"],
    tests: "the tests of agents that come back",
  },
  {
    name: "cloudpickle",
    isThere: () => outputOf("python3", ["-c", "import cloudpickle; print(1)"], testEnv()) !== undefined,
    bring: () => makeVenv(VENV, `cloudpickle==${CLOUDPICKLE}`),
    debian: ["python3-cloudpickle"],
    tests: "the tests of pickled functions",
  },
  {
    name: "moto_server",
    isThere: () =>
      [join(MOTO_VENV, "bin/moto_server"), "moto_server"].some(
        (program) => outputOf(program, ["--help"]) !== undefined,
      ),
    bring: () => makeVenv(MOTO_VENV, `moto[s3,server]==${MOTO}`),
    cure: `pip install 'moto[s3,server]==${MOTO}'`,
    tests: "the tests of objects in S3",
  },
  {
    name: "schemathesis",
    isThere: () =>
      outputOf(join(SCHEMATHESIS_VENV, "bin/st"), ["--version"])?.includes(SCHEMATHESIS) === true,
    bring: () => makeVenv(SCHEMATHESIS_VENV, "--only-binary", ":all:", "-r", SCHEMATHESIS_PINS),
    cure: "reach the Python package index (pip download schemathesis), with a Python of 3.10 or later, and npm test",
    tests: "the tests that hold replies to the API page",
  },
];

/** The environment of tests: with the Python made for them first, where there is one. */
export function testEnv() {
  const isMade = existsSync(join(VENV_BIN, "python3"));
  return isMade ? { ...QUIET_ENV, PATH: `${VENV_BIN}${delimiter}${QUIET_ENV.PATH}` } : QUIET_ENV;
}

/** Debian puts daemons where the PATH of a user does not look. */
function isDaemonThere(program) {
  return isOnPath(program, `${process.env.PATH}${delimiter}/usr/sbin`);
}

function isOnPath(program, path = process.env.PATH ?? "") {
  return path.split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Whether a command succeeds; one that does not exist does not. */
async function succeeds(command, args) {
  try {
    return (await run(command, args)).status === 0;
  } catch {
    return false;
  }
}

async function makeVenv(folder, ...requirements) {
  const pip = ["install", "--quiet", "--disable-pip-version-check", ...requirements];
  return (
    (await succeeds("python3", ["-m", "venv", "--clear", folder])) &&
    (await succeeds(join(folder, "bin/pip"), pip))
  );
}

/** How to become root without asking: the beginning of a command line, or undefined. */
function rootPrefix() {
  if (!existsSync("/usr/bin/apt-get")) return undefined;
  if (process.getuid?.() === 0) return [];
  return outputOf("sudo", ["-n", "true"]) === undefined ? undefined : ["sudo", "-n"];
}

async function aptInstall(packages, prefix) {
  const apt = (...args) => {
    // RUNLEVEL=1 keeps Debian from starting what it installs (2).
    const settings = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"];
    const [command, ...rest] = [...prefix, ...settings, "apt-get", "-qq", ...args];
    return succeeds(command, rest);
  };
  const install = () => apt("install", "-y", "--no-install-recommends", ...packages);
  return (await install()) || ((await apt("update")) && (await install()));
}

/** Brings what is missing. Resolves with a title for the step, and a note for each thing that is still missing. */
export async function bringTestNeeds() {
  const missing = () => NEEDS.filter((need) => !need.isThere());
  for (const need of missing()) await need.bring?.();
  const packages = missing().flatMap(({ debian }) => debian ?? []);
  const prefix = packages.length > 0 ? rootPrefix() : undefined;
  if (prefix !== undefined) await aptInstall(packages, prefix);
  const notes = missing().map(
    ({ name, debian, cure = `sudo apt-get install ${debian.join(" ")}`, tests }) =>
      `${name} is missing, so ${tests} are skipped. To run them: ${cure}`,
  );
  const names = NEEDS.map(({ name }) => name).join(", ");
  return {
    title: notes.length === 0 ? `What tests need is there (${names})` : "Some of what tests need is missing",
    notes,
  };
}
