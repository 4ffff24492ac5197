/**
 * What happens at the bounds: overload is refused before the acknowledgement, a reader that does not read is cut and
 * finds everything when it comes back, and what waits is answered when the service stops.
 */
import { keyToUuid } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { EchoAgent, type EchoAgentOptions, makeEchoEndpoint } from "../support/echo-agent.js";
import { LinkClient } from "../support/link-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const LIMIT = 200;
const LINKS = 6;
const LONG_MS = 60_000;
const args = (n: number): Buffer[] => Array.from({ length: n }, (_, i) => Buffer.from(`[[${i}],{}]`));

let rest: RestService;
let fn: Buffer;
let names = 0;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  rest = await startRestService({
    maxOpenTasksPerEndpoint: LIMIT,
    maxOpenTasksPerOwner: 1_000_000,
    maxLinks: LINKS,
  });
  const definition = { name: "plain", runtime: "python", code: "def f(*a):\n    return a\n", entry: "f" };
  fn = Buffer.from((await rest.api.post("/v1/functions", definition)).body.id, "hex");
}, LONG_MS);
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => rest?.close(), LONG_MS);

const newEndpoint = () => makeEchoEndpoint(rest.api, `echo-${++names}`);
async function connectClient(group?: Buffer): Promise<LinkClient> {
  const client = await LinkClient.connect(rest.url, rest.key, group);
  open.push(client);
  return client;
}
async function connectAgent(
  endpoint: Awaited<ReturnType<typeof newEndpoint>>,
  options?: EchoAgentOptions,
): Promise<EchoAgent> {
  const agent = await EchoAgent.connect(rest.url, endpoint, options);
  open.push(agent);
  return agent;
}

describe("open tasks", () => {
  it("above the bound are refused before they are taken, over REST and by the link, and taken again when there is room", async () => {
    const endpoint = await newEndpoint();
    const body = (n: number) => ({
      function: fn.toString("hex"),
      endpoint: endpoint.id,
      calls: Array.from({ length: n }, (_, i) => ({ args: [i] })),
    });
    const taken = await rest.api.post("/v1/tasks", body(LIMIT - 1));
    expect(taken.status).toBe(202);
    const refused = await rest.api.post("/v1/tasks", body(2));
    expect(refused).toMatchObject({ status: 429, body: { code: "QUEUE_FULL", retryable: true } });
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn, args: args(2) });
    await client.untilDurable();
    expect(client.refusals).toMatchObject([{ from: 1, n: 2, code: "QUEUE_FULL", retryAfterMs: 2_000 }]);
    const { rows } = await rest.database.pool.query("SELECT 1 FROM task WHERE id = ANY($1::uuid[])", [
      keys.map(keyToUuid),
    ]);
    expect(rows).toEqual([]);
    await connectAgent(endpoint);
    const waited = await rest.api.post("/v1/tasks/status", { ids: taken.body.ids, wait: 30 });
    expect(waited.body.tasks.every((t: { state: string }) => t.state === "SUCCEEDED")).toBe(true);
    for (let i = 0; ; i++) {
      const { status } = await rest.api.post("/v1/tasks", body(LIMIT - 1));
      if (status === 202) break;
      expect([status, i < 100]).toEqual([429, true]);
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  });
});

describe("a client that does not read", () => {
  it("is cut, costs the others nothing, and finds every result when it comes back", {
    timeout: 4 * LONG_MS,
  }, async () => {
    const endpoint = await newEndpoint();
    const big = Buffer.alloc(60_000, 0x20);
    await connectAgent(endpoint, { onTask: () => ({ bytes: big }) });
    const deaf = await connectClient();
    const keys: string[] = [];
    // More than the service keeps for one client, in rounds that stay below the bound of open tasks.
    deaf.peer.socket.pause();
    for (let round = 0; round < 24; round++) {
      for (;;) {
        const { body } = await rest.api.post("/v1/tasks", {
          function: fn.toString("hex"),
          endpoint: endpoint.id,
          group: round === 0 ? undefined : group,
          calls: Array.from({ length: 99 }, () => ({ args: [] })),
        });
        if (body.ids) {
          if (round === 0) {
            group = body.group;
            deaf.peer.send({ t: "watch", group: Buffer.from(group!.replaceAll("-", ""), "hex") });
          }
          keys.push(...body.ids);
          await rest.api.post("/v1/tasks/status", { ids: body.ids, wait: 30 });
          break;
        }
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
    deaf.peer.socket.resume();
    await deaf.peer.until(() => deaf.peer.closedWith !== undefined, "the cut", LONG_MS);
    expect(deaf.results).toBeLessThan(keys.length);
    const back = await connectClient();
    const idKeys = keys.map((id) => Buffer.from(id.replaceAll("-", ""), "hex").toString("latin1"));
    back.peer.send({
      t: "watch",
      group: Buffer.from(group!.replaceAll("-", ""), "hex"),
      ids: Buffer.from(idKeys.join(""), "latin1"),
    });
    const outcomes = await back.untilOutcomes(idKeys, 2 * LONG_MS);
    expect(outcomes.every((o) => o.bytes.length === big.length)).toBe(true);
  });
  let group: string | undefined;
});

describe("links", () => {
  it("above the bound are refused with the time to come again", async () => {
    for (let i = 0; i < LINKS; i++) await connectClient();
    await expect(connectClient()).rejects.toThrow(/503/);
  });

  it("watch a bounded number of groups", async () => {
    const client = await connectClient();
    for (let i = 0; i < 10_000; i++) {
      const group = Buffer.alloc(16);
      group.writeUInt32BE(i + 1, 0);
      group[6] = 0x80;
      group[8] = 0x80;
      client.peer.send({ t: "watch", group });
    }
    expect(await client.peer.untilEnded()).toBe("TOO_MANY_WATCHES");
  });
});

describe("a stop", () => {
  it("answers who waits with how things stand, and takes less than ten seconds", {
    timeout: 2 * LONG_MS,
  }, async () => {
    const other = await startRestService();
    const { body: endpoint } = await other.api.post("/v1/endpoints", { name: "away" });
    const { body: made } = await other.api.post("/v1/functions", {
      name: "plain",
      runtime: "python",
      code: "def f():\n    pass\n",
      entry: "f",
    });
    const waiting = other.api.post("/v1/tasks?wait=60", {
      function: made.id,
      endpoint: endpoint.id,
      args: [],
    });
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const startedAt = performance.now();
    await other.service.close();
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    expect(await waiting).toMatchObject({ status: 202, body: { state: "QUEUED" } });
    await other.close();
  });
});
