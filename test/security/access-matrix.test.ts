/**
 * Who gets nowhere: every operation of the API page and every frame of the two doors, tried by those who may not, on real
 * things of another and on things that there are not. Both must be refused in the same words, tell nothing and change
 * nothing: rows and audit entries say so.
 */
import { createHash } from "node:crypto";
import { buildOutput, type Frame, keysToColumn, limits, newBatchId, uuidToKey } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { SCOPES } from "../../apps/web-service/src/identity/principal.js";
import { AGENT_FRAMES, CLIENT_FRAMES } from "../../apps/web-service/src/link/frame-policy.js";
import { webhookSettings } from "../../apps/web-service/src/webhooks/settings.js";
import { agentHello, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { agentToken } from "../support/fake-agent.js";
import { FramePeer } from "../support/frame-peer.js";
import { clientHello, tasksFrame } from "../support/link-client.js";
import { type Reply, RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";
import { CALLS, type Call, MARK, makeTenant, NOTHING, type Tenant, type Things } from "./access-things.js";

interface Operation {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly scope: string | undefined;
  readonly isPublic: boolean;
  readonly isAgents: boolean;
}

let rest: RestService;
let alice: Tenant;
let bob: Tenant;
let operations: Operation[];
/** Keys of Alice's that hold no more. */
let expired: RestClient;
let revoked: RestClient;
const open: FramePeer[] = [];

beforeAll(async () => {
  const webhooks = webhookSettings({ FARLOOM_WEBHOOKS: "on" });
  rest = await startRestService({ failedAuthPerMinute: 1_000_000, webhooks });
  alice = await makeTenant(rest, "alice");
  bob = await makeTenant(rest, "bob");
  const [old, gone] = [await keyOf({}), await keyOf({})];
  await rest.database.pool.query("UPDATE api_key SET expires_at = now() WHERE id = $1", [old.id]);
  expect((await alice.api.delete(`/v1/keys/${gone.id}`)).status).toBe(204);
  expired = old.client;
  revoked = gone.client;
  const { body } = await alice.api.get("/openapi.json");
  operations = Object.entries<Record<string, { security?: Record<string, string[]>[] }>>(body.paths).flatMap(
    ([path, methods]) =>
      Object.entries(methods).map(([method, { security = [] }]) => ({
        name: `${method.toUpperCase()} ${path}`,
        method: method.toUpperCase(),
        path,
        scope: security[0]?.bearer?.[0],
        isPublic: security.length === 0,
        isAgents: security.length > 0 && security.every((way) => "agent" in way),
      })),
  );
}, 60_000);
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(async () => {
  await alice?.agent.close();
  await bob?.agent.close();
  await rest?.close();
});

async function keyOf(body: object): Promise<{ id: string; client: RestClient }> {
  const made = await alice.api.post("/v1/keys", { label: "test", ...body });
  expect(made, JSON.stringify(made.body)).toMatchObject({ status: 201 });
  return { id: made.body.id, client: new RestClient(rest.url, made.body.key) };
}

const callsOf = ({ method, path, name }: Operation) =>
  CALLS[name] ?? (method === "HEAD" ? CALLS[`GET ${path}`] : undefined);

function send(client: RestClient, { method, path }: Operation, call: Call): Promise<Reply> {
  const filled = path.replace(/\{(\w+)\}/g, (_, param: string) =>
    encodeURIComponent(call.params?.[param] ?? "").replaceAll("%2F", param === "key" ? "/" : "%2F"),
  );
  const query = call.query === undefined ? "" : `?${call.query}`;
  const { json, raw } = call;
  return client.call(method, filled + query, { ...(json !== undefined && { json }), ...(raw && { raw }) });
}

/** What a reply says, but for the names that the caller said himself, and what is new in every reply. */
function said({ status, headers, body }: Reply, named: Things): string {
  const kept = ["content-type", "www-authenticate", "etag"].map((name) => headers.get(name) ?? "");
  const shown = body instanceof Buffer ? body.toString("latin1") : (JSON.stringify(body) ?? "");
  let text = [status, ...kept, shown].join("\n");
  for (const [what, value] of Object.entries(named).sort((a, b) => b[1].length - a[1].length))
    text = text.replaceAll(encodeURIComponent(value), `<${what}>`).replaceAll(value, `<${what}>`);
  return text
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "<time>")
    .replace(/ey[\w-]+\.[\w-]+\.[\w-]+/g, "<token>")
    .replace(/"expiresInMs":\d+/g, '"expiresInMs":0');
}

/** Both calls, told apart by nothing. Returns the reply about the real thing. */
async function alike(
  client: RestClient,
  operation: Operation,
  naming: (named: Things, own: Things) => Call,
  own: Things,
): Promise<Reply> {
  const real = naming(alice.things, own);
  const reply = await send(client, operation, real);
  const words = said(reply, alice.things);
  expect(words, `${operation.name} tells something`).not.toContain(MARK);
  const nothing = naming(NOTHING, own);
  if (JSON.stringify(nothing) !== JSON.stringify(real))
    expect(words, `${operation.name} ${JSON.stringify(real)}`).toBe(
      said(await send(client, operation, nothing), NOTHING),
    );
  return reply;
}

/** What an agent's connection writes by itself, when it ends and comes again. */
const CONNECTION = [
  "epoch",
  "boot_id",
  "owner_replica",
  "connected_at",
  "disconnected_at",
  "agent_info",
  "report",
  "floor_seq",
];

/** Every row of every table, as a digest; but for what the service and its agents keep up to date themselves. */
async function rows(): Promise<Set<string>> {
  const { rows: tables } = await rest.database.pool.query<{ name: string }>(
    `SELECT relname AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
     AND relname NOT IN ('replica', 'endpoint_lease', 'webhook_cursor', '_prisma_migrations')`,
  );
  const all = tables.map(
    ({ name }) => `SELECT '${name}' AS name, (to_jsonb(x) - $1::text[])::text AS row FROM "${name}" x`,
  );
  const found = await rest.database.pool.query<{ name: string; row: string }>(all.join(" UNION ALL "), [
    CONNECTION,
  ]);
  return new Set(
    found.rows.map(({ name, row }) => `${name} ${createHash("sha256").update(row).digest("hex")}`),
  );
}
async function entriesSince(seq: number): Promise<{ actor: string; status: number }[]> {
  const found = await rest.database.pool.query("SELECT actor, status FROM audit_entry WHERE seq > $1", [seq]);
  return found.rows;
}
const lastEntry = async (): Promise<number> =>
  Number((await rest.database.pool.query("SELECT max(seq) AS seq FROM audit_entry")).rows[0].seq);
const notAudit = (row: string): boolean => !row.startsWith("audit_entry ");

describe("the list of calls", () => {
  it("has every operation that is not public, and no other", () => {
    const guarded = operations.filter((operation) => !operation.isPublic);
    expect(guarded.filter((operation) => callsOf(operation) === undefined)).toEqual([]);
    const known = new Set(guarded.map(({ name }) => name));
    expect(Object.keys(CALLS).filter((name) => !known.has(name))).toEqual([]);
  });
});

describe("every operation, on what is there and on what is not", () => {
  it.each(["nobody", "an expired key", "a revoked key"])(
    "refuses %s with the same 401, and nothing changes",
    async (who) => {
      const client = { "an expired key": expired, "a revoked key": revoked }[who];
      const before = await rows();
      const words = new Set<string>();
      for (const operation of operations.filter((one) => !one.isPublic)) {
        for (const naming of callsOf(operation)!) {
          const caller = client ?? new RestClient(rest.url, undefined);
          const reply = await alike(caller, operation, naming, alice.things);
          expect(reply.status, operation.name).toBe(401);
          if (operation.method !== "HEAD") words.add(said(reply, NOTHING));
        }
      }
      expect([...words]).toHaveLength(1);
      expect(await rows()).toEqual(before);
    },
  );

  it("refuses a key of the right tenant that has every other scope, whatever it names", async () => {
    for (const scope of SCOPES) {
      const { client } = await keyOf({ scopes: SCOPES.filter((one) => one !== scope) });
      const affected = operations.filter((operation) => operation.scope === scope);
      expect(affected.length, scope).toBeGreaterThan(0);
      const before = await rows();
      const seq = await lastEntry();
      for (const operation of affected) {
        for (const naming of callsOf(operation)!) {
          const reply = await alike(client, operation, naming, alice.things);
          expect(reply.status, operation.name).toBe(403);
          if (operation.method !== "HEAD") expect(reply.body.code, operation.name).toBe("SCOPE_MISSING");
        }
      }
      expect(new Set([...(await rows())].filter(notAudit)), scope).toEqual(
        new Set([...before].filter(notAudit)),
      );
      expect((await entriesSince(seq)).every((entry) => entry.status === 403)).toBe(true);
    }
  });

  it("tells another tenant of nothing, and leaves what it named as it was", async () => {
    const before = [...(await rows())].filter(notAudit);
    const seq = await lastEntry();
    let named = 0;
    for (const operation of operations.filter((one) => !one.isPublic)) {
      for (const naming of callsOf(operation)!) {
        const isNamed =
          JSON.stringify(naming(alice.things, bob.things)) !== JSON.stringify(naming(NOTHING, bob.things));
        // What names nothing is about his own, which has the mark as well.
        if (!isNamed) continue;
        named++;
        const client = operation.isAgents ? new RestClient(rest.url, bob.agent.token) : bob.api;
        await alike(client, operation, naming, bob.things);
      }
    }
    expect(named).toBeGreaterThan(60);
    const after = await rows();
    // His own bucket of that name is another, and what he wrote there is his. So are his teams, which the epoch counts.
    const gone = before.filter((row) => !after.has(row) && !row.startsWith("access_epoch "));
    expect(gone).toEqual([]);
    expect((await entriesSince(seq)).filter((entry) => entry.actor !== "bob")).toEqual([]);
    const { things } = alice;
    expect((await alice.api.get(`/v1/tasks/${things.open}`)).body.state).not.toBe("CANCELLED");
    expect((await alice.api.get(`/v1/objects/${things.bucket}/${things.object}`)).status).toBe(200);
  });

  it("tells an agent of another tenant nothing of tasks, payloads and functions that it was not sent", async () => {
    const client = new RestClient(rest.url, bob.agent.token);
    for (const name of [
      "POST /v1/tasks/{id}/token",
      "POST /v1/tasks/{id}/secrets",
      "GET /v1/payloads/{digest}",
    ]) {
      const operation = operations.find((one) => one.name === name)!;
      for (const naming of CALLS[name]!) {
        const reply = await alike(client, operation, naming, bob.things);
        expect(reply.status, name).toBe(404);
      }
    }
  });
});

/**
 * What came back at a link, in whichever order, but for what the caller said himself and what is of his own task
 * `control`.
 */
function heard(peer: FramePeer, named: Things, control = ""): string {
  const told = peer.frames.filter(({ t }) => !["welcome", "credit", "mark", "pong", "progress"].includes(t));
  // Who knows a group's random id made it, or was told: a link that names a new one makes it, so that one word differs.
  const others = told.filter((frame) => frame.t !== "problem" || frame.code !== "GROUP_NOT_FOUND");
  const lines = others.map((frame) =>
    JSON.stringify(
      Object.entries(frame).map(([key, value]) => [
        key,
        value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value,
      ]),
    ),
  );
  let text = lines
    .filter((line) => control === "" || !line.includes(control))
    .sort()
    .join("\n");
  for (const [what, value] of Object.entries(named))
    for (const written of [value, value.replaceAll("-", "")]) text = text.replaceAll(written, `<${what}>`);
  return text;
}

const column = (...ids: string[]): Buffer => keysToColumn(ids.map((id) => uuidToKey(id)!));
const none = Buffer.from("[[],{}]");

/** Every frame that asks something, about what is named. One that is missing fails. */
const CLIENT_CALLS: Readonly<Record<string, (named: Things, own: Things) => Frame[]>> = {
  tasks: (named, own) => {
    const submit = (endpointId: string, fn: string, group: Buffer) =>
      tasksFrame(
        { endpointId, fn: Buffer.from(fn, "hex"), args: [none] },
        [newTaskKey()],
        group,
      ) as unknown as Frame;
    const group = newBatchGroup();
    return [
      submit(named.endpoint, own.function, group),
      submit(own.endpoint, named.function, group),
      submit(named.endpoint, named.function, group),
    ];
  },
  watch: (named) => [
    { t: "watch", group: column(named.group) },
    { t: "watch", group: newBatchGroup(), ids: column(named.task, named.open) },
  ],
  cancel: (named) => [
    { t: "cancel", ids: column(named.open, named.task) },
    { t: "cancel", ids: column(named.open), why: "unbegun" } as Frame,
  ],
};
const AGENT_CALLS: Readonly<Record<string, (named: Things) => Frame[]>> = {
  results: ({ open: id }) => [
    {
      t: "results",
      n: 1,
      ids: column(id),
      codecs: 1,
      ends: Buffer.from([4, 0, 0, 0]),
      data: Buffer.from("null"),
      states: Buffer.from([1]),
      reasons: Buffer.from([0]),
    } as unknown as Frame,
  ],
  returned: ({ open: id }) => [{ t: "returned", ids: column(id) }],
  progress: ({ open: id }) => [
    { t: "progress", ids: column(id), kind: "started" },
    { t: "progress", ids: column(id), kind: "progress", done: 1, total: 2 },
  ],
  output: ({ open: id }) => [
    buildOutput([{ key: uuidToKey(id)!, attempt: 1, stream: 1, at: 0, data: Buffer.from(MARK) }]),
  ],
  need: (named) => [{ t: "need", functions: [Buffer.from(named.function, "hex")] }],
};
const newTaskKey = (): string =>
  Buffer.concat([newBatchId().subarray(0, 13), Buffer.alloc(3)]).toString("latin1");
const newBatchGroup = (): Buffer => newBatchId();

async function knock(path: string, token: string): Promise<FramePeer> {
  const all = [
    "welcome",
    "refuse",
    "credit",
    "mark",
    "results",
    "refused",
    "progress",
    "pong",
    "bye",
  ] as const;
  const more = ["tasks", "functions", "cancel", "unknown", "ping", "drain", "problem"] as const;
  const peer = await FramePeer.open(
    { url: rest.url, path, token, kinds: new Set([...all, ...more]) },
    () => undefined,
  );
  open.push(peer);
  peer.send(path === limits.CLIENT_LINK_PATH ? clientHello() : agentHello());
  await peer.until(() => peer.of("welcome").length > 0, "the welcome");
  return peer;
}

describe("every frame", () => {
  let hostile: EchoEndpoint;
  let away: string;

  beforeAll(async () => {
    hostile = await makeEchoEndpoint(bob.api, "hostile");
    away = (await bob.api.post("/v1/endpoints", { name: "away" })).body.id;
  });

  it("that asks something is in the lists here", () => {
    const asking = (policies: object): string[] =>
      Object.entries(policies).flatMap(([kind, policy]) => (policy === "link" ? [] : [kind]));
    expect(Object.keys(CLIENT_CALLS).sort()).toEqual(asking(CLIENT_FRAMES).sort());
    expect(Object.keys(AGENT_CALLS).sort()).toEqual(asking(AGENT_FRAMES).sort());
  });

  /** Sends the frames about `named`, and then a task of the caller's own and its cancel: heard of that, all has been answered. */
  async function tell(key: string, kinds: readonly string[], named: Things): Promise<string> {
    const peer = await knock(limits.CLIENT_LINK_PATH, key);
    const frames = kinds.flatMap((kind) => CLIENT_CALLS[kind]!(named, bob.things));
    for (const frame of frames) peer.send(frame);
    const group = newBatchGroup();
    const control = newTaskKey();
    peer.send({ t: "watch", group });
    const fn = Buffer.from(bob.things.function, "hex");
    peer.send(tasksFrame({ endpointId: away, fn, args: [none] }, [control], group));
    const tasks = frames.filter(({ t }) => t === "tasks").length + 1;
    await peer.until(() => (peer.of("mark").at(-1)?.durable ?? 0) >= tasks, "the durable mark", 20_000);
    const ids = Buffer.from(control, "latin1");
    peer.send({ t: "cancel", ids });
    const has = (t: "results") => peer.of(t).some((frame) => frame.ids.includes(ids));
    await peer.until(() => has("results"), "the end of the caller's own task", 20_000);
    return heard(peer, named, ids.toString("hex"));
  }

  it("of a client about another tenant's things is answered as about nothing, and changes nothing", async () => {
    const before = [...(await rows())].filter(notAudit);
    const kinds = Object.keys(CLIENT_CALLS);
    const real = await tell(bob.api.credential!, kinds, alice.things);
    expect(real).toContain("ENDPOINT_NOT_FOUND");
    expect(real).not.toContain(MARK);
    expect(real).toBe(await tell(bob.api.credential!, kinds, NOTHING));
    const after = await rows();
    expect(before.filter((row) => !after.has(row))).toEqual([]);
  });

  it("of a client without its scope is refused whatever it names, and nobody else is let in at all", async () => {
    for (const [kind, policy] of Object.entries(CLIENT_FRAMES)) {
      if (typeof policy !== "object") continue;
      const { client } = await keyOf({ scopes: SCOPES.filter((scope) => scope !== policy.scope) });
      const before = [...(await rows())].filter(notAudit);
      const answers: string[] = [];
      for (const named of [alice.things, NOTHING]) {
        const peer = await knock(limits.CLIENT_LINK_PATH, client.credential!);
        for (const frame of CLIENT_CALLS[kind]!(named, alice.things)) peer.send(frame);
        const asked = () => peer.of("refused").length + peer.of("problem").length;
        await peer.until(() => asked() > 0 || peer.closedWith !== undefined, `the refusal of ${kind}`);
        await peer.close();
        answers.push(heard(peer, named));
      }
      expect(answers[0], kind).toContain("SCOPE_MISSING");
      expect(answers[0], kind).toBe(answers[1]);
      expect([...(await rows())].filter(notAudit), kind).toEqual(before);
    }
    for (const path of [limits.CLIENT_LINK_PATH, limits.AGENT_LINK_PATH]) {
      for (const token of ["", expired.credential!, revoked.credential!])
        await expect(knock(path, token), path).rejects.toThrow("401");
    }
  });

  it("of an agent about tasks that it was not sent is answered as about nothing, and changes nothing", async () => {
    const before = [...(await rows())].filter(notAudit);
    const answers: string[] = [];
    for (const named of [alice.things, NOTHING]) {
      const token = await agentToken(rest.url, hostile.id, hostile.keys.privateKey);
      const peer = await knock(limits.AGENT_LINK_PATH, token);
      for (const frame of Object.values(AGENT_CALLS).flatMap((frames) => frames(named))) peer.send(frame);
      // Frames are read in order; of results it is the mark that says that they are dealt with.
      await peer.until(() => (peer.of("mark").at(-1)?.durable ?? 0) >= 1, "the mark of the result", 20_000);
      peer.send({ t: "ping", n: 7 });
      await peer.until(() => peer.of("pong").length > 0, "the pong");
      expect(peer.closedWith).toBeUndefined();
      await peer.close();
      answers.push(heard(peer, named));
    }
    expect(answers[0]).toBe(answers[1]);
    const after = await rows();
    const isOwn = (row: string): boolean => row.startsWith("endpoint ") || row.startsWith("endpoint_lease ");
    expect(before.filter((row) => !isOwn(row) && !after.has(row))).toEqual([]);
    expect((await alice.api.get(`/v1/tasks/${alice.things.open}`)).body.endedAt).toBeUndefined();
  });
});
