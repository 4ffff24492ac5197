/** Who may do what with an endpoint, and which functions it runs. For those who manage it. */
import { FarloomError, MAX_PATTERN_CHARS, MAX_PATTERNS } from "@farloom/protocol";
import type { FastifyRequest } from "fastify";
import { Type } from "typebox";
import type { Api, AppDeps } from "../app.js";
import type { EndpointGrant } from "../endpoints/registry.js";
import { principalOf } from "../http/policy.js";
import { authorise } from "../identity/authorise.js";
import { functionList } from "../identity/narrow.js";
import { GIVEN_LEVELS, type GivenLevel, LEVELS, levelName } from "../sharing/levels.js";
import { problems, Strict } from "./schemas.js";

const tags = ["endpoints"];
const IdOrName = Type.Object({
  id: Type.String({
    minLength: 1,
    maxLength: 200,
    description: "Id, name, or owner/name with its slash as %2F",
  }),
});
const LevelName = Type.Unsafe<GivenLevel>({ type: "string", enum: [...GIVEN_LEVELS] });
const AccessView = Type.Object({
  entries: Type.Array(
    Type.Object({
      person: Type.Optional(Type.String()),
      team: Type.Optional(Type.String({ description: "As owner/name" })),
      allow: Type.Optional(Type.String()),
      deny: Type.Optional(Type.String()),
    }),
  ),
  functions: Type.Array(Type.String(), { description: "Those that it runs; empty: all" }),
});

export function sharingRoutes(app: Api, { endpoints, accessLists, teams }: AppDeps): void {
  type Request = FastifyRequest<{ Params: { id: string } }>;
  /** @throws FarloomError ENDPOINT_NOT_FOUND, ACCESS_DENIED */
  const managed = async (request: Request): Promise<EndpointGrant> => {
    const principal = principalOf(request);
    const endpoint = await endpoints.resolve(principal, request.params.id);
    authorise(principal, "sharing:write", { endpoint });
    return endpoint;
  };
  const view = async (personId: string, endpoint: EndpointGrant) => ({
    entries: (await accessLists.list(personId, endpoint)).map(({ subject, isTeam, allow, deny }) => ({
      ...(isTeam ? { team: subject } : { person: subject }),
      ...(allow === 0 ? {} : { allow: levelName(allow) }),
      ...(deny === 0 ? {} : { deny: levelName(deny) }),
    })),
    functions: await accessLists.allowedFunctions(personId, endpoint),
  });

  app.get(
    "/v1/endpoints/:id/access",
    {
      config: { policy: { scope: "sharing:write" } },
      schema: {
        tags,
        summary: "Who may do what with an endpoint, and which functions it runs",
        params: IdOrName,
        response: { 200: AccessView, ...problems },
      },
    },
    async (request) => view(principalOf(request).ownerId, await managed(request)),
  );

  app.put(
    "/v1/endpoints/:id/access",
    {
      config: { policy: { scope: "sharing:write" }, audit: "endpoints.access" },
      schema: {
        tags,
        summary: "Say what one person, or the members of a team, may do with an endpoint",
        description:
          "invoke includes view, and manage both. Entries add up; deny wins, over the level that it names and those above. An entry without allow and deny goes. Heard everywhere within 5 s; tasks that wait are asked again before they are sent.",
        params: IdOrName,
        body: Strict({
          person: Type.Optional(Type.String({ minLength: 1, maxLength: 63 })),
          team: Type.Optional(
            Type.String({ minLength: 1, maxLength: 200, description: "Name, owner/name or id" }),
          ),
          allow: Type.Optional(LevelName),
          deny: Type.Optional(LevelName),
        }),
        response: { 200: AccessView, ...problems },
      },
    },
    async (request) => {
      request.audited = { detail: { ...request.body } };
      const endpoint = await managed(request);
      const { person, team, allow, deny } = request.body;
      if ((person === undefined) === (team === undefined))
        throw new FarloomError("REQUEST_INVALID", { detail: "an entry is for either a person or a team" });
      const isTeam = team !== undefined;
      const principal = principalOf(request);
      const { ownerId } = principal;
      const subjectId = isTeam
        ? (await teams.resolve(principal, team)).id
        : await teams.personId(ownerId, person!);
      const levelOf = (name: GivenLevel | undefined): number => (name === undefined ? 0 : LEVELS[name]);
      const entry = { subjectId, isTeam, allow: levelOf(allow), deny: levelOf(deny) };
      await accessLists.set(ownerId, endpoint, entry);
      return view(ownerId, endpoint);
    },
  );

  app.put(
    "/v1/endpoints/:id/functions",
    {
      config: { policy: { scope: "sharing:write" }, audit: "endpoints.functions" },
      schema: {
        tags,
        summary: "Say which functions an endpoint runs, whoever submits them; none: all",
        params: IdOrName,
        body: Strict({
          functions: Type.Array(Type.String({ minLength: 1, maxLength: MAX_PATTERN_CHARS }), {
            maxItems: MAX_PATTERNS,
            description:
              "Ids, or owner/name, owner/name@version, with * for any letters; a bare name is yours",
          }),
        }),
        response: { 200: AccessView, ...problems },
      },
    },
    async (request) => {
      request.audited = { detail: { functions: request.body.functions } };
      const endpoint = await managed(request);
      const { ownerId, ownerName } = principalOf(request);
      await accessLists.allowFunctions(endpoint, functionList(request.body.functions, ownerName));
      return view(ownerId, endpoint);
    },
  );
}
