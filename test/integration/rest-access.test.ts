// Who may call what: every route that the API page lists is tried by nobody, by a key without its scope, by another
// owner, and by the wrong kind of token. And what is no route of ours stays shut.

import fastify from "fastify";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { enforcePolicies } from "../../apps/web-service/src/http/policy.js";
import type { Identity } from "../../apps/web-service/src/identity/identity.js";
import { SCOPES } from "../../apps/web-service/src/identity/principal.js";
import { FakeAgent } from "../support/fake-agent.js";
import { type Reply, RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

interface Operation {
  readonly method: string;
  readonly path: string;
  readonly scope: string | undefined;
  readonly isPublic: boolean;
  readonly takesAgents: boolean;
  readonly isAgents: boolean;
}

/** The digest of nothing, as a file of the owner's. */
const EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

let rest: RestService;
let agent: FakeAgent;
let operations: Operation[];
/** Real ids of the bootstrap owner's things, for the paths. */
let ids: Record<string, string>;

const nobody = () => new RestClient(rest.url, undefined);
const keyOf = async (scopes: readonly string[], owner?: string) => {
  const { status, body } = await rest.api.post("/v1/keys", {
    label: "test",
    scopes,
    ...(owner && { owner }),
  });
  expect(status).toBe(201);
  return new RestClient(rest.url, body.key);
};

beforeAll(async () => {
  rest = await startRestService({ failedAuthPerMinute: 1_000 });
  agent = await FakeAgent.start(rest.api, "laptop", () => ({ value: 1 }));
  await rest.api.post("/v1/functions", { name: "f", runtime: "python", code: "def f(): return 1\n" });
  const { body: task } = await rest.api.post("/v1/tasks?wait=20", { function: "f", endpoint: "laptop" });
  const { body: group } = await rest.api.post("/v1/groups", {});
  const { body: key } = await rest.api.post("/v1/keys", { label: "mine", scopes: ["tasks:read"] });
  expect((await rest.api.call("PUT", `/v1/payloads/${EMPTY}`, { raw: "" })).status).toBe(201);
  ids = {
    keys: key.id,
    functions: "me%2Ff@1",
    endpoints: agent.endpointId,
    tasks: task.id,
    groups: group.id,
    payloads: EMPTY,
  };

  const { body: spec } = await nobody().get("/openapi.json");
  operations = Object.entries<Record<string, { security?: Record<string, string[]>[] }>>(spec.paths).flatMap(
    ([path, methods]) =>
      Object.entries(methods).map(([method, { security = [] }]) => ({
        method: method.toUpperCase(),
        path: path.replace(/\{\w+\}/, ids[path.split("/")[2]!] ?? "x"),
        scope: security[0]?.bearer?.[0],
        isPublic: security.length === 0,
        takesAgents: security.some((s) => "agent" in s),
        isAgents: security.length > 0 && security.every((s) => "agent" in s),
      })),
  );
});
afterAll(async () => {
  await agent.close();
  await rest.close();
});

/** A call with an empty body where the method has one: who may not come in never reaches the body's check. */
const attempt = (client: RestClient, { method, path }: Operation): Promise<Reply> =>
  client.call(method, path, method === "POST" ? { json: bodyOf(path) } : {});
/** Most take an empty one. */
const bodyOf = (path: string): object => (path.endsWith("/signatures") ? { envelope: "{}" } : {});

describe("every route", () => {
  it("is on the API page, with the paths of the design", () => {
    const known = new Set(operations.map((o) => `${o.method} ${o.path}`));
    for (const path of [
      "POST /v1/tasks",
      "GET /v1/tasks",
      "POST /v1/functions",
      "POST /v1/endpoints",
      "GET /metrics",
    ]) {
      expect(known).toContain(path);
    }
    expect(operations.length).toBeGreaterThan(30);
  });

  it("but health and what agents prove themselves answers nobody with 401", async () => {
    const open: string[] = [];
    for (const operation of operations) {
      if (operation.isPublic) {
        open.push(operation.path.replace(agent.endpointId, "ID"));
        continue;
      }
      const reply = await attempt(nobody(), operation);
      const isHead = operation.method === "HEAD";
      expect(reply, `${operation.method} ${operation.path}`).toMatchObject({
        status: 401,
        ...(isHead ? {} : { body: { code: "UNAUTHENTICATED" } }),
      });
      expect(reply.headers.get("www-authenticate")).toContain("Bearer");
    }
    expect(new Set(open)).toEqual(
      new Set([
        "/health/live",
        "/health/ready",
        "/v1/endpoints/enroll",
        "/v1/endpoints/ID/challenge",
        "/v1/endpoints/ID/session",
        "/v1/endpoints/ID/rekey",
        // How people and their programs log in; each checks what the caller shows.
        "/.well-known/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/v1/oauth/device",
        "/v1/oauth/token",
        "/v1/oauth/revoke",
        "/login",
        "/login/oidc/x",
        "/login/oidc/x/callback",
        "/logout",
        "/setup",
        "/account",
        "/device",
      ]),
    );
  });

  it("refuses a key that has every scope but its own", async () => {
    for (const scope of SCOPES) {
      const client = await keyOf(SCOPES.filter((s) => s !== scope));
      const affected = operations.filter((o) => o.scope === scope);
      expect(affected.length, scope).toBeGreaterThan(0);
      for (const operation of affected) {
        const reply = await attempt(client, operation);
        expect(reply.status, `${operation.method} ${operation.path}`).toBe(403);
        if (operation.method !== "HEAD") expect(reply.body.detail).toContain(scope);
      }
    }
  });

  it("hides one owner's things from another: they are as if they did not exist", async () => {
    const stranger = await keyOf(
      SCOPES.filter((s) => s !== "metrics:read"),
      "stranger",
    );
    const named = operations.filter(
      (o) =>
        Object.values(ids).some((id) => o.path.includes(id)) &&
        !o.isPublic &&
        !o.isAgents &&
        o.method !== "PUT",
    );
    expect(named.length).toBeGreaterThanOrEqual(12);
    for (const operation of named) {
      const reply = await attempt(stranger, operation);
      expect(reply.status, `${operation.method} ${operation.path}`).toBe(404);
    }
    for (const path of ["/v1/functions", "/v1/endpoints", "/v1/tasks", "/v1/groups"]) {
      expect((await stranger.get(path)).body.items, path).toEqual([]);
    }
    const call = { function: "f", endpoint: agent.endpointId };
    expect((await stranger.post("/v1/tasks", call)).body.code).toBe("FUNCTION_NOT_FOUND");
    const own = { name: "f", runtime: "python", code: "def f(): return 1\n" };
    expect((await stranger.post("/v1/functions", own)).status).toBe(201);
    expect((await stranger.post("/v1/tasks", call)).body.code).toBe("ENDPOINT_NOT_FOUND");
    const status = await stranger.post("/v1/tasks/status", { ids: [ids.tasks], wait: 5 });
    expect(status.body).toEqual({ tasks: [], missing: [ids.tasks] });
    expect((await stranger.post("/v1/tasks/cancel", { ids: [ids.tasks] })).body.missing).toEqual([ids.tasks]);
    // Nothing above has touched the owner's own.
    expect((await rest.api.get(`/v1/tasks/${ids.tasks}`)).body.state).toBe("SUCCEEDED");
    expect((await rest.api.get(`/v1/endpoints/${agent.endpointId}`)).status).toBe(200);
  });

  it("does not take an agent's token for a person's, but on payloads", async () => {
    const client = new RestClient(rest.url, agent.token);
    for (const operation of operations.filter((o) => !o.isPublic && o.method !== "HEAD")) {
      const reply = await attempt(client, operation);
      const name = `${operation.method} ${operation.path}`;
      // Of a task whose submitter did not ask for it, an agent gets no token; of one that has ended, no secrets; and no
      // file that no task of its own refers to.
      if (operation.isAgents) expect(["NESTED_NOT_ASKED", "SECRETS_ENDED"], name).toContain(reply.body.code);
      else if (name === `GET /v1/payloads/${EMPTY}`) expect(reply.body.code).toBe("PAYLOAD_NOT_FOUND");
      else if (operation.takesAgents) expect(reply.status, name).toBeLessThan(300);
      else expect(reply.status, name).toBe(401);
    }
  });

  it("opens no link to strangers, nor one kind's link to the other's token", async () => {
    const upgrade = (path: string, token?: string) =>
      new Promise<number>((resolve, reject) => {
        const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
        const socket = new WebSocket(rest.url.replace("http", "ws") + path, "farloom.v1", { headers });
        socket.on("unexpected-response", (_request, response) => {
          response.resume();
          resolve(response.statusCode!);
        });
        socket.on("open", () => {
          socket.close();
          resolve(101);
        });
        socket.on("error", reject);
      });
    expect(await upgrade("/v1/link")).toBe(401);
    expect(await upgrade("/v1/agent-link")).toBe(401);
    expect(await upgrade("/v1/link", agent.token)).toBe(401);
    expect(await upgrade("/v1/agent-link", rest.key)).toBe(401);
    expect(await upgrade("/v1/tasks", rest.key)).toBe(404);
    expect(await upgrade("/v1/link", rest.key)).toBe(101);
  });
});

describe("start-up", () => {
  it("fails where a route declares no policy", async () => {
    const app = fastify({ logger: false });
    enforcePolicies(app, {} as Identity, { failedAuthPerMinute: 10, publicUrl: undefined });
    expect(() => app.get("/v1/forgotten", () => "hello")).toThrow(/GET \/v1\/forgotten declares no policy/);
    await app.close();
  });
});

describe("the open pages", () => {
  it("describe the API in OpenAPI 3.1, with a summary for every route", async () => {
    const { body, status } = await nobody().get("/openapi.json");
    expect(status).toBe(200);
    expect(body.openapi).toBe("3.1.0");
    for (const [path, methods] of Object.entries<Record<string, { summary?: string }>>(body.paths)) {
      for (const [method, { summary }] of Object.entries(methods))
        expect(summary, `${method} ${path}`).toBeTruthy();
    }
    const page = await nobody().get("/docs");
    expect(page.status).toBe(200);
    expect(page.body.toString()).toContain("swagger");
  });

  it("tell health to anybody and metrics only to who may read them", async () => {
    expect(await nobody().get("/health/live")).toMatchObject({ status: 200, body: { status: "ok" } });
    expect(await nobody().get("/health/ready")).toMatchObject({ status: 200 });
    const { status, body } = await rest.api.get("/metrics");
    expect(status).toBe(200);
    expect(body.toString()).toMatch(
      /farloom_http_request_seconds_count\{method="POST",route="\/v1\/tasks",status="200"\} 1/,
    );
  });

  it("carry security headers on every reply", async () => {
    const { headers } = await nobody().get("/v1/tasks");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("content-security-policy")).toBeTruthy();
  });
});
