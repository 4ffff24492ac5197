/**
 * The queue of one endpoint in its owner's memory. Pure bookkeeping: no sockets, no SQL.
 *
 * A ring of entries that may be sent, and a map of everything in hand: in the ring, or leased to the agent. The
 * ring is bounded; what does not fit stays in PostgreSQL and comes by pages (`filler.ts`).
 *
 *   Q1  `held` has every task of this endpoint that is in the ring or leased, by id: a task met again, by a page,
 *       a hint or a resubmission, is recognised and not queued twice.
 *   Q2  Every open task with seq ≤ cursor is held, or was ended here, or commits late and is found by the sweep.
 *   Q3  While `backlog` is set, PostgreSQL holds runnable tasks beyond the ring, and new ones queue behind them there.
 *   Q4  A task that ends while a page is being read is remembered until the page is in: the page's snapshot may be
 *       older than the commit.
 *   Q5  Until what the endpoint's agent had before this connection is dealt with (`opening`), nothing is sent.
 */
import { CODEC_REFERENCE, type EndpointReport, type IdKey, keyToUuid } from "@farloom/protocol";
import type { Leases } from "../store/endpoint-leases.js";
import type { LeaseQuestion } from "../store/hints.js";
import type { EndedLately } from "./ended-lately.js";
import type { TaskEntry } from "./task-entry.js";

/** Entries in one ring: some seconds of work for the fastest endpoint, about 20 MB. */
export const RING_ENTRIES = 65_536;
/** Argument bytes in one ring. */
export const RING_BYTES = 64 * 1024 * 1024;
/** Entries in all rings together; above it, a ring holds SHARED_RING_ENTRIES at most. */
export const ALL_RING_ENTRIES = 262_144;
const SHARED_RING_ENTRIES = 4096;
/** Tasks that one agent may have, whatever credit it gives: the record of its leases is at most 2 MiB. */
export const MAX_LEASED = 131_072;

/** What all rings of this service hold together. */
export interface RingBudget {
  entries: number;
}

/** What is known while a connection opens. */
export interface Opening {
  /** What the agent had when its last connection ended; undefined until that is found out. */
  before: Leases | undefined;
  /** What its hello lists. */
  readonly listed: ReadonlySet<IdKey>;
  /** Tasks whose results have come since. */
  readonly answered: Set<IdKey>;
}

export class EndpointQueue {
  readonly endpointKey: IdKey;
  readonly endpointId: string;
  readonly epoch: number;
  readonly held = new Map<IdKey, TaskEntry>();
  cursor: number;
  backlog = true;
  /** Set until what the agent had before is dealt with (Q5). */
  opening: Opening | undefined;
  /** Until when the agent may hold a task of which nothing is known here, as its INSERT is under way; monotonic. */
  mayCommitUntilMs = 0;
  /** The last number that any task had when this connection was accepted. */
  lastSeqBefore = 0;
  /** What the agent told last of how it stands (P32), and when, in milliseconds since 1970. */
  reported: { readonly report: EndpointReport; readonly atMs: number } | undefined;
  /** The floor that the endpoint's row has. */
  raisedFloor: number;
  #ring: TaskEntry[] = [];
  #head = 0;
  #bytes = 0;
  readonly #budget: RingBudget;
  readonly #lately: EndedLately | undefined;
  #endedWhilePaging: Set<IdKey> | undefined;
  #pages = 0;
  #closed = false;

  constructor(
    endpointKey: IdKey,
    claim: { readonly epoch: number; readonly floorSeq: number },
    budget: RingBudget = { entries: 0 },
    lately?: EndedLately,
  ) {
    this.#lately = lately;
    this.endpointKey = endpointKey;
    this.endpointId = keyToUuid(endpointKey);
    this.epoch = claim.epoch;
    this.cursor = claim.floorSeq;
    this.raisedFloor = claim.floorSeq;
    this.#budget = budget;
  }

  /** Entries that wait to be sent, ended ones included. */
  get length(): number {
    return this.#ring.length - this.#head;
  }

  get full(): boolean {
    const most = this.#budget.entries < ALL_RING_ENTRIES ? RING_ENTRIES : SHARED_RING_ENTRIES;
    return this.length >= most || this.#bytes >= RING_BYTES;
  }

  get leased(): number {
    return this.held.size - this.length;
  }

  /** How many tasks in hand wait before this one; undefined where it is not in hand. What runs is not counted. */
  waitingBefore(key: IdKey): number | undefined {
    if (!this.held.has(key)) return undefined;
    let n = 0;
    for (const entry of this.held.values()) {
      if (entry.key === key) break;
      if (entry.state !== "STARTED" && !entry.ended) n++;
    }
    return n;
  }

  /** Of what the agent has, what is asked for. An attempt that waits until an older one has been stopped is not there. */
  leasedAs(asked: LeaseQuestion): TaskEntry | undefined {
    if ("task" in asked) {
      const entry = this.held.get(asked.task);
      const isIts = entry?.state !== "QUEUED" && entry?.attempt === asked.attempt && entry.awaits === 0;
      return isIts ? entry : undefined;
    }
    // What is leased was queued first, and so comes first.
    for (const entry of this.held.values())
      if (entry.state !== "QUEUED" && refersTo(entry, asked.digest)) return entry;
    return undefined;
  }

  /** Takes a new task if there is room and no backlog before it. */
  offer(entry: TaskEntry): boolean {
    if (this.backlog) return false;
    if (this.full) {
      this.backlog = true;
      return false;
    }
    this.add(entry);
    return true;
  }

  /** Queues an entry, whatever the backlog; says whether it was new (Q1). */
  add(entry: TaskEntry): boolean {
    if (this.held.has(entry.key) || this.#endedWhilePaging?.has(entry.key)) return false;
    this.held.set(entry.key, entry);
    this.#push(entry);
    return true;
  }

  /** Remembers a task that the agent already has. */
  addLeased(entry: TaskEntry): void {
    entry.state = "LEASED";
    entry.accepted = true;
    this.held.set(entry.key, entry);
  }

  /** Puts a held entry back in the ring: returned by the agent, or up for another attempt. */
  requeue(entry: TaskEntry): void {
    entry.state = "QUEUED";
    entry.accepted = false;
    this.#push(entry);
  }

  /** The entry is let go, as if it had never been read: its row says what comes next. */
  release(entry: TaskEntry): void {
    entry.ended = true;
    if (this.held.get(entry.key) === entry) this.held.delete(entry.key);
  }

  /** Pages that are being read now do not bring this task: it is about to be ended in PostgreSQL (Q4). */
  bar(key: IdKey): void {
    this.#endedWhilePaging?.add(key);
  }

  /** Whether the agent may have a task that is not held here: only while the connection opens. */
  mayBeOut(key: IdKey): boolean {
    if (this.opening === undefined) return false;
    const { before, listed } = this.opening;
    return !before?.whole || before.accepted.has(key) || before.sent.has(key) || listed.has(key);
  }

  /** What the agent has, as far as is known here. */
  leases(): Leases {
    const accepted = new Set<IdKey>();
    const sent = new Set<IdKey>();
    const attempts = new Map<IdKey, number>();
    for (const entry of this.held.values()) {
      if (entry.state === "QUEUED") continue;
      (entry.accepted ? accepted : sent).add(entry.key);
      if (entry.attempt > 1) attempts.set(entry.key, entry.attempt);
    }
    const before = this.opening?.before;
    if (this.opening === undefined) return { accepted, sent, attempts, whole: true };
    for (const key of before?.accepted ?? []) if (!this.opening.answered.has(key)) accepted.add(key);
    for (const key of before?.sent ?? [])
      if (!accepted.has(key) && !this.opening.answered.has(key)) sent.add(key);
    for (const [key, attempt] of before?.attempts ?? []) if (!attempts.has(key)) attempts.set(key, attempt);
    const isKnown = before?.attempts !== undefined;
    return { accepted, sent, attempts: isKnown ? attempts : undefined, whole: before?.whole ?? false };
  }

  /** The next entries to send: at most `count`, and `bytes` of arguments but for the last one. */
  take(count: number, bytes: number): TaskEntry[] {
    const taken: TaskEntry[] = [];
    let room = bytes;
    while (taken.length < count && room > 0 && this.#head < this.#ring.length) {
      const entry = this.#ring[this.#head++]!;
      this.#bytes -= entry.sizeBytes;
      this.#budget.entries--;
      entry.inRing = false;
      if (entry.ended || entry.state !== "QUEUED") continue;
      entry.state = "LEASED";
      room -= entry.sizeBytes;
      taken.push(entry);
    }
    if (this.#head > 1024 && this.#head * 2 > this.#ring.length) {
      this.#ring = this.#ring.slice(this.#head);
      this.#head = 0;
    }
    return taken;
  }

  /** Taken, but not to be sent yet: back to the front of the ring, in their order. */
  giveBack(entries: readonly TaskEntry[]): void {
    if (this.#closed) return;
    for (const entry of entries) {
      entry.state = "QUEUED";
      entry.inRing = true;
      this.#bytes += entry.sizeBytes;
      this.#budget.entries++;
    }
    this.#ring = [...entries, ...this.#ring.slice(this.#head)];
    this.#head = 0;
  }

  /** Taken, but not to be sent: it is cancelled, or its time is over. It is held until that is written. */
  park(entry: TaskEntry): void {
    entry.state = "QUEUED";
  }

  /** The task is over, or is not ours any more. */
  forget(entry: TaskEntry): void {
    entry.ended = true;
    if (this.held.get(entry.key) === entry) this.held.delete(entry.key);
    this.#endedWhilePaging?.add(entry.key);
    if (entry.mayComeLate) this.#lately?.add(entry.key);
  }

  /** Nothing is sent from this queue any more. */
  close(): void {
    this.#closed = true;
    this.#budget.entries -= this.length;
    for (const entry of this.#ring) entry.inRing = false;
    this.#ring = [];
    this.#head = 0;
    this.#bytes = 0;
  }

  beginPage(): void {
    this.#pages++;
    this.#endedWhilePaging ??= new Set();
  }

  endPage(): void {
    if (--this.#pages === 0) this.#endedWhilePaging = undefined;
  }

  /** The smallest seq that may still be open, as far as is known here. */
  floor(): number {
    let floor = this.cursor;
    for (const entry of this.held.values())
      if (entry.committed && entry.seq - 1 < floor) floor = entry.seq - 1;
    return floor;
  }

  #push(entry: TaskEntry): void {
    if (this.#closed || entry.inRing) return;
    entry.inRing = true;
    this.#ring.push(entry);
    this.#bytes += entry.sizeBytes;
    this.#budget.entries++;
  }
}

/** A reference begins with its file's digest. */
function refersTo({ codec, source, start, sizeBytes }: TaskEntry, digest: Buffer): boolean {
  if (codec < CODEC_REFERENCE || sizeBytes < digest.length) return false;
  // Most differ here already, which costs a tenth of the call: an agent may have thousands.
  if (source[start] !== digest[0] || source[start + 1] !== digest[1]) return false;
  return source.compare(digest, 0, digest.length, start, start + digest.length) === 0;
}
