/**
 * Keys that are for some endpoints, or some functions, alone: what an instrument or a web form gets. Such a key submits
 * and sees what lies within, and nothing else of its owner's; what lies outside is as if it did not exist.
 *
 *   1. It has scopes among NARROW_SCOPES only: with the others it could make itself what it may not use.
 *   2. It asks for no task's own token: that one registers functions and submits them.
 */
import {
  checkFunctionPattern,
  FarloomError,
  type FunctionMatcher,
  functionMatcher,
  type IdKey,
  MAX_PATTERNS,
  type NamedFunction,
  uuidToKey,
} from "@farloom/protocol";
import type { Scope } from "./principal.js";

/** What a narrow key may be allowed (1). */
export const NARROW_SCOPES: readonly Scope[] = [
  "functions:read",
  "endpoints:read",
  "tasks:read",
  "tasks:submit",
  "tasks:cancel",
];
/** Endpoints that one key names. */
export const MAX_NARROW_ENDPOINTS = 256;

/** What a key is for; undefined: everything of that kind. */
export interface Narrow {
  readonly endpoints: ReadonlySet<IdKey> | undefined;
  readonly functions: FunctionMatcher | undefined;
}

/** What the row of a key says; undefined where it is for everything. An id that is damaged reaches nothing. */
export function narrowOf(row: {
  endpoints: readonly string[];
  functions: readonly string[];
}): Narrow | undefined {
  const { endpoints, functions } = row;
  if (endpoints.length === 0 && functions.length === 0) return undefined;
  return {
    endpoints: endpoints.length === 0 ? undefined : new Set(endpoints.map((id) => uuidToKey(id)!)),
    functions: functions.length === 0 ? undefined : functionMatcher(functions),
  };
}

/** Whether the key is for this endpoint. */
export function reachesEndpoint(narrow: Narrow | undefined, endpointKey: IdKey): boolean {
  return narrow?.endpoints === undefined || narrow.endpoints.has(endpointKey);
}

/** Whether the key is for this function. */
export function reachesFunction(narrow: Narrow | undefined, fn: NamedFunction): boolean {
  return narrow?.functions === undefined || narrow.functions(fn);
}

/** A list of functions as it came from a person: a bare name is the owner's own. @throws FarloomError REQUEST_INVALID */
export function functionList(texts: readonly string[], ownerName: string): string[] {
  const list = texts.map((text) =>
    /^[0-9a-f]{64}$/i.test(text) ? text.toLowerCase() : text.includes("/") ? text : `${ownerName}/${text}`,
  );
  for (const text of list) {
    const bad = checkFunctionPattern(text);
    if (bad !== undefined) throw new FarloomError("REQUEST_INVALID", { detail: bad });
  }
  if (list.length > MAX_PATTERNS)
    throw new FarloomError("REQUEST_INVALID", { detail: `a list has at most ${MAX_PATTERNS} functions` });
  return [...new Set(list)];
}
