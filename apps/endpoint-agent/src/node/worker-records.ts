/**
 * `run/workers.json`: which workers this state folder has, so that the next agent finds those that outlive
 * this one. Holds their secrets, hence 0600. Written whole on every change, which is rare.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface WorkerRecord {
  readonly name: string;
  readonly pid: number;
  /** From /proc/<pid>/stat: tells the process from a later one with its number. */
  readonly startTime: string;
  readonly secret: string;
  /** The lane, e.g. `python:default`. */
  readonly lane: string;
  readonly dir: string;
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
          [r.name, r.startTime, r.secret, r.lane, r.dir].every((field) => typeof field === "string"),
      );
    } catch {
      return [];
    }
  }

  put(record: WorkerRecord): void {
    this.#records.set(record.name, record);
    this.#write();
  }

  remove(name: string): void {
    if (this.#records.delete(name)) this.#write();
  }

  #write(): void {
    const temporary = `${this.#path}.tmp`;
    writeFileSync(temporary, JSON.stringify([...this.#records.values()]), { mode: 0o600 });
    renameSync(temporary, this.#path);
  }
}
