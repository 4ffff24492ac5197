/**
 * The rows of objects.
 *
 *   R1  A row changes only from what was read of it: by its blob's id. So conditions are decided without a lock, and
 *       whoever replaces a row knows which blob is nobody's any more.
 *   R2  Everything is looked up within one owner, and PostgreSQL shows no more. Only the sweep sees all.
 *   R3  A list walks the index: one step for each key, or for each group of keys that share all up to the delimiter,
 *       however many are in it.
 */
import type pg from "pg";
import type { TenantPool } from "../store/tenant-pool.js";
import { afterPrefix, type ObjectName } from "./names.js";

export interface ObjectRow {
  readonly key: string;
  readonly blobId: string;
  readonly sizeBytes: number;
  /** SHA-256, hexadecimal. */
  readonly digest: string;
  readonly contentType: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly modifiedAt: Date;
}

export type NewObject = Omit<ObjectRow, "key" | "modifiedAt">;

export interface ListOptions {
  readonly prefix: Buffer;
  /** Where the page begins; undefined: at the first key. */
  readonly from: Buffer | undefined;
  readonly delimiter: Buffer | undefined;
  readonly limit: number;
}

export interface ListPage {
  readonly items: Omit<ObjectRow, "blobId">[];
  /** What keys that go on behind a delimiter have in common, the delimiter included. */
  readonly prefixes: string[];
  readonly next: Buffer | undefined;
}

const MAX_BUCKETS = 1_000;
const COLUMNS = "key, blob_id, size_bytes, digest, content_type, metadata, modified_at";

/** From $3 to $4; behind position $6 the delimiter $5 ends a group, whose successor ends with $7. */
const STEP = `
  SELECT ${COLUMNS}, pos > 0 AS is_group,
    CASE WHEN pos > 0 THEN substring(key FROM 1 FOR $6 + pos - 2 + length($5)) ELSE key END AS entry,
    CASE WHEN pos > 0 THEN substring(key FROM 1 FOR $6 + pos - 2) || $7 ELSE key || '\\x00'::bytea END AS next
  FROM object, LATERAL (SELECT position($5::bytea IN substring(key FROM $6::int)) AS pos) AS found
  WHERE owner_id = $1 AND bucket = $2 AND ($4::bytea IS NULL OR key < $4)`;

const LIST_GROUPS = `
  WITH RECURSIVE page AS (
    (${STEP} AND key >= $3 ORDER BY key LIMIT 1)
    UNION ALL
    SELECT step.* FROM page, LATERAL (${STEP} AND key >= page.next ORDER BY key LIMIT 1) AS step
  )
  SELECT * FROM page LIMIT $8`;

const LIST = `
  SELECT ${COLUMNS} FROM object
  WHERE owner_id = $1 AND bucket = $2 AND key >= $3 AND ($4::bytea IS NULL OR key < $4) ORDER BY key LIMIT $5`;

const BUCKETS = `
  WITH RECURSIVE walk AS (
    (SELECT bucket FROM object WHERE owner_id = $1 ORDER BY bucket LIMIT 1)
    UNION ALL
    SELECT (SELECT o.bucket FROM object o WHERE o.owner_id = $1 AND o.bucket > walk.bucket ORDER BY o.bucket LIMIT 1)
    FROM walk WHERE walk.bucket IS NOT NULL
  )
  SELECT bucket FROM walk WHERE bucket IS NOT NULL LIMIT ${MAX_BUCKETS}`;

export class ObjectRows {
  readonly #pool: pg.Pool;
  readonly #tenants: TenantPool;

  constructor(pool: pg.Pool, tenants: TenantPool) {
    this.#pool = pool;
    this.#tenants = tenants;
  }

  async find(ownerId: string, { bucket, keyBytes }: ObjectName): Promise<ObjectRow | undefined> {
    const { rows } = await this.#tenants.query<RawRow>(ownerId, {
      name: "object-find",
      text: `SELECT ${COLUMNS} FROM object WHERE owner_id = $1 AND bucket = $2 AND key = $3`,
      values: [ownerId, bucket, keyBytes],
    });
    return rows[0] && toRow(rows[0]);
  }

  /** Writes the row where it still is `before`; undefined where somebody was faster (R1). */
  async put(
    ownerId: string,
    { bucket, keyBytes }: ObjectName,
    object: NewObject,
    before: ObjectRow | undefined,
  ): Promise<ObjectRow | undefined> {
    const values = [
      ownerId,
      bucket,
      keyBytes,
      object.blobId,
      object.sizeBytes,
      Buffer.from(object.digest, "hex"),
      object.contentType,
      JSON.stringify(object.metadata),
    ];
    const { rows } =
      before === undefined
        ? await this.#tenants.query<RawRow>(ownerId, {
            name: "object-insert",
            text: `INSERT INTO object (owner_id, bucket, key, blob_id, size_bytes, digest, content_type, metadata)
              VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (owner_id, bucket, key) DO NOTHING RETURNING ${COLUMNS}`,
            values,
          })
        : await this.#tenants.query<RawRow>(ownerId, {
            name: "object-replace",
            text: `UPDATE object SET blob_id = $4, size_bytes = $5, digest = $6, content_type = $7, metadata = $8, modified_at = now()
              WHERE owner_id = $1 AND bucket = $2 AND key = $3 AND blob_id = $9 RETURNING ${COLUMNS}`,
            values: [...values, before.blobId],
          });
    return rows[0] && toRow(rows[0]);
  }

  /** False where it is no longer `before` (R1). */
  async remove(ownerId: string, { bucket, keyBytes }: ObjectName, before: ObjectRow): Promise<boolean> {
    const { rowCount } = await this.#tenants.query(ownerId, {
      name: "object-remove",
      text: "DELETE FROM object WHERE owner_id = $1 AND bucket = $2 AND key = $3 AND blob_id = $4",
      values: [ownerId, bucket, keyBytes, before.blobId],
    });
    return rowCount === 1;
  }

  /** Removes all of these that there are; their blobs. */
  async removeAll(ownerId: string, bucket: string, keys: readonly Buffer[]): Promise<string[]> {
    const { rows } = await this.#tenants.query<{ blob_id: string }>(ownerId, {
      name: "object-remove-all",
      // Locked in one order, so that two such calls never wait for one another in a circle.
      text: `DELETE FROM object WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM object WHERE owner_id = $1 AND bucket = $2 AND key = ANY($3::bytea[]) ORDER BY key FOR UPDATE))
        RETURNING blob_id`,
      values: [ownerId, bucket, keys],
    });
    return rows.map((row) => row.blob_id);
  }

  async list(ownerId: string, bucket: string, options: ListOptions): Promise<ListPage> {
    const { prefix, delimiter, limit } = options;
    const from = options.from && Buffer.compare(options.from, prefix) > 0 ? options.from : prefix;
    const to = afterPrefix(prefix) ?? null;
    const range = [ownerId, bucket, from, to];
    const { rows } =
      delimiter === undefined
        ? await this.#tenants.query<RawStep>(ownerId, {
            name: "object-list",
            text: LIST,
            values: [...range, limit + 1],
          })
        : await this.#tenants.query<RawStep>(ownerId, {
            name: "object-list-groups",
            text: LIST_GROUPS,
            values: [...range, delimiter, prefix.length + 1, afterPrefix(delimiter), limit + 1],
          });
    const page = rows.slice(0, limit);
    const last = rows.length > limit ? page.at(-1) : undefined;
    return {
      items: page.filter((row) => !row.is_group).map(toRow),
      prefixes: page.filter((row) => row.is_group).map((row) => row.entry!.toString("utf8")),
      next: last && (last.next ?? Buffer.concat([last.key, Buffer.of(0)])),
    };
  }

  /** At most 1,000. */
  async buckets(ownerId: string): Promise<string[]> {
    const { rows } = await this.#tenants.query<{ bucket: string }>(ownerId, {
      name: "object-buckets",
      text: BUCKETS,
      values: [ownerId],
    });
    return rows.map((row) => row.bucket).sort();
  }

  /** Those of the blobs that no row has. */
  async unknown(blobIds: readonly string[]): Promise<string[]> {
    const { rows } = await this.#pool.query<{ id: string }>({
      name: "object-unknown",
      text: "SELECT id::text FROM unnest($1::uuid[]) AS id WHERE NOT EXISTS (SELECT FROM object WHERE blob_id = id)",
      values: [blobIds],
    });
    return rows.map((row) => row.id);
  }
}

interface RawRow {
  readonly key: Buffer;
  readonly blob_id: string;
  readonly size_bytes: string;
  readonly digest: Buffer;
  readonly content_type: string;
  readonly metadata: Record<string, string>;
  readonly modified_at: Date;
}

interface RawStep extends RawRow {
  readonly is_group?: boolean;
  readonly entry?: Buffer;
  readonly next?: Buffer;
}

function toRow(row: RawRow): ObjectRow {
  return {
    key: row.key.toString("utf8"),
    blobId: row.blob_id,
    sizeBytes: Number(row.size_bytes),
    digest: row.digest.toString("hex"),
    contentType: row.content_type,
    metadata: row.metadata,
    modifiedAt: row.modified_at,
  };
}
