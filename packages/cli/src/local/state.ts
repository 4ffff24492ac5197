/**
 * The folder of a fabric that runs here (`farloom dev`, `farloom serve`):
 *
 *     dev.json     where it is: port and endpoint, kept so that they are the same next time
 *     dev.lock     which process runs it
 *     api-key      the first API key, written by the service
 *     config.json  what clients need; the user's own configuration gets the same
 *     service/ agent/ logs/
 */
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { writeWhole } from "../config-file.js";

export interface LocalState {
  readonly root: string;
  readonly service: string;
  readonly agent: string;
  readonly logs: string;
  readonly apiKeyFile: string;
  readonly configFile: string;
  readonly lockFile: string;
  readonly settingsFile: string;
}

export function openState(dir: string): LocalState {
  const root = resolve(dir);
  const state: LocalState = {
    root,
    service: join(root, "service"),
    agent: join(root, "agent"),
    logs: join(root, "logs"),
    apiKeyFile: join(root, "api-key"),
    configFile: join(root, "config.json"),
    lockFile: join(root, "dev.lock"),
    settingsFile: join(root, "dev.json"),
  };
  for (const folder of [root, state.service, state.agent, state.logs])
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  // It holds keys and a database: not for a repository that it happens to lie in.
  try {
    writeFileSync(join(root, ".gitignore"), "*\n", { flag: "wx" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  return state;
}

export interface Settings {
  port?: number;
  endpoint?: string;
}

export function readSettings(state: LocalState): Settings {
  try {
    return JSON.parse(readFileSync(state.settingsFile, "utf8")) as Settings;
  } catch {
    return {};
  }
}

export function saveSettings(state: LocalState, settings: Settings): void {
  writeWhole(state.settingsFile, `${JSON.stringify(settings)}\n`);
}

/** Who runs this state: a pid and when that process started, so that a pid given again is not taken for it. */
interface Holder {
  readonly pid: number;
  readonly start: string;
  readonly url?: string;
}

/** Takes the state for this process; returns how to let it go, or who has it. */
export function lockState(
  state: LocalState,
): { release(): void; tell(url: string): void } | { heldBy: Holder } {
  const mine: Holder = { pid: process.pid, start: startOf(process.pid) ?? "" };
  const aside = `${state.lockFile}.${process.pid}`;
  writeFileSync(aside, JSON.stringify(mine), { mode: 0o600 });
  try {
    for (let tries = 0; ; tries++) {
      try {
        linkSync(aside, state.lockFile);
        return {
          release: () => rmSync(state.lockFile, { force: true }),
          tell: (url) => writeWhole(state.lockFile, JSON.stringify({ ...mine, url })),
        };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST" || tries > 2) throw error;
      }
      const holder = readHolder(state.lockFile);
      if (holder && startOf(holder.pid) === holder.start) return { heldBy: holder };
      rmSync(state.lockFile, { force: true });
    }
  } finally {
    rmSync(aside, { force: true });
  }
}

function readHolder(path: string): Holder | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Holder;
  } catch {
    return undefined;
  }
}

/** When the process started; undefined where there is none. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    try {
      process.kill(pid, 0);
      return "unknown";
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EPERM" ? "unknown" : undefined;
    }
  }
}

/** `wanted` where it is free, else the next free one of the hundred after it. */
export async function freePort(host: string, wanted: number): Promise<number> {
  for (let port = wanted; port < wanted + 100 && port < 65_536; port++) {
    if (await isFree(host, port)) return port;
  }
  throw new Error(`no port from ${wanted} to ${wanted + 99} is free; choose one with --port`);
}

function isFree(host: string, port: number): Promise<boolean> {
  return new Promise((done) => {
    const probe = createServer();
    probe.once("error", () => done(false));
    probe.listen({ host, port, exclusive: true }, () => probe.close(() => done(true)));
  });
}
