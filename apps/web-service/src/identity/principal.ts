/**
 * Who is asking, and what they may do. A principal comes from the connection's credential alone; ids inside
 * requests are always looked up within it.
 */
import { FarloomError, type IdKey } from "@farloom/protocol";
import type { Narrow } from "./narrow.js";

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
  "objects:read",
  "objects:write",
  "sharing:write",
  "audit:read",
  "secrets:use",
  "secrets:write",
  "webhooks:write",
] as const;
export type Scope = (typeof SCOPES)[number];

/** What somebody who logs in may do: all that is theirs; what is the whole service's is for administrators. */
export function personScopes(isAdmin: boolean): Scope[] {
  return SCOPES.filter((scope) => isAdmin || scope !== "metrics:read");
}

export interface Principal {
  /** The owner's UUID; everything that this principal makes or sees belongs to it. */
  readonly ownerId: string;
  readonly ownerKey: IdKey;
  readonly ownerName: string;
  readonly scopes: ReadonlySet<Scope>;
  readonly isAdmin: boolean;
  readonly via: "key" | "token" | "task" | "session";
  /** Public id of the API key or the login; of the one that a token was made from. */
  readonly keyId: string;
  /** When the credential ends, on this machine's wall clock. */
  readonly expiresAtMs: number;
  /** Of a key that is for some endpoints or functions alone, and of tokens made from it. */
  readonly narrow?: Narrow | undefined;
  /** Of a token that a running task has for itself: what it reaches (identity/nested.ts). */
  readonly nested?: NestedGrant;
}

/** A running task that may submit tasks: to its endpoint, into its group. */
export interface NestedGrant {
  readonly taskId: string;
  readonly attempt: number;
  readonly endpointId: string;
  readonly endpointKey: IdKey;
  readonly groupId: string;
  readonly groupKey: IdKey;
}

/** The agent of one endpoint, known by a session token. */
export interface AgentPrincipal {
  readonly endpointId: string;
  readonly ownerId: string;
  /** Of the public key that its token was made for (keyPrint). */
  readonly keyPrint: string;
  /** The endpoint's when its token was made; null of one that opens no link, undefined of one by the version before. */
  readonly epoch: number | null | undefined;
}

/** One that may open a link. */
export type LinkedAgent = AgentPrincipal & { readonly epoch: number | undefined };

/** What agents have in hand now, whichever replica has their connections. @throws FarloomError LEASE_UNKNOWN, each */
export interface AgentLeases {
  /** Whether the endpoint's agent leases this attempt of the task. */
  holds(endpointId: string, taskId: string, attempt: number): Promise<boolean>;
  /** Who submitted a task that the agent leases and whose arguments are this file; undefined where there is none. */
  submitterOf(endpointId: string, digest: Buffer): Promise<string | undefined>;
}

/**
 * The task's row, where its attempt is leased to the agent. Without a row the task may be on its way there already, as it
 * travels while its INSERT commits. @throws FarloomError TASK_NOT_FOUND, LEASE_UNKNOWN
 */
export async function requireLeased<Row extends { readonly attempt: number }>(
  leases: AgentLeases,
  { endpointId }: AgentPrincipal,
  taskId: string,
  row: Row | undefined,
): Promise<Row> {
  if (!(await leases.holds(endpointId, taskId, row?.attempt ?? 1)))
    throw new FarloomError("TASK_NOT_FOUND", { id: taskId });
  if (row === undefined) throw new FarloomError("LEASE_UNKNOWN");
  return row;
}

/** What one can do with objects; the first three need `objects:read`, the others `objects:write`. */
export const OBJECT_METHODS = ["get", "head", "list", "put", "delete"] as const;
export type ObjectMethod = (typeof OBJECT_METHODS)[number];

/** What the holder of an object token may do, known by that token alone. */
export interface ObjectGrant {
  readonly ownerId: string;
  /** Public id of the API key behind it. */
  readonly keyId: string;
  readonly bucket: string;
  /** Keys that begin with it, or this one key where `isExact`. */
  readonly prefix: string;
  readonly isExact: boolean;
  readonly methods: ReadonlySet<ObjectMethod>;
}

export function scopeOfObjectMethod(method: ObjectMethod): Scope {
  return method === "put" || method === "delete" ? "objects:write" : "objects:read";
}

/** @throws FarloomError SCOPE_MISSING where the principal lacks the scope. */
export function requireScope(principal: Principal, scope: Scope): void {
  if (!principal.scopes.has(scope)) throw new FarloomError("SCOPE_MISSING", { scope });
}

/** Whether a stored or received text is one of our scopes. */
export function isScope(text: string): text is Scope {
  return (SCOPES as readonly string[]).includes(text);
}
