/** API keys and the access tokens made from them. */
import { FarloomError } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { principalOf } from "../http/policy.js";
import type { ApiKeyInfo } from "../identity/api-keys.js";
import { requireScope, SCOPES, type Scope } from "../identity/principal.js";
import { problems, Strict, Time } from "./schemas.js";

const tags = ["keys"];
const DAY_MS = 24 * 3_600_000;
const ScopeName = Type.Unsafe<Scope>({ type: "string", enum: [...SCOPES] });

const KeyView = Type.Object({
  id: Type.String(),
  label: Type.String(),
  scopes: Type.Array(Type.String()),
  createdAt: Time,
  expiresAt: Time,
  revokedAt: Type.Optional(Time),
});

export function keyRoutes(app: Api, { identity }: AppDeps): void {
  app.post(
    "/v1/keys",
    {
      config: { policy: { scope: "keys:write" } },
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
          expiresInDays: Type.Optional(
            Type.Integer({ minimum: 1, maximum: 3_660, description: "Default: 90" }),
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
      const { label, scopes = [...principal.scopes], expiresInDays = 90, owner } = request.body;
      for (const scope of scopes) requireScope(principal, scope);
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
        expiresAt,
      });
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
      config: { policy: { scope: "keys:write" } },
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
      config: { policy: { authenticated: true } },
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
      config: { policy: { authenticated: true } },
      schema: {
        tags,
        summary: "Who the credential says you are",
        response: {
          200: Type.Object({
            owner: Type.String(),
            ownerId: Type.String(),
            admin: Type.Boolean(),
            keyId: Type.String(),
            scopes: Type.Array(Type.String()),
            expiresAt: Time,
          }),
          ...problems,
        },
      },
    },
    (request) => {
      const { ownerName, ownerId, isAdmin, keyId, scopes, expiresAtMs } = principalOf(request);
      const expiresAt = new Date(expiresAtMs).toISOString();
      return { owner: ownerName, ownerId, admin: isAdmin, keyId, scopes: [...scopes], expiresAt };
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
