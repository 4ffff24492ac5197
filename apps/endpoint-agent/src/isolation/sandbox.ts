/**
 * How a worker is started at the agent's level of isolation, and where the two sides find each other's files.
 *
 * Invariants
 *   1  From `namespaces` on (`isBoxed`) a worker sees no path of the agent's but its own folders. What it writes there is
 *      a stranger's: the agent opens it without following links, and takes only plain files.
 *   2  Arguments that lie in files are linked into `args/`, which the worker cannot change; results that lie in files are
 *      taken from `payloads/` by the agent (handed-in.ts). The store of all payloads is not seen.
 *   3  A worker works for one submitter, and either has a network or has not: who wants what is in its lane's name.
 */
import { createHash } from "node:crypto";
import { chmodSync, chownSync, copyFileSync, linkSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { IsolationLevel } from "@farloom/protocol";
import { LINES_VARIABLES } from "../node/environments/environment-program.js";
import { MARKER_VARIABLE } from "../node/remains.js";
import type { WorkerProgram } from "../node/worker.js";
import { bubblewrapArgs, INSIDE } from "./bubblewrap.js";
import { allowedEnvironment } from "./clean-environment.js";
import type { IsolationConfig, TaskLimits } from "./config.js";
import { containerCommand, containerVariables } from "./container.js";
import { ownPlaces } from "./own-places.js";

/** An image's programs lie where those of every distribution do; the machine's PATH means nothing there. */
const CONTAINER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What the machine was found to have, by trying (probe.ts). */
export interface Means {
  /** The interpreter that the configuration names, and the program that it is. */
  readonly python: { readonly configured: string; readonly executable: string } | undefined;
  readonly userNamespace: boolean;
  readonly disableUserNamespaces: boolean;
  /** Folders that interpreters and our own programs lie in, where the system's mounts do not show them. */
  readonly installations: readonly string[];
  /** The user that tasks run as, at level `user`. */
  readonly becomes: { readonly uid: number; readonly gid: number } | undefined;
}

/** What a worker's lane wants of its sandbox. */
export interface Wants {
  readonly network: boolean;
}

/** A worker's program as it is to be started, and what its configuration says of its surroundings. */
export interface Confined extends WorkerProgram {
  readonly told: Readonly<Record<string, unknown>>;
  /** Under which names the worker's marker goes besides its own: containers are nobody's descendants here. */
  readonly marks?: readonly string[];
}

export interface AgentPlaces {
  readonly socketPath: string;
  readonly payloadsDir: string;
}

export class Sandbox {
  readonly config: IsolationConfig;
  readonly #means: Means;

  constructor(config: IsolationConfig, means: Means) {
    this.config = config;
    this.#means = means;
  }

  get level(): IsolationLevel {
    return this.config.level;
  }

  /** Its whole configuration, as a digest: a worker that was started under another one runs nothing more. */
  get rules(): string {
    return createHash("sha256").update(JSON.stringify(this.config)).digest("hex");
  }

  /** Whether workers see other paths than the agent, and serve one submitter each. */
  get isBoxed(): boolean {
    return this.level !== "none" && this.level !== "limits";
  }

  /** The name beside the agent's socket by which workers in boxes find it; the folder has nothing else. */
  doorOf(runDir: string): string {
    return join(runDir, "door", basename("node.sock"));
  }

  /** Makes the door's folder; the socket's mode is for `openDoor`. */
  makeDoor(runDir: string): string {
    const door = this.doorOf(runDir);
    mkdirSync(dirname(door), { recursive: true, mode: 0o700 });
    // The folder above is the agent's alone; in the box another user must pass.
    if (this.#means.becomes) chmodSync(dirname(door), 0o711);
    return door;
  }

  /** The agent listens at `socketPath`: whoever comes by the door may knock, and says the secret. */
  openDoor(socketPath: string, door: string): void {
    rmSync(door, { force: true });
    // A worker's box holds the folder, so that it finds the socket of the next agent too.
    linkSync(socketPath, door);
    if (this.#means.becomes) chmodSync(door, 0o666);
  }

  /** Makes a worker's folders, and gives them to the user that it runs as. */
  prepare(dir: string): void {
    if (!this.isBoxed) return;
    const own = ownPlaces(dir);
    for (const path of [own.args, own.payloads]) mkdirSync(path, { mode: 0o700 });
    const { becomes } = this.#means;
    if (!becomes) return;
    for (const path of [own.worker, own.payloads, join(own.worker, "scratch")])
      chownSync(path, becomes.uid, becomes.gid);
    for (const name of ["stdout", "stderr"]) chownSync(join(own.worker, name), becomes.uid, becomes.gid);
    chmodSync(own.args, 0o711);
  }

  /** The program inside its sandbox. `dir` is the worker's folder on the agent's side. */
  confine(program: WorkerProgram, dir: string, wants: Wants, places: AgentPlaces): Confined {
    const { config } = this;
    // The image's own Python runs in a container: nothing there would read them.
    const lines = config.level === "container" ? [] : LINES_VARIABLES;
    const env = allowedEnvironment(program.env, [...config.env, ...lines]);
    const { python } = this.#means;
    const command = python?.configured === program.command ? python.executable : program.command;
    const limited = [...limitArgs(config.limits), command, ...program.args];
    if (!this.isBoxed) {
      const scratch = join(dir, "scratch");
      return {
        ...program,
        command: "prlimit",
        args: limited,
        env: { ...env, TMPDIR: scratch },
        told: { clear: "descendants" },
      };
    }
    const own = { ...ownPlaces(dir), door: dirname(this.doorOf(dirname(dir))) };
    const boxed = {
      ...env,
      HOME: "/tmp",
      TMPDIR: "/tmp",
      ...(config.level === "container" ? { PATH: CONTAINER_PATH } : {}),
    };
    const told = {
      dir: INSIDE.worker,
      payloads: INSIDE.payloads,
      socket: `${INSIDE.door}/${basename(places.socketPath)}`,
      clear: "namespace",
      sweep: ["/dev/shm"],
    };
    if (config.level === "container") {
      const [script] = program.args.slice(-1) as [string];
      const variables = [...Object.keys(boxed), MARKER_VARIABLE];
      const view = { network: wants.network, own, program: dirname(script), variables };
      const [runner, ...args] = containerCommand(config, view);
      args.push("python3", `${INSIDE.program}/${basename(script)}`);
      const handed = containerVariables(config.runner, boxed);
      // The runner itself needs to find its helpers and its user's files; Podman hands on what it has itself.
      const around =
        config.runner === "podman" ? {} : { PATH: env.PATH ?? "", HOME: program.env.HOME ?? "/" };
      const marks = Object.keys(containerVariables(config.runner, { [MARKER_VARIABLE]: "" }));
      return { ...program, command: runner, args, env: { ...handed, ...around }, told, marks };
    }
    const { userNamespace, disableUserNamespaces, installations, becomes } = this.#means;
    const view = {
      network: wants.network,
      userNamespace,
      disableUserNamespaces,
      readOnly: [...installations, ...config.readOnly],
      bind: config.bind,
      own,
      ...(becomes ? { becomes } : {}),
    };
    return {
      ...program,
      command: "bwrap",
      args: [...bubblewrapArgs(view), "prlimit", ...limited],
      env: boxed,
      told,
    };
  }

  /** Puts a payload file where the worker can read it, and says under what path it does (2). */
  lendArguments(file: string, dir: string): string {
    const name = basename(file);
    const path = join(ownPlaces(dir).args, name);
    rmSync(path, { force: true });
    linkOrCopy(file, path);
    if (this.#means.becomes) chmodSync(path, 0o644);
    return `${INSIDE.args}/${name}`;
  }

  /** The tasks that wanted them are over. */
  takeBackArguments(dir: string): void {
    const { args } = ownPlaces(dir);
    for (const name of readdirSync(args)) rmSync(join(args, name), { force: true });
  }
}

/** Of prlimit: hard bounds, which only a privileged process could raise again. */
function limitArgs(limits: TaskLimits): string[] {
  const args = ["--core=0:0"];
  const bound = (name: string, value: number, unit: number): void => {
    if (value > 0) args.push(`--${name}=${value * unit}:${value * unit}`);
  };
  bound("nproc", limits.processes, 1);
  bound("fsize", limits.fileMb, 1024 ** 2);
  bound("as", limits.memoryMb, 1024 ** 2);
  return [...args, "--"];
}

/** On another file system a copy costs its size; that is a node whose payload files lie on a shared one. */
function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
    copyFileSync(from, to);
  }
}
