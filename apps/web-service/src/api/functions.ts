/** Registering, finding and removing functions. */
import {
  FarloomError,
  ISOLATION_LEVELS,
  type IsolationLevel,
  MAX_FUNCTION_SECRETS,
  RUNTIMES,
  type Runtime,
  SECRET_NAME,
} from "@farloom/protocol";
import type { FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import {
  checkFunction,
  MAX_BACKOFF_MS,
  MAX_DESCRIPTION_LENGTH,
  MAX_RETRIES,
  MAX_TIMEOUT_MS,
  type RegisterBody,
} from "../functions/definition-input.js";
import type { FunctionRecord, FunctionSharing, FunctionSummary } from "../functions/registry.js";
import { sentAs } from "../http/media-types.js";
import { principalOf } from "../http/policy.js";
import { authorise } from "../identity/authorise.js";
import { reachesFunction } from "../identity/narrow.js";
import { functionNameFor } from "../identity/nested.js";
import type { Principal } from "../identity/principal.js";
import { VISIBILITIES, type Visibility } from "../sharing/visible-functions.js";
import { Digest, NextCursor, numberCursor, PageQuery, problems, Strict, Time } from "./schemas.js";

const tags = ["functions"];
const Ref = Type.Object({
  ref: Type.String({
    minLength: 1,
    maxLength: 300,
    description: "The id, a name, name@version, or owner/name@version with its slash as %2F",
  }),
});
const Text = Type.String({ maxLength: 4_096 });

/** Code may also be bytes, in MessagePack; the length is checked with the rest of the definition. */
const Code = Type.Unsafe<string | Buffer>({
  description: "Source as text; a pickle in base64 (in MessagePack: as bytes). At most 1 MiB",
});

const Source = sentAs(
  ["text/plain", "application/octet-stream"],
  Type.Unsafe<string | Buffer>({ type: "string" }),
);

const RegisterSchema = Strict({
  name: Type.String({ minLength: 1, maxLength: 200 }),
  runtime: Type.Unsafe<Runtime>({ type: "string", enum: [...RUNTIMES] }),
  code: Type.Optional(Code),
  format: Type.Optional(Type.Unsafe<"source" | "pickle">({ type: "string", enum: ["source", "pickle"] })),
  entry: Type.Optional(
    Type.String({ maxLength: 300, description: "What the code defines and a call calls; default: the name" }),
  ),
  mode: Type.Optional(
    Type.Unsafe<"at_most_once" | "at_least_once">({
      type: "string",
      enum: ["at_most_once", "at_least_once"],
      description:
        "Whether a call that may have started may start again after a loss; default: only if it has retries",
    }),
  ),
  timeoutMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_TIMEOUT_MS })),
  retries: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_RETRIES })),
  backoffMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_BACKOFF_MS })),
  env: Type.Optional(
    Strict({
      interpreter: Type.Optional(Text),
      vars: Type.Optional(Type.Record(Type.String(), Type.String())),
      python: Type.Optional(Type.String({ maxLength: 16 })),
      requires: Type.Optional(
        Type.Array(Type.String({ minLength: 1, maxLength: 200 }), {
          maxItems: 256,
          description: "Packages that the code imports, as pip names them: numpy>=2",
        }),
      ),
      isolation: Type.Optional(
        Type.Unsafe<IsolationLevel>({
          type: "string",
          enum: [...ISOLATION_LEVELS],
          description: "The least isolation that a call wants of its endpoint",
        }),
      ),
      secrets: Type.Optional(
        Type.Array(Type.String({ pattern: SECRET_NAME }), {
          maxItems: MAX_FUNCTION_SECRETS,
          uniqueItems: true,
          description: "Names of secrets that a call is given, of whoever submits it",
        }),
      ),
      network: Type.Optional(
        Type.Boolean({
          description: "A call wants the network, where the endpoint leaves that to functions",
        }),
      ),
    }),
  ),
  resources: Type.Optional(
    Strict({
      cores: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_536 })),
      memoryMb: Type.Optional(Type.Integer({ minimum: 1, maximum: 1e9 })),
      gpus: Type.Optional(
        Type.Number({
          minimum: 0,
          maximum: 65_536,
          description: "Whole ones, or a share of one such as 0.25",
        }),
      ),
      nodes: Type.Optional(
        Type.Integer({ minimum: 1, maximum: 65_536, description: "Whole nodes of one block" }),
      ),
      ranks: Type.Optional(Type.Integer({ minimum: 1, maximum: 16_777_216 })),
      ranksPerNode: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_536 })),
    }),
  ),
  command: Type.Optional(
    Strict({
      argv: Type.Array(Type.String(), { minItems: 1, maxItems: 1_024 }),
      stdin: Type.Optional(Type.String()),
      outputs: Type.Optional(Type.Array(Text, { maxItems: 1_024 })),
      okExitCodes: Type.Optional(Type.Array(Type.Integer({ minimum: 0, maximum: 255 }), { maxItems: 256 })),
    }),
  ),
  argsSchema: Type.Optional(
    Type.Unknown({ description: "JSON Schema of type array (positional) or object (named)" }),
  ),
  resultSchema: Type.Optional(
    Type.Unknown({ description: "JSON Schema of the result; kept, for people and tools" }),
  ),
  description: Type.Optional(Type.String({ maxLength: MAX_DESCRIPTION_LENGTH })),
});

const SummaryView = Type.Object({
  id: Digest,
  name: Type.String(),
  version: Type.Integer(),
  ref: Type.String(),
  runtime: Type.String(),
  description: Type.String(),
  createdAt: Time,
  visibility: Type.Optional(Type.String({ description: "private, team or public; told to its owner alone" })),
  team: Type.Optional(Type.String({ description: "The team that it is shared with, as owner/name" })),
});
const FunctionView = Type.Intersect([
  SummaryView,
  Type.Object({
    format: Type.String(),
    entry: Type.String(),
    mode: Type.String(),
    timeoutMs: Type.Integer(),
    retries: Type.Integer(),
    backoffMs: Type.Integer(),
    env: Type.Unknown(),
    resources: Type.Unknown(),
    command: Type.Optional(Type.Unknown()),
    codeBytes: Type.Integer(),
    argsSchema: Type.Optional(Type.Unknown()),
    resultSchema: Type.Optional(Type.Unknown()),
  }),
]);

export function functionRoutes(app: Api, { functions, teams }: AppDeps): void {
  /** The function that the caller means and may see. @throws FarloomError FUNCTION_NOT_FOUND */
  const found = async (request: FastifyRequest<{ Params: { ref: string } }>): Promise<FunctionRecord> => {
    const principal = principalOf(request);
    const record = await functions.resolve(principal, request.params.ref);
    authorise(principal, "functions:read", { fn: record });
    return record;
  };

  app.post(
    "/v1/functions",
    {
      config: { policy: { scope: "functions:write", nested: true }, audit: "functions.register" },
      schema: {
        tags,
        summary: "Register a function; the same again gives the same",
        body: RegisterSchema,
        response: { 200: FunctionView, 201: FunctionView, ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const input = checkFunction(request.body as RegisterBody);
      const { record, created } = await functions.register(principal, {
        ...input,
        name: functionNameFor(principal, input.name),
      });
      request.audited = { target: record.ref, detail: { id: record.id }, isUnchanged: !created };
      return reply.code(created ? 201 : 200).send(view(record));
    },
  );

  app.get(
    "/v1/functions",
    {
      config: { policy: { scope: "functions:read", narrow: true } },
      schema: {
        tags,
        summary:
          "List your functions and those that are shared with your teams, the newest first; q looks into names and descriptions",
        querystring: Strict({
          ...PageQuery,
          q: Type.Optional(Type.String({ maxLength: 200 })),
          public: Type.Optional(Type.Boolean({ description: "Also what anybody shares with everybody" })),
        }),
        response: {
          200: Type.Object({ items: Type.Array(SummaryView), nextCursor: NextCursor }),
          ...problems,
        },
      },
    },
    async (request) => {
      const { q, cursor, limit, public: isPublic = false } = request.query;
      const { ownerId, ownerName, narrow } = principalOf(request);
      const page = await functions.list(ownerId, {
        query: q,
        isPublic,
        cursor: numberCursor(cursor),
        limit,
      });
      return {
        items: page.items
          .filter((item) => reachesFunction(narrow, { id: item.digest.toString("hex"), ref: item.ref }))
          .map((item) => ({
            ...summary(item),
            ...(item.ref.startsWith(`${ownerName}/`) ? sharingView(item.sharing) : {}),
          })),
        ...(page.nextCursor === undefined ? {} : { nextCursor: page.nextCursor }),
      };
    },
  );

  app.get(
    "/v1/functions/:ref",
    {
      config: { policy: { scope: "functions:read", narrow: true } },
      schema: { tags, summary: "Show a function", params: Ref, response: { 200: FunctionView, ...problems } },
    },
    async (request) => {
      const record = await found(request);
      const principal = principalOf(request);
      const isOwn = record.ownerId === principal.ownerId;
      return { ...view(record), ...(isOwn ? sharingView(await functions.sharing(principal, record)) : {}) };
    },
  );

  app.get(
    "/v1/functions/:ref/code",
    {
      config: { policy: { scope: "functions:read", narrow: true } },
      schema: {
        tags,
        summary: "The function's code as it was registered",
        params: Ref,
        response: { 200: Source, ...problems },
      },
    },
    async (request, reply) => {
      const { definition } = await found(request);
      const type = definition.format === "source" ? "text/plain; charset=utf-8" : "application/octet-stream";
      return reply.type(type).send(definition.code);
    },
  );

  app.delete(
    "/v1/functions/:ref",
    {
      config: { policy: { scope: "functions:write" }, audit: "functions.delete" },
      schema: {
        tags,
        summary: "Remove one version of a function; tasks submitted before still run",
        params: Ref,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const record = await functions.resolve(principal, request.params.ref);
      requireFunctionOwner(principal, record, "remove it");
      await functions.remove(principal, record);
      return reply.code(204).send(null);
    },
  );

  app.put(
    "/v1/functions/:ref/sharing",
    {
      config: { policy: { scope: "sharing:write" }, audit: "functions.share" },
      schema: {
        tags,
        summary: "Share one version of a function with a team or with everybody, or with nobody any more",
        params: Ref,
        body: Strict({
          visibility: Type.Unsafe<Visibility>({ type: "string", enum: [...VISIBILITIES] }),
          team: Type.Optional(
            Type.String({ minLength: 1, maxLength: 200, description: "Name, owner/name or id" }),
          ),
        }),
        response: { 200: FunctionView, ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const { visibility, team } = request.body;
      request.audited = { detail: { visibility, ...(team === undefined ? {} : { team }) } };
      if ((visibility === "team") !== (team !== undefined))
        throw new FarloomError("REQUEST_INVALID", {
          detail: "a team belongs to the visibility team, and to no other",
        });
      const record = await functions.resolve(principal, request.params.ref);
      requireFunctionOwner(principal, record, "share it");
      const teamId = team === undefined ? undefined : (await teams.resolve(principal, team)).id;
      await functions.share(principal, record, { visibility, teamId });
      return { ...view(record), ...sharingView(await functions.sharing(principal, record)) };
    },
  );
}

/** Whoever else may use it is told that they may not change it. @throws FarloomError ACCESS_DENIED */
function requireFunctionOwner(principal: Principal, record: FunctionRecord, action: string): void {
  if (record.ownerId !== principal.ownerId)
    throw new FarloomError("ACCESS_DENIED", { what: `the function ${record.ref}`, action });
}

function sharingView({ visibility, team }: FunctionSharing) {
  return { visibility, ...(team === undefined ? {} : { team }) };
}

function summary(item: Omit<FunctionSummary, "sharing">) {
  const { digest, name, version, ref, runtime, description, createdAtMs } = item;
  return {
    id: digest.toString("hex"),
    name,
    version,
    ref,
    runtime,
    description,
    createdAt: new Date(createdAtMs).toISOString(),
  };
}

function view(record: FunctionRecord) {
  const { definition, argsSchema, resultSchema } = record;
  const { digest, code, runtime, ...rest } = definition;
  return {
    ...summary({ ...record, digest, runtime }),
    ...rest,
    codeBytes: code.length,
    ...(argsSchema === undefined ? {} : { argsSchema }),
    ...(resultSchema === undefined ? {} : { resultSchema }),
  };
}
