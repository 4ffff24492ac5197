/**
 * Where the agent's folder lies, and what may be written there: its file system (by trying a lock, a socket and a sync,
 * not by its name alone), its permissions, and room for scratch files.
 */
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { roomOf } from "../state/disk-room.js";
import { openParent } from "../state/private.js";
import type { Check, Environment } from "./check.js";

/** File systems that other machines see too. */
const SHARED =
  /^(nfs4?|lustre|gpfs|beegfs|ceph|cifs|smb3|afs|panfs|wekafs|orangefs|pvfs2|fuse\.(sshfs|ceph|glusterfs))$/;
/** Below this an agent soon stands still: its journal and its workers' files have no room. */
const LEAST_ROOM_BYTES = 512 * 1024 ** 2;

/** The kind of file system at `path`, by the text of /proc/mounts. Pure; undefined where the text does not tell. */
export function fileSystemAt(
  path: string,
  mounts: string,
): { readonly kind: string; readonly point: string } | undefined {
  let best: { kind: string; point: string } | undefined;
  for (const line of mounts.split("\n")) {
    const [, written = "", kind = ""] = line.split(" ");
    // Spaces and the like stand as octal numbers.
    const point = written.replace(/\\(\d{3})/g, (_, digits: string) =>
      String.fromCharCode(Number.parseInt(digits, 8)),
    );
    const isAbove = point === "/" || path === point || path.startsWith(`${point}/`);
    // Of mounts on one point the last one counts: it lies above the others.
    if (point !== "" && isAbove && (best === undefined || point.length >= best.point.length))
      best = { kind, point };
  }
  return best;
}

export async function checkStateFolder(stateDir: string, hasSlurm: boolean): Promise<Check[]> {
  const name = "state folder";
  try {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  } catch (error) {
    const detail = `${stateDir} cannot be made: ${(error as Error).message}`;
    return [{ name, state: "failed", detail, cure: "choose a folder of your own with --state-dir" }];
  }
  const found = fileSystemAt(realpathSync(stateDir), readMounts());
  const kind = found?.kind ?? "unknown";
  const isShared = SHARED.test(kind);
  const freeBytes = roomOf(stateDir);
  const tried = await tryFolder(stateDir);
  const facts = { stateDir, fileSystem: kind, isShared, freeBytes, ...tried };
  const free = Number.isFinite(freeBytes) ? `, ${size(freeBytes)} free` : "";
  const on = `${stateDir} on ${kind}${free}`;
  const checks: Check[] = [];
  if (tried.failure !== undefined) {
    const cure =
      tried.failed === "socket"
        ? "this file system has no sockets: use a folder on a local disk with --state-dir (then compute nodes do not see it)"
        : "this file system is not fit for a journal: use another folder with --state-dir";
    checks.push({
      name,
      state: "failed",
      detail: `${on}: a ${tried.failed} fails: ${tried.failure}`,
      cure,
      facts,
    });
  } else if (freeBytes < LEAST_ROOM_BYTES) {
    const cure = "make room, or use another folder with --state-dir; the agent waits while its disk is full";
    checks.push({ name, state: "warning", detail: on, cure, facts });
  } else if (isShared) {
    const cure =
      "start this endpoint's agent on one login node alone; one at a time is what its lock sees to";
    const detail = `${on}: shared with other machines; locks, sockets and syncs work (${tried.syncMs} ms)`;
    checks.push({ name, state: "ok", detail, ...(hasSlurm ? {} : { cure }), facts });
  } else if (kind === "tmpfs" || hasSlurm) {
    const why = kind === "tmpfs" ? "a reboot empties it" : "compute nodes may not see it";
    const cure = "use a folder on a shared file system, such as your home, with --state-dir";
    checks.push({ name, state: "warning", detail: `${on}: ${why}`, cure, facts });
  } else checks.push({ name, state: "ok", detail: `${on}; locks, sockets and syncs work`, facts });
  checks.push(checkPermissions(stateDir));
  return checks;
}

function readMounts(): string {
  try {
    return readFileSync("/proc/mounts", "utf8");
  } catch {
    return "";
  }
}

interface Tried {
  readonly failed?: "lock" | "socket" | "sync";
  readonly failure?: string;
  readonly syncMs?: number;
}

/** Does in the folder what the agent will do there. */
async function tryFolder(folder: string): Promise<Tried> {
  const dir = mkdtempSync(join(folder, ".check-"));
  let failed: NonNullable<Tried["failed"]> = "sync";
  try {
    const path = join(dir, "file");
    const fd = openSync(path, "w", 0o600);
    const startMs = performance.now();
    writeSync(fd, Buffer.alloc(4096));
    fsyncSync(fd);
    closeSync(fd);
    const syncMs = Math.round(performance.now() - startMs);
    failed = "lock";
    linkSync(path, join(dir, "lock"));
    failed = "socket";
    const before = process.cwd();
    // A deep folder is too long for a socket's address, and the agent takes the shorter way too.
    process.chdir(dir);
    try {
      await new Promise<void>((resolve, reject) => {
        const server = createServer();
        server.once("error", reject);
        server.listen("socket", () => server.close(() => resolve()));
      });
    } finally {
      process.chdir(before);
    }
    return { syncMs };
  } catch (error) {
    return { failed, failure: (error as Error).message };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function checkPermissions(stateDir: string): Check {
  const name = "permissions";
  const { mode, uid } = statSync(stateDir);
  const umask = process.umask();
  const facts = { umask: umask.toString(8).padStart(4, "0"), mode: (mode & 0o777).toString(8), uid };
  if (process.getuid && uid !== process.getuid()) {
    const cure = "use a folder of your own with --state-dir";
    return { name, state: "failed", detail: `${stateDir} belongs to user ${uid}`, cure, facts };
  }
  if ((mode & 0o077) !== 0) {
    const cure = `others could read the agent's key: chmod 700 '${stateDir}'`;
    return { name, state: "failed", detail: `${stateDir} has mode ${facts.mode}`, cure, facts };
  }
  const open = openParent(stateDir);
  if (open !== undefined) {
    const cure = `whoever may write there can put another folder in its place: chmod go-w '${open}'`;
    return { name, state: "failed", detail: `others may write in ${open}`, cure, facts };
  }
  return { name, state: "ok", detail: `mode 700, umask ${facts.umask}`, facts };
}

/** Room for the files of tasks. */
export function checkScratch(env: Environment): Check {
  const name = "scratch";
  const named = ["SCRATCH", "WORK", "TMPDIR"].flatMap((key) => (env[key] ? [[key, env[key]] as const] : []));
  const places = [...named, ["", tmpdir()] as const].flatMap(([key, path]) => {
    try {
      return statSync(path).isDirectory() ? [{ name: key, path, freeBytes: roomOf(path) }] : [];
    } catch {
      return [];
    }
  });
  const detail = places
    .map((one) => `${one.name && `$${one.name} `}${one.path}: ${size(one.freeBytes)} free`)
    .join("; ");
  const facts = { places, home: homedir() };
  const most = Math.max(0, ...places.map((one) => one.freeBytes));
  if (most >= LEAST_ROOM_BYTES) return { name, state: "ok", detail, facts };
  const cure = "set TMPDIR to a folder with room before you start the agent";
  return { name, state: "warning", detail: detail || "no folder for temporary files", cure, facts };
}

function size(bytes: number): string {
  return bytes >= 1024 ** 4 ? `${(bytes / 1024 ** 4).toFixed(1)} TB` : `${(bytes / 1024 ** 3).toFixed(1)} GB`;
}
