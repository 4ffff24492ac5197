/** Secrets: stored, listed by name and removed by people; handed to agents for tasks that they have. No person reads a value. */
import {
  FarloomError,
  isSecretName,
  MAX_SECRET_BYTES,
  MIN_MASKED_BYTES,
  SECRET_NAME,
} from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { principalOf } from "../http/policy.js";
import type { Principal } from "../identity/principal.js";
import { MAX_SECRETS_PER_OWNER, type SecretInfo } from "../secrets/store.js";
import { problems, Strict, Time, Uuid } from "./schemas.js";

const tags = ["secrets"];
/** Endpoints that one secret names. */
const MAX_ENDPOINTS = 64;

const Named = Type.Object({
  name: Type.String({ pattern: SECRET_NAME, description: "As variables are named" }),
});
const SecretView = Type.Object({
  name: Type.String(),
  endpoints: Type.Array(Type.String(), {
    description:
      "The endpoints that it may go to alone, as owner/name, or the id of one that you see no more; empty: yours",
  }),
  createdAt: Time,
  updatedAt: Time,
  lastUsedAt: Type.Optional(Time),
});

export function secretRoutes(app: Api, { secrets, endpoints, leases }: AppDeps): void {
  const view = async (principal: Principal, info: SecretInfo) => ({
    name: info.name,
    endpoints: await Promise.all(
      info.endpoints.map((id) =>
        endpoints.resolve(principal, id).then(
          (endpoint) => `${endpoint.ownerName}/${endpoint.name}`,
          () => id,
        ),
      ),
    ),
    createdAt: info.createdAt.toISOString(),
    updatedAt: info.updatedAt.toISOString(),
    ...(info.lastUsedAt && { lastUsedAt: info.lastUsedAt.toISOString() }),
  });

  app.get(
    "/v1/secrets",
    {
      config: { policy: { scope: "secrets:use" } },
      schema: {
        tags,
        summary: `List your secrets by name, without their values; you have ${MAX_SECRETS_PER_OWNER} at most`,
        response: { 200: Type.Object({ items: Type.Array(SecretView) }), ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const found = await secrets.list(principal.ownerId);
      return { items: await Promise.all(found.map((info) => view(principal, info))) };
    },
  );

  app.put(
    "/v1/secrets/:name",
    {
      config: { policy: { scope: "secrets:write" }, audit: "secrets.set" },
      schema: {
        tags,
        summary:
          "Store a secret, or another value for it: nobody reads it back; functions that name it are given it",
        params: Named,
        body: Strict({
          value: Type.String({
            minLength: 1,
            maxLength: MAX_SECRET_BYTES,
            description: `Text of at most ${MAX_SECRET_BYTES} bytes without a NUL; shorter than ${MIN_MASKED_BYTES} bytes it is not masked in output`,
          }),
          endpoints: Type.Optional(
            Type.Array(Type.String({ minLength: 1, maxLength: 200 }), {
              maxItems: MAX_ENDPOINTS,
              description:
                "The endpoints that it may go to, by id, name or owner/name; default: all of yours, and no other",
            }),
          ),
        }),
        response: { 200: SecretView, ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const { value, endpoints: refs = [] } = request.body;
      const sizeBytes = Buffer.byteLength(value);
      if (sizeBytes > MAX_SECRET_BYTES || value.includes("\0"))
        throw new FarloomError("REQUEST_INVALID", {
          detail: `a secret is text of at most ${MAX_SECRET_BYTES} bytes without a NUL`,
        });
      const named = await Promise.all(refs.map((ref) => endpoints.resolve(principal, ref)));
      const ids = [...new Set(named.map(({ id }) => id))].sort();
      request.audited = { detail: { endpoints: ids } };
      return view(principal, await secrets.set(principal.ownerId, request.params.name, value, ids));
    },
  );

  app.delete(
    "/v1/secrets/:name",
    {
      config: { policy: { scope: "secrets:write" }, audit: "secrets.remove" },
      schema: {
        tags,
        summary: "Remove a secret: tasks that begin from now on are not given it",
        params: Type.Object({ name: Type.String({ minLength: 1, maxLength: 64 }) }),
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      if (!isSecretName(name)) throw new FarloomError("SECRET_NOT_FOUND", { name });
      await secrets.remove(principalOf(request).ownerId, name);
      return reply.code(204).send(null);
    },
  );

  app.post(
    "/v1/tasks/:id/secrets",
    {
      config: { policy: { agent: true }, audit: false },
      schema: {
        tags: ["tasks"],
        summary: "For agents: the secrets that the function of a task in hand is given",
        params: Type.Object({ id: Uuid }),
        response: {
          200: Type.Object({ secrets: Type.Record(Type.String(), Type.String()) }),
          ...problems,
        },
      },
    },
    async (request) => ({
      secrets: await secrets.deliver(request.agent!, request.params.id.toLowerCase(), leases),
    }),
  );
}
