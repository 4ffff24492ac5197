/**
 * Live output on its way into the store (P33): what came from all agents while the last statement ran is the next one.
 *
 *   O1  No byte is stored twice, and none before one that is there: of a piece, what the stream has already is cut off.
 *   O2  It gives way to everything else: above its bounds pieces are dropped, which their positions show as a gap.
 *   O3  Whoever waits is told only after the commit.
 *
 * Bounds: MAX_WAITING_BYTES in memory, and a share of it for each endpoint; of each stream its first and last bytes are
 * kept (P33a); MAX_STREAMS are remembered, and one that is not is looked up.
 */
import { type IdKey, limits, type OutputPiece } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import { endsOfOutput, insertOutput, mergeOutput, trimOutput } from "../store/task-output.js";
import { LruMap } from "../support/lru-map.js";

const MAX_WAITING_BYTES = 16 * 1024 * 1024;
const MAX_ENDPOINT_BYTES = 2 * limits.OUTPUT_BYTES_PER_S;
/** One statement: some milliseconds. */
const BATCH_PIECES = 512;
const BATCH_BYTES = 1024 * 1024;
const MAX_STREAMS = 20_000;
/** A row: so many small ones, one behind the other, become one, and none grows much above this. */
const MERGE_ROWS = 32;
const ROW_BYTES = 64 * 1024;
/** A long stream loses its middle in steps of this. */
const TRIM_STEP_BYTES = 64 * 1024;

export interface OutputWriterDeps {
  readonly pool: Pool;
  readonly log: Logger;
  /** These tasks have more output now. */
  readonly onWritten: (keys: readonly IdKey[]) => void;
}

interface Waiting {
  readonly endpointId: string;
  readonly piece: OutputPiece;
}

/** What is stored of one stream, and its last rows that lie one behind the other and have room in one. */
interface Stream {
  end: number;
  runFrom: number;
  runRows: number;
  trimmedAt: number;
}

/** A row to be. */
interface Row {
  readonly piece: OutputPiece;
  readonly at: number;
  readonly parts: Buffer[];
  bytes: number;
}

export class OutputWriter {
  readonly #deps: OutputWriterDeps;
  readonly #streams = new LruMap<string, Stream>(MAX_STREAMS);
  readonly #perEndpoint = new Map<string, number>();
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #writing: Promise<void> | undefined;
  #closed = false;

  constructor(deps: OutputWriterDeps) {
    this.#deps = deps;
  }

  /** Takes pieces of tasks that this endpoint runs. */
  add(endpointId: string, pieces: readonly OutputPiece[]): void {
    if (this.#closed) return;
    for (const piece of pieces) {
      const bytes = piece.data.length;
      const own = (this.#perEndpoint.get(endpointId) ?? 0) + bytes;
      if (own > MAX_ENDPOINT_BYTES || this.#waitingBytes + bytes > MAX_WAITING_BYTES) continue; // O2
      this.#perEndpoint.set(endpointId, own);
      this.#waitingBytes += bytes;
      this.#waiting.push({ endpointId, piece });
    }
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
  }

  /** Takes nothing more; resolves when what was being written is. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#writing;
  }

  async #write(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#take();
      try {
        await this.#store(batch);
      } catch (err) {
        this.#deps.log.warn({ err, pieces: batch.length }, "output of running tasks could not be written");
      }
    }
  }

  #take(): OutputPiece[] {
    let n = 0;
    let bytes = 0;
    while (n < this.#waiting.length && n < BATCH_PIECES && bytes < BATCH_BYTES)
      bytes += this.#waiting[n++]!.piece.data.length;
    const batch = this.#waiting.splice(0, n);
    this.#waitingBytes -= bytes;
    for (const { endpointId, piece } of batch) {
      const own = this.#perEndpoint.get(endpointId)! - piece.data.length;
      if (own > 0) this.#perEndpoint.set(endpointId, own);
      else this.#perEndpoint.delete(endpointId);
    }
    return batch.map(({ piece }) => piece);
  }

  async #store(batch: readonly OutputPiece[]): Promise<void> {
    const { pool, onWritten } = this.#deps;
    await this.#lookUp(batch);
    const rows: Row[] = [];
    const last = new Map<Stream, Row>();
    for (const piece of batch) {
      const stream = this.#streams.get(nameOf(piece))!;
      const known = Math.max(0, stream.end - piece.at); // O1
      if (known >= piece.data.length) continue;
      const at = piece.at + known;
      const data = piece.data.subarray(known);
      const row = last.get(stream);
      if (row !== undefined && at === stream.end && row.bytes + data.length <= ROW_BYTES) {
        row.parts.push(data);
        row.bytes += data.length;
      } else {
        if (at !== stream.end || at + data.length - stream.runFrom > ROW_BYTES) {
          stream.runFrom = at;
          stream.runRows = 0;
        }
        stream.runRows++;
        const next: Row = { piece, at, parts: [data], bytes: data.length };
        rows.push(next);
        last.set(stream, next);
      }
      stream.end = at + data.length;
    }
    if (rows.length === 0) return;
    await insertOutput(
      pool,
      rows.map(({ piece, at, parts }) => ({ ...piece, at, data: Buffer.concat(parts) })),
    );
    onWritten([...new Set(rows.map(({ piece }) => piece.key))]); // O3
    for (const [stream, { piece }] of last) await this.#tidy(stream, piece);
  }

  async #lookUp(batch: readonly OutputPiece[]): Promise<void> {
    const unknown = new Map<string, OutputPiece>();
    for (const piece of batch)
      if (this.#streams.peek(nameOf(piece)) === undefined) unknown.set(nameOf(piece), piece);
    if (unknown.size === 0) return;
    const ends = await endsOfOutput(this.#deps.pool, [...unknown.values()]);
    let i = 0;
    for (const name of unknown.keys()) {
      const end = ends[i++] ?? 0;
      this.#streams.set(name, { end, runFrom: end, runRows: 0, trimmedAt: 0 });
    }
  }

  async #tidy(stream: Stream, piece: OutputPiece): Promise<void> {
    const { pool } = this.#deps;
    const { end, runFrom } = stream;
    if (stream.runRows >= MERGE_ROWS) {
      await mergeOutput(pool, piece, { from: runFrom, to: end });
      stream.runRows = 1;
    }
    const isLong = end > limits.OUTPUT_HEAD_BYTES + limits.OUTPUT_TAIL_BYTES;
    if (!isLong || end - stream.trimmedAt < TRIM_STEP_BYTES) return;
    stream.trimmedAt = end;
    await trimOutput(pool, piece, end);
  }
}

function nameOf({ key, attempt, stream }: OutputPiece): string {
  return `${key}${attempt}/${stream}`;
}
