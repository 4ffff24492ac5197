/**
 * Conditional requests (RFC 9110 section 13), decided over what is there. Entity tags are strong: the SHA-256 of the
 * bytes in quotes. A condition that cannot be read is one that does not hold.
 */

export interface Current {
  /** SHA-256, hexadecimal. */
  readonly digest: string;
  readonly modifiedAt: Date;
}

/** The request's headers as Node gives them. */
export interface ConditionHeaders {
  readonly "if-match"?: string | undefined;
  readonly "if-none-match"?: string | undefined;
  readonly "if-modified-since"?: string | undefined;
  readonly "if-unmodified-since"?: string | undefined;
  readonly "if-range"?: string | undefined;
}

export function entityTag(digest: string): string {
  return `"${digest}"`;
}

/** For GET and HEAD: the whole answer, 304, or the header that fails. */
export function decideRead(
  headers: ConditionHeaders,
  current: Current,
): "proceed" | "not_modified" | { readonly failed: string } {
  const failed = failedPrecondition(headers, current);
  if (failed !== undefined && failed !== "if-none-match") return { failed };
  if (failed === "if-none-match") return "not_modified";
  if (headers["if-none-match"] === undefined && headers["if-modified-since"] !== undefined) {
    const since = Date.parse(headers["if-modified-since"]);
    if (seconds(current.modifiedAt) <= since) return "not_modified";
  }
  return "proceed";
}

/** For PUT and DELETE: the header that fails, or undefined. `current` is undefined where there is nothing yet. */
export function failedPrecondition(
  headers: ConditionHeaders,
  current: Current | undefined,
): "if-match" | "if-none-match" | "if-unmodified-since" | undefined {
  const { "if-match": match, "if-none-match": noneMatch, "if-unmodified-since": unmodified } = headers;
  if (match !== undefined) {
    if (!current || !matches(match, current.digest, "strong")) return "if-match";
  } else if (unmodified !== undefined && current) {
    if (!(seconds(current.modifiedAt) <= Date.parse(unmodified))) return "if-unmodified-since";
  }
  if (noneMatch !== undefined && current && matches(noneMatch, current.digest, "weak"))
    return "if-none-match";
  return undefined;
}

/** Whether a Range header counts: with If-Range only for the very bytes that it names. */
export function rangeApplies(headers: ConditionHeaders, current: Current): boolean {
  const condition = headers["if-range"];
  if (condition === undefined) return true;
  if (condition.startsWith('"')) return condition === entityTag(current.digest);
  return seconds(current.modifiedAt) === Date.parse(condition);
}

function matches(header: string, digest: string, how: "strong" | "weak"): boolean {
  if (header.trim() === "*") return true;
  return header.split(",").some((item) => {
    const tag = item.trim();
    return (how === "weak" && tag.startsWith("W/") ? tag.slice(2) : tag) === entityTag(digest);
  });
}

/** Dates of HTTP have whole seconds. */
function seconds(date: Date): number {
  return Math.floor(date.getTime() / 1000) * 1000;
}
