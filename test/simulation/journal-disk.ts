/**
 * A disk with an agent's journal on it, in the real format: what was written survives the agent, what was synced
 * survives the machine, and a write that was under way leaves some of its bytes.
 *
 * Segments are read as journal.ts reads them: from the newest complete snapshot on.
 */
import { decodeFrame, type IdKey, keyAt, u32Of } from "@farloom/protocol";
import {
  decodeHeader,
  decodeRecords,
  encodeHeader,
  encodeRecordHeader,
  FLAG_SNAPSHOT,
  HEADER_BYTES,
  type JournalRecord,
  RECORD,
  type RecordType,
} from "../../apps/endpoint-agent/src/journal/format.js";
import type { Random } from "./random.js";

interface Segment {
  bytes: Buffer[];
  /** How many of `bytes` are synced. */
  synced: number;
}

const TASKS_AND_RESULTS = new Set(["tasks", "results"] as const);
const NO_BYTES = Buffer.alloc(0);

export class JournalDisk {
  #segments: Segment[] = [];
  #pending: Buffer[] = [];
  full = false;

  append(type: RecordType, payload: Buffer): void {
    this.#pending.push(encodeRecordHeader(type, payload), payload);
  }

  /** False: nothing of it counts. */
  commit(): boolean {
    if (this.full && this.#pending.length > 0) return false;
    this.#segments.at(-1)?.bytes.push(...this.#pending);
    this.#pending = [];
    return true;
  }

  sync(): void {
    const current = this.#segments.at(-1);
    if (!current) return;
    current.synced = current.bytes.length;
    this.#segments = [current];
  }

  compact(bootId: string, live: Iterable<JournalRecord>): void {
    const bytes: Buffer[] = [encodeHeader(bootId, FLAG_SNAPSHOT)];
    for (const { type, payload } of live) bytes.push(encodeRecordHeader(type, payload), payload);
    bytes.push(encodeRecordHeader(RECORD.snapshotEnd, NO_BYTES));
    this.#segments.push({ bytes, synced: 0 });
    this.#pending = [];
  }

  /** kill -9 of the agent: what a write had begun may be there in part. */
  agentDied(random: Random): void {
    if (this.#pending.length > 0 && random.once(2)) {
      const torn = Buffer.concat(this.#pending);
      this.#segments.at(-1)?.bytes.push(torn.subarray(0, random.below(torn.length)));
    }
    this.#pending = [];
  }

  /** The machine's death: of what was not synced, some may be there. Gives the tasks of whose attempts no record is left. */
  machineDied(random: Random): IdKey[] {
    const known = attemptsOf(this.read().records);
    for (const segment of this.#segments) {
      const kept = Buffer.concat(segment.bytes.slice(0, segment.synced));
      const loose = Buffer.concat(segment.bytes.slice(segment.synced));
      segment.bytes = [kept, loose.subarray(0, random.below(loose.length + 1))];
      segment.synced = segment.bytes.length;
    }
    this.#pending = [];
    for (const attempt of attemptsOf(this.read().records)) known.delete(attempt);
    return [...known].map((attempt) => attempt.slice(0, 16));
  }

  read(): { records: JournalRecord[]; bootId: string | undefined } {
    let records: JournalRecord[] = [];
    let bootId: string | undefined;
    for (const segment of this.#segments) {
      const bytes = segment.bytes.length === 1 ? segment.bytes[0]! : Buffer.concat(segment.bytes);
      const header = decodeHeader(bytes);
      if (!header.ok) continue;
      const own: JournalRecord[] = [];
      let complete = false;
      for (const record of decodeRecords(bytes, HEADER_BYTES)) {
        if (record.type === RECORD.snapshotEnd) complete = true;
        else own.push(record);
      }
      records = (header.flags & FLAG_SNAPSHOT) !== 0 && complete ? own : [...records, ...own];
      bootId = header.bootId;
    }
    return { records, bootId };
  }
}

/** Key and attempt of every task that these records have, whatever became of them. */
function attemptsOf(records: readonly JournalRecord[]): Set<string> {
  const attempts = new Set<string>();
  for (const { type, payload } of records) {
    if (type !== RECORD.accepted && type !== RECORD.result) continue;
    const decoded = decodeFrame(payload, TASKS_AND_RESULTS);
    if (!decoded.ok) continue;
    const { ids, n } = decoded.frame;
    for (let i = 0; i < n; i++) attempts.add(keyAt(ids, 16 * i) + u32Of(decoded.frame.attempts, i, 1));
  }
  return attempts;
}
