/**
 * What another tenant can try who knows one's ids: whoever runs somebody's tasks is told the submitter's id and the tasks',
 * and whoever may see an endpoint knows its. Knowing an id opens nothing, and shuts nobody out.
 */
import { createHash } from "node:crypto";
import { keyAt, keyToUuid, newBatchId, TaskIdAllocator } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { agentToken, FakeAgent, makeAgentKeys } from "../support/fake-agent.js";
import { LinkClient } from "../support/link-client.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
let eve: RestClient;
let bob: RestClient;
let agent: FakeAgent;
let fn: string;
let bobsId: string;
const CODE = "def f():\n    return 1\n";

beforeAll(async () => {
  rest = await startRestService();
  const person = async (owner: string) =>
    new RestClient(rest.url, (await rest.api.post("/v1/keys", { label: "x", owner })).body.key);
  [eve, bob] = [await person("eve"), await person("bob")];
  bobsId = (await bob.get("/v1/me")).body.ownerId;
  agent = await FakeAgent.start(bob, "lab", () => ({ value: "secret" }));
  fn = (await bob.post("/v1/functions", { name: "f", runtime: "python", entry: "f", code: CODE })).body.id;
});
afterAll(async () => {
  await agent?.close();
  await rest?.close();
});

describe("somebody who knows a person's id", () => {
  it("neither stops their single calls nor hears of them, though the id of their group follows from it", async () => {
    const random = createHash("sha256").update(`default group of ${bobsId}`).digest().subarray(0, 10);
    const squatted = newBatchId(0, random);
    const listener = await LinkClient.connect(rest.url, eve.credential!, squatted);
    try {
      // Her watch made the group: it is hers.
      const group = keyToUuid(keyAt(squatted));
      await vi.waitUntil(async () => (await eve.get(`/v1/groups/${group}`)).status === 200, 10_000);
      const call = { function: fn, endpoint: agent.endpointId };
      const first = await bob.post("/v1/tasks?wait=20", call);
      expect(first.body).toMatchObject({ state: "SUCCEEDED", result: "secret" });
      expect(first.body.group).not.toBe(group);
      expect((await bob.post("/v1/tasks?wait=20", call)).body.group, "one group for all").toBe(
        first.body.group,
      );
      // What she sends comes back behind whatever was told before.
      listener.submit({
        endpointId: agent.endpointId,
        fn: Buffer.from(fn, "hex"),
        args: [Buffer.from("[]")],
      });
      await listener.peer.until(() => listener.refusals.length === 1, "a refusal");
      expect([listener.results, (await eve.get(`/v1/groups/${group}`)).body.total]).toEqual([0, 0]);
    } finally {
      await listener.close();
    }
  });
});

describe("somebody who knows an endpoint's id", () => {
  it("cannot keep its agent out by asking for challenges: one more makes the oldest void", async () => {
    const { body: made } = await bob.post("/v1/endpoints", { name: "flooded" });
    const keys = makeAgentKeys();
    const nobody = new RestClient(rest.url, undefined);
    const { enrolmentCode: code } = made;
    await nobody.post("/v1/endpoints/enroll", { code, publicKey: keys.publicKey });
    const { pool } = rest.database;
    await pool.query(
      `INSERT INTO agent_challenge (nonce_hash, endpoint_id, expires_at)
       SELECT sha256(i::text::bytea), $1, now() + i * interval '10 milliseconds' FROM generate_series(1, 1000) AS i`,
      [made.id],
    );
    expect(await agentToken(rest.url, made.id, keys.privateKey)).toBeTypeOf("string");
    const left = await pool.query("SELECT count(*)::int4 AS n FROM agent_challenge WHERE endpoint_id = $1", [
      made.id,
    ]);
    expect(left.rows[0].n).toBeLessThan(1_000);
  });
});

describe("what a body or a query names besides", () => {
  it("a payload of another's is none, by the same words as one that nobody has", async () => {
    const bytes = Buffer.from("what bob alone has");
    const digest = createHash("sha256").update(bytes).digest("hex");
    expect((await bob.call("PUT", `/v1/payloads/${digest}`, { raw: bytes })).status).toBe(201);
    const own = await FakeAgent.start(eve, "own", () => undefined);
    try {
      const { id } = (
        await eve.post("/v1/functions", { name: "f", runtime: "python", entry: "f", code: CODE })
      ).body;
      const asked = async (of: string) => {
        const payload = { digest: of, codec: "json" };
        const { status, body } = await eve.post("/v1/tasks", {
          function: id,
          endpoint: own.endpointId,
          payload,
        });
        return [status, body.code, body.detail?.replace(of, "")];
      };
      expect(await asked(digest)).toEqual(await asked("c".repeat(64)));
      expect((await asked(digest)).slice(0, 2)).toEqual([404, "PAYLOAD_NOT_FOUND"]);
    } finally {
      await own.close();
    }
  });

  it("a cursor of another's list leads nowhere that one of nobody's does not", async () => {
    const group = (await bob.post("/v1/groups", { name: "bobs" })).body.id;
    const nothing = keyToUuid(new TaskIdAllocator().next());
    const page = async (cursor: string) => (await eve.get(`/v1/groups?cursor=${cursor}`)).body;
    expect(await page(group)).toEqual(await page(nothing));
    expect((await bob.get(`/v1/groups?cursor=${group}`)).body.items.length, "bob's own").toBeGreaterThan(0);
  });

  it("an Idempotency-Key of another's is one's own, new", async () => {
    const own = await FakeAgent.start(eve, "idempotent", () => undefined);
    try {
      const submit = (who: RestClient, endpoint: string, f: string) =>
        who.post(
          "/v1/tasks",
          { function: f, endpoint, args: [] },
          { headers: { "idempotency-key": "same" } },
        );
      const bobs = await submit(bob, agent.endpointId, fn);
      // The same body too: what it names is looked up for her, and is not there.
      expect((await submit(eve, agent.endpointId, fn)).body.code).toMatch(/_NOT_FOUND$/);
      const hers = await submit(eve, own.endpointId, "f");
      expect([bobs.status, hers.status]).toEqual([202, 202]);
      expect(hers.body.id).not.toBe(bobs.body.id);
      expect((await submit(bob, agent.endpointId, fn)).body.id, "bob's again").toBe(bobs.body.id);
    } finally {
      await own.close();
    }
  });
});
