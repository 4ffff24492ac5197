/**
 * What an agent had when its connection ended: one row for each endpoint, written once at that end. Whoever meets the
 * endpoint next (the same process, another replica, a restarted service) knows from it what may have started.
 *
 * The ids come in two runs with 16 zero bytes between them: those that the agent had accepted, which its journal
 * knows, and those that were on their way. A third run has those at a later attempt than the first, each followed by 16
 * bytes that begin with the attempt (u32, little-endian); older records have no third run. A last single byte says that there may be more (`whole` is
 * false).
 */
import type { IdKey } from "@farloom/protocol";
import { CODEC_REFERENCE, keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import { uuidColumn } from "./pg-columns.js";

export interface Leases {
  /** In the agent's journal. */
  readonly accepted: ReadonlySet<IdKey>;
  /** Sent, perhaps never arrived. */
  readonly sent: ReadonlySet<IdKey>;
  /** The attempts of those that are beyond their first; undefined: nothing is known of attempts. */
  readonly attempts: ReadonlyMap<IdKey, number> | undefined;
  /** False where the endpoint's last owner ended without telling. */
  readonly whole: boolean;
}

export const NO_LEASES: Leases = { accepted: new Set(), sent: new Set(), attempts: new Map(), whole: true };
export const UNKNOWN_LEASES: Leases = { ...NO_LEASES, whole: false };

const ZERO_KEY = "\0".repeat(16);

/** The attempt that the agent had of it; undefined: unknown. What is at a later one by now has been lost already. */
export function attemptIn({ attempts }: Leases, key: IdKey): number | undefined {
  return attempts && (attempts.get(key) ?? 1);
}

export function encodeLeases({ accepted, sent, attempts, whole }: Leases): Buffer {
  const end = whole ? "" : "\0";
  const ids = [...accepted].join("") + ZERO_KEY + [...sent].join("");
  if (attempts === undefined || accepted.size + sent.size === 0) return Buffer.from(ids + end, "latin1");
  const later = Buffer.alloc(32 * attempts.size);
  let at = 0;
  for (const [key, attempt] of attempts) {
    later.write(key, at, "latin1");
    later.writeUInt32LE(attempt, at + 16);
    at += 32;
  }
  return Buffer.from(ids + ZERO_KEY + later.toString("latin1") + end, "latin1");
}

export function decodeLeases(bytes: Buffer): Leases {
  const runs = [new Set<IdKey>(), new Set<IdKey>()] as const;
  const attempts = new Map<IdKey, number>();
  let run = 0;
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    const key = bytes.toString("latin1", at, at + 16);
    if (key === ZERO_KEY) run++;
    else if (run < 2) runs[run]!.add(key);
    else if (at + 32 <= bytes.length) {
      at += 16;
      attempts.set(key, bytes.readUInt32LE(at));
    }
  }
  return {
    accepted: runs[0],
    sent: runs[1],
    attempts: run < 2 ? undefined : attempts,
    whole: bytes.length % 16 === 0,
  };
}

/**
 * The agent's connection of this epoch has ended. Where another connection has taken over meanwhile only the leases
 * are written, for its owner, who waits for them.
 */
export async function writeDeparture(
  pool: Pool,
  departure: { readonly endpointKey: IdKey; readonly epoch: number; readonly leases: Leases },
): Promise<void> {
  await pool.query(
    `WITH gone AS (
       UPDATE endpoint SET owner_replica = NULL, disconnected_at = now() WHERE id = $1 AND epoch = $2)
     INSERT INTO endpoint_lease (endpoint_id, epoch, ids)
     SELECT id, $2, $3 FROM endpoint WHERE id = $1 AND epoch IN ($2, $2 + 1)
     ON CONFLICT (endpoint_id) DO UPDATE SET epoch = excluded.epoch, ids = excluded.ids, written_at = now()
       WHERE endpoint_lease.epoch < excluded.epoch`,
    [keyToUuid(departure.endpointKey), departure.epoch, encodeLeases(departure.leases)],
  );
}

/** What its agent had at the end of that epoch, where that was told. */
export async function readLeases(pool: Pool, endpointKey: IdKey, epoch: number): Promise<Leases | undefined> {
  const { rows } = await pool.query<{ ids: Buffer }>(
    "SELECT ids FROM endpoint_lease WHERE endpoint_id = $1 AND epoch = $2",
    [keyToUuid(endpointKey), epoch],
  );
  return rows[0] && decodeLeases(rows[0].ids);
}

/** Who can say what the endpoint's agent has now: the replica that has its connection, or the record that one left. */
export interface LeaseKeeper {
  readonly replicaId: string | undefined;
  readonly left: Leases | undefined;
}

/** Undefined where there is no such endpoint. */
export async function leaseKeeper(pool: Pool, endpointKey: IdKey): Promise<LeaseKeeper | undefined> {
  const { rows } = await pool.query<{ owner_replica: string | null; ids: Buffer | null }>({
    name: "lease-keeper",
    text: `SELECT e.owner_replica, l.ids FROM endpoint e
      LEFT JOIN endpoint_lease l ON l.endpoint_id = e.id AND l.epoch = e.epoch AND e.owner_replica IS NULL
      WHERE e.id = $1 AND e.deleted_at IS NULL`,
    values: [keyToUuid(endpointKey)],
  });
  const row = rows[0];
  return (
    row && { replicaId: row.owner_replica ?? undefined, left: row.ids ? decodeLeases(row.ids) : undefined }
  );
}

/** Whose task it is, of these, that is open at the endpoint and whose arguments are this file. */
export async function submitterAmong(
  pool: Pool,
  endpointKey: IdKey,
  keys: readonly IdKey[],
  digest: Buffer,
): Promise<string | undefined> {
  const { rows } = await pool.query<{ owner_id: string }>({
    name: "submitter-among",
    text: `SELECT t.owner_id FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id
      WHERE t.endpoint_id = $2 AND t.codec >= ${CODEC_REFERENCE} AND substring(t.args FOR 32) = $3
        AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id) LIMIT 1`,
    values: [uuidColumn(keys, (key) => key), keyToUuid(endpointKey), digest],
  });
  return rows[0]?.owner_id;
}

/** Whether the INSERTs of all these tasks have committed. */
export async function areWritten(pool: Pool, keys: readonly IdKey[]): Promise<boolean> {
  const { rows } = await pool.query<{ written: number }>({
    name: "are-written",
    text: "SELECT count(*)::int AS written FROM unnest($1::uuid[]) AS u (id) JOIN task t ON t.id = u.id",
    values: [uuidColumn(keys, (key) => key)],
  });
  return rows[0]!.written === keys.length;
}

/** What was known of the time before is dealt with: the agent's boot and window count from here on. */
export async function settleLeases(
  pool: Pool,
  settled: {
    readonly endpointKey: IdKey;
    readonly epoch: number;
    readonly bootId: string | undefined;
    readonly window: number;
  },
): Promise<void> {
  await pool.query(
    `WITH boot AS (
       UPDATE endpoint SET boot_id = coalesce($3, boot_id),
         agent_info = coalesce(agent_info, '{}'::jsonb) || jsonb_build_object('window', $4::int4)
       WHERE id = $1 AND epoch = $2)
     DELETE FROM endpoint_lease WHERE endpoint_id = $1 AND epoch < $2`,
    [keyToUuid(settled.endpointKey), settled.epoch, settled.bootId ?? null, settled.window],
  );
}

/** The leases of that epoch have lapsed: nothing of them is left to be known. */
export async function clearLeases(pool: Pool, endpointKey: IdKey, epoch: number): Promise<void> {
  await pool.query("UPDATE endpoint_lease SET ids = '' WHERE endpoint_id = $1 AND epoch = $2", [
    keyToUuid(endpointKey),
    epoch,
  ]);
}

/** An endpoint that no living replica owns and whose agent may still have tasks. */
export interface AwayEndpoint {
  readonly endpointKey: IdKey;
  readonly epoch: number;
  /** Undefined: the service's default. 0: never. */
  readonly reclaimMs: number | undefined;
  /** False where its owner ended without telling what the agent had. */
  readonly told: boolean;
}

/** A replica that has not been seen for `goneMs` owns nothing. */
export async function awayEndpoints(pool: Pool, goneMs: number): Promise<AwayEndpoint[]> {
  const { rows } = await pool.query<{
    id: Buffer;
    epoch: number;
    reclaim_ms: number | null;
    told: boolean;
  }>({
    name: "away-endpoints",
    text: `SELECT uuid_send(e.id) AS id, e.epoch, e.reclaim_ms, e.owner_replica IS NULL AS told
      FROM endpoint e
      LEFT JOIN endpoint_lease l ON l.endpoint_id = e.id AND l.epoch = e.epoch
      LEFT JOIN replica r ON r.id = e.owner_replica AND r.seen_at > now() - $1 * interval '1 millisecond'
      WHERE e.epoch > 0 AND e.deleted_at IS NULL
        AND CASE WHEN e.owner_replica IS NULL THEN octet_length(l.ids) NOT IN (0, 16) ELSE r.id IS NULL END`,
    values: [goneMs],
  });
  return rows.map((row) => ({
    endpointKey: row.id.toString("latin1"),
    epoch: row.epoch,
    reclaimMs: row.reclaim_ms ?? undefined,
    told: row.told,
  }));
}

/** Open tasks of the endpoint that are known to have started, or that somebody wants cancelled. */
export async function startedOrUnwanted(
  pool: Pool,
  endpointKey: IdKey,
  limit: number,
): Promise<{ started: IdKey[]; unwanted: IdKey[] }> {
  const { rows } = await pool.query<{ id: Buffer; started: boolean }>(
    `SELECT uuid_send(t.id) AS id, t.started_at IS NOT NULL AS started FROM task t JOIN endpoint e ON e.id = t.endpoint_id
     WHERE t.endpoint_id = $1 AND t.seq > e.floor_seq AND t.not_before IS NULL
       AND (t.started_at IS NOT NULL OR t.cancel_requested_at IS NOT NULL)
       AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id) LIMIT $2`,
    [keyToUuid(endpointKey), limit],
  );
  const keysOf = (started: boolean): IdKey[] =>
    rows.filter((row) => row.started === started).map((row) => row.id.toString("latin1"));
  return { started: keysOf(true), unwanted: keysOf(false) };
}

/** The `limit` first open tasks of the endpoint up to `lastSeq` that are runnable and not among `except`. */
export async function firstOpen(
  pool: Pool,
  endpointKey: IdKey,
  which: { readonly lastSeq: number; readonly limit: number; readonly except: readonly IdKey[] },
): Promise<IdKey[]> {
  const { rows } = await pool.query<{ id: Buffer }>(
    `SELECT uuid_send(t.id) AS id FROM task t
     WHERE t.endpoint_id = $1 AND t.seq <= $2::float8::bigint AND t.not_before IS NULL AND t.id <> ALL($4::uuid[])
       AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)
     ORDER BY t.endpoint_id, t.seq LIMIT $3`,
    [keyToUuid(endpointKey), which.lastSeq, which.limit, uuidColumn(which.except, (key) => key)],
  );
  return rows.map((row) => row.id.toString("latin1"));
}

/** The last number that any task has drawn. */
export async function lastSeq(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ last: number }>("SELECT last_value::float8 AS last FROM task_seq_seq");
  return rows[0]!.last;
}
