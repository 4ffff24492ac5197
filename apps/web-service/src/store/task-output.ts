/**
 * What running tasks wrote, in rows of some kilobytes: appended, merged when they are many and small, deleted in the
 * middle of a stream that grew long, and read from any byte on. Rows of one stream never overlap (output-writer.ts).
 */
import { type IdKey, keyToUuid, limits, type OutputPiece } from "@farloom/protocol";
import type { Pool } from "pg";
import { byteaColumn, int2Column, int4Column, int8Column, uuidColumn } from "./pg-columns.js";
import type { TenantPool } from "./tenant-pool.js";

/** One stream of one attempt of a task. */
export interface StreamKey {
  readonly key: IdKey;
  readonly attempt: number;
  readonly stream: number;
}

/** A row as it is read. */
export interface OutputRow {
  readonly at: number;
  readonly data: Buffer;
}

const columnsOf = (items: readonly StreamKey[]): Buffer[] => [
  uuidColumn(items, (item) => item.key),
  int4Column(items, (item) => item.attempt),
  int2Column(items, (item) => item.stream),
];

/** Appends; what is of no task any more is left out. */
export async function insertOutput(pool: Pool, pieces: readonly OutputPiece[]): Promise<void> {
  await pool.query({
    name: "insert-output",
    text: `INSERT INTO task_output (task_id, attempt, stream, at, data)
           SELECT t.id, u.attempt, u.stream, u.at, u.data
           FROM unnest($1::uuid[], $2::int4[], $3::int2[], $4::int8[], $5::bytea[]) AS u (id, attempt, stream, at, data)
           JOIN task t ON t.id = u.id ON CONFLICT DO NOTHING`,
    values: [
      ...columnsOf(pieces),
      int8Column(pieces, (piece) => piece.at),
      byteaColumn(pieces.map(({ data }) => ({ source: data, start: 0, end: data.length }))),
    ],
  });
}

/** Up to which byte each of these streams is there; 0 where nothing is. In the order of `streams`. */
export async function endsOfOutput(pool: Pool, streams: readonly StreamKey[]): Promise<number[]> {
  const { rows } = await pool.query<{ ends: number }>({
    name: "ends-of-output",
    text: `SELECT coalesce((SELECT o.at + octet_length(o.data) FROM task_output o
             WHERE o.task_id = u.id AND o.attempt = u.attempt AND o.stream = u.stream
             ORDER BY o.at DESC LIMIT 1), 0)::float8 AS ends
           FROM unnest($1::uuid[], $2::int4[], $3::int2[]) WITH ORDINALITY AS u (id, attempt, stream, place)
           ORDER BY u.place`,
    values: columnsOf(streams),
  });
  return rows.map((row) => row.ends);
}

/** Makes one row of those from byte `from` on, up to `to`, which lie one behind the other. */
export async function mergeOutput(
  pool: Pool,
  stream: StreamKey,
  range: { readonly from: number; readonly to: number },
): Promise<void> {
  await pool.query({
    name: "merge-output",
    text: `WITH gone AS (DELETE FROM task_output WHERE task_id = $1 AND attempt = $2 AND stream = $3
             AND at >= $4::float8::int8 AND at < $5::float8::int8 RETURNING at, data)
           INSERT INTO task_output (task_id, attempt, stream, at, data)
           SELECT $1, $2, $3, min(at), string_agg(data, ''::bytea ORDER BY at) FROM gone HAVING count(*) > 0`,
    values: [keyToUuid(stream.key), stream.attempt, stream.stream, range.from, range.to],
  });
}

/** Deletes the middle of a stream that ends at `end`: all but its first and its last bytes, to a row. */
export async function trimOutput(pool: Pool, stream: StreamKey, end: number): Promise<void> {
  await pool.query({
    name: "trim-output",
    text: `DELETE FROM task_output WHERE task_id = $1 AND attempt = $2 AND stream = $3
             AND at >= $4::int8 AND at + octet_length(data) <= $5::float8::int8`,
    values: [
      keyToUuid(stream.key),
      stream.attempt,
      stream.stream,
      limits.OUTPUT_HEAD_BYTES,
      end - limits.OUTPUT_TAIL_BYTES,
    ],
  });
}

/** Rows that hold bytes from `offset` on, in order; none where the task is another owner's. */
export async function readOutput(
  tenants: TenantPool,
  stream: StreamKey & { readonly ownerId: string },
  from: { readonly offset: number; readonly rows: number },
): Promise<OutputRow[]> {
  const { rows } = await tenants.query<OutputRow>(stream.ownerId, {
    name: "read-output",
    text: `SELECT at::float8 AS at, data FROM task_output
           WHERE task_id = $1 AND attempt = $2 AND stream = $3 AND at + octet_length(data) > $4::float8::int8
             AND at >= coalesce((SELECT max(p.at) FROM task_output p WHERE p.task_id = $1 AND p.attempt = $2
                                   AND p.stream = $3 AND p.at <= $4::float8::int8), 0)
             AND EXISTS (SELECT 1 FROM task t WHERE t.id = $1 AND t.owner_id = $6)
           ORDER BY at LIMIT $5`,
    values: [keyToUuid(stream.key), stream.attempt, stream.stream, from.offset, from.rows, stream.ownerId],
  });
  return rows;
}
