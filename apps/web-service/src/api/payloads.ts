/** Payload files: large arguments and results, by the SHA-256 of their bytes. What is large is never in memory whole. */
import type { Readable } from "node:stream";
import { FarloomError, limits } from "@farloom/protocol";
import type { FastifyReply, FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { sentRaw } from "../http/media-types.js";
import { ownerIdOf, principalOf } from "../http/policy.js";
import { rangeOf } from "../http/range.js";
import type { OpenPayload } from "../payloads/store.js";
import { Digest, problems } from "./schemas.js";

const tags = ["payloads"];
const Bytes = sentRaw("application/octet-stream");
const Params = Type.Object({ digest: Digest });

export function payloadRoutes(app: Api, { payloads, sharedPayloads, stored }: AppDeps): void {
  // A scope of its own: here a body of any type is a stream that the handler reads.
  void app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser(
      "*",
      (_request: FastifyRequest, stream: unknown, done: (e: null, body: unknown) => void) =>
        done(null, stream),
    );

    scope.put<{ Params: { digest: string } }>(
      "/v1/payloads/:digest",
      {
        bodyLimit: limits.MAX_PAYLOAD_BYTES,
        config: { policy: { scopeOrAgent: "tasks:submit", nested: true, narrow: true }, audit: false },
        schema: {
          tags,
          summary: "Store a payload: any bytes, at most 1 GiB; on disk when this replies",
          description:
            "The body is the bytes (application/octet-stream). One that nothing refers to is kept for 24 hours.",
          params: Params,
          response: { 200: Stored, 201: Stored, ...problems },
        },
      },
      async (request, reply) => {
        const { digest } = request.params;
        const length = request.headers["content-length"];
        const ownerId = ownerIdOf(request);
        // Not of an agent: what a task has computed is kept.
        if (request.principal) await stored.check(ownerId, Number(length ?? 0));
        const { sizeBytes, created } = await payloads.put(
          ownerId,
          Buffer.from(digest, "hex"),
          // Without a body there is nothing to parse, and the request itself is the empty stream.
          (request.body as Readable | undefined) ?? request.raw,
          length === undefined ? undefined : Number(length),
        );
        if (created) stored.add(ownerId, sizeBytes);
        return reply.code(created ? 201 : 200).send({ digest, sizeBytes });
      },
    );
  });

  const open = (request: FastifyRequest<{ Params: { digest: string } }>, reply: FastifyReply) => {
    const { digest } = request.params;
    reply.header("etag", `"${digest}"`).type("application/octet-stream");
    const bytes = Buffer.from(digest, "hex");
    return payloads.open(ownerIdOf(request), bytes).catch(async (error: unknown) => {
      const { agent } = request;
      const otherId = agent
        ? await sharedPayloads.ownerForAgent(agent.endpointId, bytes)
        : await sharedPayloads.ownerForSubmitter(principalOf(request).ownerId, bytes);
      if (otherId === undefined) throw error;
      return payloads.open(otherId, bytes);
    });
  };

  app.get(
    "/v1/payloads/:digest",
    {
      config: { policy: { scopeOrAgent: "tasks:read", nested: true, narrow: true } },
      schema: {
        tags,
        summary: "Read a payload, whole or a Range of it",
        params: Params,
        response: { 200: Bytes, 206: Bytes, ...problems },
      },
      // The route below; one made from this would read the file to count its bytes.
      exposeHeadRoute: false,
    },
    async (request, reply) => sendFile(request, reply, await open(request, reply)),
  );

  app.head(
    "/v1/payloads/:digest",
    {
      config: { policy: { scopeOrAgent: "tasks:read", nested: true, narrow: true } },
      schema: {
        tags,
        summary: "Whether a payload is there, and its size",
        params: Params,
        response: { 200: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const { sizeBytes } = await open(request, reply);
      return reply.header("accept-ranges", "bytes").header("content-length", sizeBytes).send(null);
    },
  );
}

const Stored = Type.Object({ digest: Digest, sizeBytes: Type.Integer() });

/** Sends a file, or the range of it that the request asks for. @throws FarloomError RANGE_INVALID */
export async function sendFile(
  request: FastifyRequest,
  reply: FastifyReply,
  file: OpenPayload,
): Promise<FastifyReply> {
  const { sizeBytes } = file;
  reply.header("accept-ranges", "bytes");
  const range = rangeOf(request.headers.range, sizeBytes);
  if (range === "invalid") {
    reply.header("content-range", `bytes */${sizeBytes}`);
    throw new FarloomError("RANGE_INVALID", { size: sizeBytes });
  }
  if (range) reply.code(206).header("content-range", `bytes ${range.start}-${range.end}/${sizeBytes}`);
  reply.header("content-length", range ? range.end - range.start + 1 : sizeBytes);
  const whole = range ? undefined : await file.whole();
  if (whole === undefined) return reply.send(file.stream(range));
  // The memory is given to others once its last byte is with the kernel, or nobody wants it any more.
  if (reply.raw.destroyed) whole.release();
  else reply.raw.once("close", whole.release);
  // Fastify knows bytes by their ArrayBuffer, and this one is shared with the disk's thread: it would become JSON.
  return reply.serializer(asItIs).send(whole.bytes);
}

/** Its type says text, but bytes may be given as well. */
const asItIs = (bytes: unknown): string => bytes as string;
