/**
 * The rows of payloads, and what is known of them without asking: who has which digest, and its size.
 *
 *   R1  An upload is waved through by memory alone only while its row was touched within TRUST_MS: such a row is
 *       nowhere near being swept, on whichever replica.
 *   R2  Rows that are due at the same time share one statement and one commit.
 */
import type pg from "pg";
import type { Logger } from "pino";
import { GroupCommit, type Unit } from "../store/group-commit.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { LruMap } from "../support/lru-map.js";

/** Unused rows are kept for a day after their last touch: one that we did not repeat for an hour costs them that hour. */
const TRUST_MS = 60 * 60_000;
/** Some 300 bytes each. */
const MAX_KNOWN = 20_000;
const MAX_ROWS = 256;

interface Known {
  readonly sizeBytes: number;
  /** When its row was last touched by us; undefined where it was only read. */
  readonly touchedAtMs: number | undefined;
}

interface NewRow extends Unit {
  readonly ownerId: string;
  readonly digest: Buffer;
  readonly sizeBytes: number;
  created: boolean;
}

const INSERT = `
  INSERT INTO payload (owner_id, digest, size_bytes)
  SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bigint[])
  ON CONFLICT (owner_id, digest) DO UPDATE SET last_used_at = now()
  RETURNING owner_id, digest, xmax = 0 AS created`;

export class PayloadRows {
  readonly #pool: pg.Pool;
  readonly #tenants: TenantPool;
  readonly #known = new LruMap<string, Known>(MAX_KNOWN);
  readonly #inserts: GroupCommit<NewRow>;

  constructor(pool: pg.Pool, tenants: TenantPool, log: Logger) {
    this.#pool = pool;
    this.#tenants = tenants;
    this.#inserts = new GroupCommit<NewRow>({
      name: "payload-put",
      lanes: 1,
      maxRows: MAX_ROWS,
      log,
      run: (rows) => this.#insert(rows),
    });
  }

  /** Its size, where it was stored or touched a short while ago; undefined tells nothing. */
  recent(ownerId: string, digest: Buffer): number | undefined {
    const known = this.#known.get(payloadKey(ownerId, digest));
    if (known?.touchedAtMs === undefined || performance.now() - known.touchedAtMs > TRUST_MS)
      return undefined;
    return known.sizeBytes;
  }

  /** Its size, or undefined where the owner has no such payload. One swept by another replica may still be told of. */
  async has(ownerId: string, digest: Buffer): Promise<number | undefined> {
    const known = this.#known.get(payloadKey(ownerId, digest));
    if (known) return known.sizeBytes;
    const { rows } = await this.#tenants.query<{ size: string }>(ownerId, {
      name: "payload-has",
      text: "SELECT size_bytes AS size FROM payload WHERE owner_id = $1 AND digest = $2",
      values: [ownerId, digest],
    });
    return this.#learn(ownerId, digest, rows[0], undefined);
  }

  /** As `has`, and keeps the payload from being swept for another day, less TRUST_MS. */
  async touch(ownerId: string, digest: Buffer): Promise<number | undefined> {
    const recent = this.recent(ownerId, digest);
    if (recent !== undefined) return recent;
    const askedAtMs = performance.now();
    const { rows } = await this.#pool.query<{ size: string }>({
      name: "payload-touch",
      text: "UPDATE payload SET last_used_at = now() WHERE owner_id = $1 AND digest = $2 RETURNING size_bytes AS size",
      values: [ownerId, digest],
    });
    return this.#learn(ownerId, digest, rows[0], askedAtMs);
  }

  /** Adds a row, or touches the one there is; true where it is new. Never twice at once for the same one. */
  add(ownerId: string, digest: Buffer, sizeBytes: number): Promise<boolean> {
    const askedAtMs = performance.now();
    return new Promise((resolve, reject) => {
      const row: NewRow = {
        size: 1,
        ownerId,
        digest,
        sizeBytes,
        created: false,
        settle: (error) => {
          if (error) return reject(error);
          this.#known.set(payloadKey(ownerId, digest), { sizeBytes, touchedAtMs: askedAtMs });
          resolve(row.created);
        },
      };
      this.#inserts.add(row);
    });
  }

  /** True where there was one. */
  async remove(ownerId: string, digest: Buffer): Promise<boolean> {
    this.#known.delete(payloadKey(ownerId, digest));
    const { rowCount } = await this.#pool.query({
      name: "payload-remove",
      text: "DELETE FROM payload WHERE owner_id = $1 AND digest = $2",
      values: [ownerId, digest],
    });
    // A question that was under way has perhaps been answered meanwhile.
    this.#known.delete(payloadKey(ownerId, digest));
    return rowCount === 1;
  }

  /** What memory says of it is wrong. */
  forget(ownerId: string, digest: Buffer): void {
    this.#known.delete(payloadKey(ownerId, digest));
  }

  /** Waiting rows fail instead of being tried again. */
  close(): void {
    this.#inserts.close();
  }

  async #insert(rows: NewRow[]): Promise<void> {
    // In one order everywhere: replicas that store the same must not wait for one another in a circle.
    const byKey = new Map(rows.map((row) => [payloadKey(row.ownerId, row.digest), row]));
    const sorted = [...byKey.keys()].sort().map((key) => byKey.get(key)!);
    const result = await this.#pool.query<{ owner_id: string; digest: Buffer; created: boolean }>({
      name: "payload-put",
      text: INSERT,
      values: [sorted.map((r) => r.ownerId), sorted.map((r) => r.digest), sorted.map((r) => r.sizeBytes)],
    });
    for (const { owner_id, digest, created } of result.rows) {
      const row = byKey.get(payloadKey(owner_id, digest));
      if (row) row.created = created;
    }
  }

  #learn(
    ownerId: string,
    digest: Buffer,
    row: { size: string } | undefined,
    touchedAtMs: number | undefined,
  ): number | undefined {
    if (!row) return undefined;
    const sizeBytes = Number(row.size);
    this.#known.set(payloadKey(ownerId, digest), { sizeBytes, touchedAtMs });
    return sizeBytes;
  }
}

/** One owner's digest, as a key of maps: short, as there are many. */
export function payloadKey(ownerId: string, digest: Buffer): string {
  return ownerId + digest.toString("latin1");
}
