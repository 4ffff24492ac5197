/**
 * May they? The one place that decides it, for REST routes and for frames of links alike: what the credential is
 * allowed at all (scopes), and what it is for (a narrow key's endpoints and functions, a running task's own token).
 *
 * What somebody may not reach is refused as what does not exist, with the same words: nothing is told of it.
 */
import { FarloomError, type IdKey, keyToUuid, type NamedFunction } from "@farloom/protocol";
import { reachesEndpoint, reachesFunction } from "./narrow.js";
import { requireEndpoint } from "./nested.js";
import { type Principal, requireScope, type Scope } from "./principal.js";

/** What the principal wants to use. */
export interface Target {
  readonly endpointKey?: IdKey;
  readonly fn?: NamedFunction;
}

/** @throws FarloomError SCOPE_MISSING, NESTED_SCOPE, ENDPOINT_NOT_FOUND, FUNCTION_NOT_FOUND */
export function authorise(principal: Principal, scope: Scope, { endpointKey, fn }: Target = {}): void {
  requireScope(principal, scope);
  const { narrow } = principal;
  if (endpointKey !== undefined) {
    requireEndpoint(principal, endpointKey);
    if (!reachesEndpoint(narrow, endpointKey))
      throw new FarloomError("ENDPOINT_NOT_FOUND", { id: keyToUuid(endpointKey) });
  }
  if (fn !== undefined && !reachesFunction(narrow, fn))
    throw new FarloomError("FUNCTION_NOT_FOUND", { id: fn.id });
}

/** For what is not for narrow keys at all. @throws FarloomError KEY_NARROW */
export function requireWide({ narrow }: Principal, action: string): void {
  if (narrow !== undefined) throw new FarloomError("KEY_NARROW", { action });
}
