/**
 * A network that forgets the connections between a service and its PostgreSQL, and tells neither: what a firewall does
 * after an hour, or a switch that is replaced. PostgreSQL's own limits say nothing over such a connection.
 */
import { keyToUuid } from "@farloom/protocol";
import { afterAll, beforeAll, expect, it } from "vitest";
import { EchoAgent, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient } from "../support/link-client.js";
import { TcpProxy } from "../support/tcp-proxy.js";

const TASKS = 500;
/** An answer is waited for 20 s, and a write may meet more than one such connection. */
const WITHIN_MS = 60_000;

let fabric: Fabric;
let proxy: TcpProxy;
let service: ServiceProcess;
let databaseUrl: string;

beforeAll(async () => {
  fabric = await Fabric.open();
  proxy = await TcpProxy.open([Number(new URL(fabric.database.url).port)]);
  databaseUrl = proxy.through(fabric.database.url);
  service = await fabric.service({ DATABASE_URL: databaseUrl });
});
afterAll(async () => {
  await fabric.close();
  await proxy.close();
});

it(
  "ends every task, those that were on their way and those that come after, without a restart",
  async () => {
    const endpoint = await makeEchoEndpoint(fabric.api(service.url), "echo");
    const fn = await fabric.register(service.url, { name: "plain" });
    const agent = await EchoAgent.connect(service.url, endpoint);
    const client = await LinkClient.connect(service.url, fabric.key);
    const submit = (n: number) =>
      client.submit({
        endpointId: endpoint.id,
        fn,
        args: Array.from({ length: n }, (_, i) => Buffer.from(`[[${i}],{}]`)),
      });
    try {
      const keys = submit(TASKS);
      await client.untilOutcomes(keys.slice(0, 1));
      proxy.forget();
      keys.push(...submit(TASKS));
      await client.untilOutcomes(keys, WITHIN_MS);
      const { rows } = await fabric.database.pool.query(
        "SELECT count(*)::int AS all, count(DISTINCT task_id)::int AS each FROM outcome WHERE task_id = ANY($1::uuid[])",
        [keys.map(keyToUuid)],
      );
      expect(rows[0]).toEqual({ all: 2 * TASKS, each: 2 * TASKS });
    } finally {
      await client.close();
      await agent.close();
    }
  },
  WITHIN_MS + 10_000,
);

it("does not keep the service from stopping", async () => {
  proxy.forget();
  const startedAt = performance.now();
  expect(await service.stop()).toBe(0);
  expect(performance.now() - startedAt).toBeLessThan(10_000);
});

it("does not end a start: a PostgreSQL that is not there yet is waited for", async () => {
  const { targets } = proxy;
  proxy.targets = [];
  const starting = fabric.service({ DATABASE_URL: databaseUrl });
  // The second try follows what is logged of the first.
  await expect.poll(() => proxy.refused, { timeout: 30_000 }).toBeGreaterThan(1);
  proxy.targets = targets;
  const late = await starting;
  expect(late.lines.some((line) => line.includes("the database does not answer as the service starts"))).toBe(
    true,
  );
  await late.stop();
});
