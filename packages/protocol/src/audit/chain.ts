/**
 * The audit chain: each entry holds the SHA-256 of the one before, so that nothing in the middle can be changed, left
 * out or put in without its being seen. The service writes it; whoever has the entries recomputes it.
 *
 *   A1  Numbers begin at 1 and have no gaps.
 *   A2  An entry's hash is the SHA-256 of the hash before it (32 zero bytes before the first) and the canonical JSON of
 *       its fields.
 *   A3  A chain says nothing of what was cut off its end: keep a head (number and hash), and ask for it the next time.
 */
import { createHash } from "node:crypto";
import { canonicalJson } from "../functions/definition.js";

/** What came before the first entry. */
export const AUDIT_GENESIS = "0".repeat(64);

/** One entry, as it is hashed. Texts hold names and ids, never payloads, never secrets. */
export interface AuditFields {
  readonly seq: number;
  /** RFC 3339, UTC, by the database's clock. */
  readonly at: string;
  /** The account that acted: its id and name; empty where nobody was known. */
  readonly ownerId: string;
  readonly actor: string;
  /** Public id of the API key, or of the endpoint whose agent acted. */
  readonly credential: string;
  /** What was done, e.g. `keys.create`, and on what. */
  readonly action: string;
  readonly target: string;
  /** The address that the request came from. */
  readonly origin: string;
  /** HTTP status, and the error's code where it is one. */
  readonly status: number;
  readonly code: string;
  /** What else there is to say, as JSON. */
  readonly detail: string;
}

export interface AuditEntry extends AuditFields {
  /** Hexadecimal. */
  readonly previous: string;
  readonly hash: string;
}

/** The hash of an entry (A2). */
export function auditHash(previous: string, fields: AuditFields): string {
  const { seq, at, ownerId, actor, credential, action, target, origin, status, code, detail } = fields;
  const text = canonicalJson({
    seq,
    at,
    ownerId,
    actor,
    credential,
    action,
    target,
    origin,
    status,
    code,
    detail,
  });
  return createHash("sha256").update(Buffer.from(previous, "hex")).update(text).digest("hex");
}

/** Recomputes a chain as its entries come. */
export class AuditVerifier {
  #seq = 0;
  #hash = AUDIT_GENESIS;

  /** The last entry that held. */
  get head(): { readonly seq: number; readonly hash: string } {
    return { seq: this.#seq, hash: this.#hash };
  }

  /** Why the chain breaks at this entry, or undefined where it goes on. */
  add(entry: AuditEntry): string | undefined {
    if (entry.seq !== this.#seq + 1)
      return `entry ${entry.seq} follows entry ${this.#seq}: something is missing, or was put in`;
    if (entry.previous !== this.#hash)
      return `entry ${entry.seq} does not follow the entry before it: one of the two was changed`;
    if (auditHash(entry.previous, entry) !== entry.hash)
      return `entry ${entry.seq} was changed after it was written`;
    this.#seq = entry.seq;
    this.#hash = entry.hash;
    return undefined;
  }
}
