/**
 * Who is put through the kill tests, how each is run, and what a run gives.
 *
 * Neighbours: peers.mjs installs the peers, contained.mjs runs a program so that nothing of it is left; the programs
 * themselves are beside this file, each with its settings and where they are documented at its top.
 * Invariant: a run that fails is a value with its reason, never an exception.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { lastJsonLine, runContained } from "../contained.mjs";
import { PEERS } from "../peers.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const INSTALLED = fileURLToPath(new URL("../../.peers/", import.meta.url));
/** A program reports this long after its start, whatever it has by then. */
export const DEADLINE_SECONDS = 50;
/** Beyond the deadline: the report itself, and Python's start. */
const GRACE_MS = 10_000;

/** What is killed. Not everybody has all of them. */
export const PARTS = ["worker", "executor", "broker", "database", "client"];

const FARLOOM_PARTS = {
  worker: "the Python worker that runs a task",
  executor: "the agent",
  broker: "the web service",
  database: "PostgreSQL",
  client: "the client",
};
const CELERY_PARTS = {
  worker: "the pool process that runs a task",
  executor: "the worker's main process",
  broker: "Redis",
  client: "the client",
};

export const SYSTEMS = [
  { key: "farloom", name: "Farloom, at_most_once (default)", parts: FARLOOM_PARTS },
  {
    key: "farloom-again",
    name: "Farloom, at_least_once",
    parts: FARLOOM_PARTS,
    env: { KILL_MODE: "at_least_once" },
  },
  { key: "celery", name: "Celery with Redis, default", peer: "celery", parts: CELERY_PARTS },
  {
    key: "celery-late",
    name: "Celery with Redis, acks_late, reject_on_worker_lost, appendonly",
    peer: "celery",
    parts: CELERY_PARTS,
    env: { CELERY_CAREFUL: "1" },
  },
  {
    key: "dask",
    name: "Dask distributed",
    peer: "dask",
    parts: {
      worker: "the worker process that runs a task",
      executor: "the scheduler",
      client: "the client",
    },
  },
  {
    key: "ray",
    name: "Ray",
    peer: "ray",
    parts: {
      worker: "the worker process that runs a task",
      executor: "the node's raylet",
      broker: "the GCS",
      client: "the driver",
    },
  },
  {
    key: "parsl",
    name: "Parsl HighThroughputExecutor",
    peer: "parsl",
    parts: {
      worker: "the worker process that runs a task",
      executor: "the manager",
      broker: "the interchange",
      client: "the client",
    },
  },
];

export function peerOf(system) {
  return PEERS.find(({ key }) => key === system.peer);
}

function commandOf(system) {
  if (!system.peer) return [process.execPath, join(HERE, "farloom_kill.mjs")];
  return [join(INSTALLED, system.peer, "bin", "python"), join(HERE, `${system.peer}_kill.py`)];
}

/** Runs one system with one part killed, in a folder of its own. `slow`: how many times the usual time it may take. */
export async function runKill(system, part, { slow = 1, onStderr } = {}) {
  // Ray puts sockets into it, and a socket's path must be shorter than 108 characters.
  const folder = await mkdtemp(join(tmpdir(), "kill-"));
  try {
    const [command, script] = commandOf(system);
    const seconds = DEADLINE_SECONDS * slow;
    const env = {
      ...process.env,
      TMPDIR: folder,
      PYTHONDONTWRITEBYTECODE: "1",
      KILL_DEADLINE_SECONDS: String(seconds),
      // Some peers start programs of theirs by name.
      ...(system.peer && { PATH: `${join(INSTALLED, system.peer, "bin")}:${process.env.PATH}` }),
      ...system.env,
    };
    const timeoutMs = 1000 * seconds + GRACE_MS * slow;
    const run = await runContained(command, [script, part, folder], {
      cwd: folder,
      env,
      timeoutMs,
      onStderr,
    });
    if (!run.ok) return run;
    const result = lastJsonLine(run.stdout);
    return result ? { ok: true, result } : { ok: false, reason: "its last line is not a JSON object" };
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) };
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}
