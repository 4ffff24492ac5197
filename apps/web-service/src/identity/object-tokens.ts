/**
 * What an object token says: one bucket, a key or the beginning of keys, and what may be done there. It is a bearer
 * token and not a signed URL: what stands in a URL is written to the logs of every proxy on its way, and a header costs
 * whoever holds the token nothing. It never allows more than the API key behind it does at that moment.
 */
import type { JWTPayload } from "jose";
import { OBJECT_METHODS, type ObjectGrant, type ObjectMethod, scopeOfObjectMethod } from "./principal.js";

/** The claims of an object token. */
export interface ObjectTokenSpec extends JWTPayload {
  readonly bucket: string;
  readonly prefix: string;
  /** The prefix is one whole key. */
  readonly exact: boolean;
  readonly methods: readonly ObjectMethod[];
}

/** The API key or the login that a token was made from. */
export interface Grantor {
  readonly id: string;
  readonly ownerId: string;
  readonly scopes: readonly string[];
}

/** The grant in verified claims; undefined where they are none. Methods whose scope the key lacks are left out. */
export function grantOf(row: Grantor, claims: JWTPayload): ObjectGrant | undefined {
  const { bucket, prefix, exact, methods } = claims as Partial<ObjectTokenSpec>;
  if (typeof bucket !== "string" || typeof prefix !== "string" || typeof exact !== "boolean")
    return undefined;
  if (!Array.isArray(methods)) return undefined;
  const allowed = OBJECT_METHODS.filter(
    (method) => methods.includes(method) && row.scopes.includes(scopeOfObjectMethod(method)),
  );
  return { ownerId: row.ownerId, keyId: row.id, bucket, prefix, isExact: exact, methods: new Set(allowed) };
}
