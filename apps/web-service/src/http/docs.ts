/** The API description: OpenAPI 3.1 at /openapi.json, made from the routes' own schemas, and a page at /docs. */
import swagger from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import type { FastifyInstance, FastifySchema } from "fastify";
import { MEDIA_TYPES } from "./media-types.js";
import type { Policy } from "./policy.js";

/** The page's own scripts and styles are all that run there, and nobody frames it. */
const PAGE_POLICY =
  "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; img-src 'self' data:; frame-ancestors 'none'";

/** Registers the plugins; call before the routes. */
export async function registerDocs(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Farloom",
        version: "1",
        description:
          "Register a function once and call it on any machine. Bodies are JSON or MessagePack (Content-Type, Accept); errors are application/problem+json with a code that docs/errors.md explains.",
        license: { name: "Apache-2.0", identifier: "Apache-2.0" },
      },
      components: {
        securitySchemes: {
          bearer: { type: "http", scheme: "bearer", description: "An API key (fl_…) or an access token." },
          agent: { type: "http", scheme: "bearer", description: "An agent's session token." },
          objects: { type: "http", scheme: "bearer", description: "A token of POST /v1/objects/sign." },
        },
      },
    },
    transform: ({ schema, url, route }) => {
      const policy = route.config?.policy;
      const { response } = schema ?? {};
      const described = {
        ...schema,
        ...(response !== undefined && { response: repliesOf(response as Replies) }),
        security: policy ? securityOf(policy) : [],
      };
      return url.endsWith("/*") && schema?.params ? named(described, url) : { schema: described, url };
    },
  });
  await app.register(swaggerUi, {
    routePrefix: "/docs",
    staticCSP: PAGE_POLICY,
    uiConfig: { docExpansion: "list" },
  });
  app.get("/openapi.json", { config: { policy: { public: true } }, schema: { hide: true } }, () =>
    app.swagger(),
  );
}

type Replies = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** Each reply under the media types that it says it is sent as; JSON where it says nothing. */
function repliesOf(replies: Replies): Replies {
  return Object.fromEntries(
    Object.entries(replies).map(([status, { [MEDIA_TYPES]: types, ...schema }]) => {
      if (types === undefined) return [status, schema];
      const content = Object.fromEntries((types as string[]).map((type) => [type, { schema }]));
      return [status, { description: schema.description ?? "As it is", content }];
    }),
  );
}

/** OpenAPI knows no wildcards: what stands for the rest of a path, slashes and all, is named there. */
function named(schema: FastifySchema, url: string): { schema: FastifySchema; url: string } {
  const { properties, ...params } = schema.params as { properties: Record<string, unknown> };
  const { "*": key, ...others } = properties;
  const required = [...Object.keys(others), "key"];
  return {
    schema: { ...schema, params: { ...params, properties: { ...others, key }, required } },
    url: `${url.slice(0, -1)}:key`,
  };
}

function securityOf(policy: Policy): Record<string, string[]>[] {
  if ("public" in policy) return [];
  if ("agent" in policy) return [{ agent: [] }];
  if ("objects" in policy) return [{ bearer: [policy.objects] }, { objects: [] }];
  if ("scopeOrAgent" in policy) return [{ bearer: [policy.scopeOrAgent] }, { agent: [] }];
  return [{ bearer: "scope" in policy ? [policy.scope] : [] }];
}
