/**
 * How long a stop waits for what runs, told to a running agent: a file for its process, written before the signal. A file
 * that is meant for another process is of an agent that died before it read it, and counts for nothing.
 */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { StatePaths } from "./state-dir.js";

export const drainRequestFile = (paths: StatePaths): string => join(paths.root, "drain.json");

/** The time in milliseconds that somebody asked of this process, once; undefined where nobody did. */
export function takeDrainRequest(paths: StatePaths): number | undefined {
  const path = drainRequestFile(paths);
  try {
    const { pid, withinMs } = JSON.parse(readFileSync(path, "utf8")) as { pid?: unknown; withinMs?: unknown };
    rmSync(path, { force: true });
    return pid === process.pid && typeof withinMs === "number" && withinMs >= 0 ? withinMs : undefined;
  } catch {
    return undefined;
  }
}
