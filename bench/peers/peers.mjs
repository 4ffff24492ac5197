/**
 * The peers: what each one is, how it is installed into a folder of its own, and how it is run.
 *
 * Neighbours: contained.mjs starts processes, redis.mjs the broker; scripts/bench-peers.mjs is the command line.
 * Invariant: a peer that cannot be installed or run is a value with its reason, never an exception.
 */
import { createHash } from "node:crypto";
import { rmSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { lastJsonLine, runContained } from "./contained.mjs";
import { ensureRedis, startRedis } from "./redis.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const INSTALLED = fileURLToPath(new URL("../.peers/", import.meta.url));
const INSTALL_TIMEOUT_MS = 600_000;
/** The slowest peer needs about 40 s, its start included. */
const RUN_TIMEOUT_MS = 240_000;

/** In the order they run. `requirements` is the pinned list to install; without one there is nothing to install. */
export const PEERS = [
  {
    key: "farloom-python",
    name: "Farloom, Python",
    script: "farloom_executor.py",
    requirements: "farloom-python.txt",
  },
  { key: "pool", name: "ProcessPoolExecutor", script: "process_pool.py", requirements: "pool.txt" },
  { key: "parsl", name: "Parsl", script: "parsl_htex.py", requirements: "parsl.txt" },
  { key: "dask", name: "Dask", script: "dask_distributed.py", requirements: "dask.txt" },
  { key: "ray", name: "Ray", script: "ray_core.py", requirements: "ray.txt" },
  { key: "celery", name: "Celery", script: "celery_redis.py", requirements: "celery.txt", redis: true },
  { key: "bullmq", name: "BullMQ", script: "bullmq-redis.mjs", requirements: "bullmq.json", redis: true },
];

function folderOf(peer) {
  return join(INSTALLED, peer.key);
}

function pythonOf(peer) {
  return peer.requirements ? join(folderOf(peer), "bin", "python") : "python3";
}

/** What the installed folder was made from; another list, Python or Node makes it stale. */
async function fingerprintOf(peer) {
  const hash = createHash("sha256").update(await readFile(join(HERE, "requirements", peer.requirements)));
  if (peer.script.endsWith(".mjs")) return hash.update(process.version).digest("hex");
  const python = await runContained("python3", ["--version"], { timeoutMs: 10_000 });
  if (!python.ok) return undefined;
  return hash.update(python.stdout).digest("hex");
}

async function installInto(folder, peer) {
  const requirements = join(HERE, "requirements", peer.requirements);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const options = { cwd: folder, timeoutMs: INSTALL_TIMEOUT_MS };
  if (peer.script.endsWith(".mjs")) {
    await copyFile(requirements, join(folder, "package.json"));
    return runContained("npm", ["install", "--no-audit", "--no-fund", "--ignore-scripts"], options);
  }
  const made = await runContained("python3", ["-m", "venv", folder], options);
  if (!made.ok) return made;
  const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements];
  return runContained(pythonOf(peer), pip, options);
}

/** Installs a peer unless that very list is there already. Resolves with `{ ok: true }` or `{ ok: false, reason }`. */
export async function installPeer(peer, progress) {
  if (peer.redis) {
    const redis = await ensureRedis(progress);
    if (!redis.ok) return redis;
  }
  if (!peer.requirements) return { ok: true };
  const folder = folderOf(peer);
  const stamp = join(folder, ".installed");
  const fingerprint = await fingerprintOf(peer);
  if (fingerprint === undefined) return { ok: false, reason: "python3 is not installed" };
  if ((await readFile(stamp, "utf8").catch(() => "")) === fingerprint) return { ok: true };
  progress(`${peer.name}: installing`);
  const installed = await installInto(folder, peer);
  if (!installed.ok) return { ok: false, reason: `install failed, ${installed.reason}` };
  await writeFile(stamp, fingerprint);
  return { ok: true };
}

async function runIn(directory, peer, onStderr) {
  const redis = peer.redis ? await startRedis(directory) : undefined;
  try {
    const onNode = peer.script.endsWith(".mjs");
    const env = {
      ...process.env,
      TMPDIR: directory,
      PEER_DIR: folderOf(peer),
      // Some peers start programs of theirs by name.
      PATH: `${join(folderOf(peer), "bin")}:${process.env.PATH}`,
      ...(redis && { REDIS_URL: redis.url }),
    };
    const command = onNode ? process.execPath : pythonOf(peer);
    const options = { cwd: directory, env, timeoutMs: RUN_TIMEOUT_MS, onStderr };
    const run = await runContained(command, [join(HERE, peer.script)], options);
    if (!run.ok) return run;
    const result = lastJsonLine(run.stdout);
    return result ? { ok: true, result } : { ok: false, reason: "its last line is not a JSON object" };
  } finally {
    await redis?.stop();
  }
}

/** The temporary folders of now; a signal ends the process before `finally` gets its turn. */
const temporary = new Set();
process.on("exit", () => {
  for (const directory of temporary) rmSync(directory, { recursive: true, force: true });
});

/** Runs an installed peer in a temporary folder. Resolves with `{ ok: true, result }` or `{ ok: false, reason }`. */
export async function runPeer(peer, onStderr) {
  // Ray puts sockets into it, and a socket's path must be shorter than 108 characters.
  const directory = await mkdtemp(join(tmpdir(), "peer-"));
  temporary.add(directory);
  try {
    return await runIn(directory, peer, onStderr);
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) };
  } finally {
    await rm(directory, { recursive: true, force: true, maxRetries: 5 });
    temporary.delete(directory);
  }
}
