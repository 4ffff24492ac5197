/**
 * Who may send what: every frame that may come in at a door has its policy here. `serveLinks` refuses to start with
 * a frame that has none, as the routes do.
 *
 *   link   belongs to the connection itself: opening, marks, heartbeat, goodbye
 *   scope  asks something of the service: the credential must have the scope, and every id in the frame is looked up
 *          within its owner
 *   lease  speaks of tasks: every id in the frame is looked up among what this endpoint's queue holds
 */
import { FarloomError, FRAMES_DOWN, FRAMES_UP } from "@farloom/protocol";
import { authorise, type Target } from "../identity/authorise.js";
import type { Principal, Scope } from "../identity/principal.js";

export type FramePolicy = "link" | "lease" | { readonly scope: Scope };

type KindOf<S> = S extends ReadonlySet<infer K> ? K : never;
export type ClientFrameKind = KindOf<typeof FRAMES_DOWN.service>;
export type AgentFrameKind = KindOf<typeof FRAMES_UP.service>;

export const CLIENT_FRAMES: Readonly<Record<ClientFrameKind, FramePolicy>> = {
  hello: "link",
  mark: "link",
  ping: "link",
  pong: "link",
  bye: "link",
  problem: "link",
  tasks: { scope: "tasks:submit" },
  watch: { scope: "tasks:read" },
  cancel: { scope: "tasks:cancel" },
};

export const AGENT_FRAMES: Readonly<Record<AgentFrameKind, FramePolicy>> = {
  hello: "link",
  credit: "link",
  mark: "link",
  refused: "link",
  ping: "link",
  pong: "link",
  drain: "link",
  bye: "link",
  problem: "link",
  results: "lease",
  returned: "lease",
  progress: "lease",
  output: "lease",
  report: "link",
  need: "lease",
};

/**
 * Refuses what the principal may not send, or not of this endpoint and this function.
 * @throws FarloomError SCOPE_MISSING, NESTED_SCOPE, ENDPOINT_NOT_FOUND, FUNCTION_NOT_FOUND
 */
export function requireFrame(principal: Principal, kind: ClientFrameKind, target?: Target): void {
  const policy = CLIENT_FRAMES[kind];
  if (typeof policy === "object") authorise(principal, policy.scope, target);
  else if (policy !== "link")
    throw new FarloomError("FRAME_UNKNOWN", { detail: `${kind} does not belong here` });
}

/** Stops a start at which some frame has no policy. */
export function assertFramePolicies(
  doors: readonly {
    readonly kinds: ReadonlySet<string>;
    readonly policies: Readonly<Record<string, FramePolicy>>;
  }[] = [
    { kinds: FRAMES_DOWN.service, policies: CLIENT_FRAMES },
    { kinds: FRAMES_UP.service, policies: AGENT_FRAMES },
  ],
): void {
  for (const { kinds, policies } of doors) {
    for (const kind of kinds) {
      if (!Object.hasOwn(policies, kind))
        throw new Error(`frame "${kind}" declares no policy in frame-policy.ts`);
    }
  }
}
