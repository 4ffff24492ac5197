// What the proofs of access are made with: real things of one tenant, things that there are not, and the calls that name
// them. Every operation that is not public has its calls here: one that is missing fails the matrix.
import { createHash } from "node:crypto";
import { Browser } from "../support/browser.js";
import { FakeAgent } from "../support/fake-agent.js";
import { RestClient } from "../support/rest-client.js";
import type { RestService } from "../support/rest-service.js";

/** Stands in all that a tenant wrote: a reply that has it has told something. */
export const MARK = "marker7f3a";
/** A task with this argument is never answered. */
const HOLD = "hold";
/** One that is told nothing. */
const HOOK = { url: "https://hooks.example/", events: ["task.done"], enabled: false };

/** Ids and names, as calls give them. */
export interface Things {
  readonly endpoint: string;
  readonly endpointRef: string;
  readonly function: string;
  readonly functionRef: string;
  /** One that has ended, and one that is open. */
  readonly task: string;
  readonly open: string;
  readonly group: string;
  readonly key: string;
  readonly bucket: string;
  readonly object: string;
  readonly payload: string;
  readonly session: string;
  readonly team: string;
  readonly teamRef: string;
  readonly person: string;
  readonly secret: string;
  readonly webhook: string;
}

/** Of the right shape, and nobody's. */
export const NOTHING: Things = {
  endpoint: "0197f000-0000-7000-8000-000000000001",
  endpointRef: "nobody/no-endpoint",
  function: "a".repeat(64),
  functionRef: "nobody/no-function@1",
  task: "0197f000-0000-7000-8000-000000000002",
  open: "0197f000-0000-7000-8000-000000000003",
  group: "0197f000-0000-7000-8000-000000000004",
  key: "0123456789abcdef",
  bucket: "no-bucket",
  object: "no/object",
  payload: "b".repeat(64),
  session: "ses-00000000000000000000000000000000",
  team: "0197f000-0000-7000-8000-000000000005",
  teamRef: "nobody/no-team",
  person: "no-person",
  secret: "NO_SECRET",
  webhook: "0197f000-0000-7000-8000-000000000006",
};

export interface Tenant {
  readonly api: RestClient;
  readonly agent: FakeAgent;
  readonly things: Things;
}

/** A service, and its administrator. */
type Place = Pick<RestService, "url" | "api">;

/** Makes one of everything, and marks it. */
export async function makeTenant(rest: Place, name: string): Promise<Tenant> {
  const made = async (reply: Promise<{ status: number; body: unknown }>) => {
    const { status, body } = await reply;
    if (status >= 300) throw new Error(`${status} ${JSON.stringify(body)}`);
    // biome-ignore lint/suspicious/noExplicitAny: bodies of every shape.
    return body as any;
  };
  const { key } = await made(rest.api.post("/v1/keys", { label: MARK, owner: name }));
  const api = new RestClient(rest.url, key);
  const agent = await FakeAgent.start(api, `${MARK}-lab`, ({ bytes }) =>
    bytes.includes(HOLD) ? undefined : { value: MARK },
  );
  const code = `def f(*a): return "${MARK} of ${name}"\n`;
  const fn = await made(
    api.post("/v1/functions", { name: `${MARK}-f`, runtime: "python", entry: "f", code, description: MARK }),
  );
  const group = await made(api.post("/v1/groups", { name: MARK }));
  const call = { function: fn.id, endpoint: agent.endpointId, group: group.id };
  const task = await made(api.post("/v1/tasks?wait=20", call));
  const open = await made(api.post("/v1/tasks", { ...call, args: [HOLD] }));
  const other = await made(api.post("/v1/keys", { label: MARK, scopes: ["tasks:read"] }));
  const bytes = Buffer.from(`${MARK} of ${name}`);
  const payload = createHash("sha256").update(bytes).digest("hex");
  await made(api.call("PUT", `/v1/payloads/${payload}`, { raw: bytes }));
  const bucket = `${MARK}-${name}`;
  const object = "dir/secret";
  const headers = { "x-farloom-meta-note": MARK };
  await made(api.call("PUT", `/v1/objects/${bucket}/${object}`, { raw: bytes, headers }));
  const secret = `${MARK}_of_${name}`;
  await made(api.call("PUT", `/v1/secrets/${secret}`, { json: { value: `${MARK} value` } }));
  const person = `${name}-friend`;
  await made(rest.api.post("/v1/keys", { label: "x", owner: person }));
  const team = await made(api.post("/v1/teams", { name: `${MARK}-team` }));
  await made(api.call("PUT", `/v1/teams/${team.id}/members/${person}`));
  const webhook = await made(
    api.post("/v1/webhooks", { ...HOOK, url: `https://hooks.example/${MARK}`, name: MARK }),
  );
  const things = {
    ...{ endpoint: agent.endpointId, endpointRef: `${name}/${MARK}-lab` },
    ...{ function: fn.id, functionRef: `${name}/${MARK}-f@1` },
    ...{ task: task.id, open: open.id, group: group.id, key: other.id, bucket, object, payload },
    ...{ session: await logIn(rest, api, name), team: team.id, teamRef: `${name}/${MARK}-team`, person },
    secret,
    webhook: webhook.id,
  };
  return { api, agent, things };
}

/** A browser's login of that person; returns its id. */
async function logIn(rest: Place, api: RestClient, name: string): Promise<string> {
  const { body } = await rest.api.post("/v1/accounts", { name });
  const browser = new Browser();
  const page = await browser.get(`${rest.url}/setup`);
  await browser.submit(page, { token: body.token, name, password: "correct horse battery" });
  return (await api.get("/v1/sessions")).body.items[0].id;
}

export interface Call {
  /** By the names of the path's parameters. */
  readonly params?: Record<string, string>;
  readonly query?: string;
  readonly json?: unknown;
  readonly raw?: string;
}
/** `named` is what a call is about; `own` is what else it needs, of the caller's own. */
type Naming = (named: Things, own: Things) => Call;

const plain: Naming = () => ({});
const at = (param: string, of: keyof Things, rest: Omit<Call, "params"> = {}): Naming => {
  return (named) => ({ ...rest, params: { [param]: named[of] } });
};
const anEndpoint = [at("id", "endpoint"), at("id", "endpointRef")];
const aFunction = [at("ref", "function"), at("ref", "functionRef")];
const aTeam = [at("team", "team"), at("team", "teamRef")];
const aMember: Naming[] = [
  (named, own) => ({ params: { team: named.team, person: own.person } }),
  (named) => ({ params: { team: named.team, person: named.person } }),
];
const anObject: Naming = ({ bucket, object: key }) => ({ params: { bucket, key } });

/** By method and path of the API page: the id at the top, and each place where one is nested. HEAD is as GET. */
export const CALLS: Readonly<Record<string, readonly Naming[]>> = {
  "GET /metrics": [plain],
  "GET /v1/me": [plain],
  "POST /v1/tokens": [plain],
  "GET /v1/audit": [plain],

  "GET /v1/keys": [plain],
  "POST /v1/keys": [
    (named) => ({ json: { label: "x", endpoints: [named.endpoint] } }),
    (named) => ({ json: { label: "x", owner: named.person } }),
  ],
  "DELETE /v1/keys/{id}": [at("id", "key")],
  "GET /v1/accounts": [plain],
  "POST /v1/accounts": [(named) => ({ json: { name: named.person } })],
  "POST /v1/accounts/{name}/disable": [at("name", "person")],
  "POST /v1/accounts/{name}/enable": [at("name", "person")],
  "GET /v1/sessions": [plain],
  "DELETE /v1/sessions/{id}": [at("id", "session")],
  "GET /v1/signing-keys": [plain],
  "POST /v1/signing-keys": [plain],

  "GET /v1/functions": [() => ({ query: `q=${MARK}` }), () => ({ query: "public=true" })],
  "POST /v1/functions": [
    () => ({ json: { name: "own", runtime: "python", entry: "f", code: "def f(): return 1\n" } }),
  ],
  "GET /v1/functions/{ref}": aFunction,
  "GET /v1/functions/{ref}/code": aFunction,
  "DELETE /v1/functions/{ref}": aFunction,
  "PUT /v1/functions/{ref}/sharing": [
    at("ref", "function", { json: { visibility: "public" } }),
    (named, own) => ({ params: { ref: own.function }, json: { visibility: "team", team: named.team } }),
    (named, own) => ({ params: { ref: own.function }, json: { visibility: "team", team: named.teamRef } }),
  ],
  "GET /v1/functions/{ref}/signatures": aFunction,
  "POST /v1/functions/{ref}/signatures": [at("ref", "function", { json: { envelope: "{}" } })],

  "GET /v1/endpoints": [plain],
  "POST /v1/endpoints": [() => ({ json: { name: "own" } })],
  "GET /v1/endpoints/{id}": anEndpoint,
  "DELETE /v1/endpoints/{id}": anEndpoint,
  "POST /v1/endpoints/{id}/enrolment-code": anEndpoint,
  "POST /v1/endpoints/{id}/revoke": anEndpoint,
  "GET /v1/endpoints/{id}/access": anEndpoint,
  "PUT /v1/endpoints/{id}/access": [
    (named, own) => ({ params: { id: named.endpoint }, json: { person: own.person, allow: "manage" } }),
    (named, own) => ({ params: { id: own.endpoint }, json: { team: named.team, allow: "view" } }),
    (named, own) => ({ params: { id: own.endpoint }, json: { team: named.teamRef, allow: "view" } }),
  ],
  "PUT /v1/endpoints/{id}/functions": [at("id", "endpoint", { json: { functions: ["none"] } })],

  "GET /v1/teams": [plain],
  "POST /v1/teams": [() => ({ json: { name: "own" } })],
  "GET /v1/teams/{team}": aTeam,
  "DELETE /v1/teams/{team}": aTeam,
  "PUT /v1/teams/{team}/members/{person}": aMember,
  "DELETE /v1/teams/{team}/members/{person}": aMember,

  "GET /v1/webhooks": [plain],
  "POST /v1/webhooks": [
    () => ({ json: HOOK }),
    (named) => ({ json: { ...HOOK, endpoint: named.endpoint } }),
    (named) => ({ json: { ...HOOK, endpoint: named.endpointRef } }),
  ],
  "GET /v1/webhooks/{id}": [at("id", "webhook")],
  "PATCH /v1/webhooks/{id}": [at("id", "webhook", { json: { name: "other" } })],
  "DELETE /v1/webhooks/{id}": [at("id", "webhook")],
  "POST /v1/webhooks/{id}/rotate": [at("id", "webhook")],
  "POST /v1/webhooks/{id}/test": [at("id", "webhook")],
  "GET /v1/webhooks/{id}/deliveries": [at("id", "webhook")],

  "GET /v1/tasks": [
    plain,
    (named) => ({ query: `group=${named.group}` }),
    (named) => ({ query: `endpoint=${named.endpoint}` }),
    (named) => ({ query: `function=${named.function}` }),
  ],
  "POST /v1/tasks": [
    (named) => ({ json: { function: named.function, endpoint: named.endpoint } }),
    (named) => ({ json: { function: named.functionRef, endpoint: named.endpointRef } }),
    (named, own) => ({ json: { function: own.function, endpoint: named.endpoint } }),
    (named, own) => ({ json: { function: named.function, endpoint: own.endpoint } }),
    (named, own) => ({
      json: { function: own.function, endpoint: own.endpoint, group: named.group, args: [HOLD] },
    }),
    (named, own) => ({
      json: {
        tasks: [
          { function: own.function, endpoint: own.endpoint, args: [HOLD] },
          { function: own.function, endpoint: named.endpoint },
        ],
      },
    }),
  ],
  "GET /v1/tasks/{id}": [at("id", "task"), at("id", "open")],
  "GET /v1/tasks/{id}/result": [at("id", "task"), at("id", "open")],
  "GET /v1/tasks/{id}/output": [at("id", "task"), at("id", "open")],
  "POST /v1/tasks/{id}/cancel": [at("id", "open"), at("id", "task")],
  "POST /v1/tasks/{id}/token": [at("id", "open"), at("id", "task")],
  "POST /v1/tasks/{id}/secrets": [at("id", "open"), at("id", "task")],
  "GET /v1/secrets": [plain],
  "PUT /v1/secrets/{name}": [
    ({ secret: name }) => ({ params: { name }, json: { value: "another value" } }),
    ({ endpoint }) => ({ params: { name: "ANOTHER" }, json: { value: "a value", endpoints: [endpoint] } }),
    ({ endpointRef }) => ({
      params: { name: "ANOTHER" },
      json: { value: "a value", endpoints: [endpointRef] },
    }),
  ],
  "DELETE /v1/secrets/{name}": [({ secret: name }) => ({ params: { name } })],
  "POST /v1/tasks/status": [
    (named) => ({ json: { ids: [named.task, named.open], results: true } }),
    (named) => ({ json: { ids: [named.task] } }),
  ],
  "POST /v1/tasks/cancel": [
    (named) => ({ json: { ids: [named.open, named.task] } }),
    (named) => ({ json: { group: named.group } }),
  ],
  "GET /v1/groups": [plain],
  "POST /v1/groups": [() => ({ json: {} })],
  "GET /v1/groups/{id}": [at("id", "group")],

  "GET /v1/payloads/{digest}": [at("digest", "payload")],
  "PUT /v1/payloads/{digest}": [at("digest", "payload", { raw: "other bytes" })],
  "GET /v1/objects": [plain],
  "GET /v1/objects/{bucket}": [at("bucket", "bucket")],
  "GET /v1/objects/{bucket}/{key}": [anObject],
  "PUT /v1/objects/{bucket}/{key}": [
    ({ bucket, object: key }) => ({ params: { bucket, key }, raw: "other bytes" }),
  ],
  "DELETE /v1/objects/{bucket}/{key}": [anObject],
  "POST /v1/objects/{bucket}/delete": [
    ({ bucket, object }) => ({ params: { bucket }, json: { keys: [object] } }),
  ],
  "POST /v1/objects/{bucket}/compose": [
    ({ bucket, object }) => ({ params: { bucket }, json: { key: "copy", from: [object] } }),
  ],
  "POST /v1/objects/sign": [({ bucket, object: key }) => ({ json: { bucket, key, methods: ["get"] } })],
};
