/** What every command of a person gets: the state folder, where to write, and how the program starts itself again. */
import { hostname } from "node:os";
import { isSea } from "node:sea";
import { fileURLToPath } from "node:url";
import { lockHolder } from "../state/lock.js";
import { type StatePaths, statePaths } from "../state/state-dir.js";

/** Exit codes of these commands, the same as the ones of `farloom`. */
export const DONE = 0;
export const FAILED = 1;
export const NOT_THERE = 3;
export const REFUSED = 4;
export const UNREACHABLE = 5;
export const CONFLICT = 7;

/** A command cannot be done: the message is for the person who gave it. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

export interface Place {
  readonly paths: StatePaths;
  readonly json: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A result: one line of JSON, or text. */
  result(value: unknown, text: string): void;
  /** About what happens: text, to standard error where the result is JSON. */
  say(text: string): void;
}

export function placeOf(stateDir: string, json: boolean): Place {
  return {
    paths: statePaths(stateDir),
    json,
    env: process.env,
    result: (value, text) => void process.stdout.write(`${json ? JSON.stringify(value) : text}\n`),
    say: (text) => void (json ? process.stderr : process.stdout).write(`${text}\n`),
  };
}

/** Program and arguments that begin a command line of this program. */
export function ownProgram(): string[] {
  if (isSea()) return [process.execPath];
  return [process.execPath, fileURLToPath(new URL("../../dist/bundle/main.js", import.meta.url))];
}

export const logFile = (paths: StatePaths): string => `${paths.root}/agent.log`;

/** The process of the agent that runs on this folder, or undefined. Throws where it is another host's. */
export function runningPid(paths: StatePaths): number | undefined {
  const holder = lockHolder(paths.lock);
  if (holder === undefined) return undefined;
  if (holder.host !== hostname())
    throw new CommandError(
      `the agent runs on ${holder.host} (process ${holder.pid}): log in there`,
      CONFLICT,
    );
  return holder.pid;
}
