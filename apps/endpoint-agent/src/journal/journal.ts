/**
 * The agent's durable record: append-only, one write for everything of a turn.
 *
 *   J1  `commit` returns true only when every appended record is in the file (the page cache): that survives
 *       kill -9 of the agent. Whatever acknowledges a record comes after it (A2, A3).
 *   J2  A write that fails, or falls short, leaves the committed part as it was: writes go to a position, and
 *       the next one overwrites the rest. Nothing appended is forgotten; it is tried again.
 *   J3  fdatasync runs behind, never two at a time, at most every 100 ms: it narrows what the death of the
 *       machine can take, and no task waits for it.
 *   J4  Behind every commit the file's header says how long it is now. Whoever reads it later knows from that
 *       whether records are missing at its end, be it cut at the most innocent place.
 *   J5  A compaction writes what is live into a new segment, and only when that is synced are older ones deleted.
 *
 * What of this outlives what:
 *
 *   kill -9 of the agent   everything committed: the page cache is the kernel's.
 *   death of the machine   what was synced: some of the last 100 ms may be missing, in any mixture. So after another
 *                          boot nothing may be concluded from what is *not* here. Everything accepted and unfinished
 *                          counts as maybe started; a result that was finished and not yet synced is lost, and its
 *                          task with it (the service decides by its mode); one that the service has acknowledged
 *                          is with the service and cannot be lost here.
 *   damage                 the same as another boot, told by `Replay.damaged`: what is behind it cannot be known. A
 *                          journal that was copied or restored from elsewhere counts as damaged too: what it calls
 *                          queued may have run since, or may run where it was copied from.
 *
 * The *custody id* names an unbroken memory: it changes after another boot, after damage, and where there was no
 * journal. The agent tells it to the service as its boot id (PROTOCOL.md P15c).
 *
 * Bound: live records (the credit window and as much for results) plus 64 MiB of garbage, or as much garbage
 * as live records, whichever is more; twice that while a compaction runs. On a disk with little room, half as much
 * garbage as there is room; and where the disk is full, no garbage at all, as soon as what is live fits beside it.
 */

import { randomUUID } from "node:crypto";
import {
  closeSync,
  fdatasync,
  fdatasyncSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
  writevSync,
} from "node:fs";
import { join } from "node:path";
import { crashPoint, planted } from "@farloom/protocol/testing";
import type { Logger } from "pino";
import { roomOf } from "../state/disk-room.js";
import {
  decodeHeader,
  decodeRecords,
  encodeHeader,
  encodeLength,
  encodeRecordHeader,
  FLAG_SNAPSHOT,
  JOURNAL_VERSION,
  type JournalRecord,
  LENGTH_AT,
  LENGTH_BYTES,
  RECORD,
  type RecordType,
} from "./format.js";

/** Below this much garbage a compaction gains nothing worth its write. */
const GARBAGE_BYTES = 64 * 1024 * 1024;
/** The same on a disk with next to no room. */
const LEAST_GARBAGE_BYTES = 1024 * 1024;
/** How much the journal grows between two looks at the disk's room. */
const LOOK_BYTES = 1024 * 1024;
/** Between two fdatasync: short against what a person would redo, long against what a sync costs. */
const SYNC_EVERY_MS = 100;
/** One writev takes at most this many buffers (IOV_MAX is 1,024). */
const MAX_IOV = 1000;

export interface JournalOptions {
  readonly dir: string;
  readonly bootId: string;
  readonly log: Logger;
  /** Bytes that the journal's disk has room for. Default: as the system says. */
  readonly roomBytes?: () => number;
}

/** What an earlier process left. */
export interface Replay {
  readonly records: JournalRecord[];
  /** The boot in which the last segment was written; undefined where there was none. */
  readonly bootId: string | undefined;
  /** Bytes cut off the end as torn or damaged. */
  readonly cutBytes: number;
  /** Records that had been committed are missing: what was accepted may have started, whatever the rest says. */
  readonly damaged: boolean;
  /** The memory that the last segment belongs to. */
  readonly custodyId: string | undefined;
}

export class Journal {
  /** Names the unbroken memory that this journal is. */
  readonly custodyId: string;
  readonly #dir: string;
  readonly #place: bigint;
  readonly #bootId: string;
  readonly #log: Logger;
  #number: number;
  #fd = -1;
  #committedBytes = 0;
  readonly #roomBytes: () => number;
  #garbageLimit = GARBAGE_BYTES;
  /** How long the journal was when the disk's room was looked at last. */
  #lookedAtBytes = 0;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  #dirty = false;
  #syncing = false;
  #syncTimer: NodeJS.Timeout | undefined;
  /** Segments to delete once the current one is synced. */
  #superseded: string[];
  /** Files of those, while a sync may still use them. */
  #retired: number[] = [];
  #closed = false;

  private constructor(options: JournalOptions, segments: readonly Segment[], replay: Replay) {
    const isUnbroken = replay.bootId === options.bootId && !replay.damaged;
    this.custodyId = (isUnbroken ? replay.custodyId : undefined) ?? randomUUID();
    this.#dir = options.dir;
    this.#place = placeOf(options.dir);
    this.#bootId = options.bootId;
    this.#log = options.log;
    this.#roomBytes = options.roomBytes ?? (() => roomOf(options.dir));
    this.#number = segments.at(-1)?.number ?? 0;
    this.#superseded = segments.map((s) => s.path);
  }

  /**
   * Reads what is there. Until the first `compact` nothing can be appended: an agent begins its life with a
   * snapshot of what it took over.
   */
  static open(options: JournalOptions): { journal: Journal; replay: Replay } {
    const segments = listSegments(options.dir);
    const replay = readSegments(segments, placeOf(options.dir), options.log);
    return { journal: new Journal(options, segments, replay), replay };
  }

  /** Bytes in the current segment. */
  get sizeBytes(): number {
    return this.#committedBytes;
  }

  /** Bytes appended and not yet committed. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  append(type: RecordType, payload: Buffer): void {
    const header = encodeRecordHeader(type, payload);
    this.#pending.push(header, payload);
    this.#pendingBytes += header.length + payload.length;
  }

  /** Writes everything appended. False: nothing of it counts yet, call again later (J2). */
  commit(): boolean {
    if (this.#pending.length === 0) return true;
    if (this.#fd < 0) return false;
    if (planted("journal-without-write")) {
      this.#pending = [];
      this.#pendingBytes = 0;
    }
    crashPoint("agent.journal.before-write");
    try {
      writeAll(this.#fd, this.#pending, this.#committedBytes);
      writeLength(this.#fd, this.#committedBytes + this.#pendingBytes); // J4
    } catch (error) {
      this.#log.warn(
        { err: error, pendingBytes: this.#pendingBytes },
        "the journal cannot be written; nothing is acknowledged until it can",
      );
      return false;
    }
    crashPoint("agent.journal.after-write");
    this.#committedBytes += this.#pendingBytes;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#dirty = true;
    this.#scheduleSync();
    return true;
  }

  /** Whether enough is garbage, given the bytes of what is live. */
  isWasteful(liveBytes: () => number): boolean {
    if (Math.abs(this.#committedBytes - this.#lookedAtBytes) >= LOOK_BYTES) {
      this.#lookedAtBytes = this.#committedBytes;
      this.#garbageLimit = Math.max(LEAST_GARBAGE_BYTES, Math.min(GARBAGE_BYTES, this.#roomBytes() / 2));
    }
    return this.#hasGarbage(liveBytes, this.#garbageLimit);
  }

  /** Whether a compaction would make room on a disk that is full. */
  isCompressible(liveBytes: () => number): boolean {
    return this.#hasGarbage(liveBytes, LEAST_GARBAGE_BYTES);
  }

  #hasGarbage(liveBytes: () => number, limit: number): boolean {
    if (this.#committedBytes < limit) return false;
    const live = liveBytes();
    const garbage = this.#committedBytes - live;
    return garbage > limit && garbage > live;
  }

  /**
   * Begins a new segment with `live`. What is pending must be part of `live`: it is dropped. Throws where the
   * segment cannot be written; then the old one stays in use.
   */
  compact(live: Iterable<JournalRecord>): void {
    const number = this.#number + 1;
    const path = join(this.#dir, segmentName(number));
    const aside = `${path}.new`;
    const fd = openSync(aside, "w", 0o600);
    let at = 0;
    try {
      let chunk: Buffer[] = [
        encodeHeader(this.#bootId, FLAG_SNAPSHOT, { custodyId: this.custodyId, place: this.#place }),
      ];
      const add = (record: JournalRecord): void => {
        chunk.push(encodeRecordHeader(record.type, record.payload), record.payload);
        if (chunk.length >= MAX_IOV - 2) {
          at += writeAll(fd, chunk, at);
          chunk = [];
        }
      };
      for (const record of live) add(record);
      add({ type: RECORD.snapshotEnd, payload: Buffer.alloc(0) });
      at += writeAll(fd, chunk, at);
      writeLength(fd, at);
      crashPoint("agent.compact.before-rename");
      renameSync(aside, path);
      crashPoint("agent.compact.after-rename");
    } catch (error) {
      closeSync(fd);
      rmSync(aside, { force: true });
      throw error;
    }
    const before = this.#fd;
    this.#number = number;
    this.#fd = fd;
    this.#committedBytes = at;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#dirty = true;
    // A sync of the old segment may be under way: it holds its own reference until it is done.
    if (before >= 0) this.#retire(before);
    this.#scheduleSync();
  }

  #retire(fd: number): void {
    if (this.#syncing) this.#retired.push(fd);
    else closeSync(fd);
    this.#superseded.push(join(this.#dir, segmentName(this.#number - 1)));
  }

  #scheduleSync(): void {
    if (this.#syncing || this.#syncTimer !== undefined || this.#closed) return;
    this.#syncTimer = setTimeout(() => this.#sync(), SYNC_EVERY_MS);
    this.#syncTimer.unref();
  }

  /** J3 */
  #sync(): void {
    this.#syncTimer = undefined;
    if (this.#closed || !this.#dirty) return;
    this.#syncing = true;
    this.#dirty = false;
    const fd = this.#fd;
    const number = this.#number;
    fdatasync(fd, (error) => {
      this.#syncing = false;
      for (const old of this.#retired.splice(0)) closeSync(old);
      if (this.#closed) {
        if (this.#fd >= 0) closeSync(this.#fd);
        this.#fd = -1;
        return;
      }
      if (error) {
        this.#log.warn({ err: error }, "the journal cannot be synced");
        this.#dirty = true;
      } else if (number === this.#number) this.#deleteSuperseded();
      if (this.#dirty) this.#scheduleSync();
    });
  }

  /** J5 */
  #deleteSuperseded(): void {
    if (this.#superseded.length === 0) return;
    syncDir(this.#dir);
    const current = join(this.#dir, segmentName(this.#number));
    for (const path of this.#superseded.splice(0)) if (path !== current) rmSync(path, { force: true });
  }

  /** Syncs and closes. Pending records that cannot be written are lost with the process, unacknowledged. */
  close(): void {
    if (this.#closed) return;
    this.commit();
    this.#closed = true;
    clearTimeout(this.#syncTimer);
    if (this.#fd < 0) return;
    try {
      fdatasyncSync(this.#fd);
      this.#deleteSuperseded();
    } catch (error) {
      this.#log.warn({ err: error }, "the journal cannot be synced");
    }
    if (this.#syncing) return; // Its callback closes the file.
    closeSync(this.#fd);
    this.#fd = -1;
  }
}

interface Segment {
  readonly number: number;
  readonly path: string;
}

function segmentName(number: number): string {
  return `${String(number).padStart(10, "0")}.journal`;
}

function listSegments(dir: string): Segment[] {
  const segments: Segment[] = [];
  for (const name of readdirSync(dir)) {
    const match = /^(\d{10})\.journal(\.new)?$/.exec(name);
    if (!match) continue;
    if (match[2]) rmSync(join(dir, name), { force: true });
    else segments.push({ number: Number(match[1]), path: join(dir, name) });
  }
  return segments.sort((a, b) => a.number - b.number);
}

/** The records from the newest complete snapshot on. */
function readSegments(segments: readonly Segment[], place: bigint, log: Logger): Replay {
  let records: JournalRecord[] = [];
  let bootId: string | undefined;
  let custodyId: string | undefined;
  let cutBytes = 0;
  let damaged = false;
  for (const segment of segments) {
    const bytes = readFileSync(segment.path);
    const header = decodeHeader(bytes);
    if (!header.ok) {
      if (header.why === "foreign") throw new Error(`${segment.path} ${refusal(header.version)}`);
      // A segment gets its name only once its header is whole: this one was damaged later, or by another boot's end.
      log.error({ segment: segment.path, sizeBytes: bytes.length }, "a journal segment has no whole header");
      cutBytes += bytes.length;
      damaged = true;
      continue;
    }
    const own: JournalRecord[] = [];
    const walk = decodeRecords(bytes, header.headerBytes);
    let complete = false;
    let next = walk.next();
    while (!next.done) {
      if (next.value.type === RECORD.snapshotEnd) complete = true;
      else own.push(next.value);
      next = walk.next();
    }
    const cut = bytes.length - next.value;
    const isSnapshot = (header.flags & FLAG_SNAPSHOT) !== 0;
    const isDamaged =
      (header.place !== 0n && header.place !== place) ||
      (isSnapshot && !complete) ||
      (header.version === 1
        ? cut > 0
        : header.committedBytes === undefined || next.value < header.committedBytes);
    if (cut > 0 || isDamaged) {
      cutBytes += cut;
      log.warn(
        { segment: segment.path, cutBytes: cut, atBytes: next.value, damaged: isDamaged },
        "the end of the journal is torn or damaged, or it was copied here; what is readable is kept",
      );
    }
    if (planted("replay-skips-last-segment") && segment === segments.at(-1)) own.length = 0;
    if (isSnapshot && complete) {
      records = own;
      damaged = isDamaged;
    } else {
      // A snapshot that was cut short adds to what came before it instead of replacing it.
      records = [...records, ...own];
      damaged ||= isDamaged;
    }
    bootId = header.bootId;
    custodyId = header.custodyId;
  }
  return { records, bootId, cutBytes, damaged, custodyId };
}

/** Names the folder itself: a copy of it has another. */
function placeOf(dir: string): bigint {
  return statSync(dir, { bigint: true }).ino;
}

/** Why a segment of another format is not touched, and what to do. */
function refusal(version: number | undefined): string {
  if (version === undefined) {
    return "is no journal of Farloom: somebody put it there. Move it aside, and start the agent again";
  }
  return (
    `has journal format ${version}, and this agent reads ${JOURNAL_VERSION} and older: a newer version of the agent wrote it. ` +
    "Start that version (or a newer one) again, or move the journal folder aside to give up the tasks in it"
  );
}

/** J4 */
function writeLength(fd: number, sizeBytes: number): void {
  const slot = encodeLength(sizeBytes);
  if (writeSync(fd, slot, 0, LENGTH_BYTES, LENGTH_AT) !== LENGTH_BYTES) {
    throw new Error("the journal's length was not written whole");
  }
}

/** Writes all of `buffers` from `position` on; returns how many bytes. */
function writeAll(fd: number, buffers: readonly Buffer[], position: number): number {
  let at = position;
  for (let i = 0; i < buffers.length; i += MAX_IOV) {
    let part = buffers.slice(i, i + MAX_IOV).filter((b) => b.length > 0);
    while (part.length > 0) {
      let written = writevSync(fd, part, at);
      at += written;
      while (part.length > 0 && written >= part[0]!.length) {
        written -= part[0]!.length;
        part = part.slice(1);
      }
      if (part.length > 0) part = [part[0]!.subarray(written), ...part.slice(1)];
    }
  }
  return at - position;
}

function syncDir(dir: string): void {
  const fd = openSync(dir, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
