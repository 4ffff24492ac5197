// Endpoints over REST, and how an agent becomes one and proves it.
import { generateKeyPairSync, sign } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { agentToken, FakeAgent, makeAgentKeys } from "../support/fake-agent.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
let nobody: RestClient;
beforeAll(async () => {
  rest = await startRestService({ failedAuthPerMinute: 1_000 });
  nobody = new RestClient(rest.url, undefined);
});
afterAll(() => rest.close());

const create = async (name: string) => (await rest.api.post("/v1/endpoints", { name })).body;
const enroll = (code: string, more: object = {}) =>
  nobody.post("/v1/endpoints/enroll", { code, publicKey: makeAgentKeys().publicKey, ...more });

describe("endpoints", () => {
  it("are made with a code and the command to copy, listed, shown by name or id", async () => {
    const made = await create("lab");
    expect(made.command).toContain(made.enrolmentCode);
    expect(made.command).toContain(`--service ${rest.url}`);
    expect(made.command, "a secret is never an argument").toMatch(/^FARLOOM_ENROLMENT_CODE=/);
    const { body } = await rest.api.get("/v1/endpoints/lab");
    expect(body).toMatchObject({ id: made.id, name: "lab", enrolled: false, connected: false });
    expect((await rest.api.get(`/v1/endpoints/${made.id}`)).body).toEqual(body);
    expect((await rest.api.get("/v1/endpoints")).body.items).toContainEqual(body);
    expect(await rest.api.post("/v1/endpoints", { name: "lab" })).toMatchObject({
      status: 409,
      body: { code: "ENDPOINT_EXISTS" },
    });
    for (const name of ["", "a b", "a/b", "~", "x".repeat(64)]) {
      expect((await rest.api.post("/v1/endpoints", { name })).status, name).toBe(400);
    }
  });

  it("show their agent while it is connected, and since when it is away", async () => {
    const agent = await FakeAgent.start(rest.api, "live", () => undefined);
    const { body } = await rest.api.get("/v1/endpoints/live");
    expect(body).toMatchObject({
      enrolled: true,
      connected: true,
      agentInfo: { host: "fake" },
      queued: 0,
      leased: 0,
    });
    await agent.close();
    await expect.poll(async () => (await rest.api.get("/v1/endpoints/live")).body.connected).toBe(false);
    await rest.api.post("/v1/functions", { name: "f", runtime: "python", code: "f = 1" });
    const { body: task } = await rest.api.post("/v1/tasks", { function: "f", endpoint: "live" });
    const { body: view } = await rest.api.get(`/v1/tasks/${task.id}`);
    expect(view.waiting).toMatchObject({ for: "endpoint", since: expect.any(String) });
  });

  it("are deleted with their agent's access, and leave their name free", async () => {
    const { id, enrolmentCode } = await create("old");
    const keys = makeAgentKeys();
    await enroll(enrolmentCode, { publicKey: keys.publicKey });
    const token = await agentToken(rest.url, id, keys.privateKey);
    const payloads = () => new RestClient(rest.url, token).get(`/v1/payloads/${"0".repeat(64)}`);
    expect((await payloads()).status).toBe(404);
    expect((await rest.api.delete("/v1/endpoints/old")).status).toBe(204);
    expect((await rest.api.get("/v1/endpoints/old")).status).toBe(404);
    expect((await nobody.post(`/v1/endpoints/${id}/challenge`)).body.code).toBe("ENDPOINT_NOT_FOUND");
    await expect.poll(async () => (await payloads()).status, { timeout: 5_000, interval: 200 }).toBe(401);
    expect((await create("old")).id).not.toBe(id);
  });
});

describe("an enrolment code", () => {
  it("is good for exactly one of a hundred that bring it at once", async () => {
    const { enrolmentCode, id } = await create("race");
    const replies = await Promise.all(Array.from({ length: 100 }, () => enroll(enrolmentCode)));
    expect(replies.filter((r) => r.status === 200).map((r) => r.body)).toEqual([
      { endpointId: id, name: "race", owner: "me" },
    ]);
    expect(replies.filter((r) => r.status === 401 && r.body.code === "ENROLMENT_CODE_INVALID").length).toBe(
      99,
    );
  });

  it("is kept only as a hash, is void once a newer one is made, and once its time is up", async () => {
    const { enrolmentCode, id } = await create("codes");
    const { pool } = rest.database;
    const { rows } = await pool.query("SELECT * FROM endpoint WHERE id = $1", [id]);
    expect(JSON.stringify(rows)).not.toContain(enrolmentCode.slice(-32));
    const { body: newer } = await rest.api.post(`/v1/endpoints/${id}/enrolment-code`);
    expect((await enroll(enrolmentCode)).status).toBe(401);
    await pool.query("UPDATE endpoint SET enrol_expires_at = now() - interval '1 ms' WHERE id = $1", [id]);
    expect((await enroll(newer.enrolmentCode)).status).toBe(401);
    for (const code of ["", "fle_", `fle_${"0".repeat(32)}_${"a".repeat(32)}`])
      expect((await enroll(code)).status).toBe(401);
  });

  it("is not used up by what is refused", async () => {
    const { enrolmentCode } = await create("patient");
    for (const publicKey of ["", "AAAA", "not base64"])
      expect((await enroll(enrolmentCode, { publicKey })).status).toBe(400);
    expect((await enroll(enrolmentCode, { name: "other" })).body.detail).toContain('"patient"');
    expect((await enroll(enrolmentCode, { name: "patient" })).status).toBe(200);
  });
});

describe("an agent's session", () => {
  const setUp = async (name: string) => {
    const { id, enrolmentCode } = await create(name);
    const keys = makeAgentKeys();
    await enroll(enrolmentCode, { publicKey: keys.publicKey });
    const challenge = async () =>
      (await nobody.post(`/v1/endpoints/${id}/challenge`, {})).body.nonce as string;
    const session = (nonce: string, signature: Buffer) =>
      nobody.post(`/v1/endpoints/${id}/session`, { nonce, signature: signature.toString("base64") });
    const signed = (nonce: string, host = new URL(rest.url).host, key = keys.privateKey, endpoint = id) =>
      sign(null, Buffer.from(`farloom-agent-v1\n${host}\n${endpoint}\n${nonce}`), key);
    return { id, challenge, session, signed };
  };

  it("is opened by a signed nonce, once", async () => {
    const { challenge, session, signed } = await setUp("s1");
    const nonce = await challenge();
    const replies = await Promise.all(Array.from({ length: 20 }, () => session(nonce, signed(nonce))));
    expect(replies.filter((r) => r.status === 200).length).toBe(1);
    expect(replies.find((r) => r.status === 200)!.body.expiresInMs).toBe(60_000);
    expect(replies.find((r) => r.status !== 200)!.body).toMatchObject({
      code: "CHALLENGE_INVALID",
      retryable: true,
    });
  });

  it("is refused for another host, another endpoint, another key, or a signature that is none", async () => {
    const { id, challenge, session, signed } = await setUp("s2");
    const other = generateKeyPairSync("ed25519").privateKey;
    const wrong = [
      (nonce: string) => signed(nonce, "evil.example:443"),
      (nonce: string) => signed(nonce, undefined, undefined, id.replace(/^./, "f")),
      (nonce: string) => signed(nonce, undefined, other),
      () => Buffer.alloc(64),
    ];
    for (const make of wrong) {
      const nonce = await challenge();
      expect((await session(nonce, make(nonce))).body.code).toBe("SIGNATURE_INVALID");
      expect(
        (await session(nonce, signed(nonce))).body.code,
        "a nonce is used up by a wrong signature too",
      ).toBe("CHALLENGE_INVALID");
    }
    expect((await session("made-up", signed("made-up"))).body.code).toBe("CHALLENGE_INVALID");
  });

  it("is refused for a nonce that is too old or was made for another endpoint", async () => {
    const [a, b] = [await setUp("s3"), await setUp("s4")];
    const nonce = await a.challenge();
    expect((await b.session(nonce, b.signed(nonce))).body.code).toBe("CHALLENGE_INVALID");
    await rest.database.pool.query("UPDATE agent_challenge SET expires_at = now() - interval '1 ms'");
    expect((await a.session(nonce, a.signed(nonce))).body.code).toBe("CHALLENGE_INVALID");
    expect((await nobody.post("/v1/endpoints/00000000-0000-7000-8000-000000000000/challenge")).status).toBe(
      404,
    );
  });
});
