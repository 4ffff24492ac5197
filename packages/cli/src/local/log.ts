/**
 * Logs of the parts that run here: whole to a file, and what is a problem told in plain words. A file that has grown
 * beyond MAX_LOG_BYTES is set aside at the next start, one generation.
 */
import { appendFileSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

const MAX_LOG_BYTES = 16 * 1024 * 1024;
/** pino's levels. */
const WARN = 40;

export interface Problem {
  readonly level: "warning" | "error";
  readonly text: string;
}

/** Makes the file's folder, and sets an overgrown file aside. */
export function prepareLog(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    if (statSync(path).size > MAX_LOG_BYTES) renameSync(path, `${path}.1`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/** The same problem is not told again within this time: a part that dials again and again says one thing. */
const REPEAT_MS = 30_000;
/** Texts remembered for that. */
const MAX_REMEMBERED = 100;

/** Tells a problem once, until REPEAT_MS have passed. */
export function withoutRepeats(tell: (problem: Problem) => void): (problem: Problem) => void {
  const toldMs = new Map<string, number>();
  return (problem) => {
    const nowMs = performance.now();
    if (nowMs - (toldMs.get(problem.text) ?? Number.NEGATIVE_INFINITY) < REPEAT_MS) return;
    if (toldMs.size >= MAX_REMEMBERED) toldMs.clear();
    toldMs.set(problem.text, nowMs);
    tell(problem);
  };
}

/** Appends the stream's lines to the file, and tells of problems. */
export function followLog(stream: Readable, path: string, onProblem: (problem: Problem) => void): void {
  const lines = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
  lines.on("line", (line) => {
    appendFileSync(path, `${line}\n`, { mode: 0o600 });
    const problem = problemIn(line);
    if (problem) onProblem(problem);
  });
}

/** What is wrong according to a log line, or undefined where nothing is. */
export function problemIn(line: string): Problem | undefined {
  const record = parse(line);
  // What is no record of the log was written by a part that could not even start.
  if (record === undefined) return line.trim() === "" ? undefined : { level: "error", text: line };
  if (typeof record.level !== "number" || record.level < WARN) return undefined;
  const err = record.err as { message?: string } | undefined;
  const text = [record.msg, record.reason, err?.message]
    .filter((part) => typeof part === "string")
    .join(": ");
  return { level: record.level > WARN ? "error" : "warning", text };
}

function parse(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}
