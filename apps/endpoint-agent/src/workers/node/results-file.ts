/**
 * The Node worker's results file: the task that runs, and the results that no mark covers yet. What lies in a socket
 * dies with whoever does not read it to its end; what was written here outlives this process, whatever ends it. The
 * layout is that of ResultsFile in farloom_worker.py; node/worker-files.ts reads both.
 */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import {
  durationToWire,
  encodeValue,
  type IdKey,
  type ResultItem,
  SEAL_BYTES,
  writeFence,
} from "@farloom/protocol";

const HEAD_BYTES = 32;
const RECORD_BYTES = 48;
const CUSTODY_BYTES = 8 + SEAL_BYTES;
const RUNNING_AT = 4;
const GUARDED_AT = 6;
const FIRST_AT = 24;
/** Beyond this a result is not recorded: it is in its socket alone. */
const MAX_BYTES = 1024 * 1024;

export class ResultsFile {
  readonly #fd: number;
  readonly #head = Buffer.alloc(HEAD_BYTES);
  /** Where each record ends, from the first that is wanted; one that had no room ends where it would have begun. */
  #ends: number[] = [];
  #first = HEAD_BYTES;
  #at = HEAD_BYTES;

  constructor(path: string) {
    this.#fd = openSync(path, "w+", 0o600);
    this.#head[5] = 1; // behind each detail: fence and seal
    this.#head.writeUInt32LE(HEAD_BYTES, FIRST_AT);
    writeSync(this.#fd, this.#head, 0, HEAD_BYTES, 0);
  }

  /** This task runs from now on. */
  begin(key: IdKey): void {
    this.#head[RUNNING_AT] = 1;
    this.#head.write(key, 8, 16, "latin1");
    writeSync(this.#fd, this.#head, RUNNING_AT, 20, RUNNING_AT);
  }

  /** What runs has been given secrets. */
  guard(): void {
    this.#head[GUARDED_AT] = 1;
    writeSync(this.#fd, this.#head, GUARDED_AT, 1, GUARDED_AT);
  }

  /** Nothing runs. */
  end(): void {
    this.#head[RUNNING_AT] = 0;
    this.#head[GUARDED_AT] = 0;
    writeSync(this.#fd, this.#head, RUNNING_AT, 3, RUNNING_AT);
  }

  /** Records a result, if there is room for it, in the file and on the disk. */
  add(item: ResultItem): void {
    try {
      this.#add(item);
    } catch {
      // A full disk: it is in its socket alone.
      this.#ends.push(this.#at);
    }
  }

  #add(item: ResultItem): void {
    const detail = item.detail === undefined ? undefined : encodeValue(item.detail);
    const dataBytes = item.end - item.start;
    const detailBytes = (detail?.length ?? 0) + CUSTODY_BYTES;
    const bytes = RECORD_BYTES + dataBytes + detailBytes;
    if (this.#at + bytes > MAX_BYTES) this.#compact();
    if (this.#at + bytes > MAX_BYTES) {
      this.#ends.push(this.#at);
      return;
    }
    const record = Buffer.alloc(bytes);
    record.write(item.key, 0, 16, "latin1");
    record[16] = item.codec;
    record[17] = item.state;
    record[18] = item.reason;
    record.writeUInt32LE(item.attempt, 20);
    record.writeUInt32LE(durationToWire(item.queueUs), 24);
    record.writeUInt32LE(durationToWire(item.runUs), 28);
    record.writeUInt32LE(durationToWire(item.cpuUs), 32);
    record.writeUInt32LE(item.peakKb, 36);
    record.writeUInt32LE(dataBytes, 40);
    record.writeUInt32LE(detailBytes, 44);
    item.source.copy(record, RECORD_BYTES, item.start, item.end);
    detail?.copy(record, RECORD_BYTES + dataBytes);
    const custody = record.subarray(bytes - CUSTODY_BYTES);
    writeFence(custody, 0, item.fence ?? 0);
    item.seals?.copy(custody, 8, item.sealAt ?? 0, (item.sealAt ?? 0) + SEAL_BYTES);
    writeSync(this.#fd, record, 0, bytes, this.#at);
    this.#at += bytes;
    this.#ends.push(this.#at);
    this.#write(0, this.#at - HEAD_BYTES);
  }

  /** No mark covers the last `n` that were added; what came before them is not wanted any more. */
  keep(n: number): void {
    if (n === 0) {
      this.#ends = [];
      this.#first = this.#at = HEAD_BYTES;
      this.#write(0, 0);
      this.#write(FIRST_AT, HEAD_BYTES);
    } else if (n < this.#ends.length) {
      const gone = this.#ends.length - n;
      this.#first = this.#ends[gone - 1]!;
      this.#ends.splice(0, gone);
      this.#write(FIRST_AT, this.#first);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Moves what is wanted to the front. For that moment there is nothing to be read. */
  #compact(): void {
    const moved = this.#first - HEAD_BYTES;
    if (moved === 0) return;
    const wanted = Buffer.alloc(this.#at - this.#first);
    readSync(this.#fd, wanted, 0, wanted.length, this.#first);
    this.#write(0, 0);
    writeSync(this.#fd, wanted, 0, wanted.length, HEAD_BYTES);
    this.#first -= moved;
    this.#at -= moved;
    this.#ends = this.#ends.map((end) => end - moved);
    this.#write(FIRST_AT, HEAD_BYTES);
    this.#write(0, wanted.length);
  }

  #write(at: number, value: number): void {
    this.#head.writeUInt32LE(value, at);
    writeSync(this.#fd, this.#head, at, 4, at);
  }
}
