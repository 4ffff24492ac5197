/**
 * Objects: named bytes in buckets, which come into being with their first object. Who may do what is asked of
 * objects/access.ts by each route. What is large is never in memory whole.
 */
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import type { FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { sentRaw } from "../http/media-types.js";
import { principalOf } from "../http/policy.js";
import { rangeOf } from "../http/range.js";
import {
  OBJECT_METHODS,
  type ObjectMethod,
  requireScope,
  scopeOfObjectMethod,
} from "../identity/principal.js";
import { ownerFor } from "../objects/access.js";
import { decideRead, entityTag, rangeApplies } from "../objects/conditions.js";
import { contentTypeOf, digestOf, metadataHeaders, metadataOf } from "../objects/headers.js";
import { letGo } from "../objects/incoming.js";
import { BUCKET_PATTERN, checkBucket, keyBytesOf, type ObjectName, objectName } from "../objects/names.js";
import type { ObjectRow } from "../objects/rows.js";
import { preconditionFailed } from "../objects/store.js";
import { NextCursor, problems, Strict, Time } from "./schemas.js";

const tags = ["objects"];
/** As whoever stored it called it. */
const Bytes = sentRaw("*/*");
const KEY = "At most 1,024 bytes in UTF-8, percent-encoded; slashes may stand as they are";
/** A replaced object is looked up again; more often than this in a row nobody replaces one. */
const MAX_LOOKS = 5;
const DEFAULT_TOKEN_S = 600;
const MAX_TOKEN_S = 3_600;

const Bucket = Type.String({
  pattern: BUCKET_PATTERN,
  description: "1 to 63 lower-case letters, digits and . _ -",
});
const Key = Type.String({ minLength: 1, maxLength: limits.MAX_OBJECT_KEY_BYTES, description: KEY });
const Params = Type.Object({ bucket: Type.String(), "*": Type.String({ description: KEY }) });
const Method = Type.Unsafe<ObjectMethod>({ type: "string", enum: [...OBJECT_METHODS] });
const Info = Type.Object({
  bucket: Type.String(),
  key: Type.String(),
  sizeBytes: Type.Integer(),
  digest: Type.String({ description: "SHA-256, 64 hexadecimal digits; in quotes it is the ETag" }),
  contentType: Type.String(),
  metadata: Type.Record(Type.String(), Type.String()),
  modifiedAt: Time,
});
type Named = { Params: { bucket: string; "*": string } };

export function objectRoutes(app: Api, { objects, identity, config, stored }: AppDeps): void {
  // A scope of its own: here a body of any type is a stream that the handler reads.
  void app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser(
      "*",
      (_request: FastifyRequest, stream: unknown, done: (e: null, body: unknown) => void) =>
        done(null, stream),
    );
    scope.put<Named>(
      "/v1/objects/:bucket/*",
      {
        bodyLimit: limits.MAX_OBJECT_BYTES,
        config: { policy: { objects: "objects:write" }, audit: "objects.put" },
        schema: {
          tags,
          summary: "Store an object: any bytes, at most 5 GiB; durable when this replies",
          description:
            "Content-Type is kept, and headers X-Farloom-Meta-NAME are (2 KiB in all). Content-SHA256 (hexadecimal) is checked. If-None-Match: * creates only; If-Match replaces only what is as named. Readers see the old object or the new one, whole.",
          params: Params,
          response: { 200: Info, 201: Info, ...problems },
        },
      },
      async (request, reply) => {
        // Without a body there is nothing to parse, and the request itself is the empty stream.
        const stream = (request.body as Readable | undefined) ?? request.raw;
        try {
          const name = nameOf(request);
          const ownerId = ownerFor(request, "put", name);
          const length = request.headers["content-length"];
          await stored.check(ownerId, Number(length ?? 0));
          const { row, created } = await objects.put(ownerId, name, {
            stream,
            sizeBytes: length === undefined ? undefined : Number(length),
            digest: digestOf(request.headers),
            contentType: contentTypeOf(request.headers),
            metadata: metadataOf(request.headers),
            conditions: request.headers,
          });
          stored.add(ownerId, row.sizeBytes);
          reply.header("etag", entityTag(row.digest));
          return reply.code(created ? 201 : 200).send(view(name.bucket, row));
        } catch (error) {
          letGo(stream);
          throw error;
        }
      },
    );
  });

  app.get<Named>(
    "/v1/objects/:bucket/*",
    {
      config: { policy: { objects: "objects:read" } },
      schema: {
        tags,
        summary: "Read an object, whole or a Range of it",
        description:
          "If-None-Match, If-Modified-Since, If-Match and If-Range are heeded; the ETag is the SHA-256 of the bytes.",
        params: Params,
        response: { 200: Bytes, 206: Bytes, 304: Type.Null(), ...problems },
      },
      // The route below; one made from this would read the bytes to count them.
      exposeHeadRoute: false,
    },
    async (request, reply) => {
      const name = nameOf(request);
      const ownerId = ownerFor(request, "get", name);
      for (let looks = 0; looks < MAX_LOOKS; looks++) {
        const row = await objects.find(ownerId, name);
        if (!describe(request, reply, name, row)) return reply.code(304).send(null);
        const range = rangeApplies(request.headers, row)
          ? rangeOf(request.headers.range, row.sizeBytes)
          : undefined;
        if (range === "invalid") {
          reply.header("content-range", `bytes */${row.sizeBytes}`);
          throw new FarloomError("RANGE_INVALID", { size: row.sizeBytes });
        }
        const stream = row.sizeBytes === 0 ? Buffer.alloc(0) : await objects.read(row, range);
        if (stream === undefined) {
          for (const header in metadataHeaders(row.metadata)) reply.removeHeader(header);
          continue;
        }
        if (range)
          reply.code(206).header("content-range", `bytes ${range.start}-${range.end}/${row.sizeBytes}`);
        reply.header("content-length", range ? range.end - range.start + 1 : row.sizeBytes);
        return reply.send(stream);
      }
      request.log.error({ ownerId, bucket: name.bucket, key: name.key }, "an object's bytes are not there");
      throw new FarloomError("STORAGE_UNAVAILABLE", { detail: "the bytes are not there" });
    },
  );

  app.head<Named>(
    "/v1/objects/:bucket/*",
    {
      config: { policy: { objects: "objects:read" } },
      schema: {
        tags,
        summary: "What an object is: size, ETag, Content-Type, metadata",
        params: Params,
        response: { 200: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const name = nameOf(request);
      const row = await objects.find(ownerFor(request, "head", name), name);
      if (!describe(request, reply, name, row)) return reply.code(304).send(null);
      return reply.header("content-length", row.sizeBytes).send(null);
    },
  );

  app.delete<Named>(
    "/v1/objects/:bucket/*",
    {
      config: { policy: { objects: "objects:write" }, audit: "objects.delete" },
      schema: {
        tags,
        summary: "Delete an object; one that is not there is no error, unless If-Match names it",
        params: Params,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const name = nameOf(request);
      await objects.remove(ownerFor(request, "delete", name), name, request.headers);
      return reply.code(204).send(null);
    },
  );

  app.post(
    "/v1/objects/:bucket/delete",
    {
      config: { policy: { objects: "objects:write" }, audit: "objects.delete" },
      schema: {
        tags,
        summary: "Delete many objects of a bucket at once",
        params: Type.Object({ bucket: Type.String() }),
        body: Strict({ keys: Type.Array(Key, { minItems: 1, maxItems: limits.MAX_OBJECT_PAGE }) }),
        response: { 200: Type.Object({ deleted: Type.Integer() }), ...problems },
      },
    },
    async (request) => {
      const { bucket } = request.params;
      const names = request.body.keys.map((key) => objectName(bucket, key));
      const ownerId = ownerFor(request, "delete", ...names);
      return {
        deleted: await objects.removeAll(
          ownerId,
          bucket,
          names.map(({ keyBytes }) => keyBytes),
        ),
      };
    },
  );

  app.post(
    "/v1/objects/:bucket/compose",
    {
      config: { policy: { objects: "objects:write" }, audit: "objects.compose" },
      schema: {
        tags,
        summary: "Make one object of others of its bucket, in their order",
        description:
          "How a large file comes in parts: each is an object that is sent again alone where its connection breaks. If-Match and If-None-Match hold for the new object. The service copies the bytes.",
        params: Type.Object({ bucket: Type.String() }),
        body: Strict({
          key: Key,
          from: Type.Array(Key, { minItems: 1, maxItems: limits.MAX_OBJECT_PAGE }),
          removeSources: Type.Optional(Type.Boolean({ description: "Default: false" })),
          digest: Type.Optional(
            Type.String({ pattern: "^[0-9a-f]{64}$", description: "SHA-256 that all of it must have" }),
          ),
          contentType: Type.Optional(Type.String()),
          metadata: Type.Optional(Type.Record(Type.String(), Type.String())),
        }),
        response: { 200: Info, 201: Info, ...problems },
      },
    },
    async (request, reply) => {
      const { bucket } = request.params;
      const { key, from, removeSources = false, digest, contentType, metadata = {} } = request.body;
      const name = objectName(bucket, key);
      const sources = from.map((source) => objectName(bucket, source));
      const ownerId = ownerFor(request, "put", name);
      // What is read into an object that one may write but not read would be a copy all the same.
      if (request.principal) requireScope(request.principal, "objects:read");
      ownerFor(request, "get", ...sources);
      if (removeSources) ownerFor(request, "delete", ...sources);
      // The same rules as for headers.
      const headers = { ...metadataHeaders(metadata), ...(contentType && { "content-type": contentType }) };
      await stored.check(ownerId, 0);
      const { row, created } = await objects.compose(ownerId, name, sources, {
        digest,
        contentType: contentTypeOf(headers),
        metadata: metadataOf(headers),
        conditions: request.headers,
        removeSources,
      });
      stored.add(ownerId, row.sizeBytes);
      reply.header("etag", entityTag(row.digest));
      return reply.code(created ? 201 : 200).send(view(bucket, row));
    },
  );

  app.get(
    "/v1/objects/:bucket",
    {
      config: { policy: { objects: "objects:read" } },
      schema: {
        tags,
        summary: "List a bucket's objects in the order of their keys' bytes",
        description: "With a delimiter, keys that go on behind it are one entry of `prefixes`.",
        params: Type.Object({ bucket: Type.String() }),
        querystring: Type.Object({
          prefix: Type.String({ default: "", maxLength: limits.MAX_OBJECT_KEY_BYTES }),
          delimiter: Type.Optional(Type.String({ minLength: 1, maxLength: 16 })),
          cursor: Type.Optional(
            Type.String({ maxLength: 1_400, description: "nextCursor of the page before" }),
          ),
          limit: Type.Integer({ minimum: 1, maximum: limits.MAX_OBJECT_PAGE, default: 1_000 }),
        }),
        response: {
          200: Type.Object({
            items: Type.Array(Info),
            prefixes: Type.Array(Type.String()),
            nextCursor: NextCursor,
          }),
          ...problems,
        },
      },
    },
    async (request) => {
      const { bucket } = request.params;
      checkBucket(bucket);
      const { prefix, delimiter, cursor, limit } = request.query;
      const ownerId = ownerFor(request, "list", { bucket, key: prefix });
      const page = await objects.list(ownerId, bucket, {
        prefix: keyBytesOf(prefix),
        from: cursor === undefined ? undefined : Buffer.from(cursor, "base64url"),
        delimiter: delimiter === undefined ? undefined : Buffer.from(delimiter, "utf8"),
        limit,
      });
      const { items, prefixes, next } = page;
      return {
        items: items.map((row) => view(bucket, row)),
        prefixes,
        ...(next && { nextCursor: next.toString("base64url") }),
      };
    },
  );

  app.get(
    "/v1/objects",
    {
      config: { policy: { scope: "objects:read" } },
      schema: {
        tags,
        summary: "List your buckets: those that have an object, at most 1,000",
        response: {
          200: Type.Object({ items: Type.Array(Type.Object({ name: Type.String() })) }),
          ...problems,
        },
      },
    },
    async (request) => {
      const buckets = await objects.rows.buckets(principalOf(request).ownerId);
      return { items: buckets.map((name) => ({ name })) };
    },
  );

  app.post(
    "/v1/objects/sign",
    {
      config: { policy: { authenticated: true }, audit: "objects.sign" },
      schema: {
        tags,
        summary: "Make a token for some objects alone, to hand to a worker or to a colleague",
        description:
          "It is sent as Authorization: Bearer, allows what `methods` say on one key or on all that begin with a prefix, and ends after an hour at the latest, or with the API key behind it.",
        body: Strict({
          bucket: Bucket,
          key: Type.Optional(Key),
          prefix: Type.Optional(Type.String({ maxLength: limits.MAX_OBJECT_KEY_BYTES })),
          methods: Type.Array(Method, { minItems: 1, maxItems: OBJECT_METHODS.length }),
          expiresInSeconds: Type.Optional(
            Type.Integer({ minimum: 1, maximum: MAX_TOKEN_S, description: `Default: ${DEFAULT_TOKEN_S}` }),
          ),
        }),
        response: {
          200: Type.Object({
            token: Type.String(),
            expiresInMs: Type.Integer(),
            path: Type.String({ description: "What the token is for, percent-encoded" }),
            url: Type.Optional(Type.String({ description: "The same, where the service knows its address" })),
          }),
          ...problems,
        },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const { bucket, key, methods, expiresInSeconds = DEFAULT_TOKEN_S } = request.body;
      if ((key === undefined) === (request.body.prefix === undefined))
        throw new FarloomError("REQUEST_INVALID", {
          detail: 'give a key or a prefix ("" for the whole bucket)',
        });
      const prefix = key ?? request.body.prefix!;
      keyBytesOf(prefix);
      for (const method of methods) requireScope(principal, scopeOfObjectMethod(method));
      const spec = { bucket, prefix, exact: key !== undefined, methods: [...new Set(methods)] };
      const { token, expiresInMs } = await identity.issueObjectToken(
        principal,
        spec,
        expiresInSeconds * 1000,
      );
      const path = `/v1/objects/${bucket}/${prefix.split("/").map(encodeURIComponent).join("/")}`;
      const { publicUrl } = config;
      return { token, expiresInMs, path, ...(publicUrl !== undefined && { url: publicUrl + path }) };
    },
  );
}

function nameOf(request: FastifyRequest<Named>): ObjectName {
  return objectName(request.params.bucket, request.params["*"]);
}

/** Sets the headers that say what the object is; false for 304. @throws FarloomError PRECONDITION_FAILED */
function describe(request: FastifyRequest, reply: FastifyReply, name: ObjectName, row: ObjectRow): boolean {
  const decision = decideRead(request.headers, row);
  if (typeof decision === "object") throw preconditionFailed(decision.failed, name);
  reply.header("etag", entityTag(row.digest)).header("last-modified", row.modifiedAt.toUTCString());
  if (decision === "not_modified") return false;
  reply.headers({
    ...metadataHeaders(row.metadata),
    "content-type": row.contentType,
    "accept-ranges": "bytes",
  });
  return true;
}

function view(bucket: string, row: Omit<ObjectRow, "blobId">) {
  const { key, sizeBytes, digest, contentType, metadata, modifiedAt } = row;
  return { bucket, key, sizeBytes, digest, contentType, metadata, modifiedAt: modifiedAt.toISOString() };
}
