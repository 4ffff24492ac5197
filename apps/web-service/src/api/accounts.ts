/** People, their logins, and the keys that sign tokens. */
import { FarloomError } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { principalOf } from "../http/policy.js";
import { ACCOUNT_NAME } from "../identity/accounts.js";
import { authorise } from "../identity/authorise.js";
import { type Principal, SCOPES } from "../identity/principal.js";
import { problems, Strict, Time } from "./schemas.js";

const tags = ["accounts"];
const Name = Type.Object({ name: Type.String({ pattern: ACCOUNT_NAME }) });
const AccountView = Type.Object({
  name: Type.String(),
  admin: Type.Boolean(),
  disabled: Type.Boolean(),
  createdAt: Time,
  logins: Type.Array(Type.String(), { description: "How they log in: password, and issuers" }),
});
const SessionView = Type.Object({
  id: Type.String(),
  kind: Type.String({ description: "browser or program" }),
  client: Type.String(),
  origin: Type.String(),
  scopes: Type.Array(Type.String()),
  current: Type.Boolean({ description: "This request's own" }),
  createdAt: Time,
  lastUsedAt: Time,
  expiresAt: Time,
});

export function accountRoutes(app: Api, { identity, people, config }: AppDeps): void {
  const { accounts, keyRing } = people;

  app.get(
    "/v1/accounts",
    {
      config: { policy: { scope: "keys:write" } },
      schema: {
        tags,
        summary: "For administrators: everybody who has an account, by name",
        response: { 200: Type.Object({ items: Type.Array(AccountView) }), ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      requireAdmin(principal, "list accounts");
      const items = await accounts.list(principal.ownerId);
      return { items: items.map((item) => ({ ...item, createdAt: item.createdAt.toISOString() })) };
    },
  );

  app.post(
    "/v1/accounts",
    {
      config: { policy: { scope: "keys:write" }, audit: "accounts.invite" },
      schema: {
        tags,
        summary:
          "For administrators: a one-time token with which somebody sets the password of a local account, at /setup",
        body: Strict({
          name: Type.String({ pattern: ACCOUNT_NAME }),
          admin: Type.Optional(Type.Boolean({ description: "Of an account that is made by it" })),
        }),
        response: {
          201: Type.Object({
            name: Type.String(),
            token: Type.String(),
            url: Type.String(),
            expiresAt: Time,
          }),
          ...problems,
        },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      requireAdmin(principal, "invite people");
      // Whoever sets a password may do all that the account may: no key gives what it lacks.
      for (const scope of SCOPES) authorise(principal, scope);
      const { name, admin = false } = request.body;
      request.audited = { target: name, detail: { admin } };
      const { token, expiresAt } = await accounts.makeLink(name, admin);
      const url = `${config.publicUrl ?? `${request.protocol}://${request.host}`}/setup`;
      return reply.code(201).send({ name, token, url, expiresAt: expiresAt.toISOString() });
    },
  );

  for (const [verb, isDisabled] of [
    ["disable", true],
    ["enable", false],
  ] as const) {
    app.post(
      `/v1/accounts/:name/${verb}`,
      {
        config: { policy: { scope: "keys:write" }, audit: `accounts.${verb}` },
        schema: {
          tags,
          summary: isDisabled
            ? "For administrators: take none of somebody's keys and logins, anywhere within 5 s"
            : "For administrators: let somebody in again; logins that were ended stay so",
          params: Name,
          response: { 204: Type.Null(), ...problems },
        },
      },
      async (request, reply) => {
        const principal = principalOf(request);
        requireAdmin(principal, `${verb} accounts`);
        const { name } = request.params;
        if (isDisabled && name === principal.ownerName)
          throw new FarloomError("REQUEST_INVALID", { detail: "you would shut yourself out" });
        const ownerId = await accounts.setDisabled(name, isDisabled);
        if (isDisabled) await identity.sessions.revokeAll(ownerId);
        identity.changed();
        return reply.code(204).send(null);
      },
    );
  }

  app.get(
    "/v1/sessions",
    {
      config: { policy: { scope: "keys:write" } },
      schema: {
        tags,
        summary: "Your logins, of browsers and programs, the newest first",
        response: { 200: Type.Object({ items: Type.Array(SessionView) }), ...problems },
      },
    },
    async (request) => {
      const { ownerId, keyId } = principalOf(request);
      const items = await identity.sessions.list(ownerId);
      return {
        items: items.map((item) => ({
          ...item,
          current: item.id === keyId,
          createdAt: item.createdAt.toISOString(),
          lastUsedAt: item.lastUsedAt.toISOString(),
          expiresAt: item.expiresAt.toISOString(),
        })),
      };
    },
  );

  app.delete(
    "/v1/sessions/:id",
    {
      config: { policy: { scope: "keys:write" }, audit: "sessions.revoke" },
      schema: {
        tags,
        summary: "End a login of yours; heard everywhere within 5 s",
        params: Type.Object({ id: Type.String({ maxLength: 64 }) }),
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      await identity.revokeSession(principalOf(request).ownerId, request.params.id);
      return reply.code(204).send(null);
    },
  );

  app.get(
    "/v1/signing-keys",
    {
      config: { policy: { scope: "keys:write" } },
      schema: {
        tags,
        summary: "For administrators: the keys of tokens that are believed",
        response: {
          200: Type.Object({
            items: Type.Array(
              Type.Object({ kid: Type.String(), activeAt: Type.Optional(Time), signs: Type.Boolean() }),
            ),
          }),
          ...problems,
        },
      },
    },
    (request) => {
      requireAdmin(principalOf(request), "see the keys of tokens");
      return {
        items: keyRing.list().map(({ kid, activeAt, signs }) => ({
          kid,
          signs,
          ...(activeAt && { activeAt: activeAt.toISOString() }),
        })),
      };
    },
  );

  app.post(
    "/v1/signing-keys",
    {
      config: { policy: { scope: "keys:write" }, audit: "signing-keys.rotate" },
      schema: {
        tags,
        summary:
          "For administrators: a new key of tokens. It signs in ten seconds; the one before is believed until its tokens have expired",
        response: { 201: Type.Object({ kid: Type.String(), activeAt: Time }), ...problems },
      },
    },
    async (request, reply) => {
      requireAdmin(principalOf(request), "change the keys of tokens");
      const { kid, activeAt } = await keyRing.rotate();
      request.audited = { target: kid };
      identity.changed();
      return reply.code(201).send({ kid, activeAt: activeAt.toISOString() });
    },
  );
}

/** @throws FarloomError ADMIN_ONLY */
function requireAdmin({ isAdmin }: Principal, action: string): void {
  if (!isAdmin) throw new FarloomError("ADMIN_ONLY", { action });
}
