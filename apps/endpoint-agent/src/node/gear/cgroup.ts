/**
 * Memory limits by cgroup v2, where the system has delegated a part of the tree to this process (`Delegate=yes` of a
 * systemd service). Workers get a cgroup each, with memory.max; this process moves into a leaf of its own, as a cgroup
 * with controllers for its children may have no processes itself.
 *
 * Nothing is tried where the tree was not handed over: a process that may write everywhere (root) is not one that should.
 */
import {
  accessSync,
  constants,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";

const OWN_LEAF = "farloom-agent";
const WORKER_PREFIX = "farloom-worker-";

export interface CgroupPlace {
  readonly root?: string;
  /** The text of /proc/self/cgroup. */
  readonly self?: string;
  /** Asked for by name: then root may use it too. */
  readonly isAskedFor?: boolean;
}

export class WorkerCgroups {
  readonly #dir: string;

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** The part of the tree that workers may be put into, or why there is none. */
  static open(place: CgroupPlace = {}): WorkerCgroups | string {
    const { root = "/sys/fs/cgroup", isAskedFor = false } = place;
    try {
      const self = place.self ?? readFileSync("/proc/self/cgroup", "utf8");
      const path = /^0::(\/.*)$/m.exec(self)?.[1];
      if (path === undefined) return "this machine has no cgroup v2";
      if (process.getuid?.() === 0 && !isAskedFor)
        return "as root it is done only where limit_memory says cgroup";
      const own = join(root, path);
      const dir = basename(own) === OWN_LEAF ? dirname(own) : own;
      const controllers = readFileSync(join(dir, "cgroup.controllers"), "utf8").split(/\s+/);
      if (!controllers.includes("memory")) return "its cgroup has no memory controller";
      for (const file of ["cgroup.procs", "cgroup.subtree_control"])
        accessSync(join(dir, file), constants.W_OK);
      mkdirSync(join(dir, OWN_LEAF), { recursive: true });
      writeFileSync(join(dir, OWN_LEAF, "cgroup.procs"), String(process.pid));
      writeFileSync(join(dir, "cgroup.subtree_control"), "+memory");
      const cgroups = new WorkerCgroups(dir);
      for (const name of readdirSync(dir)) if (name.startsWith(WORKER_PREFIX)) cgroups.#remove(name);
      return cgroups;
    } catch (error) {
      return `its cgroup was not handed over to it (${(error as Error).message})`;
    }
  }

  /** A cgroup for a worker; the file that a process joins it by. Throws where it cannot be made. */
  make(worker: string, memoryMb: number): string {
    const dir = join(this.#dir, WORKER_PREFIX + worker);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, "memory.max"), String(memoryMb * 1024 ** 2));
    for (const [file, value] of [
      ["memory.swap.max", "0"],
      ["memory.oom.group", "1"],
    ] as const) {
      try {
        writeFileSync(join(dir, file), value);
      } catch {
        // A kernel without swap accounting, or older than 4.19: the limit itself stands.
      }
    }
    return join(dir, "cgroup.procs");
  }

  /** Its worker is gone. */
  drop(worker: string): void {
    this.#remove(WORKER_PREFIX + worker);
  }

  #remove(name: string): void {
    try {
      rmdirSync(join(this.#dir, name));
    } catch {
      // Something of it lives, or it never was: the next start looks again.
    }
  }
}
