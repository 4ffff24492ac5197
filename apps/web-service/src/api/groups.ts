/** Task groups: tasks submitted together, watched together. */
import { FarloomError, uuidToKey } from "@farloom/protocol";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { principalOf } from "../http/policy.js";
import { requireGroup } from "../identity/nested.js";
import { type GroupRow, TaskGroups } from "../tasks/groups.js";
import { TaskReader } from "../tasks/reader.js";
import { NextCursor, PageQuery, problems, Strict, Time, Uuid } from "./schemas.js";

const tags = ["groups"];
const GroupView = Type.Object({ id: Type.String(), name: Type.String(), createdAt: Time });
const CountedView = Type.Intersect([
  GroupView,
  Type.Object({
    total: Type.Integer(),
    open: Type.Integer({ description: "Tasks that have not ended" }),
    states: Type.Record(Type.String(), Type.Integer(), {
      description: "Tasks by state; the open states only where at most 10,000 tasks are open",
    }),
  }),
]);

export function groupRoutes(app: Api, { tenants, dispatch }: AppDeps): void {
  const groups = new TaskGroups(tenants);
  const reader = new TaskReader(tenants, dispatch);

  app.post(
    "/v1/groups",
    {
      config: { policy: { scope: "tasks:submit" }, audit: "groups.create" },
      schema: {
        tags,
        summary: "Make a group to submit tasks to",
        body: Strict({ name: Type.Optional(Type.String({ maxLength: 200 })) }),
        response: { 201: GroupView, ...problems },
      },
    },
    async (request, reply) => {
      const group = await groups.create(principalOf(request).ownerId, request.body.name ?? "");
      request.audited = { target: group.id };
      return reply.code(201).send(view(group));
    },
  );

  app.get(
    "/v1/groups",
    {
      config: { policy: { scope: "tasks:read" } },
      schema: {
        tags,
        summary: "List your groups, the newest first",
        querystring: Strict(PageQuery),
        response: {
          200: Type.Object({ items: Type.Array(GroupView), nextCursor: NextCursor }),
          ...problems,
        },
      },
    },
    async (request) => {
      const { items, nextCursor } = await groups.list(principalOf(request).ownerId, request.query);
      return { items: items.map(view), ...(nextCursor === undefined ? {} : { nextCursor }) };
    },
  );

  app.get(
    "/v1/groups/:id",
    {
      config: { policy: { scope: "tasks:read", nested: true } },
      schema: {
        tags,
        summary: "Show a group, and how many of its tasks are in which state",
        params: Type.Object({ id: Uuid }),
        response: { 200: CountedView, ...problems },
      },
    },
    async (request) => {
      const { ownerId } = principalOf(request);
      const { id } = request.params;
      requireGroup(principalOf(request), uuidToKey(id));
      const row = await groups.find(ownerId, id);
      if (!row) throw new FarloomError("GROUP_NOT_FOUND", { id });
      return {
        ...view(row),
        ...((await reader.countGroup(ownerId, id)) ?? { total: 0, open: 0, states: {} }),
      };
    },
  );
}

function view(row: GroupRow) {
  return { id: row.id, name: row.name, createdAt: row.createdAt.toISOString() };
}
