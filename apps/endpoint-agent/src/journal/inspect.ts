/** Looks at a journal without changing it, while an agent may be writing to it. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { decodeHeader, decodeRecords, FLAG_SNAPSHOT, RECORD } from "./format.js";

export interface JournalReport {
  readonly segments: number;
  readonly records: number;
  readonly sizeBytes: number;
  /** What was committed is missing, or a header is unreadable. A tail that was never committed is no damage. */
  readonly damaged: boolean;
}

/** Throws where a file is of another format than this version reads. */
export function inspectJournal(dir: string): JournalReport {
  let names: string[] = [];
  try {
    names = readdirSync(dir).filter((name) => /^\d{10}\.journal$/.test(name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  let records = 0;
  let sizeBytes = 0;
  let damaged = false;
  for (const name of names) {
    const path = join(dir, name);
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (error) {
      // A compaction has replaced it meanwhile.
      if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
      throw error;
    }
    sizeBytes += bytes.length;
    const header = decodeHeader(bytes);
    if (!header.ok) {
      if (header.why === "foreign")
        throw new Error(`${path} is of journal format ${header.version ?? "unknown"}`);
      damaged = true;
      continue;
    }
    const walk = decodeRecords(bytes, header.headerBytes);
    let isComplete = (header.flags & FLAG_SNAPSHOT) === 0;
    let next = walk.next();
    for (; !next.done; next = walk.next()) {
      if (next.value.type === RECORD.snapshotEnd) isComplete = true;
      else records++;
    }
    if (!isComplete || (header.committedBytes !== undefined && next.value < header.committedBytes))
      damaged = true;
  }
  return { segments: names.length, records, sizeBytes, damaged };
}
