/**
 * What this machine can do, found out at the agent's start by doing it: each level's own way is taken with `true` as the
 * program. A level that the configuration wants and that fails ends the start, with the reason and the cure.
 *
 * Levels that were not asked for are tried as well, as far as they need nothing that only a configuration names; the
 * answer is what the endpoint could offer.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { isSea } from "node:sea";
import { fileURLToPath } from "node:url";
import { FarloomError, ISOLATION_LEVELS, type IsolationInfo, type IsolationLevel } from "@farloom/protocol";
import { printed } from "../python-version.js";
import { bubblewrapArgs, installationOf, isSystemPath, shownOf } from "./bubblewrap.js";
import type { IsolationConfig } from "./config.js";
import { containerCommand } from "./container.js";
import { type Means, Sandbox } from "./sandbox.js";

/** A container may have to be unpacked first. */
const TRY_MS = 60_000;
/**
 * Which program a Python is in truth (what PATH finds may be a script that chooses one), and where its files are: its own,
 * and those of the Python that a virtual environment was made from.
 */
const PYTHON_PROBE =
  "import sys;print('\\n'.join([sys.executable,sys.prefix,sys.base_prefix,sys.exec_prefix]))";

/** What the levels came to on this machine. */
export interface Prepared {
  /** How workers are started; undefined at level `none`. */
  readonly sandbox: Sandbox | undefined;
  readonly info: IsolationInfo;
}

/** Why a level cannot be had, and what to do about it. */
interface Refusal {
  readonly reason: string;
  readonly cure: string;
}

export interface PrepareOptions {
  /** Whether other levels than the configured one are tried. Default: true. */
  readonly all?: boolean;
  /** Where the interpreter is looked for, as workers will be. Default: this process's own. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * Tries the configured level, and with `all` the others too. Throws FarloomError ISOLATION_IMPOSSIBLE where the configured
 * one cannot be had; then all are tried, to say what can.
 */
export async function prepareIsolation(
  config: IsolationConfig,
  python: string,
  { all = true, env = process.env }: PrepareOptions = {},
): Promise<Prepared> {
  const trials = new Trials(config, python);
  const refusals = new Map<IsolationLevel, Refusal>();
  const wanted = all || (await trials.attempt(config.level)) ? ISOLATION_LEVELS : [];
  for (const level of wanted) {
    const refusal = await trials.attempt(level);
    if (refusal) refusals.set(level, refusal);
  }
  const { level, network } = config;
  const offers = wanted.length === 0 ? [level] : wanted.filter((one) => !refusals.has(one));
  const refusal = refusals.get(level);
  if (refusal)
    throw new FarloomError("ISOLATION_IMPOSSIBLE", { level, ...refusal, offers: offers.join(", ") });
  const sandbox = level === "none" ? undefined : new Sandbox(config, await trials.means(level, env));
  return { sandbox, info: { level, offers, network } };
}

class Trials {
  readonly #config: IsolationConfig;
  readonly #python: string;
  #disableUserNamespaces = false;

  constructor(config: IsolationConfig, python: string) {
    this.#config = config;
    this.#python = python;
  }

  /** Undefined where the level works. */
  async attempt(level: IsolationLevel): Promise<Refusal | undefined> {
    switch (level) {
      case "none":
        return undefined;
      case "limits":
        return this.#limits();
      case "namespaces":
        return this.#namespaces();
      case "container":
        return this.#container();
      case "user":
        return this.#user();
    }
  }

  async means(level: IsolationLevel, env: NonNullable<PrepareOptions["env"]>): Promise<Means> {
    const told = await printed(this.#python, ["-c", PYTHON_PROBE], env);
    const [executable, ...prefixes] = told?.split("\n") ?? [];
    return {
      python: executable ? { configured: this.#python, executable } : undefined,
      userNamespace: level === "namespaces",
      disableUserNamespaces: this.#disableUserNamespaces,
      installations: level === "container" ? [] : installations(prefixes),
      becomes: level === "user" ? userOf(this.#config.user ?? "") : undefined,
    };
  }

  async #limits(): Promise<Refusal | undefined> {
    if (process.platform !== "linux")
      return { reason: "it is for Linux", cure: "Run the agent on a Linux machine" };
    const said = await run("prlimit", ["--core=0:0", "--", "true"]);
    return said === undefined
      ? undefined
      : { reason: `prlimit failed: ${said}`, cure: "Install util-linux, which every Linux has" };
  }

  async #namespaces(): Promise<Refusal | undefined> {
    const attempt = (disableUserNamespaces: boolean): Promise<string | undefined> =>
      withPlaces((own) => {
        const view = { ...NOTHING, userNamespace: true, disableUserNamespaces, own };
        return run("bwrap", [...bubblewrapArgs(view), "true"]);
      });
    if ((await attempt(true)) === undefined) {
      this.#disableUserNamespaces = true;
      return undefined;
    }
    const said = await attempt(false);
    return said === undefined ? undefined : bubblewrapRefusal(said);
  }

  async #container(): Promise<Refusal | undefined> {
    const { image, runner } = this.#config;
    if (image === undefined) {
      const cure = 'Name one: image = "…" in the table [isolation] of agent.toml';
      return { reason: "no image is configured", cure };
    }
    const said = await withPlaces((own) => {
      const [command, ...args] = containerCommand(this.#config, {
        network: false,
        own,
        program: own.worker,
        variables: [],
      });
      return run(command, [...args, "python3", "-c", "pass"]);
    });
    if (said === undefined) return undefined;
    const missing = said.includes("ENOENT");
    const cure = missing
      ? `Install ${runner}, or set runner in the table [isolation] of agent.toml`
      : `See that '${runner}' runs the image by hand, and that it has python3`;
    return { reason: missing ? `there is no program ${runner}` : `${runner}: ${said}`, cure };
  }

  async #user(): Promise<Refusal | undefined> {
    const { user } = this.#config;
    if (process.getuid?.() !== 0)
      return { reason: "only root may run tasks as another user", cure: "Start the agent as root" };
    if (user === undefined) {
      const cure = 'Name one that owns nothing: user = "…" in the table [isolation] of agent.toml';
      return { reason: "no user is configured", cure };
    }
    const becomes = userOf(user);
    if (becomes === undefined)
      return { reason: `there is no user ${user}`, cure: `Make it: useradd --system ${user}` };
    if (becomes.uid === 0) return { reason: `${user} is root`, cure: "Name a user that owns nothing" };
    const said = await withPlaces((own) => {
      const view = { ...NOTHING, userNamespace: false, disableUserNamespaces: false, own, becomes };
      return run("bwrap", [...bubblewrapArgs(view), "true"]);
    });
    return said === undefined ? undefined : bubblewrapRefusal(said);
  }
}

const NOTHING = { network: false, readOnly: [], bind: [] } as const;

/** By what bubblewrap and the kernel say. */
function bubblewrapRefusal(said: string): Refusal {
  if (said.includes("ENOENT")) {
    const cure = "Install it: apt-get install bubblewrap, or dnf install bubblewrap";
    return { reason: "there is no program bwrap (bubblewrap)", cure };
  }
  const cures = namespaceCures();
  return {
    reason: `bubblewrap: ${said}`,
    cure:
      cures.length > 0
        ? `Let users make namespaces: ${cures.join("; ")}`
        : "See that 'bwrap --ro-bind / / --unshare-all true' works for the agent's user",
  };
}

/** The settings of this kernel that keep users from making namespaces. */
function namespaceCures(): string[] {
  const settings: [path: string, isBad: (value: number) => boolean, cure: string][] = [
    ["kernel/unprivileged_userns_clone", (n) => n === 0, "sysctl kernel.unprivileged_userns_clone=1"],
    ["user/max_user_namespaces", (n) => n === 0, "sysctl user.max_user_namespaces=15000"],
    [
      "kernel/apparmor_restrict_unprivileged_userns",
      (n) => n > 0,
      "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that lets bwrap",
    ],
  ];
  return settings.flatMap(([path, isBad, cure]) => {
    try {
      return isBad(Number(readFileSync(`/proc/sys/${path}`, "utf8"))) ? [cure] : [];
    } catch {
      return [];
    }
  });
}

/** What the image's Python prints; undefined where the image does not run it. */
export function printedInImage(
  config: IsolationConfig,
  args: readonly string[],
): Promise<string | undefined> {
  return withPlaces((own) => {
    const view = { network: false, own, program: own.worker, variables: [] };
    const [command, ...words] = containerCommand(config, view);
    return printed(command, [...words, "python3", ...args]);
  });
}

/** Runs a program. Undefined where it succeeds; otherwise the last that it said, or why it could not be started. */
function run(program: string, args: readonly string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    execFile(program, [...args], { timeout: TRY_MS }, (error, _stdout, stderr) => {
      if (error === null) return resolve(undefined);
      const last = stderr.trim().split("\n").at(-1) ?? "";
      resolve(last === "" ? ((error as NodeJS.ErrnoException).code?.toString() ?? error.message) : last);
    });
  });
}

type Own = Parameters<typeof bubblewrapArgs>[0]["own"];

/** Empty folders in the places of a worker's. */
async function withPlaces(use: (own: Own) => Promise<string | undefined>): Promise<string | undefined> {
  let dir: string;
  try {
    dir = mkdtempSync(join(tmpdir(), "farloom-try-"));
  } catch (error) {
    return (error as Error).message;
  }
  const own = {
    worker: join(dir, "w"),
    args: join(dir, "a"),
    payloads: join(dir, "p"),
    door: join(dir, "d"),
  };
  try {
    for (const path of [join(own.worker, "scratch"), own.args, own.payloads, own.door])
      mkdirSync(path, { recursive: true });
    return await use(own);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Name or number, as /etc/passwd has it; a number may have no entry. */
function userOf(user: string): { readonly uid: number; readonly gid: number } | undefined {
  const lines = existsSync("/etc/passwd") ? readFileSync("/etc/passwd", "utf8").split("\n") : [];
  for (const line of lines) {
    const [name, , uid, gid] = line.split(":");
    if (name === user || uid === user) return { uid: Number(uid), gid: Number(gid) };
  }
  return /^\d+$/.test(user) ? { uid: Number(user), gid: Number(user) } : undefined;
}

/** The folders that workers need and that the system's mounts do not show: of Python, of Node, and ours. */
function installations(prefixes: readonly string[]): readonly string[] {
  const own = fileURLToPath(new URL("../../", import.meta.url));
  const program = realpathSync(process.execPath);
  // The single file is all of itself, and may lie anywhere.
  const node = isSea() ? [] : [installationOf(program)];
  const folders = [...prefixes, ...node, own, ...packagesFor(own)].map((path) =>
    path.replace(/(?<=.)\/$/, ""),
  );
  const real = folders.flatMap((path) => shownOf(path, homedir()));
  if (!real.some((path) => program.startsWith(`${path}/`))) real.push(program);
  // The shorter first: a mount hides what was mounted below it before.
  return [...new Set(real)].filter((path) => path !== "/" && !isSystemPath(path)).sort();
}

/** Where Node finds what the worker imports: the packages above ours, and those that they link to. */
function packagesFor(own: string): string[] {
  const found: string[] = [];
  for (let dir = dirname(own); dir !== dirname(dir); dir = dirname(dir)) {
    if (existsSync(join(dir, "node_modules"))) found.push(join(dir, "node_modules"));
  }
  try {
    const protocol = createRequire(import.meta.url).resolve("@farloom/protocol");
    return [...found, dirname(dirname(protocol))];
  } catch {
    // The single file has it in itself.
    return found;
  }
}
