/**
 * The files that a boxed worker hands in with its results, which name them by digest. What a worker says is a
 * stranger's, so it is seen before anybody relies on it.
 *
 *   F1  The store of payloads gets the bytes that were hashed, in a file of the agent's own: one that a task holds open,
 *       or has another name for, could change after it was looked at.
 *   F2  Whoever names a digest shows its bytes, also where the store has them: otherwise a result could refer to what
 *       its task has never seen, and its caller would be given that.
 *   F3  Results go on in the order in which they came, at once where none before them waits for a file.
 *   F4  A result that comes again, as its mark got lost, has handed in its file before: an empty file beside the
 *       worker's folder says so, until all results of the worker are durable.
 *
 * Bound: one file of each worker at a time, of two pieces of memory (receive-file.ts).
 */
import { randomBytes } from "node:crypto";
import { createReadStream, fstatSync } from "node:fs";
import { mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  buildResults,
  CODEC_REFERENCE,
  decodeReference,
  limits,
  REASONS,
  type Reason,
  type ResultItem,
  type ResultsFrame,
  TERMINAL_STATES,
} from "@farloom/protocol";
import { resultAt } from "../node/frame-items.js";
import { openPlain } from "../node/worker-files.js";
import { receiveFile } from "../payloads/receive-file.js";
import { hasReference } from "../payloads/task-files.js";
import { ownPlaces } from "./own-places.js";

/** As large as a piece of receive-file.ts: one read fills one. */
const READ_BYTES = 512 * 1024;

/** Why a result's file is not taken. */
interface Refusal {
  readonly reason: Reason;
  readonly type: string;
  readonly message: string;
}

export class HandedIn {
  /** Where the worker writes its results' files. */
  readonly #from: string;
  /** Which of them were taken (F4). */
  readonly #taken: string;
  readonly #store: string;
  #line: Promise<void> = Promise.resolve();
  #waiting = 0;

  /** `dir`: the worker's folder. `store`: the payload files of this machine. */
  constructor(dir: string, store: string) {
    const { payloads, taken } = ownPlaces(dir);
    this.#from = payloads;
    this.#taken = taken;
    this.#store = store;
  }

  /** Hands the frame on to `then`, its files taken; a result whose file cannot be taken has become a failure (F3). */
  pass(frame: ResultsFrame, then: (frame: ResultsFrame) => void): void {
    if (this.#waiting === 0 && !hasReference(frame.codecs)) {
      then(frame);
      return;
    }
    this.#waiting++;
    this.#line = this.#line.then(async () => {
      const checked = await this.checkFrame(frame);
      this.#waiting--;
      then(checked);
    });
  }

  /** Resolves once everything that came was handed on. */
  idle(): Promise<void> {
    return this.#line;
  }

  /** All results of the worker are durable, and none comes again. */
  forget(): void {
    if (this.#waiting > 0) return;
    void rm(this.#taken, { recursive: true, force: true }).catch(() => undefined);
  }

  async checkFrame(frame: ResultsFrame): Promise<ResultsFrame> {
    if (!hasReference(frame.codecs)) return frame;
    const items = Array.from({ length: frame.n }, (_, i) => resultAt(frame, i));
    const checked = await this.check(items);
    return checked.every((item, i) => item === items[i]) ? frame : buildResults(checked, 0, frame.n);
  }

  /** The results, with a failure in place of each whose file is not what it says. */
  async check(items: readonly ResultItem[]): Promise<ResultItem[]> {
    const checked: ResultItem[] = [];
    for (const item of items) {
      const refusal = (item.codec & CODEC_REFERENCE) === 0 ? undefined : await this.#take(item);
      checked.push(refusal === undefined ? item : refused(item, refusal));
    }
    return checked;
  }

  async #take(item: ResultItem): Promise<Refusal | undefined> {
    const reference = decodeReference(item.source.subarray(item.start, item.end));
    if (reference === undefined) return corrupt("its reference is malformed");
    const { sizeBytes } = reference;
    const hex = reference.digest.toString("hex");
    const from = join(this.#from, hex);
    const fd = openPlain(from);
    if (fd === undefined) {
      const isTaken = await stat(join(this.#taken, hex)).catch(() => undefined);
      return isTaken === undefined ? missing("its worker handed in no plain file for it") : undefined;
    }
    const bytes = createReadStream("", { fd, highWaterMark: READ_BYTES });
    const part = join(this.#store, `${hex}.${randomBytes(6).toString("hex")}.part`);
    try {
      const isSize = fstatSync(fd).size === sizeBytes && sizeBytes <= limits.MAX_PAYLOAD_BYTES;
      if (!isSize) return corrupt("its file has another size than it says");
      const actual = await receiveFile(bytes, part, sizeBytes);
      if (actual !== hex) return corrupt(`its file has SHA-256 ${actual}, not ${hex} as it says`);
      await mkdir(this.#taken, { recursive: true, mode: 0o700 });
      await writeFile(join(this.#taken, hex), "");
      await rename(part, join(this.#store, hex));
      return undefined;
    } catch (error) {
      return missing((error as Error).message);
    } finally {
      bytes.destroy();
      for (const path of [part, from])
        await rm(path, { recursive: true, force: true }).catch(() => undefined);
    }
  }
}

function corrupt(why: string): Refusal {
  const message = `the result is refused: ${why}. Its task, or another of the same worker, changed what the worker wrote`;
  return { reason: "payload_corrupt", type: "PayloadCorrupt", message };
}

function missing(why: string): Refusal {
  return {
    reason: "payload_missing",
    type: "PayloadMissing",
    message: `the result's file cannot be taken over: ${why}`,
  };
}

function refused(item: ResultItem, { reason, type, message }: Refusal): ResultItem {
  return {
    ...item,
    end: item.start,
    codec: 1,
    seals: undefined,
    state: TERMINAL_STATES.FAILED,
    reason: REASONS[reason],
    detail: { ...item.detail, error: { type, message } },
  };
}
