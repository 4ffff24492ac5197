/**
 * The API page against the service: schemathesis makes requests up from the page, and every reply must be one that the page
 * describes. Three callers ask in turn, each of which reaches what the others do not:
 *
 *   - the administrator, who is let in everywhere: shapes of replies, and whatever makes a handler fail;
 *   - another tenant, who has everything of his own and names a third one's things: nothing of those may come back;
 *   - nobody: the routes that are open, and 401 at all others before a byte of the request is looked at.
 *
 * Short here, from a fixed seed. `npm run test:schema` makes many more requests up, and those at the edges of every schema;
 * FARLOOM_SCHEMA_SEED chooses others.
 *
 * Left out: the two WebSocket doors are not on the page (frame-fuzz.test.ts is about them), and nothing waits (hooks.py, 3).
 * Not held: that a method which a path does not have is answered 405. Here that is 404, as for a path that there is not.
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { makeTenant, NOTHING, type Tenant } from "./access-things.js";
import { type Caller, runSchemathesis, whyNoSchemathesis } from "./schema/schemathesis.js";

const EXAMPLES = Number(process.env.FARLOOM_SCHEMA_EXAMPLES ?? 4);
const IS_LONG = process.env.FARLOOM_SCHEMA_EXAMPLES !== undefined;
const SEED = Number(process.env.FARLOOM_SCHEMA_SEED ?? 7);
const RUN_MS = IS_LONG ? 1_800_000 : 120_000;
const MANY = "1000000000";

if (whyNoSchemathesis !== undefined) process.stderr.write(`skipped: ${whyNoSchemathesis}\n`);

describe.skipIf(whyNoSchemathesis !== undefined)("every reply is one that the API page describes", () => {
  let fabric: Fabric;
  let service: ServiceProcess;
  const tenants: Tenant[] = [];
  let operations: number;

  beforeAll(async () => {
    fabric = await Fabric.open({
      env: {
        FARLOOM_RATE_LIMIT_PER_MINUTE: MANY,
        FARLOOM_PERSON_RATE_LIMIT_PER_MINUTE: MANY,
        FARLOOM_FAILED_AUTH_PER_MINUTE: MANY,
        FARLOOM_WEBHOOKS: "on",
      },
    });
    service = await fabric.service();
    const api = fabric.api(service.url);
    for (const name of ["me", "alice", "bob"])
      tenants.push(await makeTenant({ url: service.url, api }, name));
    const { paths } = (await api.get("/openapi.json")).body;
    operations = Object.values<object>(paths).flatMap((methods) => Object.keys(methods)).length;
  }, 60_000);
  afterAll(async () => {
    for (const tenant of tenants) await tenant.agent.close();
    await fabric?.close();
  });

  it("to an administrator, to another tenant, who hears nothing of a third, and to nobody, who gets no further", {
    timeout: RUN_MS,
  }, async () => {
    const [me, alice, bob] = tenants as [Tenant, Tenant, Tenant];
    const { endpoint, task, open, group, key, session, team } = alice.things;
    const theirs = ["of alice", endpoint, task, open, group, key, session, team];
    const { things: foreign } = alice;
    const callers: Caller[] = [
      { name: "administrator", credential: fabric.key, own: me.things, foreign, secret: [] },
      { name: "tenant", credential: bob.api.credential!, own: bob.things, foreign, secret: theirs },
      { name: "nobody", credential: null, own: bob.things, foreign, secret: theirs },
    ];
    const report = await runSchemathesis({
      url: service.url,
      callers,
      seed: SEED,
      phases: IS_LONG ? ["examples", "coverage", "fuzzing", "stateful"] : ["fuzzing"],
      examples: EXAMPLES,
    });
    expect(report.passed, report.text).toBe(true);
    expect(report.operations).toBe(operations);
    expect(report.cases).toBeGreaterThan(operations * 2);
    // A fault that was answered as the catalogue's INTERNAL stands in the log; so do those that nobody waited for.
    expect(service.lines.filter((line) => /"level":(50|60)/.test(line))).toEqual([]);
    // Each still is who he was, and has what he had.
    for (const { api, things } of [me, bob])
      expect((await api.get(`/v1/endpoints/${things.endpoint}`)).status).toBe(200);
  });
});

describe.skipIf(whyNoSchemathesis !== undefined)("what holds replies to the page", () => {
  const hidden = "hidden-from-you";
  const faults: Readonly<Record<string, { status: number; body: string; guarded?: true; says: string }>> = {
    "/fault": { status: 500, body: '{"id":1}', says: "Server error" },
    "/status": { status: 201, body: '{"id":1}', says: "Undocumented status code" },
    "/shape": { status: 200, body: "{}", says: "Response violates schema" },
    "/others": { status: 200, body: `{"id":"${hidden}"}`, says: `tells '${hidden}'` },
    "/open": { status: 200, body: '{"id":1}', guarded: true, says: "answered 200 to nobody" },
  };
  let server: Server;

  beforeAll(async () => {
    const schema = { type: "object", required: ["id"] };
    const responses = { 200: { description: "x", content: { "application/json": { schema } } } };
    const paths = Object.fromEntries(
      Object.entries(faults).map(([path, { guarded }]) => [
        path,
        { get: { security: guarded ? [{ bearer: [] }] : [], responses } },
      ]),
    );
    const page = {
      ...{ openapi: "3.1.0", info: { title: "planted", version: "1" }, paths },
      components: { securitySchemes: { bearer: { type: "http", scheme: "bearer" } } },
    };
    server = createServer((request, response) => {
      const { status, body } = faults[request.url!] ?? { status: 200, body: JSON.stringify(page) };
      response.writeHead(status, { "content-type": "application/json" }).end(body);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  });
  afterAll(() => server.close());

  it("finds each of those that are planted", { timeout: 120_000 }, async () => {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const nobody = { name: "nobody", credential: null, own: NOTHING, foreign: NOTHING, secret: [hidden] };
    const run = { url, callers: [nobody], seed: 1, phases: ["fuzzing"], examples: 1 };
    const { passed, text } = await runSchemathesis(run);
    expect(passed).toBe(false);
    const found = Object.fromEntries(
      text.split(/\n_{5,} GET /).map((part) => [part.slice(0, part.indexOf(" ")), part]),
    );
    for (const [path, { says }] of Object.entries(faults)) expect(found[path], path).toContain(says);
  });
});
