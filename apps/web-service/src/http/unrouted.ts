/**
 * What is refused before there is a route: bytes that are no HTTP, headers beyond the bound, a request that does not end,
 * a path that is no path. No hook has run then, so these answer for themselves, and as everywhere else: a problem
 * document, the headers for browsers, and nothing of what was sent.
 */
import type { Socket } from "node:net";
import { FarloomError } from "@farloom/protocol";
import type { FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { problemText, sendProblem } from "./problem.js";
import { SECURITY_HEADERS } from "./security-headers.js";

/** Bytes of a request's line and headers together: ten times what our clients send, cookies included. */
export const MAX_HEADER_BYTES = 16 * 1024;

/** fastify's `frameworkErrors`: what its router says of a path. */
export function refusePath(error: FastifyError, _request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const detail =
    error.code === "FST_ERR_MAX_PARAM_LENGTH"
      ? "a part of the path is too long"
      : "the path is not percent-encoded as it should be";
  reply.headers(SECURITY_HEADERS);
  return sendProblem(reply, new FarloomError("REQUEST_INVALID", { detail }));
}

/** The server's `clientError`: what node's parser says of the bytes. The connection ends with the answer. */
export function refuseBytes(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed) return;
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  socket.end(refusalBytes(refusalOf(error.code)));
}

/** The whole answer of a refusal, for a socket that has no reply; the connection ends with it. */
export function refusalBytes(error: FarloomError): string {
  const body = problemText(error);
  const headers = {
    ...SECURITY_HEADERS,
    "content-type": "application/problem+json; charset=utf-8",
    "content-length": Buffer.byteLength(body),
    ...(error.retryAfterMs !== undefined && { "retry-after": Math.ceil(error.retryAfterMs / 1000) }),
    connection: "close",
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${error.status} ${error.code}\r\n${lines.join("")}\r\n${body}`;
}

function refusalOf(code: string | undefined): FarloomError {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return new FarloomError("HEADERS_TOO_LARGE", { limit: MAX_HEADER_BYTES });
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new FarloomError("REQUEST_LATE");
    default:
      return new FarloomError("REQUEST_INVALID", { detail: "its bytes are not HTTP/1.1" });
  }
}
