/** What one key, person or address may ask for and keep: told with when to come again, and waited for by our clients. */
import { Farloom } from "@farloom/sdk";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { LinkClient } from "../support/link-client.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const START_MS = 90_000;
const WAIT_MS = 60_000;
/** One replica with little room, and one with low rates. */
let rest: RestService;
let slow: RestService;
let again: RestClient;
let bob: RestClient;
const links: LinkClient[] = [];
beforeAll(async () => {
  rest = await startRestService({
    maxLinksPerOwner: 2,
    maxEndpointsPerOwner: 2,
    maxStoredMbPerOwner: 2,
    failedAuthPerMinute: 3,
  });
  slow = await startRestService({ rateLimitPerMinute: 60, personRateLimitPerMinute: 80 });
  again = await other(undefined, slow);
  bob = await other("bob", slow);
}, START_MS);
afterEach(async () => {
  for (const link of links.splice(0)) await link.close();
});
afterAll(async () => {
  await rest?.close();
  await slow?.close();
}, START_MS);

const keyOf = async (owner?: string, at = rest): Promise<string> =>
  (await at.api.post("/v1/keys", { label: "test", ...(owner && { owner }) })).body.key;
const other = async (owner?: string, at = rest) => new RestClient(at.url, await keyOf(owner, at));

it(
  "a client that asks too often waits by itself, as long as it was told and no longer",
  async () => {
    const farloom = new Farloom({ url: slow.url, apiKey: slow.key });
    const startedAtMs = performance.now();
    for (let i = 0; i < 62; i++) await farloom.rest.json({ path: "/v1/me" });
    const tookMs = performance.now() - startedAtMs;
    await farloom.close();
    // 60 at once, then one in a second: with windows of a minute it would have been a minute.
    expect(tookMs).toBeGreaterThan(900);
    expect(tookMs).toBeLessThan(30_000);
  },
  WAIT_MS,
);

it(
  "a person has one rate over all keys, and nobody else's",
  async () => {
    const statuses = new Set<number>();
    for (let i = 0; i < 58; i++) statuses.add((await again.get("/v1/me")).status);
    expect([...statuses]).toEqual([200, 429]);
    expect((await again.get("/v1/me")).body).toMatchObject({ code: "RATE_LIMITED", retryable: true });
    expect((await bob.get("/v1/me")).status).toBe(200);
  },
  WAIT_MS,
);

it(
  "a person has so many links, and another person's still come in",
  async () => {
    const another = await keyOf("bob");
    const open = async (key: string) => links.push(await LinkClient.connect(rest.url, key));
    await open(rest.key);
    await open(rest.key);
    await expect(open(rest.key)).rejects.toThrow(/503/);
    await open(another);
    await links.shift()!.close();
    await expect.poll(() => open(rest.key).catch(String), { timeout: 20_000 }).toEqual(expect.any(Number));
  },
  WAIT_MS,
);

it(
  "a person has so many endpoints, until one is deleted",
  async () => {
    const make = (name: string) => rest.api.post("/v1/endpoints", { name });
    for (const name of ["a", "b"]) expect((await make(name)).status).toBe(201);
    expect(await make("c")).toMatchObject({ status: 403, body: { code: "QUOTA_EXCEEDED" } });
    await rest.api.delete("/v1/endpoints/a");
    expect((await make("c")).status).toBe(201);
  },
  WAIT_MS,
);

it(
  "a person has so many bytes stored, payloads and objects together, until some are deleted",
  async () => {
    const put = (name: string, api = rest.api) =>
      api.call("PUT", `/v1/objects/data/${name}`, {
        raw: Buffer.alloc(900_000, name),
        headers: { "content-type": "application/octet-stream" },
      });
    expect((await put("a")).status).toBe(201);
    expect((await put("b")).status).toBe(201);
    const refused = await put("c");
    expect(refused).toMatchObject({ status: 403, body: { code: "QUOTA_EXCEEDED" } });
    expect(refused.body.detail).toMatch(/1\.7 MiB stored, and may have 2\.0 MiB/);
    expect((await put("a", await other("bob"))).status).toBe(201);
    await rest.api.delete("/v1/objects/data/a");
    await expect.poll(async () => (await put("c")).status, { timeout: 20_000, interval: 500 }).toBe(201);
  },
  WAIT_MS,
);

it(
  "an address that guesses at enrolment codes has to wait, and one with a key does not",
  async () => {
    const guess = () =>
      rest.api.post("/v1/endpoints/enroll", {
        code: "fle_guess",
        publicKey: Buffer.alloc(32, 1).toString("base64"),
      });
    const statuses = [];
    for (let i = 0; i < 5; i++) statuses.push((await guess()).status);
    expect(statuses).toEqual([401, 401, 401, 429, 429]);
    expect((await rest.api.get("/v1/me")).status).toBe(200);
  },
  WAIT_MS,
);
