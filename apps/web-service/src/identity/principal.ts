/**
 * Who is asking, and what they may do. A principal comes from the connection's credential alone; ids inside
 * requests are always looked up within it.
 */
import { FarloomError, type IdKey } from "@farloom/protocol";

export const SCOPES = [
  "functions:read",
  "functions:write",
  "endpoints:read",
  "endpoints:write",
  "tasks:read",
  "tasks:submit",
  "tasks:cancel",
  "keys:write",
  "metrics:read",
] as const;
export type Scope = (typeof SCOPES)[number];

export interface Principal {
  /** The owner's UUID; everything that this principal makes or sees belongs to it. */
  readonly ownerId: string;
  readonly ownerKey: IdKey;
  readonly ownerName: string;
  readonly scopes: ReadonlySet<Scope>;
  readonly isAdmin: boolean;
  readonly via: "key" | "token";
  /** Public id of the API key; of the one that a token was made from. */
  readonly keyId: string;
  /** When the credential ends, on this machine's wall clock. */
  readonly expiresAtMs: number;
}

/** The agent of one endpoint, known by a session token. */
export interface AgentPrincipal {
  readonly endpointId: string;
  readonly ownerId: string;
}

/** @throws FarloomError SCOPE_MISSING where the principal lacks the scope. */
export function requireScope(principal: Principal, scope: Scope): void {
  if (!principal.scopes.has(scope)) throw new FarloomError("SCOPE_MISSING", { scope });
}

/** Whether a stored or received text is one of our scopes. */
export function isScope(text: string): text is Scope {
  return (SCOPES as readonly string[]).includes(text);
}
