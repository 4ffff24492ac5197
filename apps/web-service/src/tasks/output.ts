/**
 * A task's output as it is read: what came while it ran, from the store, and behind that the tail that its outcome has.
 * So a short task, of which nothing was told while it ran, has its output too, and a lost one what had arrived.
 */
import {
  CODEC_REFERENCE,
  CODECS,
  limits,
  OUTPUT_STREAMS,
  type OutcomeDetail,
  type OutputStream,
  uuidToKey,
} from "@farloom/protocol";
import { type OutputRow, readOutput } from "../store/task-output.js";
import type { TenantPool } from "../store/tenant-pool.js";
import type { TaskRow } from "./reader.js";

/** Rows read at once: at most 6 MiB, mostly far less. */
const PAGE_ROWS = 64;

/** Bytes of one stream, without a gap. */
export interface OutputPart {
  readonly attempt: number;
  /** Where they begin: at the byte that was asked for, or later where what lay between was not kept. */
  readonly at: number;
  readonly data: Buffer;
  /** Whether more of this attempt may come. */
  readonly more: boolean;
  /** The attempt that the task is in, or ended with. */
  readonly lastAttempt: number;
}

export interface OutputPlace {
  readonly stream: OutputStream;
  readonly offset: number;
  /** Default: the last one. */
  readonly attempt: number | undefined;
}

/** A task, and whose it is. */
export interface OwnedTask {
  readonly ownerId: string;
  readonly row: TaskRow;
}

/** What there is from `offset` on; the row must have been read whole. */
export async function outputOf(
  tenants: TenantPool,
  { ownerId, row }: OwnedTask,
  place: OutputPlace,
): Promise<OutputPart> {
  const lastAttempt = row.state === null ? row.attempt : row.outcome_attempt;
  const { offset, stream, attempt = lastAttempt } = place;
  const isOver = row.state !== null || attempt < lastAttempt;
  const rows = await readOutput(
    tenants,
    { ownerId, key: uuidToKey(row.id)!, attempt, stream: OUTPUT_STREAMS[stream] },
    { offset, rows: PAGE_ROWS },
  );
  const { at, data } = joined(rows, offset);
  if (data.length > 0) return { attempt, at, data, more: true, lastAttempt };
  const tail = isOver && attempt === row.outcome_attempt ? tailOf(row, stream) : undefined;
  const rest = tail && behind(tail, offset);
  if (rest) return { attempt, ...rest, more: false, lastAttempt };
  return { attempt, at: offset, data, more: !isOver, lastAttempt };
}

/** The first rows that lie one behind the other, from the byte `offset` on. */
export function joined(rows: readonly OutputRow[], offset: number): { at: number; data: Buffer } {
  const first = rows[0];
  if (first === undefined) return { at: offset, data: Buffer.alloc(0) };
  const at = Math.max(offset, first.at);
  const parts: Buffer[] = [];
  let next = at;
  for (const row of rows) {
    if (row.at > next) break;
    parts.push(row.data.subarray(next - row.at));
    next = row.at + row.data.length;
  }
  return { at, data: Buffer.concat(parts) };
}

/** The end of a stream as the outcome has it. */
interface Tail {
  readonly at: number;
  readonly data: Buffer;
}

function tailOf(row: TaskRow, stream: OutputStream): Tail | undefined {
  const detail = row.detail ?? {};
  const text = detail[stream] ?? printed(row, stream);
  if (text === undefined) return undefined;
  const data = Buffer.from(text, "utf8");
  const totalBytes = detail[`${stream}Bytes` as keyof OutcomeDetail];
  // Where bytes were no UTF-8, their replacement is longer: then the tail is counted from its end.
  return { at: Math.max(0, (typeof totalBytes === "number" ? totalBytes : data.length) - data.length), data };
}

/** A command's output is its result. */
function printed(row: TaskRow, stream: OutputStream): string | undefined {
  if (row.result === undefined || row.codec !== CODECS.json || row.codec & CODEC_REFERENCE) return undefined;
  if (row.function_runtime !== "command" || row.result.length > limits.MAX_INLINE_BYTES) return undefined;
  try {
    const text = (JSON.parse(row.result.toString("utf8")) as Record<string, unknown> | null)?.[stream];
    return typeof text === "string" ? text : undefined;
  } catch {
    return undefined;
  }
}

/** What of the tail lies behind the byte `offset`. */
export function behind(tail: Tail, offset: number): Tail | undefined {
  if (offset >= tail.at + tail.data.length) return undefined;
  const at = Math.max(offset, tail.at);
  return { at, data: tail.data.subarray(at - tail.at) };
}
