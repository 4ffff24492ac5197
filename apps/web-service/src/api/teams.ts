/** Teams: people who are given access together. (Task groups, at /v1/groups, are tasks that are watched together.) */
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import { principalOf } from "../http/policy.js";
import { requireTeamOwner, type TeamRow } from "../sharing/teams.js";
import { problems, Strict, Time } from "./schemas.js";

const tags = ["teams"];
const PERSON = "^[a-z0-9][a-z0-9._-]{0,62}$";
const Ref = Type.Object({
  team: Type.String({
    minLength: 1,
    maxLength: 200,
    description: "Name, id, or owner/name with its slash as %2F",
  }),
});
const Member = Type.Object({ ...Ref.properties, person: Type.String({ pattern: PERSON }) });
const TeamView = Type.Object({
  id: Type.String(),
  name: Type.String(),
  owner: Type.String(),
  createdAt: Time,
});
const WholeView = Type.Intersect([
  TeamView,
  Type.Object({ members: Type.Array(Type.Object({ name: Type.String(), addedAt: Time })) }),
]);

export function teamRoutes(app: Api, { teams }: AppDeps): void {
  app.post(
    "/v1/teams",
    {
      config: { policy: { scope: "sharing:write" }, audit: "teams.create" },
      schema: {
        tags,
        summary: "Make a team; you are its owner and its first member",
        body: Strict({ name: Type.String({ pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" }) }),
        response: { 201: TeamView, ...problems },
      },
    },
    async (request, reply) => {
      request.audited = { target: request.body.name };
      const team = await teams.create(principalOf(request), request.body.name);
      request.audited = { target: team.id, detail: { name: team.name } };
      return reply.code(201).send(view(team));
    },
  );

  app.get(
    "/v1/teams",
    {
      config: { policy: { scope: "endpoints:read" } },
      schema: {
        tags,
        summary: "List the teams that you made or are in, at most 1,000",
        response: { 200: Type.Object({ items: Type.Array(TeamView) }), ...problems },
      },
    },
    async (request) => ({ items: (await teams.list(principalOf(request).ownerId)).map(view) }),
  );

  app.get(
    "/v1/teams/:team",
    {
      config: { policy: { scope: "endpoints:read" } },
      schema: {
        tags,
        summary: "Show a team and its members",
        params: Ref,
        response: { 200: WholeView, ...problems },
      },
    },
    async (request) => {
      const principal = principalOf(request);
      const team = await teams.resolve(principal, request.params.team);
      const members = (await teams.members(principal.ownerId, team)).map(({ name, addedAt }) => ({
        name,
        addedAt: addedAt.toISOString(),
      }));
      return { ...view(team), members };
    },
  );

  app.delete(
    "/v1/teams/:team",
    {
      config: { policy: { scope: "sharing:write" }, audit: "teams.delete" },
      schema: {
        tags,
        summary: "Delete a team; what was shared with it is so no more",
        params: Ref,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const team = await teams.resolve(principal, request.params.team);
      requireTeamOwner(principal, team);
      await teams.remove(principal.ownerId, team);
      return reply.code(204).send(null);
    },
  );

  app.put(
    "/v1/teams/:team/members/:person",
    {
      config: { policy: { scope: "sharing:write" }, audit: "teams.add" },
      schema: {
        tags,
        summary: "Take somebody into a team",
        params: Member,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const team = await teams.resolve(principal, request.params.team);
      requireTeamOwner(principal, team);
      await teams.add(principal.ownerId, team, request.params.person);
      return reply.code(204).send(null);
    },
  );

  app.delete(
    "/v1/teams/:team/members/:person",
    {
      config: { policy: { scope: "sharing:write" }, audit: "teams.remove" },
      schema: {
        tags,
        summary: "Take somebody out of a team; heard everywhere within 5 s",
        params: Member,
        response: { 204: Type.Null(), ...problems },
      },
    },
    async (request, reply) => {
      const principal = principalOf(request);
      const team = await teams.resolve(principal, request.params.team);
      requireTeamOwner(principal, team);
      await teams.takeOut(principal.ownerId, team, request.params.person);
      return reply.code(204).send(null);
    },
  );
}

function view({ id, name, ownerName, createdAt }: TeamRow) {
  return { id, name, owner: ownerName, createdAt: createdAt.toISOString() };
}
