/**
 * Errors as application/problem+json (RFC 9457): one place turns whatever was thrown into a catalogued answer.
 * What is not from the catalogue is a bug: it is logged whole under a reference, and the caller sees only that.
 */
import { randomBytes } from "node:crypto";
import { type ErrorCode, FarloomError } from "@farloom/protocol";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { toKnownError } from "../store/pg-errors.js";
import { BODY_LIMIT_BYTES } from "./bodies.js";

/** The body of every error. */
export interface Problem {
  /** The code as a URN; docs/errors.md explains it. */
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly code: ErrorCode;
  readonly detail: string;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
}

export function registerProblems(app: FastifyInstance): void {
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const known = toFarloomError(error, request);
    request.problemCode = known.code;
    return sendProblem(reply, known);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split("?", 1)[0]!.slice(0, 200);
    return sendProblem(reply, new FarloomError("ROUTE_NOT_FOUND", { method: request.method, path }));
  });
}

export function toProblem(error: FarloomError): Problem {
  const { code, status, message, retryable, retryAfterMs } = error;
  return {
    type: `urn:farloom:error:${code}`,
    title: code.toLowerCase().replaceAll("_", " "),
    status,
    code,
    detail: message,
    retryable,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  };
}

/** The body as text, for whoever answers without fastify. */
export function problemText(error: FarloomError): string {
  return JSON.stringify(toProblem(error));
}

export function sendProblem(reply: FastifyReply, error: FarloomError): FastifyReply {
  if (error.retryAfterMs !== undefined)
    reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfterMs / 1000)));
  if (error.status === 401) reply.header("www-authenticate", 'Bearer realm="farloom"');
  return reply
    .code(error.status)
    .serializer(JSON.stringify)
    .type("application/problem+json; charset=utf-8")
    .send(toProblem(error));
}

/** What was thrown, as the catalogue calls it; a bug is logged. */
export function toFarloomError(error: FastifyError, request: FastifyRequest): FarloomError {
  const known = toKnownError(error);
  if (known) return known;
  switch (error.code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return new FarloomError("BODY_TOO_LARGE", { limit: BODY_LIMIT_BYTES });
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return new FarloomError("MEDIA_TYPE_UNSUPPORTED", {
        type: request.headers["content-type"]?.slice(0, 100) ?? "(none)",
      });
    case "FST_ERR_CTP_INVALID_CONTENT_LENGTH":
      return new FarloomError("REQUEST_INVALID", {
        detail: "the body is shorter or longer than its Content-Length",
      });
  }
  // Other faults that fastify finds in a request, e.g. a malformed percent escape in the path.
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return new FarloomError("REQUEST_INVALID", { detail: error.message }, { cause: error });
  }
  const reference = randomBytes(6).toString("hex");
  request.log.error(
    { err: error, reference, method: request.method, route: request.routeOptions.url },
    "request failed",
  );
  return new FarloomError("INTERNAL", { reference }, { cause: error });
}
