/** Requests that wait for tasks: they hold no longer than the credential that they came with. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Reply, RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

/** What is revoked is heard within 5 s; the rest is room for a machine that others keep busy. */
const HEARD_MS = 12_000;
const WAIT_S = 25;
let rest: RestService;
let call: { function: string; endpoint: string };

beforeAll(async () => {
  rest = await startRestService();
  const code = "def f():\n    return 1\n";
  const spec = { name: "f", runtime: "python", entry: "f", code };
  const [fn, endpoint] = [
    await rest.api.post("/v1/functions", spec),
    await rest.api.post("/v1/endpoints", { name: "away" }),
  ];
  call = { function: fn.body.id, endpoint: endpoint.body.id };
});
afterAll(() => rest?.close());

async function newKey(body: object = {}): Promise<{ id: string; client: RestClient }> {
  const made = await rest.api.post("/v1/keys", { label: "polls", ...body });
  expect(made.status).toBe(201);
  return { id: made.body.id, client: new RestClient(rest.url, made.body.key) };
}

const open = async (): Promise<string> => (await rest.api.post("/v1/tasks", call)).body.id;

/** Every way to wait, and that it waits indeed. */
function polls(client: RestClient, id: string): Promise<{ reply: Reply; ms: number }[]> {
  const beganMs = performance.now();
  const ask = [
    client.get(`/v1/tasks/${id}?wait=${WAIT_S}`),
    client.get(`/v1/tasks/${id}/result?wait=${WAIT_S}`),
    client.post("/v1/tasks/status", { ids: [id], wait: WAIT_S }),
    client.post(`/v1/tasks?wait=${WAIT_S}`, call),
  ];
  return Promise.all(ask.map((asked) => asked.then((reply) => ({ reply, ms: performance.now() - beganMs }))));
}

/** Once the polls above are known to wait: the one that submits has submitted. */
async function waiting(before: number): Promise<void> {
  const until = performance.now() + 10_000;
  const count = async (): Promise<number> => (await rest.api.get("/v1/tasks?limit=1000")).body.items.length;
  while ((await count()) <= before) {
    if (performance.now() > until) throw new Error("nothing was submitted");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function cut(client: RestClient, end: () => Promise<unknown>): Promise<void> {
  const id = await open();
  const before = (await rest.api.get("/v1/tasks?limit=1000")).body.items.length;
  const asked = polls(client, id);
  await waiting(before);
  const endedMs = performance.now();
  await end();
  const answers = await asked;
  expect(performance.now() - endedMs).toBeLessThan(HEARD_MS);
  expect(answers.map(({ reply }) => reply.status)).toEqual([401, 401, 401, 401]);
  expect(JSON.stringify(answers.map(({ reply }) => reply.body))).not.toContain(id);
}

describe("a request that waits for a task", () => {
  it("is refused as soon as its key is revoked, by whichever route it waits", async () => {
    const { id, client } = await newKey();
    await cut(client, () => rest.api.delete(`/v1/keys/${id}`));
  });

  it("is refused when the key behind its access token is revoked", async () => {
    const { id, client } = await newKey();
    const { token } = (await client.post("/v1/tokens")).body;
    await cut(new RestClient(rest.url, token), () => rest.api.delete(`/v1/keys/${id}`));
  });

  it("is refused when its key expires meanwhile", async () => {
    const { id, client } = await newKey();
    await rest.database.pool.query(
      "UPDATE api_key SET expires_at = now() + interval '2 seconds' WHERE id = $1",
      [id],
    );
    await cut(client, async () => undefined);
  });

  it("of another key waits on, and gets the outcome", async () => {
    const [kept, gone] = [await newKey(), await newKey()];
    const id = await open();
    const asked = kept.client.get(`/v1/tasks/${id}?wait=${WAIT_S}`);
    const beside = gone.client.get(`/v1/tasks/${id}?wait=${WAIT_S}`);
    await rest.api.delete(`/v1/keys/${gone.id}`);
    expect((await beside).status).toBe(401);
    await rest.api.post(`/v1/tasks/${id}/cancel`);
    expect(await asked).toMatchObject({ status: 200, body: { id, state: "CANCELLED" } });
  });
});
