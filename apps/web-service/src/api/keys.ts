/** API keys and the access tokens made from them. */
import { FarloomError, MAX_PATTERN_CHARS, MAX_PATTERNS } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { CSRF_HEADER, csrfToken, sessionCookie } from "../http/browser.js";
import { principalOf } from "../http/policy.js";
import { type ApiKeyInfo, DEFAULT_KEY_DAYS, MAX_KEY_DAYS } from "../identity/api-keys.js";
import { authorise } from "../identity/authorise.js";
import { functionList, MAX_NARROW_ENDPOINTS, NARROW_SCOPES } from "../identity/narrow.js";
import { SCOPES, type Scope } from "../identity/principal.js";
import { problems, Strict, Time } from "./schemas.js";

const tags = ["keys"];
const DAY_MS = 24 * 3_600_000;
const ScopeName = Type.Unsafe<Scope>({ type: "string", enum: [...SCOPES] });

const KeyView = Type.Object({
  id: Type.String(),
  label: Type.String(),
  scopes: Type.Array(Type.String()),
  endpoints: Type.Array(Type.String(), { description: "Ids of those that it is for alone; empty: all" }),
  functions: Type.Array(Type.String(), {
    description: "Ids or owner/name of those that it is for alone; empty: all",
  }),
  createdAt: Time,
  expiresAt: Time,
  revokedAt: Type.Optional(Time),
});

export function keyRoutes(app: Api, { identity, endpoints: registry, config, isWalled }: AppDeps): void {
  app.post(
    "/v1/keys",
    {
      config: { policy: { scope: "keys:write" }, audit: "keys.create" },
      schema: {
        tags,
        summary: "Make an API key; its secret is in this reply and nowhere else",
        body: Strict({
          label: Type.String({ minLength: 1, maxLength: 100 }),
          scopes: Type.Optional(
            Type.Array(ScopeName, {
              minItems: 1,
              maxItems: SCOPES.length,
              description: "Default, and at most: what the caller has",
            }),
          ),
          endpoints: Type.Optional(
            Type.Array(Type.String({ minLength: 1, maxLength: 200 }), {
              minItems: 1,
              maxItems: MAX_NARROW_ENDPOINTS,
              description:
                "Ids or names: the key is for these endpoints alone. Such a key has none but the scopes to read functions and endpoints and to submit, read and cancel tasks",
            }),
          ),
          functions: Type.Optional(
            Type.Array(Type.String({ minLength: 1, maxLength: MAX_PATTERN_CHARS }), {
              minItems: 1,
              maxItems: MAX_PATTERNS,
              description:
                "Ids, or owner/name, owner/name@version, with * for any letters: the key is for these functions alone, as above",
            }),
          ),
          expiresInDays: Type.Optional(
            Type.Integer({ minimum: 1, maximum: MAX_KEY_DAYS, description: `Default: ${DEFAULT_KEY_DAYS}` }),
          ),
          owner: Type.Optional(
            Type.String({
              pattern: "^[a-z0-9][a-z0-9._-]{0,62}$",
              description: "For administrators: whose key it is; the owner is made where there is none",
            }),
          ),
        }),
        response: { 201: Type.Intersect([KeyView, Type.Object({ key: Type.String() })]), ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const { label, expiresInDays = DEFAULT_KEY_DAYS, owner } = request.body;
      const isNarrow = request.body.endpoints !== undefined || request.body.functions !== undefined;
      const scopes =
        request.body.scopes ?? [...principal.scopes].filter((s) => !isNarrow || NARROW_SCOPES.includes(s));
      for (const scope of scopes) {
        authorise(principal, scope);
        if (isNarrow && !NARROW_SCOPES.includes(scope))
          throw new FarloomError("REQUEST_INVALID", {
            detail: `a key for some endpoints or functions alone cannot have the scope ${scope}, but ${NARROW_SCOPES.join(", ")}`,
          });
      }
      const asked = request.body.endpoints ?? [];
      const endpoints = await Promise.all(asked.map((id) => registry.resolve(principal, id)));
      const functions = functionList(request.body.functions ?? [], owner ?? principal.ownerName);
      let ownerId = principal.ownerId;
      if (owner !== undefined && owner !== principal.ownerName) {
        if (!principal.isAdmin)
          throw new FarloomError("ADMIN_ONLY", { action: "make keys for another owner" });
        ownerId = await identity.keys.ensureOwner(owner);
      }
      const expiresAt = new Date(Date.now() + expiresInDays * DAY_MS);
      const { info, secret } = await identity.keys.create(ownerId, {
        label,
        scopes: [...new Set(scopes)],
        endpoints: [...new Set(endpoints.map(({ id }) => id))],
        functions,
        expiresAt,
      });
      const { scopes: given, endpoints: only, functions: fns } = info;
      const detail = {
        label,
        owner: owner ?? principal.ownerName,
        scopes: given,
        endpoints: only,
        functions: fns,
      };
      request.audited = { target: info.id, detail };
      return reply.code(201).send({ ...view(info), key: secret });
    },
  );

  app.get(
    "/v1/keys",
    {
      config: { policy: { scope: "keys:write" } },
      schema: {
        tags,
        summary: "List your API keys, newest first, at most 1,000",
        response: { 200: Type.Object({ items: Type.Array(KeyView) }), ...problems },
      },
    },
    async (request) => ({ items: (await identity.keys.list(principalOf(request).ownerId)).map(view) }),
  );

  app.delete(
    "/v1/keys/:id",
    {
      config: { policy: { scope: "keys:write" }, audit: "keys.revoke" },
      schema: {
        tags,
        summary: "Revoke an API key; heard everywhere within 5 s",
        params: Type.Object({ id: Type.String({ maxLength: 64 }) }),
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      await identity.revokeKey(principalOf(request).ownerId, request.params.id);
      return reply.code(204).send(null);
    },
  );

  app.post(
    "/v1/tokens",
    {
      config: { policy: { authenticated: true, narrow: true }, audit: false },
      schema: {
        tags,
        summary: "Change an API key into an access token of the same scopes, valid for 10 minutes",
        response: { 200: Type.Object({ token: Type.String(), expiresInMs: Type.Integer() }), ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      // A token must not renew itself for ever: it would outlive the theft that it came from.
      if (principal.via !== "key") throw new FarloomError("UNAUTHENTICATED");
      return identity.issueAccessToken(principal);
    },
  );

  app.get(
    "/v1/me",
    {
      config: { policy: { authenticated: true, narrow: true } },
      schema: {
        tags,
        summary: "Who the credential says you are",
        response: {
          200: Type.Object({
            owner: Type.String(),
            ownerId: Type.String(),
            admin: Type.Boolean(),
            tenantWall: Type.Optional(
              Type.Boolean({
                description: "For administrators: whether PostgreSQL itself keeps people's rows apart too",
              }),
            ),
            keyId: Type.String(),
            scopes: Type.Array(Type.String()),
            expiresAt: Time,
            csrf: Type.Optional(
              Type.String({
                description: `For a browser's page: what requests that change something send as ${CSRF_HEADER}`,
              }),
            ),
          }),
          ...problems,
        },
      },
    },
    (request) => {
      const { ownerName, ownerId, isAdmin, keyId, scopes, expiresAtMs, via } = principalOf(request);
      const expiresAt = new Date(expiresAtMs).toISOString();
      const me = {
        owner: ownerName,
        ownerId,
        admin: isAdmin,
        ...(isAdmin ? { tenantWall: isWalled } : {}),
        keyId,
        scopes: [...scopes],
        expiresAt,
      };
      const cookie = via === "session" ? sessionCookie(request.headers, config.publicUrl) : undefined;
      return cookie === undefined ? me : { ...me, csrf: csrfToken(cookie) };
    },
  );
}

function view({ createdAt, expiresAt, revokedAt, ...rest }: ApiKeyInfo) {
  return {
    ...rest,
    createdAt: createdAt.toISOString(),
    expiresAt: expiresAt.toISOString(),
    ...(revokedAt === null ? {} : { revokedAt: revokedAt.toISOString() }),
  };
}
