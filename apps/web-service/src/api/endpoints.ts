/** Endpoints, and how their agents enrol and connect. */
import { uuidToKey } from "@farloom/protocol";
import type { FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { Enrolment } from "../endpoints/enrolment.js";
import type { EndpointGrant, EndpointRow } from "../endpoints/registry.js";
import { principalOf } from "../http/policy.js";
import { authorise } from "../identity/authorise.js";
import { reachesEndpoint } from "../identity/narrow.js";
import { requireEndpointRoom } from "../quotas/endpoints.js";
import { levelName } from "../sharing/levels.js";
import { NextCursor, PageQuery, problems, Strict, Time, Uuid } from "./schemas.js";

const tags = ["endpoints"];
const IdOrName = Type.Object({
  id: Type.String({
    minLength: 1,
    maxLength: 200,
    description: "Id, name, or owner/name with its slash as %2F",
  }),
});
const Id = Type.Object({ id: Uuid });

const EndpointView = Type.Object({
  id: Type.String(),
  name: Type.String(),
  owner: Type.String(),
  access: Type.String({ description: "What you may do: view, invoke, manage, or own" }),
  createdAt: Time,
  enrolled: Type.Boolean({ description: "An agent has handed in its key" }),
  connected: Type.Boolean(),
  connectedAt: Type.Optional(Time),
  disconnectedAt: Type.Optional(Time),
  agentInfo: Type.Optional(Type.Unknown({ description: "What the agent said of itself when it connected" })),
  queued: Type.Optional(
    Type.Integer({ description: "Tasks that wait here; absent where another replica has the queue" }),
  ),
  leased: Type.Optional(Type.Integer({ description: "Tasks that the agent has" })),
});
const CodeView = Type.Object({
  id: Type.String(),
  name: Type.String(),
  enrolmentCode: Type.String({ description: "Good once, for ten minutes" }),
  enrolmentExpiresAt: Time,
  command: Type.String({ description: "To run on the machine that shall be this endpoint" }),
});

export function endpointRoutes(app: Api, deps: AppDeps): void {
  const { endpoints, identity, dispatch, config, pool } = deps;
  const enrolment = new Enrolment(deps, identity);

  /**
   * The address is the configured one, or the one that this very request came to. The code is not an argument, as
   * everybody on a machine can read those of every process.
   */
  const command = (code: string, request: { protocol: string; host: string }): string =>
    `FARLOOM_ENROLMENT_CODE=${code} farloom endpoint enroll --service ${config.publicUrl ?? `${request.protocol}://${request.host}`}`;

  /** The caller's own endpoint. @throws FarloomError ENDPOINT_NOT_FOUND, ACCESS_DENIED */
  const owned = async (request: FastifyRequest<{ Params: { id: string } }>): Promise<EndpointGrant> => {
    const principal = principalOf(request);
    const endpoint = await endpoints.resolve(principal, request.params.id);
    authorise(principal, "endpoints:write", { endpoint });
    return endpoint;
  };

  const view = (row: EndpointRow) => {
    const live = dispatch.endpointStatus(row.id);
    const { connectedAt: on, disconnectedAt: off } = row;
    return {
      id: row.id,
      name: row.name,
      owner: row.ownerName,
      access: levelName(row.level),
      createdAt: row.createdAt.toISOString(),
      enrolled: row.enrolled,
      connected: live?.connected ?? (on !== null && (off === null || off < on)),
      ...(on === null ? {} : { connectedAt: on.toISOString() }),
      ...(off === null ? {} : { disconnectedAt: off.toISOString() }),
      ...(row.agentInfo === null ? {} : { agentInfo: row.agentInfo }),
      ...(live ? { queued: live.queued, leased: live.leased } : {}),
    };
  };

  app.post(
    "/v1/endpoints",
    {
      config: { policy: { scope: "endpoints:write" }, audit: "endpoints.create" },
      schema: {
        tags,
        summary: "Make an endpoint, and the code with which one agent becomes it",
        body: Strict({
          name: Type.String({
            pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
            description: "Letters, digits, . _ -; at most 63",
          }),
        }),
        response: { 201: CodeView, ...problems },
      },
    },
    async (request, reply) => {
      request.audited = { target: request.body.name };
      await requireEndpointRoom(pool, principalOf(request).ownerId, config.maxEndpointsPerOwner);
      const record = await endpoints.create(principalOf(request), request.body.name);
      request.audited = { target: record.id, detail: { name: record.name } };
      const { code, expiresAt } = await enrolment.newCode(principalOf(request), record);
      return reply.code(201).send({
        id: record.id,
        name: record.name,
        enrolmentCode: code,
        enrolmentExpiresAt: expiresAt.toISOString(),
        command: command(code, request),
      });
    },
  );

  app.post(
    "/v1/endpoints/:id/enrolment-code",
    {
      config: { policy: { scope: "endpoints:write" }, audit: "endpoints.renew" },
      schema: {
        tags,
        summary:
          "A new enrolment code; the one before is void. The agent that uses it replaces the one before",
        params: IdOrName,
        response: { 201: CodeView, ...problems },
      },
    },
    async (request, reply) => {
      const record = await owned(request);
      const { code, expiresAt } = await enrolment.newCode(principalOf(request), record);
      return reply.code(201).send({
        id: record.id,
        name: record.name,
        enrolmentCode: code,
        enrolmentExpiresAt: expiresAt.toISOString(),
        command: command(code, request),
      });
    },
  );

  app.get(
    "/v1/endpoints",
    {
      config: { policy: { scope: "endpoints:read", narrow: true } },
      schema: {
        tags,
        summary: "List your endpoints and those that are shared with you, the oldest first",
        querystring: Strict(PageQuery),
        response: {
          200: Type.Object({ items: Type.Array(EndpointView), nextCursor: NextCursor }),
          ...problems,
        },
      },
    },
    async (request) => {
      const { ownerId, narrow } = principalOf(request);
      const { items, nextCursor } = await endpoints.list(ownerId, request.query);
      const seen = items.filter((row) => reachesEndpoint(narrow, uuidToKey(row.id)!));
      return { items: seen.map(view), ...(nextCursor === undefined ? {} : { nextCursor }) };
    },
  );

  app.get(
    "/v1/endpoints/:id",
    {
      config: { policy: { scope: "endpoints:read", nested: true, narrow: true } },
      schema: {
        tags,
        summary: "Show an endpoint",
        params: IdOrName,
        response: { 200: EndpointView, ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const endpoint = await endpoints.resolve(principal, request.params.id);
      authorise(principal, "endpoints:read", { endpoint });
      return view(await endpoints.read(principal, endpoint));
    },
  );

  app.delete(
    "/v1/endpoints/:id",
    {
      config: { policy: { scope: "endpoints:write" }, audit: "endpoints.delete" },
      schema: {
        tags,
        summary: "Delete an endpoint; its agent may not connect again, and its open tasks end",
        params: IdOrName,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const record = await owned(request);
      await endpoints.remove(principalOf(request), record);
      await dispatch.endpointDeleted?.(record.id);
      return reply.code(204).send(null);
    },
  );

  app.post(
    "/v1/endpoints/enroll",
    {
      config: { policy: { public: true }, audit: "endpoints.enroll", tries: true },
      schema: {
        tags,
        summary: "For agents: hand in a public key for an enrolment code, once",
        body: Strict({
          code: Type.String({ maxLength: 200 }),
          name: Type.Optional(
            Type.String({ maxLength: 63, description: "If given, the name that the endpoint must have" }),
          ),
          publicKey: Type.String({
            pattern: "^[A-Za-z0-9+/_-]{43}=?$",
            description: "Raw Ed25519 public key, 32 bytes in base64",
          }),
        }),
        response: {
          200: Type.Object({ endpointId: Type.String(), name: Type.String(), owner: Type.String() }),
          ...problems,
        },
      },
    },
    async (request) => {
      const made = await enrolment.enroll({
        ...request.body,
        publicKey: Buffer.from(request.body.publicKey, "base64"),
      });
      request.audited = { target: made.endpointId, detail: { name: made.name, owner: made.owner } };
      return made;
    },
  );

  app.post(
    "/v1/endpoints/:id/challenge",
    {
      config: { policy: { public: true }, audit: false },
      schema: {
        tags,
        summary: "For agents: a nonce to sign, good once and for 30 seconds",
        params: Id,
        response: { 200: Type.Object({ nonce: Type.String(), expiresInMs: Type.Integer() }), ...problems },
      },
    },
    async (request) => enrolment.challenge(request.params.id.toLowerCase()),
  );

  app.post(
    "/v1/endpoints/:id/session",
    {
      config: { policy: { public: true }, audit: false },
      schema: {
        tags,
        summary:
          "For agents: a session token for a signed nonce, for one connection or for 60 seconds of requests",
        description:
          "The signature (Ed25519) is over `farloom-agent-v1\\n{host}\\n{endpoint id}\\n{nonce}`, where host is the service's host and port as the agent addresses it: new URL(serviceUrl).host.",
        params: Id,
        querystring: Strict({
          for: Type.Optional(
            Type.Union([Type.Literal("link"), Type.Literal("requests")], {
              description: "a token for requests opens no connection; default: link",
            }),
          ),
        }),
        body: Strict({
          nonce: Type.String({ maxLength: 100 }),
          signature: Type.String({
            pattern: "^[A-Za-z0-9+/_-]{86}(==)?$",
            description: "64 bytes in base64 or base64url",
          }),
        }),
        response: { 200: Type.Object({ token: Type.String(), expiresInMs: Type.Integer() }), ...problems },
      },
    },
    async (request) => {
      const { nonce, signature } = request.body;
      const proof = {
        nonce,
        signature: Buffer.from(signature, "base64"),
        host: request.headers.host ?? "",
      };
      return enrolment.session(request.params.id.toLowerCase(), proof, request.query.for ?? "link");
    },
  );
}
