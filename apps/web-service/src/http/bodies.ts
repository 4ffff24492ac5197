/**
 * Bodies in JSON and in MessagePack, both ways. What comes in is bounded in size and depth before it is decoded;
 * what goes out follows Accept, JSON unless MessagePack is asked for.
 */
import { createHash } from "node:crypto";
import { decodeBounded, encodeValue, FarloomError, limits } from "@farloom/protocol";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { parse as secureParse } from "secure-json-parse";
import { isDeeperThan } from "./json-depth.js";

/** 10,000 calls with arguments of 1.6 KB; what is larger goes into payload files. */
export const BODY_LIMIT_BYTES = 16 * 1024 * 1024;
/** Map entries and array elements of a MessagePack body. */
const MAX_BODY_ELEMENTS = 2_000_000;
const MSGPACK_TYPES = ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"];

declare module "fastify" {
  interface FastifyRequest {
    /** SHA-256 of the body's bytes, where the request has an Idempotency-Key. */
    bodyDigest: Buffer | null;
    /** The reply goes out as MessagePack, in which bytes need no base64. */
    wantsMsgpack: boolean;
  }
}

export function registerBodies(app: FastifyInstance): void {
  app.decorateRequest("bodyDigest", null);
  app.decorateRequest("wantsMsgpack", false);
  // Only these: a form or plain text is refused with 415, which also keeps simple cross-site posts out.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    "application/json",
    { parseAs: "buffer" },
    async (request: FastifyRequest, body: Buffer) => {
      keepDigest(request, body);
      return parseJson(body);
    },
  );
  app.addContentTypeParser(
    MSGPACK_TYPES,
    { parseAs: "buffer" },
    async (request: FastifyRequest, body: Buffer) => {
      keepDigest(request, body);
      return parseMsgpack(body);
    },
  );

  app.addHook("onRequest", async (request, reply) => {
    const { accept } = request.headers;
    if (accept === undefined || !accept.includes("msgpack")) return;
    request.wantsMsgpack = true;
    // The types know serializers to text only; fastify itself sends whatever bytes they return.
    reply.serializer(encodeValue as unknown as (value: unknown) => string).type("application/msgpack");
  });
  // Shapes of replies are made by hand and described for the API page; compiling serializers would drop what a
  // description forgot.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
}

/** @throws FarloomError JSON_INVALID, BODY_TOO_DEEP */
export function parseJson(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  if (isDeeperThan(body, limits.MAX_JSON_DEPTH)) {
    throw new FarloomError("BODY_TOO_DEEP", { limit: limits.MAX_JSON_DEPTH });
  }
  try {
    // A key __proto__ or constructor.prototype is refused, not dropped: arguments must arrive as they were sent.
    return secureParse(body.toString("utf8"), { protoAction: "error", constructorAction: "error" });
  } catch (error) {
    throw new FarloomError("JSON_INVALID", { detail: (error as Error).message }, { cause: error });
  }
}

function parseMsgpack(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  const decoded = decodeBounded(body, {
    maxBytes: BODY_LIMIT_BYTES,
    maxDepth: limits.MAX_JSON_DEPTH,
    maxElements: MAX_BODY_ELEMENTS,
  });
  if (decoded.ok) return decoded.value;
  if (decoded.reason.includes(" deep"))
    throw new FarloomError("BODY_TOO_DEEP", { limit: limits.MAX_JSON_DEPTH });
  throw new FarloomError("BODY_INVALID", { type: "MessagePack", detail: decoded.reason });
}

function keepDigest(request: FastifyRequest, body: Buffer): void {
  if (request.headers["idempotency-key"] === undefined) return;
  request.bodyDigest = createHash("sha256").update(body).digest();
}
