/**
 * Logins of programs: the device grant (RFC 8628), refresh tokens and their revocation (RFC 7009), in the forms and words of
 * OAuth, so that any library for it works. Refusals are problem documents that say `error` too.
 */
import { ERRORS, FarloomError } from "@farloom/protocol";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { recordLogin } from "../audit/record-logins.js";
import { acceptForms } from "../http/forms.js";
import { toFarloomError, toProblem } from "../http/problem.js";
import { DEVICE_INTERVAL_S, DEVICE_LIFE_S } from "../identity/device-logins.js";
import { isScope, personScopes, type Scope } from "../identity/principal.js";
import { Problem, problems, Strict } from "./schemas.js";

const tags = ["login"];
export const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";
const GRANTS = [DEVICE_GRANT, "refresh_token"];

/** What our codes are called in OAuth. */
const OAUTH_ERRORS: Readonly<Record<string, string>> = {
  AUTHORIZATION_PENDING: "authorization_pending",
  SLOW_DOWN: "slow_down",
  DEVICE_CODE_EXPIRED: "expired_token",
  LOGIN_DENIED: "access_denied",
  REFRESH_INVALID: "invalid_grant",
  GRANT_UNSUPPORTED: "unsupported_grant_type",
};

const OAuthProblem = Type.Intersect([
  Problem,
  Type.Object({ error: Type.String({ description: "As RFC 6749 and RFC 8628 call it" }) }),
]);
const oauthProblems = { "4xx": OAuthProblem, "5xx": OAuthProblem };
const TokenReply = Type.Object({
  access_token: Type.String(),
  token_type: Type.String(),
  expires_in: Type.Integer({ description: "Seconds; at most 600" }),
  refresh_token: Type.String({ description: "Good once: it is replaced whenever it is used" }),
  scope: Type.String(),
});
const consumes = ["application/x-www-form-urlencoded", "application/json"];
const Text = (maxLength: number, description?: string) =>
  Type.Optional(Type.String({ maxLength, ...(description && { description }) }));

export function oauthRoutes(app: Api, deps: AppDeps): void {
  const { identity, people, audit, config } = deps;
  const base = (request: FastifyRequest): string =>
    config.publicUrl ?? `${request.protocol}://${request.host}`;

  app.get(
    "/.well-known/oauth-authorization-server",
    {
      config: { policy: { public: true } },
      schema: {
        tags,
        summary: "How programs log in here (RFC 8414)",
        response: { 200: Type.Unknown(), ...problems },
      },
    },
    (request) => ({
      issuer: base(request),
      token_endpoint: `${base(request)}/v1/oauth/token`,
      device_authorization_endpoint: `${base(request)}/v1/oauth/device`,
      revocation_endpoint: `${base(request)}/v1/oauth/revoke`,
      jwks_uri: `${base(request)}/.well-known/jwks.json`,
      grant_types_supported: GRANTS,
      response_types_supported: [],
      token_endpoint_auth_methods_supported: ["none"],
      revocation_endpoint_auth_methods_supported: ["none"],
      scopes_supported: personScopes(true),
    }),
  );

  app.get(
    "/.well-known/jwks.json",
    {
      config: { policy: { public: true } },
      schema: {
        tags,
        summary: "The public keys of access tokens (RFC 7517)",
        response: { 200: Type.Unknown(), ...problems },
      },
    },
    () => people.keyRing.jwks(),
  );

  app.register(async (scope) => {
    acceptForms(scope as unknown as FastifyInstance);
    const routes = scope as unknown as Api;
    routes.setErrorHandler((error: FastifyError, request, reply) =>
      sendOAuthProblem(request, reply, toFarloomError(error, request)),
    );

    routes.post(
      "/v1/oauth/device",
      {
        config: { policy: { public: true }, audit: false },
        schema: {
          tags,
          consumes,
          summary:
            "Begin a login: a code for the program, and one for the person who approves it in a browser",
          body: Strict({
            client_id: Text(100, "What the program is, as the person is shown"),
            host: Text(100, "The machine that it runs on, as the person is shown"),
            scope: Text(1_000, "Default: all that the person may do"),
          }),
          response: {
            200: Type.Object({
              device_code: Type.String(),
              user_code: Type.String(),
              verification_uri: Type.String(),
              verification_uri_complete: Type.String(),
              expires_in: Type.Integer(),
              interval: Type.Integer(),
            }),
            ...oauthProblems,
          },
        },
      },
      async (request) => {
        const { client_id: client = "a program", host, scope: asked } = request.body;
        people.deviceStarts.require(request.ip);
        people.deviceStarts.count(request.ip);
        const { deviceCode, userCode } = await people.devices.open({
          client: host ? `${client} on ${host}` : client,
          origin: request.ip,
          scopes: scopesIn(asked),
        });
        const page = `${base(request)}/device`;
        return {
          device_code: deviceCode,
          user_code: userCode,
          verification_uri: page,
          verification_uri_complete: `${page}?user_code=${userCode}`,
          expires_in: DEVICE_LIFE_S,
          interval: DEVICE_INTERVAL_S,
        };
      },
    );

    routes.post(
      "/v1/oauth/token",
      {
        config: { policy: { public: true }, audit: false },
        schema: {
          tags,
          consumes,
          summary: "An access token for an approved device code, or for a refresh token, which is replaced",
          body: Strict({
            grant_type: Type.String({ maxLength: 100 }),
            device_code: Text(200),
            refresh_token: Text(200),
            client_id: Text(100),
            nonce: Text(
              100,
              "Random, with a refresh token: the same exchange may be repeated with it where its answer was lost",
            ),
          }),
          response: { 200: TokenReply, ...oauthProblems },
        },
      },
      async (request) => {
        const { grant_type: grant, device_code: device, refresh_token: refresh, nonce } = request.body;
        if (grant === DEVICE_GRANT && device !== undefined) return byDevice(request, device);
        if (grant === "refresh_token" && refresh !== undefined) return byRefresh(request, refresh, nonce);
        throw new FarloomError("GRANT_UNSUPPORTED", { type: grant.slice(0, 100) });
      },
    );

    routes.post(
      "/v1/oauth/revoke",
      {
        config: { policy: { public: true }, audit: false },
        schema: {
          tags,
          consumes,
          summary:
            "Log out: end the login that a refresh token is of, whichever of its tokens this is (RFC 7009)",
          body: Strict({
            token: Type.String({ maxLength: 200 }),
            token_type_hint: Text(100),
            client_id: Text(100),
          }),
          response: { 200: Type.Object({}), ...oauthProblems },
        },
      },
      async (request) => {
        const of = await identity.sessions.ofRefreshToken(request.body.token);
        if (of !== undefined && (await identity.sessions.revoke(of.ownerId, of.id))) {
          identity.changed();
          await recordLogin(audit, request, {
            action: "sessions.logout",
            ownerId: of.ownerId,
            actor: of.owner,
            credential: of.id,
            target: of.id,
          });
        }
        // RFC 7009: whoever shows a token that is none hears no more than others do.
        return {};
      },
    );
  });

  const tokens = async (
    ownerId: string,
    sessionId: string,
    refreshToken: string,
    scopes: readonly string[],
  ) => {
    const { token, expiresInMs } = await identity.issueAccessToken({ ownerId, keyId: sessionId });
    return {
      access_token: token,
      token_type: "Bearer",
      expires_in: Math.floor(expiresInMs / 1000),
      refresh_token: refreshToken,
      scope: scopes.join(" "),
    };
  };

  const byDevice = async (request: FastifyRequest, deviceCode: string) => {
    const answer = await people.devices.ask(deviceCode);
    switch (answer.kind) {
      case "pending":
        throw new FarloomError("AUTHORIZATION_PENDING");
      case "slow_down":
        throw new FarloomError(
          "SLOW_DOWN",
          { seconds: answer.intervalS },
          { retryAfterMs: answer.intervalS * 1000 },
        );
      case "denied":
        throw new FarloomError("LOGIN_DENIED");
      case "expired":
        throw new FarloomError("DEVICE_CODE_EXPIRED");
      case "approved": {
        const { ownerId, client, origin, scopes } = answer;
        const { id, secret } = await identity.sessions.open("program", { ownerId, client, origin, scopes });
        const session = await identity.sessions.find(id);
        if (session === undefined) throw new FarloomError("DEVICE_CODE_EXPIRED");
        await recordLogin(audit, request, {
          action: "sessions.login",
          ownerId,
          actor: session.ownerName,
          credential: id,
          target: id,
          detail: { by: "device", client, from: origin },
        });
        return tokens(ownerId, id, secret, scopes);
      }
    }
  };

  const byRefresh = async (request: FastifyRequest, refreshToken: string, nonce: string | undefined) => {
    const answer = await identity.sessions.refresh(refreshToken, nonce);
    if (answer.kind === "fresh") {
      const { ownerId, id, scopes } = answer.session;
      return tokens(ownerId, id, answer.refreshToken, scopes);
    }
    if (answer.kind === "reused") {
      identity.changed();
      await recordLogin(audit, request, {
        action: "sessions.reuse",
        ownerId: answer.ownerId,
        actor: answer.owner,
        credential: answer.sessionId,
        target: answer.sessionId,
        status: ERRORS.REFRESH_INVALID.status,
        code: "REFRESH_INVALID",
        detail: { revoked: true },
      });
    }
    throw new FarloomError("REFRESH_INVALID");
  };
}

/** @throws FarloomError REQUEST_INVALID */
function scopesIn(text: string | undefined): Scope[] {
  const names = (text ?? "").split(" ").filter((name) => name !== "");
  if (names.length === 0) return personScopes(true);
  return [...new Set(names)].map((name) => {
    if (isScope(name)) return name;
    throw new FarloomError("REQUEST_INVALID", { detail: `${name.slice(0, 60)} is no scope` });
  });
}

function sendOAuthProblem(request: FastifyRequest, reply: FastifyReply, error: FarloomError): FastifyReply {
  request.problemCode = error.code;
  if (error.retryAfterMs !== undefined)
    reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
  const name = OAUTH_ERRORS[error.code] ?? (error.status < 500 ? "invalid_request" : "server_error");
  return reply
    .code(error.status)
    .serializer(JSON.stringify)
    .type("application/json; charset=utf-8")
    .send({ ...toProblem(error), error: name, error_description: error.message });
}
