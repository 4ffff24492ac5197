/** The audit log over REST. */
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { readAudit } from "../audit/reader.js";
import { principalOf } from "../http/policy.js";
import { NextCursor, numberCursor, PageQuery, problems, Strict, Time } from "./schemas.js";

const Entry = Type.Object({
  seq: Type.Integer(),
  at: Time,
  ownerId: Type.String(),
  actor: Type.String({ description: "Whose account acted" }),
  credential: Type.String({ description: "Public id of the API key, or the endpoint whose agent acted" }),
  action: Type.String(),
  target: Type.String(),
  origin: Type.String({ description: "The address that the request came from" }),
  status: Type.Integer(),
  code: Type.String({ description: "The error's, where it was refused" }),
  detail: Type.String({ description: "JSON" }),
  previous: Type.String(),
  hash: Type.String({ description: "SHA-256 over `previous` and the canonical JSON of the other fields" }),
});

export function auditRoutes(app: Api, { tenants }: AppDeps): void {
  app.get(
    "/v1/audit",
    {
      config: { policy: { scope: "audit:read" } },
      schema: {
        tags: ["audit"],
        summary: "Who changed what: all of it for administrators, what their own account did for others",
        querystring: Strict({
          ...PageQuery,
          order: Type.Unsafe<"asc" | "desc">({ type: "string", enum: ["asc", "desc"], default: "asc" }),
        }),
        response: {
          200: Type.Object({
            items: Type.Array(Entry),
            nextCursor: NextCursor,
            whole: Type.Boolean({ description: "Nothing is left out: the chain can be recomputed" }),
          }),
          ...problems,
        },
      },
    },
    async (request) => {
      const { ownerId, isAdmin } = principalOf(request);
      const { cursor, limit, order } = request.query;
      const page = await readAudit(tenants, {
        readerId: ownerId,
        ownerId: isAdmin ? undefined : ownerId,
        cursor: numberCursor(cursor),
        fromEnd: order === "desc",
        limit,
      });
      const nextCursor = page.nextCursor === undefined ? {} : { nextCursor: String(page.nextCursor) };
      return { items: page.items, ...nextCursor, whole: isAdmin };
    },
  );
}
