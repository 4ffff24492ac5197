/**
 * The two things that the checker believes, as files: histories (what a client did and was told) and evidence
 * (what the functions wrote), and the campaign's own record beside them.
 *
 *   R1  A record is on the disk before its writer acts on it: what a killed client said it was told, it was told.
 *   R2  A torn last line, of a writer that was killed in its middle, is no record.
 *   R3  One clock: nanoseconds of CLOCK_MONOTONIC, the same for all processes of the machine, in every language.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";

/** Nanoseconds (R3). Below 2^53 for a hundred days of uptime: a number will do. */
export function nowNs() {
  return Number(process.hrtime.bigint());
}

/** Appends JSON lines. What is written in one turn of the event loop is synced together. */
export class Recorder {
  #fd;
  #lines = [];
  #scheduled = false;

  constructor(file) {
    mkdirSync(dirname(file), { recursive: true });
    this.#fd = openSync(file, "a");
  }

  write(ev, fields = {}) {
    this.#lines.push(`${JSON.stringify({ ev, at: nowNs(), ...fields })}\n`);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.flush());
  }

  /** Before acting upon what was written (R1). */
  flush() {
    this.#scheduled = false;
    if (this.#lines.length === 0 || this.#fd === undefined) return;
    const text = this.#lines.join("");
    this.#lines = [];
    writeSync(this.#fd, text);
    fsyncSync(this.#fd);
  }

  close() {
    this.flush();
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

/** The records of a file; none where it is missing. */
export function readRecords(file) {
  if (!existsSync(file)) return [];
  const records = [];
  for (const line of wholeLines(file)) {
    try {
      records.push(JSON.parse(line));
    } catch {
      // A writer was killed within this line, and the next one began behind it (R2).
    }
  }
  return records;
}

/** All records of a folder's histories, each with the name of its file. */
export function readHistories(folder) {
  const dir = join(folder, "history");
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((name) => name.endsWith(".jsonl"))
    .flatMap((name) =>
      readRecords(join(dir, name)).map((record) => ({ ...record, client: name.slice(0, -6) })),
    );
}

/** @typedef {{task: string, attempt: number, fence: number, pid: number, what: string, nonce: string, at: number}} Trace */

/**
 * Everything that functions wrote, by time.
 * @returns {Trace[]}
 */
export function readEvidence(folder) {
  const dir = join(folder, "evidence");
  if (!existsSync(dir)) return [];
  const traces = [];
  for (const name of readdirSync(dir)) {
    for (const line of wholeLines(join(dir, name))) {
      const [task, attempt, fence, pid, what, nonce, at] = line.split(" ");
      if (at === undefined) continue;
      traces.push({
        task,
        attempt: Number(attempt),
        fence: Number(fence),
        pid: Number(pid),
        what,
        nonce,
        at: Number(at),
      });
    }
  }
  return traces.sort((a, b) => a.at - b.at);
}

function wholeLines(file) {
  const text = readFileSync(file, "utf8");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter(Boolean);
}
