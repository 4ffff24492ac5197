/** Starts, stops and removes the agent of a state folder. */
import { spawn } from "node:child_process";
import { openSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type AgentStatus, agentStatus } from "../agent.js";
import { drainRequestFile } from "../state/drain-request.js";
import { readIdentity } from "../state/identity.js";
import { isStoppedOnPurpose, markStopped, startInstalled, undoSurvival } from "../survive/install.js";
import {
  CONFLICT,
  CommandError,
  DONE,
  FAILED,
  logFile,
  NOT_THERE,
  ownProgram,
  type Place,
  runningPid,
} from "./place.js";

/** Until an agent that was started is connected; beyond that it goes on trying by itself. */
const START_MS = 15_000;
/** Between two looks at another process: nothing tells when one ends that is not one's child. */
const LOOK_MS = 50;
/** Beyond the time to drain: the journal's last sync, and workers that are let go. */
const END_MS = 50_000;
const MOST_LOG_BYTES = 16 * 1024 ** 2;

export interface StartOptions {
  /** Of the agent's `run`; they count for this start alone. */
  readonly args: readonly string[];
  /** From cron: silent, and nothing where the agent runs already or was stopped on purpose. */
  readonly watch: boolean;
}

export async function start(place: Place, { args, watch }: StartOptions): Promise<number> {
  const { paths } = place;
  if (readIdentity(paths) === undefined)
    throw new CommandError(
      `no endpoint is enrolled in ${paths.root}: farloom endpoint create NAME, then run what it prints here`,
      NOT_THERE,
    );
  if (watch && (isStoppedOnPurpose(paths.root) || isHeld(place))) return DONE;
  const pid = runningPid(paths);
  if (pid !== undefined) throw new CommandError(`the agent runs already: process ${pid}`, CONFLICT);
  markStopped(paths.root, false);
  const started = await startAndWait(place, args);
  const { connected, name } = started;
  place.result(
    started,
    connected
      ? `Endpoint ${name} is connected (process ${started.pid}).`
      : `The agent runs (process ${started.pid}) but is not connected yet; it goes on trying. farloom endpoint logs`,
  );
  return DONE;
}

function isHeld({ paths }: Place): boolean {
  try {
    return runningPid(paths) !== undefined;
  } catch {
    return true;
  }
}

interface Started {
  readonly running: true;
  readonly connected: boolean;
  readonly pid: number;
  readonly name: string;
}

/** Starts it by what was installed, or detached from here, and waits until it is connected. */
export async function startAndWait(place: Place, args: readonly string[] = []): Promise<Started> {
  const { paths } = place;
  let hasEnded = (): boolean => false;
  // Options of this one start are nothing that a unit or a session would know.
  if (args.length > 0 || !startInstalled(paths.root)) hasEnded = spawnDetached(paths, args);
  const endMs = performance.now() + START_MS;
  let last: AgentStatus | undefined;
  while (performance.now() < endMs && !hasEnded()) {
    const answer = await agentStatus(paths.root);
    if (answer.running) {
      last = answer.status;
      if (last.link.phase === "open") break;
    }
    await sleep(2 * LOOK_MS);
  }
  if (last === undefined)
    throw new CommandError(`the agent ended at its start:\n${tail(logFile(paths))}`, FAILED);
  return { running: true, connected: last.link.phase === "open", pid: last.pid, name: last.name };
}

function spawnDetached(paths: Place["paths"], args: readonly string[]): () => boolean {
  const path = logFile(paths);
  try {
    if (statSync(path).size > MOST_LOG_BYTES) renameSync(path, `${path}.1`);
  } catch {
    // There is none yet.
  }
  const log = openSync(path, "a", 0o600);
  const [program = "", ...before] = ownProgram();
  const child = spawn(program, [...before, "run", "--state-dir", paths.root, ...args], {
    stdio: ["ignore", log, log],
    detached: true,
    cwd: "/",
  });
  let ended = false;
  child.once("exit", () => {
    ended = true;
  });
  child.unref();
  return () => ended;
}

function tail(path: string): string {
  try {
    return readFileSync(path, "utf8").trimEnd().split("\n").slice(-5).join("\n");
  } catch {
    return "it wrote no log";
  }
}

/** Ends the agent; false where none runs. It finishes what runs for `withinMs`, or as long as it is configured to. */
export async function stopAgent(place: Place, withinMs: number | undefined): Promise<boolean> {
  const { paths } = place;
  const pid = runningPid(paths);
  if (pid === undefined) return false;
  if (withinMs !== undefined)
    writeFileSync(drainRequestFile(paths), JSON.stringify({ pid, withinMs }), { mode: 0o600 });
  process.kill(pid, "SIGTERM");
  const endMs = performance.now() + (withinMs ?? 0) + END_MS;
  while (runningPid(paths) === pid) {
    if (performance.now() > endMs)
      throw new CommandError(`process ${pid} has not ended; as a last resort: kill -9 ${pid}`, FAILED);
    await sleep(LOOK_MS);
  }
  return true;
}

export async function stop(place: Place, withinMs: number | undefined): Promise<number> {
  // Before the signal: whatever looks after the agent must not take its end for a crash.
  markStopped(place.paths.root, true);
  const stopped = await stopAgent(place, withinMs);
  place.result({ stopped }, stopped ? "Stopped." : "No agent was running.");
  return DONE;
}

/** How long `drain` waits where nobody says. */
const DRAIN_MS = 3_600_000;

/** Takes no more, gives back what has not started, waits for what runs, and stops. */
export async function drain(place: Place, withinMs = DRAIN_MS): Promise<number> {
  markStopped(place.paths.root, true);
  place.say(`What runs is finished, for at most ${Math.round(withinMs / 1000)} s; nothing new is taken.`);
  const drained = await stopAgent(place, withinMs);
  place.result({ drained }, drained ? "Drained and stopped." : "No agent was running.");
  return drained ? DONE : NOT_THERE;
}

export async function restart(place: Place, withinMs: number | undefined): Promise<number> {
  const restarted = await stopAgent(place, withinMs);
  markStopped(place.paths.root, false);
  const started = await startAndWait(place);
  place.result(
    { restarted, ...started },
    `${restarted ? "Restarted" : "Started"}: endpoint ${started.name}, process ${started.pid}, ${started.connected ? "connected" : "not connected yet"}.`,
  );
  return DONE;
}

/** Undoes what `enroll` installed and stops the agent; with `purge` the state folder goes too. */
export async function uninstall(
  place: Place,
  options: { withinMs: number | undefined; purge: boolean },
): Promise<number> {
  const { paths } = place;
  markStopped(paths.root, true);
  const stopped = await stopAgent(place, options.withinMs);
  const before = undoSurvival(paths.root);
  markStopped(paths.root, false);
  if (options.purge) rmSync(paths.root, { recursive: true, force: true });
  const words = [
    stopped ? "The agent is stopped." : "No agent was running.",
    before && before.method !== "none"
      ? `It is taken out of ${before.method}.`
      : "Nothing was installed to bring it back.",
    options.purge
      ? `${paths.root} is deleted.`
      : `Its folder ${paths.root} stays, with its key and what it holds; --purge deletes it.`,
  ];
  place.result({ stopped, undone: before?.method ?? null, purged: options.purge }, words.join("\n"));
  return DONE;
}
