/**
 * One agent per state folder. The lock is a file that names the process by pid and start time, so that a lock
 * left by kill -9 is told from a live one even when its pid was given to another process.
 *
 *   L1  The file appears whole or not at all: it is written aside and linked into place.
 *   L2  A stale lock is moved aside before a new one is made, and put back if it was not the stale one.
 *   L3  A lock of another host is never called stale: a state folder on a shared file system is seen by both.
 */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { processStart, readBootId } from "./boot-id.js";

/** What a lock says of its holder. */
export interface LockHolder {
  readonly pid: number;
  readonly start: string;
  readonly host: string;
  readonly bootId: string;
}

export interface StateLock extends LockHolder {
  release(): void;
}

/** Takes the lock, or throws an error that names who has it. */
export function acquireLock(path: string): StateLock {
  const mine: LockHolder = {
    pid: process.pid,
    start: processStart(process.pid) ?? "unknown",
    host: hostname(),
    bootId: readBootId(),
  };
  const text = JSON.stringify(mine);
  const aside = `${path}.${process.pid}`;
  writeFileSync(aside, text, { mode: 0o600 });
  try {
    for (let tries = 0; tries < 5; tries++) {
      try {
        linkSync(aside, path); // L1
        return { ...mine, release: () => release(path, text) };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const before = readText(path);
      if (before === undefined) continue;
      const holder = parse(before);
      if (holder && isAlive(holder)) {
        throw new Error(
          `an agent runs on this state folder already: process ${holder.pid} on ${holder.host} (${path})`,
        );
      }
      moveAside(path, before);
    }
    throw new Error(`the lock ${path} cannot be taken: other agents start at the same time`);
  } finally {
    rmSync(aside, { force: true });
  }
}

/** Who holds the lock now, or undefined where nobody alive does. */
export function lockHolder(path: string): LockHolder | undefined {
  const text = readText(path);
  const holder = text === undefined ? undefined : parse(text);
  return holder && isAlive(holder) ? holder : undefined;
}

function isAlive(holder: LockHolder): boolean {
  if (holder.host !== hostname()) return true; // L3
  if (holder.bootId !== readBootId()) return false;
  return processStart(holder.pid) === holder.start;
}

function moveAside(path: string, expected: string): void {
  const stale = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, stale);
  } catch {
    return; // Somebody else moved it first.
  }
  if (readText(stale) !== expected) {
    try {
      linkSync(stale, path); // L2
    } catch {
      // A third one has the lock by now; the next round meets it.
    }
  }
  rmSync(stale, { force: true });
}

function release(path: string, text: string): void {
  if (readText(path) === text) rmSync(path, { force: true });
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function parse(text: string): LockHolder | undefined {
  try {
    const value = JSON.parse(text) as LockHolder;
    return Number.isInteger(value.pid) && typeof value.start === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
