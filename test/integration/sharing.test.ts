/**
 * Endpoints and functions that several people share: who may do what, over REST and on links alike, what is told to
 * those who may not, and that a task is asked about again when it is sent to the agent.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { keyToUuid, limits } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { agentToken } from "../support/fake-agent.js";
import { LinkClient } from "../support/link-client.js";
import type { Reply, RestClient } from "../support/rest-client.js";

const START_MS = 90_000;
const HEARD_MS = 5_000;
/** What is remembered of access holds for less. */
const TRUSTED_MS = 4_500;
const WAIT_MS = 30_000;
const none = Buffer.from("[[],{}]");
const open: { close(): Promise<void> }[] = [];

let fabric: Fabric;
let a: ServiceProcess;
let b: ServiceProcess;
/** The owner of everything here, and the others by name. */
let owner: RestClient;
const people: Record<string, RestClient> = {};
let endpoint: EchoEndpoint;
let agent: EchoAgent;
let names = 0;

beforeAll(async () => {
  fabric = await Fabric.open();
  a = await fabric.service();
  b = await fabric.service();
  await Promise.all([a.line("the replicas have changed"), b.line("the replicas have changed")]);
  owner = fabric.api(a.url, await fabric.keyOf(a.url, "ann"));
  for (const name of ["ivy", "vic", "mia", "sam"])
    people[name] = fabric.api(a.url, await fabric.keyOf(a.url, name));
  endpoint = await makeEchoEndpoint(owner, "lab");
  agent = await EchoAgent.connect(a.url, endpoint);
  for (const name of ["f", "g"]) {
    const code = `def f(*args):\n    return "${name}"\n`;
    const made = await owner.post("/v1/functions", { name, runtime: "python", entry: "f", code });
    expect(made.status).toBe(201);
    expect((await share(name, { visibility: "public" })).status).toBe(200);
  }
}, START_MS);
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(async () => {
  await agent?.close();
  await fabric?.close();
}, START_MS);

const put = (who: RestClient, path: string, json: object): Promise<Reply> => who.call("PUT", path, { json });
const allow = (entry: object, of = "lab", who = owner): Promise<Reply> =>
  put(who, `/v1/endpoints/${encodeURIComponent(of)}/access`, entry);
const share = (fn: string, body: object, who = owner): Promise<Reply> =>
  put(who, `/v1/functions/${fn}/sharing`, body);
const call = { function: "ann/f", endpoint: "ann/lab" };
const idOf = async (ref: string, who = owner): Promise<Buffer> =>
  Buffer.from((await who.get(`/v1/functions/${encodeURIComponent(ref)}`)).body.id, "hex");
async function link(url: string, key: string): Promise<LinkClient> {
  const client = await LinkClient.connect(url, key);
  open.push(client);
  return client;
}
/** What becomes of one call on a link: SUCCEEDED, or the code of the refusal. */
async function byLink(key: string, fn: Buffer, endpointId = endpoint.id): Promise<string> {
  const client = await link(a.url, key);
  const keys = client.submit({ endpointId, fn, args: [none] });
  await client.untilDurable();
  if (client.refusals[0]) return client.refusals[0].code;
  return (await client.untilOutcomes(keys, WAIT_MS))[0]!.state;
}

describe("who may do what", () => {
  const unknown = "00000000-0000-7000-8000-000000000000";
  const narrowed = async (body: object): Promise<RestClient> => {
    const made = await people.ivy!.post("/v1/keys", { label: "narrow", ...body });
    expect(made, JSON.stringify(made.body)).toMatchObject({ status: 201 });
    return fabric.api(a.url, made.body.key);
  };
  /** In the order of the columns below. */
  const callers: Record<string, RestClient> = {};

  beforeAll(async () => {
    expect((await allow({ person: "ivy", allow: "invoke" })).status).toBe(200);
    expect((await allow({ person: "vic", allow: "view" })).status).toBe(200);
    expect((await allow({ person: "mia", allow: "manage" })).status).toBe(200);
    const other = await makeEchoEndpoint(people.ivy!, "other");
    const [expired, revoked] = [
      await people.ivy!.post("/v1/keys", { label: "x" }),
      await people.ivy!.post("/v1/keys", { label: "y" }),
    ];
    await fabric.database.pool.query("UPDATE api_key SET expires_at = now() WHERE id = $1", [
      expired.body.id,
    ]);
    expect((await people.ivy!.delete(`/v1/keys/${revoked.body.id}`)).status).toBe(204);
    Object.assign(callers, {
      owner,
      manager: people.mia,
      invoker: people.ivy,
      viewer: people.vic,
      stranger: people.sam,
      expired: fabric.api(a.url, expired.body.key),
      revoked: fabric.api(a.url, revoked.body.key),
      elsewhere: await narrowed({ endpoints: [other.id] }),
      otherwise: await narrowed({ functions: ["ann/g"] }),
      exactly: await narrowed({ endpoints: [endpoint.id], functions: ["ann/f"] }),
    });
  }, START_MS);

  const OK = "ok";
  const operations: [string, (who: RestClient) => Promise<Reply>, Record<string, string>][] = [
    [
      "see the endpoint",
      (who) => who.get("/v1/endpoints/ann%2Flab"),
      {
        ...{ owner: OK, manager: OK, invoker: OK, viewer: OK, exactly: OK, otherwise: OK },
        ...{ stranger: "ENDPOINT_NOT_FOUND", elsewhere: "ENDPOINT_NOT_FOUND" },
      },
    ],
    [
      "submit to it",
      (who) => who.post(`/v1/tasks?wait=30`, { ...call, endpoint: endpoint.id }),
      {
        ...{ owner: OK, manager: OK, invoker: OK, viewer: "ACCESS_DENIED", exactly: OK },
        ...{
          stranger: "ENDPOINT_NOT_FOUND",
          elsewhere: "ENDPOINT_NOT_FOUND",
          otherwise: "FUNCTION_NOT_FOUND",
        },
      },
    ],
    [
      "see who uses it",
      (who) => who.get(`/v1/endpoints/${endpoint.id}/access`),
      {
        ...{
          owner: OK,
          manager: OK,
          invoker: "ACCESS_DENIED",
          viewer: "ACCESS_DENIED",
          stranger: "ENDPOINT_NOT_FOUND",
        },
        ...{ exactly: "KEY_NARROW", elsewhere: "KEY_NARROW", otherwise: "KEY_NARROW" },
      },
    ],
    [
      "say who uses it",
      (who) => allow({ person: "vic", allow: "view" }, endpoint.id, who),
      {
        ...{
          owner: OK,
          manager: OK,
          invoker: "ACCESS_DENIED",
          viewer: "ACCESS_DENIED",
          stranger: "ENDPOINT_NOT_FOUND",
        },
        ...{ exactly: "KEY_NARROW", elsewhere: "KEY_NARROW", otherwise: "KEY_NARROW" },
      },
    ],
    [
      "say who manages it",
      (who) => allow({ person: "mia", allow: "manage" }, endpoint.id, who),
      {
        ...{ owner: OK, manager: "ACCESS_DENIED", invoker: "ACCESS_DENIED", viewer: "ACCESS_DENIED" },
        ...{
          stranger: "ENDPOINT_NOT_FOUND",
          exactly: "KEY_NARROW",
          elsewhere: "KEY_NARROW",
          otherwise: "KEY_NARROW",
        },
      },
    ],
    [
      "give it to another agent",
      (who) => who.post(`/v1/endpoints/${endpoint.id}/enrolment-code`, {}),
      {
        ...{ owner: OK, manager: "ACCESS_DENIED", invoker: "ACCESS_DENIED", viewer: "ACCESS_DENIED" },
        ...{
          stranger: "ENDPOINT_NOT_FOUND",
          exactly: "KEY_NARROW",
          elsewhere: "KEY_NARROW",
          otherwise: "KEY_NARROW",
        },
      },
    ],
    [
      "see the function",
      (who) => who.get("/v1/functions/ann%2Ff/code"),
      {
        ...{ owner: OK, manager: OK, invoker: OK, viewer: OK, stranger: OK, exactly: OK, elsewhere: OK },
        otherwise: "FUNCTION_NOT_FOUND",
      },
    ],
    [
      "take the function away",
      (who) => who.delete("/v1/functions/ann%2Fg@7"),
      {
        ...{ owner: "FUNCTION_NOT_FOUND", manager: "FUNCTION_NOT_FOUND", invoker: "FUNCTION_NOT_FOUND" },
        ...{ viewer: "FUNCTION_NOT_FOUND", stranger: "FUNCTION_NOT_FOUND" },
        ...{ exactly: "KEY_NARROW", elsewhere: "KEY_NARROW", otherwise: "KEY_NARROW" },
      },
    ],
  ];
  it.each(operations)("%s: those who may, and nobody else", async (_what, operation, expected) => {
    for (const [name, who] of Object.entries(callers)) {
      const reply = await operation(who);
      const seen = reply.status < 300 ? OK : reply.body.code;
      const wanted = name === "expired" || name === "revoked" ? "UNAUTHENTICATED" : expected[name];
      expect(seen, `${name}: ${JSON.stringify(reply.body)?.slice(0, 200)}`).toBe(wanted);
    }
  });

  it("says to a stranger of what is there what it says of what is not", async () => {
    const there = (await people.sam!.get(`/v1/endpoints/${endpoint.id}`)).body;
    const not = (await people.sam!.get(`/v1/endpoints/${unknown}`)).body;
    expect({ ...there, detail: there.detail.replace(endpoint.id, unknown) }).toEqual(not);
    expect((await people.sam!.get("/v1/endpoints")).body.items).toEqual([]);
  });

  it("decides alike on a link", async () => {
    const f = await idOf("f");
    expect(await byLink(owner.credential!, f)).toBe("SUCCEEDED");
    expect(await byLink(people.ivy!.credential!, f)).toBe("SUCCEEDED");
    expect(await byLink(people.vic!.credential!, f)).toBe("ACCESS_DENIED");
    expect(await byLink(people.sam!.credential!, f)).toBe("ENDPOINT_NOT_FOUND");
    expect(await byLink(callers.elsewhere!.credential!, f)).toBe("ENDPOINT_NOT_FOUND");
    expect(await byLink(callers.otherwise!.credential!, f)).toBe("FUNCTION_NOT_FOUND");
    expect(await byLink(callers.exactly!.credential!, f)).toBe("SUCCEEDED");
  });

  it("lists what is shared with one, and with what level", async () => {
    const { items } = (await people.ivy!.get("/v1/endpoints")).body;
    expect(
      items.map((e: { owner: string; name: string; access: string }) => [e.owner, e.name, e.access]),
    ).toEqual([
      ["ann", "lab", "invoke"],
      ["ivy", "other", "own"],
    ]);
    const refs = async (path: string) =>
      (await people.sam!.get(path)).body.items.map((i: { ref: string }) => i.ref);
    expect(await refs("/v1/functions")).toEqual([]);
    expect(await refs("/v1/functions?public=true")).toEqual(["ann/g@1", "ann/f@1"]);
  });

  it("keeps tasks and results their submitter's: neither the owner nor a manager sees them", async () => {
    const done = await people.ivy!.post("/v1/tasks?wait=30", { ...call, args: ["secret"] });
    expect(done.body).toMatchObject({ state: "SUCCEEDED", function: "ann/f@1", result: [["secret"], {}] });
    for (const who of [owner, people.mia!]) {
      expect((await who.get(`/v1/tasks/${done.body.id}`)).status).toBe(404);
      expect(JSON.stringify((await who.get("/v1/tasks")).body)).not.toContain(done.body.id);
    }
    expect((await people.mia!.get("/v1/endpoints/ann%2Flab")).body).toMatchObject({
      access: "manage",
      leased: 0,
    });
  });

  it("carries large arguments to the agent and large results back, and to nobody else", async () => {
    const bytes = Buffer.from(JSON.stringify([["x".repeat(limits.MAX_INLINE_BYTES)], {}]));
    const digest = createHash("sha256").update(bytes).digest("hex");
    const quiet = await makeEchoEndpoint(owner, `large-${++names}`);
    await allow({ person: "ivy", allow: "invoke" }, quiet.name);
    expect((await people.ivy!.call("PUT", `/v1/payloads/${digest}`, { raw: bytes })).status).toBe(201);
    const body = { function: "ann/f", endpoint: quiet.id, payload: { digest, codec: "json" } };
    const { id } = (await people.ivy!.post("/v1/tasks", body)).body;
    // Its connection is at the other replica than what it asks.
    const worker = await EchoAgent.connect(b.url, quiet, { onTask: () => undefined });
    open.push(worker);
    await worker.untilReceived(1);
    const token = await agentToken(a.url, quiet.id, quiet.keys.privateKey);
    const stranger = await agentToken(a.url, endpoint.id, endpoint.keys.privateKey);
    const read = (credential: string) => fabric.api(a.url, credential).get(`/v1/payloads/${digest}`);
    expect((await read(token)).status).toBe(200);
    expect((await read(stranger)).status, "another agent of the same owner").toBe(404);
    expect((await read(owner.credential!)).status).toBe(404);
    // The agent answers with a file that it puts, as for every large result.
    const result = Buffer.from(JSON.stringify("y".repeat(limits.MAX_INLINE_BYTES)));
    const hex = createHash("sha256").update(result).digest("hex");
    expect((await fabric.api(a.url, token).call("PUT", `/v1/payloads/${hex}`, { raw: result })).status).toBe(
      201,
    );
    const reference = Buffer.alloc(40);
    Buffer.from(hex, "hex").copy(reference);
    reference.writeBigUInt64LE(BigInt(result.length), 32);
    await fabric.database.pool.query(
      `INSERT INTO outcome (task_id, state, reason, attempt, result, codec, queue_us, run_us, cpu_us, peak_kb)
       VALUES ($1, 1, 0, 1, $2, 129, 0, 0, 0, 0)`,
      [id, reference],
    );
    expect((await people.ivy!.get(`/v1/tasks/${id}/result`)).status).toBe(200);
    expect((await people.ivy!.get(`/v1/payloads/${hex}`)).status).toBe(200);
    expect((await people.sam!.get(`/v1/payloads/${hex}`)).status).toBe(404);
    const arrived = worker.received.length;
    const calls = await link(a.url, people.ivy!.credential!);
    const theirs = Buffer.from(JSON.stringify("ann's own".repeat(limits.MAX_INLINE_BYTES / 8)));
    const private_ = createHash("sha256").update(theirs).digest();
    expect(
      (await owner.call("PUT", `/v1/payloads/${private_.toString("hex")}`, { raw: theirs })).status,
    ).toBe(201);
    const args = [reference, Buffer.concat([private_, reference.subarray(32)])];
    calls.submit({ endpointId: quiet.id, fn: await idOf("f"), args, codec: 129 });
    await worker.untilReceived(arrived + 2);
    const readAs = (of: string) => fabric.api(a.url, token).get(`/v1/payloads/${of}`);
    expect((await readAs(hex)).status, "a result of hers as an argument").toBe(200);
    expect((await readAs(private_.toString("hex"))).status, "what she may not read herself").toBe(404);
    worker.reply(worker.received, {});
    await worker.untilDurable();
    expect((await read(token)).status, "the task is over").toBe(404);
  });
});

describe("teams", () => {
  it("give and take access with membership, within 5 s at another replica", async () => {
    expect((await owner.post("/v1/teams", { name: "crew" })).status).toBe(201);
    expect((await owner.post("/v1/teams", { name: "crew" })).body.code).toBe("TEAM_EXISTS");
    const { name } = await makeEchoEndpoint(owner, `team-${++names}`);
    expect((await allow({ team: "crew", allow: "invoke" }, name)).status).toBe(200);
    const sam = fabric.api(b.url, people.sam!.credential);
    const see = async () => (await sam.get(`/v1/endpoints/ann%2F${name}`)).status;
    expect(await see()).toBe(404);
    expect((await put(owner, "/v1/teams/crew/members/sam", {})).status).toBe(204);
    await expect.poll(see, { timeout: HEARD_MS, interval: 100 }).toBe(200);
    expect((await sam.get("/v1/teams")).body.items).toMatchObject([{ name: "crew", owner: "ann" }]);
    expect((await put(sam, "/v1/teams/ann%2Fcrew/members/vic", {})).body.code).toBe("ACCESS_DENIED");
    expect((await people.vic!.get("/v1/teams/ann%2Fcrew")).body.code).toBe("TEAM_NOT_FOUND");
    expect((await owner.delete("/v1/teams/crew/members/sam")).status).toBe(204);
    await expect.poll(see, { timeout: HEARD_MS, interval: 100 }).toBe(404);
    expect((await put(owner, "/v1/teams/crew/members/nobody", {})).body.code).toBe("PERSON_NOT_FOUND");
  });

  it("lose to a denial, of one person or of a level, whatever else allows it", async () => {
    const { name, id } = await makeEchoEndpoint(owner, `deny-${++names}`);
    expect((await owner.post("/v1/teams", { name: "all" })).status).toBe(201);
    for (const person of ["ivy", "vic"]) await put(owner, `/v1/teams/all/members/${person}`, {});
    await allow({ team: "all", allow: "manage" }, name);
    const access = async (who: RestClient) => (await who.get(`/v1/endpoints/${id}`)).body.access;
    expect([await access(people.ivy!), await access(people.vic!)]).toEqual(["manage", "manage"]);
    await allow({ person: "ivy", deny: "invoke" }, name);
    await allow({ person: "vic", allow: "manage", deny: "view" }, name);
    expect([await access(people.ivy!), await access(people.vic!)]).toEqual(["view", undefined]);
    await allow({ team: "all", deny: "view" }, name);
    expect(await access(people.ivy!)).toBeUndefined();
    expect(await access(owner), "nobody shuts the owner out").toBe("own");
  });

  it("share functions among their members, and nothing once they are deleted", async () => {
    expect((await owner.post("/v1/teams", { name: "code" })).status).toBe(201);
    const code = "def f(*args):\n    return 'team'\n";
    const { body: made } = await owner.post("/v1/functions", {
      name: "ours",
      runtime: "python",
      entry: "f",
      code,
    });
    const see = async (ref: string) =>
      (await people.ivy!.get(`/v1/functions/${encodeURIComponent(ref)}`)).status;
    expect([await see("ann/ours"), await see(made.id)]).toEqual([404, 404]);
    await put(owner, "/v1/teams/code/members/ivy", {});
    expect((await share("ours", { visibility: "team", team: "code" })).body).toMatchObject({
      team: "ann/code",
    });
    expect([await see("ann/ours"), await see(made.id)]).toEqual([200, 200]);
    expect((await people.ivy!.get("/v1/functions")).body.items).toMatchObject([{ ref: "ann/ours@1" }]);
    expect((await share("ann%2Fours", { visibility: "private" }, people.ivy)).body.code).toBe(
      "ACCESS_DENIED",
    );
    expect((await people.ivy!.delete("/v1/functions/ann%2Fours")).body.code).toBe("ACCESS_DENIED");
    expect((await people.sam!.get("/v1/functions/ann%2Fours")).status).toBe(404);
    expect((await owner.delete("/v1/teams/code")).status).toBe(204);
    expect([await see("ann/ours"), await see(made.id)]).toEqual([404, 404]);
  });
});

describe("the functions that an endpoint runs", () => {
  it("are all that anybody may submit there, the owner too, over REST and on a link", async () => {
    const shut = await makeEchoEndpoint(owner, `allow-${++names}`);
    const echo = await EchoAgent.connect(a.url, shut);
    open.push(echo);
    const only = (functions: string[]) => put(owner, `/v1/endpoints/${shut.id}/functions`, { functions });
    expect((await only(["a b"])).body.code).toBe("REQUEST_INVALID");
    expect((await only(["f"])).body.functions).toEqual(["ann/f"]);
    const submit = async (fn: string) =>
      (await owner.post("/v1/tasks?wait=30", { function: fn, endpoint: shut.id })).body;
    expect(await submit("f")).toMatchObject({ state: "SUCCEEDED" });
    expect((await submit("g")).code).toBe("FUNCTION_NOT_ALLOWED");
    expect(await byLink(owner.credential!, await idOf("f"), shut.id)).toBe("SUCCEEDED");
    expect(await byLink(owner.credential!, await idOf("g"), shut.id)).toBe("FUNCTION_NOT_ALLOWED");
    expect((await only([(await idOf("g")).toString("hex")])).status).toBe(200);
    expect(await submit("g")).toMatchObject({ state: "SUCCEEDED" });
    expect((await submit("f")).code).toBe("FUNCTION_NOT_ALLOWED");
    expect((await only([])).status).toBe(200);
    expect(await submit("f")).toMatchObject({ state: "SUCCEEDED" });
  });
});

describe("a task that waits", () => {
  /** Submits while no agent is there, changes something, and lets the agent come. */
  async function afterChange(
    change: (endpoint: EchoEndpoint) => Promise<unknown>,
    fn = "ann/f",
  ): Promise<Reply["body"][]> {
    const later = await makeEchoEndpoint(owner, `later-${++names}`);
    await allow({ person: "ivy", allow: "invoke" }, later.name);
    const first = await people.ivy!.post("/v1/tasks", { function: fn, endpoint: later.id });
    const own = await owner.post("/v1/tasks", { function: "f", endpoint: later.id });
    expect([first.status, own.status]).toEqual([202, 202]);
    await change(later);
    const echo = await EchoAgent.connect(b.url, later);
    open.push(echo);
    const read = async (who: RestClient, id: string) => (await who.get(`/v1/tasks/${id}?wait=30`)).body;
    const bodies = [await read(people.ivy!, first.body.id), await read(owner, own.body.id)];
    const sent = echo.received.map((task) => keyToUuid(task.key));
    expect(sent.includes(first.body.id)).toBe(bodies[0].state === "SUCCEEDED");
    return bodies;
  }

  it("is sent where nothing has changed", async () => {
    expect(await afterChange(async () => undefined)).toMatchObject([
      { state: "SUCCEEDED" },
      { state: "SUCCEEDED" },
    ]);
  });

  it("waits at no cost while nobody can say whether access has changed, and is sent then", async () => {
    const { pool } = fabric.database;
    const lock = await pool.connect();
    const commits = "SELECT xact_commit::int AS n FROM pg_stat_database WHERE datname = current_database()";
    const statements = async (): Promise<number> => (await pool.query(commits)).rows[0].n;
    try {
      // It reads the number in vain until its time limit, and what it remembers holds for 4 s at most.
      await lock.query("BEGIN");
      await lock.query("LOCK TABLE access_epoch IN ACCESS EXCLUSIVE MODE");
      await sleep(TRUSTED_MS);
      const task = await owner.post("/v1/tasks", { function: "f", endpoint: endpoint.id });
      expect(task.status).toBe(202);
      // Some were counted late; a loop asks thousands.
      const before = await statements();
      await sleep(2_000);
      expect((await statements()) - before, "what was asked meanwhile").toBeLessThan(1_000);
      await lock.query("COMMIT");
      const { body } = await owner.get(`/v1/tasks/${task.body.id}?wait=30`);
      expect(body.state).toBe("SUCCEEDED");
    } finally {
      await lock.query("ROLLBACK");
      lock.release();
    }
  });

  it("ends unsent where its submitter has lost access meanwhile; the others' go on", async () => {
    const bodies = await afterChange((later) => allow({ person: "ivy" }, later.name));
    expect(bodies).toMatchObject([{ state: "FAILED", reason: "not_authorised" }, { state: "SUCCEEDED" }]);
  });

  it("ends unsent where the endpoint runs its function no more", async () => {
    const bodies = await afterChange(
      (later) => put(owner, `/v1/endpoints/${later.id}/functions`, { functions: ["f"] }),
      "ann/g",
    );
    expect(bodies).toMatchObject([{ state: "FAILED", reason: "not_authorised" }, { state: "SUCCEEDED" }]);
  });

  it("ends unsent where its function is shared no more", async () => {
    const bodies = await afterChange(() => share("g", { visibility: "private" }), "ann/g");
    expect(bodies).toMatchObject([{ state: "FAILED", reason: "not_authorised" }, { state: "SUCCEEDED" }]);
    await share("g", { visibility: "public" });
  });

  it("ends also where the agent is there but has no room, in the order in which the others are sent", async () => {
    const full = await makeEchoEndpoint(owner, `full-${++names}`);
    await allow({ person: "ivy", allow: "invoke" }, full.name);
    const echo = await EchoAgent.connect(a.url, full, { window: 0 });
    open.push(echo);
    echo.grant(0);
    const ann = await link(a.url, owner.credential!);
    const ivy = await link(a.url, people.ivy!.credential!);
    const fn = await idOf("f");
    const mine = ann.submit({ endpointId: full.id, fn, args: new Array<Buffer>(40).fill(none) });
    const theirs = ivy.submit({ endpointId: full.id, fn, args: [none, none] });
    await Promise.all([ann.untilDurable(), ivy.untilDurable()]);
    await allow({ person: "ivy", deny: "invoke" }, full.name);
    echo.grant(1_000);
    await ann.untilOutcomes(mine, WAIT_MS);
    const ended = await ivy.untilOutcomes(theirs, WAIT_MS);
    expect(ended.map((outcome) => [outcome.state, outcome.reason])).toEqual(
      new Array(2).fill(["FAILED", "not_authorised"]),
    );
    expect(echo.received.map((task) => task.key)).toEqual(mine);
  });
});
