/** Reading the audit log, in the order of the chain or from its end. Nothing is left out for an administrator; others see what their own account did. */
import type { AuditEntry } from "@farloom/protocol";
import type { TenantPool } from "../store/tenant-pool.js";

export interface AuditPage {
  /** Who asks. */
  readonly readerId: string;
  /** Undefined: everybody's, which only an administrator gets. */
  readonly ownerId: string | undefined;
  /** Only what comes after this number, or, from the end, before it. */
  readonly cursor: number | undefined;
  readonly fromEnd: boolean;
  readonly limit: number;
}

interface Row extends Omit<AuditEntry, "at" | "seq" | "ownerId"> {
  readonly seq: string;
  readonly at: Date;
  readonly owner_id: string | null;
}

/** A page of entries, and the number to go on from; undefined at the end. */
export async function readAudit(
  tenants: TenantPool,
  { readerId, ownerId, cursor, fromEnd, limit }: AuditPage,
): Promise<{ items: AuditEntry[]; nextCursor: number | undefined }> {
  const { rows } = await tenants.query<Row>(readerId, {
    name: fromEnd ? "audit-from-end" : "audit-in-order",
    text: `SELECT seq, at, owner_id, actor, credential, action, target, origin, status, code, detail,
             encode(previous, 'hex') AS previous, encode(hash, 'hex') AS hash
           FROM audit_entry
           WHERE ($1::uuid IS NULL OR owner_id = $1) AND ($2::bigint IS NULL OR seq ${fromEnd ? "<" : ">"} $2)
           ORDER BY seq ${fromEnd ? "DESC" : "ASC"} LIMIT $3`,
    values: [ownerId ?? null, cursor ?? null, limit + 1],
  });
  const items = rows.slice(0, limit).map(({ seq, at, owner_id, ...row }) => ({
    ...row,
    seq: Number(seq),
    at: at.toISOString(),
    ownerId: owner_id ?? "",
  }));
  return { items, nextCursor: rows.length > limit ? items.at(-1)!.seq : undefined };
}
