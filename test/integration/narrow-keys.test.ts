/**
 * Keys that are for one function at one endpoint: what they reach over REST and on a link, and what they never do; and
 * that a revocation ends connections that are open, at every replica, whether hints arrive or not.
 */
import { keyToUuid } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient } from "../support/link-client.js";
import type { RestClient } from "../support/rest-client.js";

const START_MS = 90_000;
const HEARD_MS = 5_000;
const none = Buffer.from("[[],{}]");
const open: { close(): Promise<void> }[] = [];

let fabric: Fabric;
let a: ServiceProcess;
let b: ServiceProcess;
let api: RestClient;

beforeAll(async () => {
  fabric = await Fabric.open();
  a = await fabric.service();
  b = await fabric.service();
  await Promise.all([a.line("the replicas have changed"), b.line("the replicas have changed")]);
  api = fabric.api(a.url);
}, START_MS);
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric?.close(), START_MS);

async function makeKey(
  body: object,
): Promise<{ id: string; key: string; expiresAt: string; scopes: string[] }> {
  const made = await api.post("/v1/keys", { label: "test", ...body });
  expect(made, JSON.stringify(made.body)).toMatchObject({ status: 201 });
  return made.body;
}
async function link(url: string, key: string, group?: Buffer): Promise<LinkClient> {
  const client = await LinkClient.connect(url, key, group);
  open.push(client);
  return client;
}

describe("a key for one function at one endpoint", () => {
  let near: EchoEndpoint;
  let far: EchoEndpoint;
  let measure: Buffer;
  let other: Buffer;
  let instrument: RestClient;
  let key: string;
  /** A task of the owner's that the key could not have submitted. */
  let hidden: string;
  const agents: EchoAgent[] = [];

  beforeAll(async () => {
    near = await makeEchoEndpoint(api, "near");
    far = await makeEchoEndpoint(api, "far");
    for (const endpoint of [near, far]) agents.push(await EchoAgent.connect(a.url, endpoint));
    measure = await fabric.register(a.url, { name: "measure" });
    other = await fabric.register(a.url, {
      name: "other",
      description: "",
      code: "def f(*args):\n    return 2\n",
    });
    key = (await makeKey({ endpoints: ["near"], functions: ["measure"] })).key;
    instrument = fabric.api(a.url, key);
    const done = await api.post("/v1/tasks?wait=30", { function: "other", endpoint: "near" });
    expect(done.body.state).toBe("SUCCEEDED");
    hidden = done.body.id;
  }, START_MS);
  afterAll(async () => {
    for (const agent of agents) await agent.close();
  });

  it("submits that, reads its result, and says what it is for", async () => {
    const done = await instrument.post("/v1/tasks?wait=30", {
      function: "measure",
      endpoint: "near",
      args: [7],
    });
    expect(done.body).toMatchObject({ state: "SUCCEEDED", result: [[7], {}] });
    expect((await instrument.get(`/v1/tasks/${done.body.id}`)).status).toBe(200);
    expect((await instrument.get("/v1/me")).body).toMatchObject({ owner: "me", admin: false });
    const [mine] = (await api.get("/v1/keys")).body.items;
    expect(mine).toMatchObject({ endpoints: [near.id], functions: ["me/measure"] });
  });

  it("finds no other endpoint and no other function, with the words of an unknown id", async () => {
    const unknown = "00000000-0000-7000-8000-000000000000";
    const refused = async (body: object) => (await instrument.post("/v1/tasks", body)).body;
    const [no, elsewhere] = [
      await refused({ function: "measure", endpoint: unknown }),
      await refused({ function: "measure", endpoint: far.id }),
    ];
    expect(elsewhere).toEqual({
      ...no,
      detail: no.detail.replace(unknown, far.id),
      instance: elsewhere.instance,
    });
    expect((await refused({ function: "other", endpoint: "near" })).code).toBe("FUNCTION_NOT_FOUND");
    expect((await instrument.get("/v1/endpoints/far")).body.code).toBe("ENDPOINT_NOT_FOUND");
    expect((await instrument.get("/v1/functions/other/code")).body.code).toBe("FUNCTION_NOT_FOUND");
    const names = async (path: string) =>
      (await instrument.get(path)).body.items.map((i: { name: string }) => i.name);
    expect(await names("/v1/endpoints")).toEqual(["near"]);
    expect(await names("/v1/functions")).toEqual(["measure"]);
  });

  it("sees none of its owner's other tasks, by no route", async () => {
    expect((await instrument.get(`/v1/tasks/${hidden}`)).body.code).toBe("TASK_NOT_FOUND");
    expect((await instrument.get(`/v1/tasks/${hidden}/result`)).body.code).toBe("TASK_NOT_FOUND");
    expect((await instrument.post(`/v1/tasks/${hidden}/cancel`, {})).body.code).toBe("TASK_NOT_FOUND");
    expect((await instrument.post("/v1/tasks/status", { ids: [hidden] })).body).toEqual({
      tasks: [],
      missing: [hidden],
    });
    expect((await instrument.post("/v1/tasks/cancel", { ids: [hidden] })).body).toMatchObject({
      missing: [hidden],
    });
    const { items } = (await instrument.get("/v1/tasks")).body;
    expect(items.length).toBeGreaterThan(0);
    expect(new Set(items.map((task: { function: string }) => task.function))).toEqual(
      new Set(["me/measure@1"]),
    );
  });

  it("is not taken where narrow keys are not spoken of, and asks for no task's own token", async () => {
    for (const path of ["/v1/groups", `/v1/groups/${hidden}`]) {
      expect((await instrument.get(path)).body.code, path).toBe("KEY_NARROW");
    }
    expect((await instrument.post("/v1/tasks/cancel", { group: hidden })).body.code).toBe("KEY_NARROW");
    for (const path of ["/v1/keys", "/v1/objects/bucket"]) {
      expect((await instrument.get(path)).status, path).toBe(403);
    }
    const nested = { function: "measure", endpoint: "near", options: { nested: true } };
    expect((await instrument.post("/v1/tasks", nested)).body.code).toBe("KEY_NARROW");
  });

  it("gives its access tokens no more than it has", async () => {
    const { token } = (await instrument.post("/v1/tokens")).body;
    const call = { function: "measure", endpoint: "far" };
    expect((await fabric.api(a.url, token).post("/v1/tasks", call)).body.code).toBe("ENDPOINT_NOT_FOUND");
  });

  it("reaches as far on a link, and hears of nothing else there", async () => {
    const wide = await link(a.url, fabric.key);
    const client = await link(b.url, key, wide.group);
    await client.untilOutcomes(client.submit({ endpointId: near.id, fn: measure, args: [none, none] }));
    client.submit({ endpointId: far.id, fn: measure, args: [none] });
    client.submit({ endpointId: near.id, fn: other, args: [none] });
    await client.untilDurable();
    expect(client.refusals.map((refusal) => refusal.code)).toEqual([
      "ENDPOINT_NOT_FOUND",
      "FUNCTION_NOT_FOUND",
    ]);
    // The owner's own tasks end in the same group, and the key asks for them, cancels them and takes their ids.
    const keys = wide.submit({ endpointId: near.id, fn: other, args: [none, none] });
    await wide.untilOutcomes(keys);
    client.watch(keys);
    client.submit({ endpointId: near.id, fn: measure, args: [none, none], keys, again: true });
    const last = client.submit({ endpointId: near.id, fn: measure, args: [none] });
    await client.untilOutcomes(last);
    expect(keys.filter((id) => client.outcomes.has(id))).toEqual([]);
    const { rows } = await fabric.database.pool.query(
      "SELECT count(*)::int AS n FROM task WHERE id = ANY($1::uuid[])",
      [keys.map(keyToUuid)],
    );
    expect(rows[0].n).toBe(2);
  });

  it("gets what it submitted again, and asks for after a new connection", async () => {
    const first = await link(a.url, key);
    const keys = first.submit({ endpointId: near.id, fn: measure, args: [none, none, none] });
    await first.untilOutcomes(keys);
    const second = await link(b.url, key, first.group);
    second.submit({ endpointId: near.id, fn: measure, args: [none, none, none], keys, again: true });
    await second.untilOutcomes(keys);
    const third = await link(a.url, key, first.group);
    third.watch(keys);
    await third.untilOutcomes(keys);
  });
});

describe("making a key", () => {
  it("takes 90 days where nobody says, and never more than 366", async () => {
    const days = async (body: object) =>
      Math.round((Date.parse((await makeKey(body)).expiresAt) - Date.now()) / 86_400_000);
    expect(await days({})).toBe(90);
    expect(await days({ expiresInDays: 366 })).toBe(366);
    expect((await api.post("/v1/keys", { label: "x", expiresInDays: 367 })).status).toBe(400);
  });

  it("gives a narrow one the scopes that it can use, and no others", async () => {
    const narrow = await makeKey({ functions: ["*"] });
    expect(narrow.scopes.toSorted()).toEqual([
      "endpoints:read",
      "functions:read",
      "tasks:cancel",
      "tasks:read",
      "tasks:submit",
    ]);
    for (const scope of [
      "keys:write",
      "functions:write",
      "endpoints:write",
      "objects:read",
      "metrics:read",
    ]) {
      const body = { label: "x", functions: ["f"], scopes: [scope] };
      expect((await api.post("/v1/keys", body)).body.code, scope).toBe("REQUEST_INVALID");
    }
    expect((await api.post("/v1/keys", { label: "x", functions: ["a b"] })).body.code).toBe(
      "REQUEST_INVALID",
    );
    expect((await api.post("/v1/keys", { label: "x", endpoints: ["nowhere"] })).body.code).toBe(
      "ENDPOINT_NOT_FOUND",
    );
  });
});

describe("a revoked key", () => {
  it("ends the connections that are open with it at both replicas within 5 s, and no others", async () => {
    const { id, key } = await makeKey({});
    const gone = [await link(a.url, key), await link(b.url, key)];
    const stays = [await link(a.url, fabric.key), await link(b.url, fabric.key)];
    const startedAt = performance.now();
    expect((await api.delete(`/v1/keys/${id}`)).status).toBe(204);
    for (const client of gone) {
      await client.peer.until(() => client.peer.of("bye").length > 0, "the goodbye");
      expect(client.peer.of("bye")[0]).toMatchObject({ code: "CREDENTIAL_REVOKED" });
    }
    expect(performance.now() - startedAt).toBeLessThan(HEARD_MS);
    for (const client of stays) expect(client.peer.of("bye")).toEqual([]);
    for (const { url } of [a, b]) expect((await fabric.api(url, key).get("/v1/me")).status).toBe(401);
  });

  it(
    "ends them also where no hint tells of it: in a replica without hints, and by a statement in the database",
    async () => {
      const deaf = await fabric.service({ FARLOOM_PLANT: "notify-is-truth", FARLOOM_TEST_ONLY: "1" });
      const { id, key } = await makeKey({});
      const gone = [await link(a.url, key), await link(b.url, key), await link(deaf.url, key)];
      const startedAt = performance.now();
      await fabric.database.pool.query("UPDATE api_key SET revoked_at = now() WHERE id = $1", [id]);
      for (const client of gone)
        await client.peer.until(() => client.peer.of("bye").length > 0, "the goodbye");
      expect(performance.now() - startedAt).toBeLessThan(HEARD_MS);
    },
    START_MS,
  );
});
