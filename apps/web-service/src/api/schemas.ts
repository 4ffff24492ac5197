/** Shapes that several routes share, and how their times are written. */
import { FarloomError } from "@farloom/protocol";
import { type Static, type TSchema, Type } from "typebox";
import { sentAs } from "../http/media-types.js";

/** An object that takes no unknown fields: a typo is told, not swallowed. */
export function Strict<P extends Record<string, TSchema>>(
  properties: P,
  options: Record<string, unknown> = {},
) {
  return Type.Object(properties, { additionalProperties: false, ...options });
}

export const Uuid = Type.String({
  pattern: "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
  description: "A UUID",
});
export const Digest = Type.String({
  pattern: "^[0-9a-f]{64}$",
  description: "A SHA-256, 64 hexadecimal digits in lower case",
});
export const Time = Type.String({ description: "RFC 3339, UTC" });

export const Problem = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    code: Type.String({ description: "From the catalogue in docs/errors.md" }),
    detail: Type.String({ description: "What is wrong, and what to do" }),
    retryable: Type.Boolean({ description: "Whether the same request may succeed later" }),
    retryAfterMs: Type.Optional(Type.Integer()),
  },
  { description: "An error" },
);

/** The errors of any route, for its description. */
const problem = sentAs(["application/problem+json"], Problem);
export const problems = { "4xx": problem, "5xx": problem };

export const PageQuery = {
  cursor: Type.Optional(Type.String({ maxLength: 64, description: "nextCursor of the page before" })),
  limit: Type.Integer({ minimum: 1, maximum: 1_000, default: 100 }),
};
export const NextCursor = Type.Optional(
  Type.String({ description: "Give it as cursor for the next page; absent at the end" }),
);

/** A cursor that is a number of ours. @throws FarloomError REQUEST_INVALID */
export function numberCursor(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined;
  if (!/^\d{1,15}$/.test(cursor))
    throw new FarloomError("REQUEST_INVALID", { detail: "query.cursor is not one of ours" });
  return Number(cursor);
}

export type { Static };
