/** Which failures of PostgreSQL pass by themselves. Decided here and nowhere else, by SQLSTATE, never by text. */
import { FarloomError } from "@farloom/protocol";

/** SQLSTATE classes: connection (08), transaction rollback (40), resources (53), operator (57), system (58). */
const PASSING_CLASSES = new Set(["08", "40", "53", "57", "58"]);
const PASSING_CODES = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "ENOENT",
  "55P03",
  "25006",
]);

/** Whether the same statement may succeed later, unchanged. */
export function isPassing(error: Error): boolean {
  const code = (error as { code?: unknown }).code;
  // node-postgres gives a connection that ends under a query an error without a code.
  if (typeof code !== "string") return true;
  return PASSING_CODES.has(code) || PASSING_CLASSES.has(code.slice(0, 2));
}

/** The same for all that may end a start: what is no failure of PostgreSQL has a class, or a code, of its own. */
export function isPassingAtStart(error: Error): boolean {
  return (error.name === "Error" || "code" in error) && isPassing(error);
}

/**
 * Whether a connection has failed, and not what was asked over it: those errors are Node's own or node-postgres's, plain;
 * what PostgreSQL says has a class of its own.
 */
export function isOfConnection(error: Error): boolean {
  return error.name === "Error";
}

export function isUniqueViolation(error: unknown): boolean {
  return (error as { code?: unknown }).code === "23505";
}

/** Whether PostgreSQL itself has said that it did not carry the statement out: the connection did not just end. */
export function isCertain(error: Error): boolean {
  const code = (error as { code?: unknown }).code;
  if (typeof code !== "string" || !/^[0-9A-Z]{5}$/.test(code)) return false;
  return !code.startsWith("08") && !code.startsWith("57P");
}

/** PostgreSQL's disk is full. */
export function isDiskFull(error: unknown): boolean {
  return (error as { code?: unknown }).code === "53100";
}

/** For how long a caller waits that was told of a full disk. */
const DISK_FULL_RETRY_MS = 5_000;

/** The catalogued form of what a caller can do something about; undefined for the rest. */
export function toKnownError(error: unknown): FarloomError | undefined {
  if (error instanceof FarloomError) return error;
  if (isDiskFull(error))
    return new FarloomError("DATABASE_FULL", {}, { cause: error, retryAfterMs: DISK_FULL_RETRY_MS });
  return undefined;
}
