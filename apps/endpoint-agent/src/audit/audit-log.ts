/**
 * The agent's own audit (docs/agent-audit.md): a chain of records in files of the state folder, that says what this machine
 * was made to do, whatever the service says later. Names, ids and digests; never arguments, results or secrets.
 *
 *   W1  What a turn gathers is one record, one hash and one write. Nothing waits for an fsync: as the journal, it survives
 *       the end of the process, and the death of the machine may take its last seconds.
 *   W2  What begins is written before it is handed out; what has ended follows within some milliseconds.
 *   W3  A write that fails is tried again. What waits is bounded: beyond, `isFull` stops the handing out of tasks.
 *   W4  A record that a crash has torn is cut off at the next start, and the chain says so (`audit.cut`). Nothing else is
 *       ever mended: what was changed stays, and shows.
 *   W5  A file has at most `fileBytes` and a record, all files together `keepBytes`: the oldest goes, and the chain says
 *       up to which record (`audit.dropped`).
 */
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { type AgentAuditEntry, agentAuditLine, canonicalJson } from "@farloom/protocol";
import type { Logger } from "pino";
import { type AuditTail, auditFileName, auditFiles, readTail } from "./audit-files.js";

/** `tasks`: every task as it begins and ends; `decisions`: all but that. */
export const AUDIT_MODES = ["tasks", "decisions", "off"] as const;
export type AuditMode = (typeof AUDIT_MODES)[number];

/** Entries that wait for a disk that cannot be written. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;
/** A record is read as one line: what a turn gathers beyond this goes into the next. */
const MAX_RECORD_BYTES = 1024 * 1024;
const FILE_BYTES = 16 * 1024 * 1024;

export interface AuditLogOptions {
  readonly dir: string;
  readonly mode: AuditMode;
  /** All files together, in bytes; at least two files' worth. */
  readonly keepBytes: number;
  /** A file is closed at this size, in bytes. Default: 16 MiB. */
  readonly fileBytes?: number;
  readonly log: Logger;
}

export class AuditLog {
  readonly mode: AuditMode;
  readonly #options: AuditLogOptions;
  readonly #fileBytes: number;
  #entries: string[] = [];
  #waitingBytes = 0;
  #fd = -1;
  #file = 0;
  #sizeBytes = 0;
  #head: { seq: number; hash: string };
  #isFailing = false;

  private constructor(options: AuditLogOptions, tail: AuditTail) {
    this.#options = options;
    this.mode = options.mode;
    this.#fileBytes = options.fileBytes ?? FILE_BYTES;
    this.#head = tail.head;
    this.#file = tail.file;
  }

  /** Takes up the chain where the last agent left it. In mode `off` nothing is touched. */
  static open(options: AuditLogOptions): AuditLog {
    if (options.mode === "off") return new AuditLog(options, { head: { seq: 0, hash: "" }, file: 0 });
    mkdirSync(options.dir, { recursive: true, mode: 0o700 });
    const tail = readTail(options.dir);
    const log = new AuditLog(options, tail);
    if (tail.tornBytes !== undefined) log.entry({ what: "audit.cut", bytes: tail.tornBytes });
    if (tail.isDamaged) log.entry({ what: "audit.damaged" });
    return log;
  }

  /** `number:hash` of the last record: whoever keeps it sees later whether the end was cut off. Empty in mode `off`. */
  get head(): string {
    return this.mode === "off" ? "" : `${this.#head.seq}:${this.#head.hash}`;
  }

  get tellsTasks(): boolean {
    return this.mode === "tasks";
  }

  get hasEntries(): boolean {
    return this.#entries.length > 0;
  }

  /** More waits than may: nothing is to begin until it is written (W3). */
  get isFull(): boolean {
    return this.#waitingBytes > MAX_WAITING_BYTES;
  }

  /** Something happened; it is written with the next `write`. */
  entry(entry: AgentAuditEntry): void {
    if (this.mode !== "off") this.text(canonicalJson(entry));
  }

  /** The same, as canonical JSON. */
  text(entry: string): void {
    this.#entries.push(entry);
    this.#waitingBytes += entry.length;
  }

  /** Writes what has gathered (W1). False: it could not be written, and waits. */
  write(): boolean {
    if (this.#entries.length === 0) return true;
    try {
      if (this.#fd < 0) this.#open();
      else if (this.#sizeBytes >= this.#fileBytes) this.#rotate();
      while (this.#entries.length > 0) this.#writeRecord();
      this.#isFailing = false;
      return true;
    } catch (err) {
      if (!this.#isFailing)
        this.#options.log.error({ err }, "the audit cannot be written; what happens waits");
      this.#isFailing = true;
      return false;
    }
  }

  /** Writes what is left, and syncs it. Idempotent. */
  close(): void {
    this.write();
    if (this.#fd < 0) return;
    fdatasyncSync(this.#fd);
    closeSync(this.#fd);
    this.#fd = -1;
  }

  #writeRecord(): void {
    let count = 0;
    let chars = 0;
    while (
      count < this.#entries.length &&
      (count === 0 || chars + this.#entries[count]!.length < MAX_RECORD_BYTES)
    )
      chars += this.#entries[count++]!.length;
    const isAll = count === this.#entries.length;
    const part = isAll ? this.#entries : this.#entries.slice(0, count);
    const { line, hash } = agentAuditLine(this.#head, new Date().toISOString(), part);
    const bytes = Buffer.from(`${line}\n`);
    const written = writeSync(this.#fd, bytes);
    if (written < bytes.length) {
      ftruncateSync(this.#fd, this.#sizeBytes);
      throw new Error("the disk is full");
    }
    this.#sizeBytes += written;
    this.#head = { seq: this.#head.seq + 1, hash };
    this.#entries = isAll ? [] : this.#entries.slice(count);
    this.#waitingBytes -= chars;
  }

  #open(): void {
    const path = auditFileName(this.#options.dir, this.#file);
    this.#fd = openSync(path, "a", 0o600);
    this.#sizeBytes = fstatSync(this.#fd).size;
    if (this.#sizeBytes >= this.#fileBytes) this.#rotate();
  }

  /** W5 */
  #rotate(): void {
    const next = openSync(auditFileName(this.#options.dir, this.#file + 1), "ax", 0o600);
    fdatasyncSync(this.#fd);
    closeSync(this.#fd);
    this.#fd = next;
    this.#file++;
    this.#sizeBytes = 0;
    this.#dropOldest();
  }

  /** The record that says so is written first: a crash in between leaves more than was told of, never less. */
  #dropOldest(): void {
    const { dir, keepBytes } = this.#options;
    const files = auditFiles(dir).map((file) => ({ ...file, sizeBytes: statSync(file.path).size }));
    let sizeBytes = this.#fileBytes + files.reduce((sum, file) => sum + file.sizeBytes, 0);
    const old = files.filter((file) => {
      if (file.number >= this.#file - 1 || sizeBytes <= keepBytes) return false;
      sizeBytes -= file.sizeBytes;
      return true;
    });
    const last = old.at(-1);
    if (last === undefined) return;
    const { head } = readTail(dir, last.number);
    const dropped = { what: "audit.dropped", through: head.seq, hash: head.hash, files: old.length };
    const text = canonicalJson(dropped);
    this.#entries.unshift(text);
    this.#waitingBytes += text.length;
    this.#writeRecord();
    for (const { path } of old) rmSync(path, { force: true });
  }
}
