/** Which failures of PostgreSQL pass by themselves. Decided here and nowhere else, by SQLSTATE, never by text. */

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

export function isUniqueViolation(error: unknown): boolean {
  return (error as { code?: unknown }).code === "23505";
}
