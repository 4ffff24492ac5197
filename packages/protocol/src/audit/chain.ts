/**
 * The audit chain: each entry holds the SHA-256 of the one before, so that nothing in the middle can be changed, left
 * out or put in without its being seen. The service writes one, and each agent another (agent-record.ts); whoever has the
 * entries recomputes it.
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

/** The hash of what follows `previous` in a chain (A2); `text` is canonical JSON. */
export function chainHash(previous: string, text: string): string {
  return createHash("sha256").update(Buffer.from(previous, "hex")).update(text).digest("hex");
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
  return chainHash(previous, text);
}

/** A link of a chain: its number, what it follows, and its own hash. */
export interface ChainLink {
  readonly seq: number;
  readonly previous: string;
  readonly hash: string;
}

/** Follows any chain of A1 and A2, link by link. */
export class ChainVerifier {
  #seq: number;
  #hash: string;

  /** `after`: the last link that is taken for good; the genesis where nothing is said. */
  constructor(after: { readonly seq: number; readonly hash: string } = { seq: 0, hash: AUDIT_GENESIS }) {
    this.#seq = after.seq;
    this.#hash = after.hash;
  }

  /** The last entry that held. */
  get head(): { readonly seq: number; readonly hash: string } {
    return { seq: this.#seq, hash: this.#hash };
  }

  /** Why the chain breaks at this link, or undefined where it goes on. `hashed` is what its hash must be. */
  follow(link: ChainLink, hashed: string): string | undefined {
    if (link.seq !== this.#seq + 1)
      return `entry ${link.seq} follows entry ${this.#seq}: something is missing, or was put in`;
    if (link.previous !== this.#hash)
      return `entry ${link.seq} does not follow the entry before it: one of the two was changed`;
    if (hashed !== link.hash) return `entry ${link.seq} was changed after it was written`;
    this.#seq = link.seq;
    this.#hash = link.hash;
    return undefined;
  }
}

/** Recomputes the service's chain as its entries come. */
export class AuditVerifier {
  readonly #chain = new ChainVerifier();

  /** The last entry that held. */
  get head(): { readonly seq: number; readonly hash: string } {
    return this.#chain.head;
  }

  /** Why the chain breaks at this entry, or undefined where it goes on. */
  add(entry: AuditEntry): string | undefined {
    return this.#chain.follow(entry, auditHash(entry.previous, entry));
  }
}
