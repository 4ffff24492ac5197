/**
 * May they? The one place that decides it, for REST routes and for frames of links alike: what the credential is
 * allowed at all (scopes), what it is for (a narrow key's endpoints and functions, a running task's own token), what the
 * person may do with the endpoint, and what the endpoint runs.
 *
 * What somebody may not view is refused as what does not exist, with the same words: nothing is told of it. Whoever may
 * view an endpoint is told what is lacking for more.
 */
import { FarloomError, type IdKey, keyToUuid, type NamedFunction } from "@farloom/protocol";
import type { EndpointGrant } from "../endpoints/registry.js";
import { LEVELS, type Level } from "../sharing/levels.js";
import { reachesEndpoint, reachesFunction } from "./narrow.js";
import { requireEndpoint } from "./nested.js";
import { type Principal, requireScope, type Scope } from "./principal.js";

/** What the principal wants to use: an endpoint by its id alone, before it is looked up, or with what is known of it. */
export interface Target {
  readonly endpointKey?: IdKey;
  readonly endpoint?: EndpointGrant;
  readonly fn?: NamedFunction;
  /** Default: what the scope needs. */
  readonly level?: Level;
}

const LEVEL_OF: Partial<Record<Scope, Level>> = {
  "tasks:submit": LEVELS.invoke,
  "sharing:write": LEVELS.manage,
  "endpoints:write": LEVELS.own,
};
const WHAT_LEVELS_DO: Readonly<Record<Level, string>> = {
  0: "see it",
  1: "see it",
  2: "submit to it",
  3: "manage who uses it",
  4: "do what its owner does",
};

/**
 * @throws FarloomError SCOPE_MISSING, NESTED_SCOPE, ENDPOINT_NOT_FOUND, FUNCTION_NOT_FOUND, ACCESS_DENIED,
 * FUNCTION_NOT_ALLOWED
 */
export function authorise(principal: Principal, scope: Scope, target: Target = {}): void {
  requireScope(principal, scope);
  const { endpoint, fn } = target;
  const { narrow } = principal;
  const endpointKey = endpoint?.key ?? target.endpointKey;
  if (endpointKey !== undefined) {
    requireEndpoint(principal, endpointKey);
    if (!reachesEndpoint(narrow, endpointKey))
      throw new FarloomError("ENDPOINT_NOT_FOUND", { id: keyToUuid(endpointKey) });
  }
  if (fn !== undefined && !reachesFunction(narrow, fn))
    throw new FarloomError("FUNCTION_NOT_FOUND", { id: fn.id });
  if (endpoint === undefined) return;
  const level = target.level ?? LEVEL_OF[scope] ?? LEVELS.view;
  const what = `the endpoint ${endpoint.ownerName}/${endpoint.name}`;
  if (endpoint.level < level)
    throw new FarloomError("ACCESS_DENIED", { what, action: WHAT_LEVELS_DO[level] });
  if (fn !== undefined && endpoint.functions !== undefined && !endpoint.functions(fn))
    throw new FarloomError("FUNCTION_NOT_ALLOWED", { endpoint: endpoint.name, function: fn.ref ?? fn.id });
}

/** For what is not for narrow keys at all. @throws FarloomError KEY_NARROW */
export function requireWide({ narrow }: Principal, action: string): void {
  if (narrow !== undefined) throw new FarloomError("KEY_NARROW", { action });
}
