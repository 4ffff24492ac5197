// The server process of the embedded PostgreSQL: found, spawned, waited for, watched and stopped.
//
// postmaster.pid in the data directory is the one witness of a running server; it may be stale (a power loss) or,
// worse, name a process number that now belongs to a stranger (a restarted container).
import { type ChildProcess, spawn } from "node:child_process";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { PostgresIdentity } from "./postgres-identity.js";

/** A server that runs; `child` is there when this process spawned it. */
export interface RunningServer {
  readonly pid: number;
  readonly port: number;
  readonly child?: ChildProcess;
}

/** What postmaster.pid says of a live server. */
export interface FoundServer extends RunningServer {
  readonly status: "starting" | "ready" | "stopping";
}

export interface SpawnOptions {
  readonly program: string;
  readonly dir: string;
  readonly port: number;
  readonly logFile: string;
  readonly identity: PostgresIdentity | undefined;
}

/** How often a process that is not our child is looked at: nothing tells of its end or its readiness. */
const LOOK_MS = 15;
const WATCH_MS = 1_000;
/** A fast shutdown ends with a checkpoint; on a slow disk with 4 GB of WAL behind it, that takes a while. */
const FAST_STOP_MS = 20_000;
/** An immediate shutdown waits for nothing; PostgreSQL itself kills its children after 5 s. */
const IMMEDIATE_STOP_MS = 8_000;
const LOG_KEEP_BYTES = 8 * 1024 * 1024;
/** The size of sun_path less its end: 108 on Linux, 104 on macOS. */
const SOCKET_PATH_MAX = 103;

/** The cluster's own directory for the Unix socket (only its owner can enter), or undefined if the path is too long. */
export function socketDirFor(dir: string): string | undefined {
  const longest = join(dir, ".s.PGSQL.65535");
  return process.platform !== "win32" && Buffer.byteLength(longest) <= SOCKET_PATH_MAX ? dir : undefined;
}

/** The live server of a data directory, if any. Removes a postmaster.pid that names a stranger's process. */
export async function findServer(dir: string): Promise<FoundServer | undefined> {
  const file = join(dir, "postmaster.pid");
  const text = await readFile(file, "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const lines = text.split("\n").map((line) => line.trim());
  const pid = Number(lines[0]);
  // A stale file of a dead process is left to PostgreSQL, which also looks for orphaned backends.
  if (!Number.isInteger(pid) || pid <= 0 || !(await isAlive(pid))) return undefined;
  if (!(await isPostgres(pid))) {
    await rm(file, { force: true });
    return undefined;
  }
  const status = lines[7] === "ready" ? "ready" : lines[7] === "stopping" ? "stopping" : "starting";
  return { pid, port: Number(lines[3]), status };
}

/** False as well for a zombie: where nobody reaps orphans (a container), a dead server stays one. */
export async function isAlive(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const status = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  return !/\) [ZX] /.test(status);
}

async function isPostgres(pid: number): Promise<boolean> {
  const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => undefined);
  return name === undefined || name.trim() === "postgres";
}

/** Spawns the server in a session of its own, its log going to a file so that no pipe of ours can break. */
export async function spawnServer(options: SpawnOptions): Promise<RunningServer> {
  const { program, dir, port, logFile, identity } = options;
  const size = await stat(logFile).then(
    (found) => found.size,
    () => 0,
  );
  if (size > LOG_KEEP_BYTES) await rename(logFile, `${logFile}.1`);
  const log = await open(logFile, "a", 0o600);
  try {
    const args = ["-D", dir, "-p", String(port), "-h", "127.0.0.1", "-k", socketDirFor(dir) ?? ""];
    const child = spawn(program, args, {
      cwd: dir,
      detached: true,
      stdio: ["ignore", log.fd, log.fd],
      // Nothing of the service's environment: it holds secrets, and PG* variables would change the server.
      env: { PATH: process.env.PATH ?? "", LC_ALL: "C" },
      ...(identity && { uid: identity.uid, gid: identity.gid }),
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.unref();
    return { pid: child.pid as number, port, child };
  } finally {
    await log.close();
  }
}

/** Waits until the server takes connections. "exited": it ended first. */
export async function waitUntilReady(
  server: RunningServer,
  dir: string,
  timeoutMs: number,
): Promise<"ready" | "exited" | "timeout"> {
  const deadline = performance.now() + timeoutMs;
  while (performance.now() < deadline) {
    const found = await findServer(dir);
    if (found?.pid === server.pid && found.status === "ready") return "ready";
    if (found?.status === "stopping" || !(await isAlive(server.pid))) return "exited";
    await sleep(LOOK_MS);
  }
  return "timeout";
}

/** Waits for the end of a server; false when it outlives the time. */
export async function waitForExit(server: RunningServer, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (await isAlive(server.pid)) {
    if (performance.now() > deadline) return false;
    await sleep(LOOK_MS);
  }
  return true;
}

/** Calls `onExit` once when the server ends. Returns what ends the watch. Keeps no process alive. */
export function watchServer(server: RunningServer, onExit: (reason: string) => void): () => void {
  if (server.child) {
    const listener = (code: number | null, signal: string | null) =>
      onExit(signal ? `killed by ${signal}` : `exited with code ${code}`);
    server.child.once("exit", listener);
    return () => server.child?.off("exit", listener);
  }
  const timer = setInterval(async () => {
    if (await isAlive(server.pid)) return;
    clearInterval(timer);
    onExit("it is gone");
  }, WATCH_MS).unref();
  return () => clearInterval(timer);
}

/** Fast shutdown, then an immediate one, then SIGKILL: each loses nothing that was committed. */
export async function stopServer(server: RunningServer, log: Logger): Promise<void> {
  const steps = [
    { signal: "SIGINT", waitMs: FAST_STOP_MS },
    { signal: "SIGQUIT", waitMs: IMMEDIATE_STOP_MS },
    { signal: "SIGKILL", waitMs: 1_000 },
  ] as const;
  for (const { signal, waitMs } of steps) {
    if (!(await isAlive(server.pid))) return;
    if (signal !== "SIGINT") log.warn({ pid: server.pid, signal }, "PostgreSQL is slow to stop");
    try {
      process.kill(server.pid, signal);
    } catch {
      return;
    }
    if (await waitForExit(server, waitMs)) return;
  }
}

/** A loopback port that is free now; PostgreSQL may still lose the race for it, and another is tried then. */
export async function freePort(): Promise<number> {
  return (await tryListen(0)) as number;
}

export async function isPortFree(port: number): Promise<boolean> {
  return (await tryListen(port)) !== undefined;
}

function tryListen(port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(undefined));
    probe.listen({ port, host: "127.0.0.1" }, () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" ? address?.port : undefined));
    });
  });
}
