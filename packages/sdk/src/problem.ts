/** Problem documents (RFC 9457) from the service as errors, in the service's own words. */
import { FarloomError } from "@farloom/protocol";
import { remoteError } from "./errors.js";

/** The error that a response with a failing status is. */
export function parseProblem(status: number, body: Buffer, retryAfter: string | undefined): FarloomError {
  const retryAfterMs = parseRetryAfter(retryAfter);
  const retryable = status === 429 || status === 408 || status >= 502;
  try {
    const problem = JSON.parse(body.toString("utf8")) as Record<string, unknown>;
    if (typeof problem.code === "string") {
      return remoteError(problem.code, String(problem.detail ?? problem.title ?? ""), {
        retryAfterMs,
        status,
        retryable: typeof problem.retryable === "boolean" ? problem.retryable : retryable,
      });
    }
  } catch {
    // A proxy or another program answered: its status speaks.
  }
  if (status === 401) return withStatus(new FarloomError("UNAUTHENTICATED"), retryAfterMs);
  return remoteError(
    `HTTP_${status}`,
    status === 404
      ? "Not found. Is this the address of a Farloom service?"
      : `The service, or a proxy before it, answered with status ${status}.`,
    { retryAfterMs, status, retryable },
  );
}

function withStatus(error: FarloomError, retryAfterMs: number | undefined): FarloomError {
  return retryAfterMs === undefined ? error : remoteError(error.code, error.message, { retryAfterMs });
}

/** Retry-After: seconds or a date. */
function parseRetryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const seconds = Number(value);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
  const atMs = Date.parse(value);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - Date.now());
}

/** Node's connection errors in words; several addresses tried give an AggregateError without a message. */
export function connectionErrorText(error: Error): string {
  const first = error instanceof AggregateError ? (error.errors[0] as NodeJS.ErrnoException) : error;
  const code = (first as NodeJS.ErrnoException).code;
  if (code === "ECONNREFUSED") return "nothing listens there";
  if (code === "ENOTFOUND") return "the host name is not known";
  return first.message || code || "the connection failed";
}
