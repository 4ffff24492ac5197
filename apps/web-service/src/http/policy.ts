/**
 * Default deny: every route declares who may call it, in `config.policy`; one that does not stops start-up. The
 * declared policy is enforced in one hook, before a body is read.
 */
import { FarloomError } from "@farloom/protocol";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { authorise, requireWide } from "../identity/authorise.js";
import type { Identity } from "../identity/identity.js";
import type { AgentPrincipal, ObjectGrant, Principal, Scope } from "../identity/principal.js";
import { authorizationOf, CSRF_HEADER, placeOf, requireOwnPage, sessionCookie } from "./browser.js";
import { FailedAuthLimiter } from "./failed-auth-limiter.js";

export type Policy =
  /** Anybody; the handler itself checks whatever the caller proves. */
  | { readonly public: true }
  /** Any API key or access token. */
  | ({ readonly authenticated: true } & Nestable)
  /** A principal that has the scope. */
  | ScopePolicy
  /** An agent with a session token. */
  | { readonly agent: true }
  /** A principal that has the scope, or an agent for its endpoint's owner. */
  | ({ readonly scopeOrAgent: Scope } & Nestable)
  /** A principal that has the scope, or the holder of an object token; objects/access.ts checks what that allows. */
  | { readonly objects: Scope };

/**
 * The token of a running task, or a narrow key, is taken too; the handler keeps to what that reaches. Elsewhere each is
 * refused.
 */
interface Nestable {
  readonly nested?: true;
  readonly narrow?: true;
}
type ScopePolicy = { readonly scope: Scope } & Nestable;

declare module "fastify" {
  interface FastifyContextConfig {
    policy?: Policy;
  }
  interface FastifyRequest {
    principal: Principal | null;
    agent: AgentPrincipal | null;
    objectGrant: ObjectGrant | null;
  }
}

/** The page of @fastify/swagger-ui registers its own routes; they show nothing but the public API description. */
const DOCS_PREFIX = "/docs";

/** What asks for nothing to be changed, whoever made the browser ask. */
const SAFE_METHODS = new Set(["GET", "HEAD", "OPTIONS"]);

/** Registers the start-up check and the hook. Call before any route is registered. */
export function enforcePolicies(
  app: FastifyInstance,
  identity: Identity,
  { failedAuthPerMinute, publicUrl }: { failedAuthPerMinute: number; publicUrl: string | undefined },
): void {
  const limiter = new FailedAuthLimiter(failedAuthPerMinute);
  app.decorateRequest("principal", null);
  app.decorateRequest("agent", null);
  app.decorateRequest("objectGrant", null);

  app.addHook("onRoute", (route) => {
    if (route.config?.policy) return;
    if (route.url === DOCS_PREFIX || route.url.startsWith(`${DOCS_PREFIX}/`)) {
      route.config = { ...route.config, policy: { public: true } };
      return;
    }
    throw new Error(`route ${String(route.method)} ${route.url} declares no policy: who may call it?`);
  });

  app.addHook("onRequest", async (request) => {
    // Without a route there is nothing to protect; the answer is 404 for everybody.
    const policy = request.is404 ? undefined : request.routeOptions.config.policy;
    if (policy === undefined || "public" in policy) return;
    const { headers } = request;
    const authorization = authorizationOf(headers, publicUrl);
    if (limiter.isBlocked(request.ip) && !identity.wasTrusted(authorization)) {
      throw new FarloomError("RATE_LIMITED", { seconds: 60 }, { retryAfterMs: 60_000 });
    }
    try {
      if ("agent" in policy || ("scopeOrAgent" in policy && identity.isAgentToken(authorization))) {
        request.agent = await identity.authenticateAgent(authorization);
        return;
      }
      if ("objects" in policy && identity.isObjectToken(authorization)) {
        request.objectGrant = await identity.authenticateObjects(authorization);
        return;
      }
      request.principal = await identity.authenticate(authorization);
    } catch (error) {
      if (error instanceof FarloomError && error.status === 401) limiter.failed(request.ip);
      throw error;
    }
    if (request.principal.via === "session" && !SAFE_METHODS.has(request.method)) {
      requireOwnPage(placeOf(publicUrl, headers.host), headers, {
        cookie: sessionCookie(headers, publicUrl),
        token: headers[CSRF_HEADER],
      });
    }
    if (!("narrow" in policy)) {
      requireWide(request.principal, `${request.method} ${request.routeOptions.url}`);
    }
    const { nested } = request.principal;
    if (nested !== undefined) {
      if (!("nested" in policy))
        throw new FarloomError("NESTED_SCOPE", {
          detail: `${request.method} ${request.routeOptions.url} is not for it`,
        });
      await identity.nested.requireOpen(nested);
    }
    if ("scope" in policy) authorise(request.principal, policy.scope);
    else if ("scopeOrAgent" in policy) authorise(request.principal, policy.scopeOrAgent);
    else if ("objects" in policy) authorise(request.principal, policy.objects);
  });
}

/** The principal of a route whose policy asks for one. */
export function principalOf(request: FastifyRequest): Principal {
  if (!request.principal) throw new Error("the route's policy lets requests in without a principal");
  return request.principal;
}

/** Whose things this request is about: the principal's own, or those of the agent's owner. */
export function ownerIdOf(request: FastifyRequest): string {
  return request.agent?.ownerId ?? principalOf(request).ownerId;
}
