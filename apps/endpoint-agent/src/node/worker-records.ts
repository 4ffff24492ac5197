/**
 * `run/workers.json`: which workers this state folder has, so that the next agent finds those that outlive
 * this one. Holds their secrets, hence 0600. Written whole on every change, which is rare. A worker that is not in it
 * gets no task; one that is in it and gone is looked after by the next agent.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Gear } from "./gear/ledger.js";

export interface WorkerRecord {
  readonly name: string;
  readonly pid: number;
  /** From /proc/<pid>/stat: tells the process from a later one with its number. */
  readonly startTime: string;
  readonly secret: string;
  /** The lane, e.g. `python:default`. */
  readonly lane: string;
  readonly dir: string;
  /** What FARLOOM_WORKER says in the environment of everything it starts; absent in records of older agents. */
  readonly marker?: string | undefined;
  /** What it has for itself; absent: nothing. */
  readonly gear?: Gear | undefined;
  /** The level of isolation that it was started at; absent: none. */
  readonly level?: string | undefined;
  /** Of its sandbox (Sandbox.rules); absent where it has none. */
  readonly rules?: string | undefined;
  /** Of its program, gear and limits (recipeOf); absent in records of older agents. */
  readonly recipe?: string | undefined;
}

export class WorkerRecords {
  readonly #path: string;
  readonly #records = new Map<string, WorkerRecord>();

  constructor(runDir: string) {
    this.#path = join(runDir, "workers.json");
  }

  /** What an earlier agent wrote; nothing where the file is missing or damaged. */
  load(): WorkerRecord[] {
    try {
      const value: unknown = JSON.parse(readFileSync(this.#path, "utf8"));
      if (!Array.isArray(value)) return [];
      return value.filter(
        (r): r is WorkerRecord =>
          typeof r === "object" &&
          r !== null &&
          Number.isSafeInteger(r.pid) &&
          r.pid > 1 &&
          [r.name, r.startTime, r.secret, r.lane, r.dir, r.marker ?? "", r.level ?? "", r.recipe ?? ""].every(
            (field) => typeof field === "string",
          ),
      );
    } catch {
      return [];
    }
  }

  /** Whether a worker of this name is on record, though it may be dead: its record goes when its results are safe. */
  has(name: string): boolean {
    return this.#records.has(name);
  }

  /** One that was loaded, and is still there: the file has it already. */
  keep(record: WorkerRecord): void {
    this.#records.set(record.name, record);
  }

  /** Throws where it cannot be written, and then has not got it. */
  put(record: WorkerRecord): void {
    this.#records.set(record.name, record);
    try {
      this.#write();
    } catch (error) {
      this.#records.delete(record.name);
      throw error;
    }
  }

  remove(name: string): void {
    if (!this.#records.delete(name)) return;
    try {
      this.#write();
    } catch {
      // A record too many costs the next agent one look for a process that is gone.
    }
  }

  #write(): void {
    const temporary = `${this.#path}.tmp`;
    writeFileSync(temporary, JSON.stringify([...this.#records.values()]), { mode: 0o600 });
    renameSync(temporary, this.#path);
  }
}
