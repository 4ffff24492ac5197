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

export function payloadRoutes(app: Api, { payloads, sharedPayloads, leases, stored }: AppDeps): void {
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

  type OfDigest = FastifyRequest<{ Params: { digest: string } }>;

  /** As this person may read it; an agent reads as whoever submitted the task that it leases (P43). */
  const open = async (request: OfDigest, readerId: string | undefined) => {
    const { digest } = request.params;
    if (readerId === undefined) throw new FarloomError("PAYLOAD_NOT_FOUND", { digest });
    const bytes = Buffer.from(digest, "hex");
    return payloads.open(readerId, bytes).catch(async (error: unknown) => {
      const otherId = await sharedPayloads.ownerForSubmitter(readerId, bytes);
      if (otherId === undefined) throw error;
      return payloads.open(otherId, bytes);
    });
  };
  const describe = ({ params: { digest } }: OfDigest, reply: FastifyReply) =>
    reply.header("etag", `"${digest}"`).type("application/octet-stream");

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
    async (request, reply) => {
      const { agent } = request;
      const readerId = agent
        ? await leases.submitterOf(agent.endpointId, Buffer.from(request.params.digest, "hex"))
        : principalOf(request).ownerId;
      const file = await open(request, readerId);
      return sendFile(request, describe(request, reply), file);
    },
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
      // An agent asks whether the large result is there that it would put: of its endpoint's owner, and leased by nobody.
      const { sizeBytes } = request.agent
        ? await payloads.open(request.agent.ownerId, Buffer.from(request.params.digest, "hex"))
        : await open(request, principalOf(request).ownerId);
      return describe(request, reply)
        .header("accept-ranges", "bytes")
        .header("content-length", sizeBytes)
        .send(null);
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
