/**
 * Two service processes on one database: a client at one and an agent at the other, hints between them by PostgreSQL
 * or by Redis, either process killed, and hints that are lost.
 */
import { createHash } from "node:crypto";
import { keysToColumn, keyToUuid } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  EchoAgent,
  type EchoAgentOptions,
  type EchoEndpoint,
  makeEchoEndpoint,
} from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { agentToken } from "../support/fake-agent.js";
import { LinkClient } from "../support/link-client.js";
import { redisAvailable, startRedis, type TestRedis } from "../support/redis.js";

const SWEEP_MS = 1_000;
const START_MS = 60_000;
const TASKS = 300;
const args = (n: number): Buffer[] => Array.from({ length: n }, (_, i) => Buffer.from(`[[${i}],{}]`));

for (const carrier of ["PostgreSQL", "Redis"] as const) {
  const runnable = carrier === "PostgreSQL" || redisAvailable;
  const title = runnable ? carrier : `${carrier} (skipped: redis-server is not installed)`;

  describe.skipIf(!runnable)(`two replicas with hints by ${title}`, () => {
    let fabric: Fabric;
    let redis: TestRedis | undefined;
    let a: ServiceProcess;
    let b: ServiceProcess;
    let fn: Buffer;
    let names = 0;
    const open: { close(): Promise<void> }[] = [];

    beforeAll(async () => {
      if (carrier === "Redis") redis = await startRedis();
      const env = { FARLOOM_SWEEP_MS: String(SWEEP_MS), ...(redis ? { REDIS_URL: redis.url } : {}) };
      fabric = await Fabric.open({ env });
      a = await fabric.service();
      b = await fabric.service();
      await Promise.all([a.line("the replicas have changed"), b.line("the replicas have changed")]);
      fn = await fabric.register(a.url, { name: "plain" });
    }, START_MS);
    afterEach(async () => {
      for (const peer of open.splice(0)) await peer.close();
    });
    afterAll(async () => {
      await fabric?.close();
      await redis?.stop();
    }, START_MS);

    async function connectClient(at: ServiceProcess, group?: Buffer): Promise<LinkClient> {
      const client = await LinkClient.connect(at.url, fabric.key, group);
      open.push(client);
      return client;
    }
    async function connectAgent(at: ServiceProcess, endpoint: EchoEndpoint, options?: EchoAgentOptions) {
      const agent = await EchoAgent.connect(at.url, endpoint, options);
      open.push(agent);
      return agent;
    }
    const newEndpoint = (): Promise<EchoEndpoint> => makeEchoEndpoint(fabric.api(a.url), `echo-${++names}`);

    /** Exactly one outcome for each, whatever was sent how often. */
    async function expectOutcomes(keys: readonly string[]): Promise<void> {
      const { rows } = await fabric.database.pool.query(
        "SELECT count(*) FILTER (WHERE state = 1)::int AS good, count(*)::int AS all FROM outcome WHERE task_id = ANY($1::uuid[])",
        [keys.map(keyToUuid)],
      );
      expect(rows[0]).toEqual({ good: keys.length, all: keys.length });
    }

    it("carry tasks from one to the other and results back without waiting for a sweep", async () => {
      const endpoint = await newEndpoint();
      await connectAgent(b, endpoint);
      const client = await connectClient(a);
      const times: number[] = [];
      for (let i = 0; i < 9; i++) {
        const startedAt = performance.now();
        await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn, args: args(20) }));
        times.push(performance.now() - startedAt);
      }
      expect(times.sort((x, y) => x - y)[4]).toBeLessThan(SWEEP_MS / 2);
    });

    it("find by their sweeps what no hint has told", async () => {
      const endpoint = await newEndpoint();
      await connectAgent(b, endpoint);
      const client = await connectClient(a);
      await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn, args: args(1) }));
      if (redis) await redis.stop();
      else {
        await fabric.database.pool.query(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'farloom hints' AND datname = current_database()",
        );
      }
      const keys = client.submit({ endpointId: endpoint.id, fn, args: args(TASKS) });
      await client.untilOutcomes(keys);
      if (redis) redis = await startRedis(Number(new URL(redis.url).port));
      await expectOutcomes(keys);
      await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn, args: args(1) }));
    });

    it("cancel at one what the other's agent has", async () => {
      const endpoint = await newEndpoint();
      const agent = await connectAgent(b, endpoint, { onTask: () => undefined });
      const client = await connectClient(a);
      const keys = client.submit({ endpointId: endpoint.id, fn, args: args(3) });
      await agent.untilReceived(3);
      client.cancel(keys);
      await agent.peer.until(() => agent.cancelled.length === 3, "the cancel at the agent");
      // It is the agent that has them, so it is the agent that says what became of them.
      agent.reply(agent.received, { state: "CANCELLED", reason: "cancelled_by_user" });
      expect((await client.untilOutcomes(keys)).map((o) => o.state)).toEqual(new Array(3).fill("CANCELLED"));
    });

    it("give an agent at one what it leases at the other, and nothing that only waits for it", async () => {
      const endpoint = await newEndpoint();
      const bytes = Buffer.from(`${endpoint.id}${"x".repeat(70_000)}`);
      const file = `/v1/payloads/${createHash("sha256").update(bytes).digest("hex")}`;
      expect((await fabric.api(a.url).call("PUT", file, { raw: bytes })).status).toBe(201);
      const agent = await connectAgent(b, endpoint, { onTask: () => undefined, window: 0 });
      const payload = { digest: file.slice(-64), codec: "json" };
      const call = { function: "plain", endpoint: endpoint.id, payload, options: { nested: true } };
      const { id } = (await fabric.api(a.url).post("/v1/tasks", call)).body;
      const token = await agentToken(a.url, endpoint.id, endpoint.keys.privateKey);
      const gets = async (at: ServiceProcess): Promise<number[]> => [
        (await fabric.api(at.url, token).get(file)).status,
        (await fabric.api(at.url, token).post(`/v1/tasks/${id}/token`, {})).status,
      ];
      for (const at of [a, b]) expect(await gets(at)).toEqual([404, 404]);
      agent.grant(1);
      const [task] = await agent.untilReceived(1);
      for (const at of [a, b]) expect(await gets(at)).toEqual([200, 200]);
      agent.peer.send({ t: "returned", ids: keysToColumn([task!.key]) });
      agent.peer.send({ t: "ping", n: 1 });
      await agent.peer.until(() => agent.peer.of("pong").length > 0, "the pong");
      for (const at of [a, b]) expect(await gets(at)).toEqual([404, 404]);
    });

    it("lose nothing when the one that has the agent is killed and the agent connects to the other", async () => {
      const endpoint = await newEndpoint();
      const first = await connectAgent(b, endpoint, { onTask: () => undefined, window: 100 });
      const client = await connectClient(a);
      const keys = client.submit({ endpointId: endpoint.id, fn, args: args(TASKS) });
      await client.untilDurable();
      await first.untilReceived(100);
      // Some are finished and known, some finished and perhaps not, some held.
      first.reply(first.received.slice(0, 40), {});
      await first.peer.until(() => first.mark.durable >= 20, "some durable results");
      await b.kill();
      const held = first.received.slice(40);
      // What only the dead one knew is not denied: the agent asks again, and has it once it is back.
      const secrets = async () => {
        const token = await agentToken(a.url, endpoint.id, endpoint.keys.privateKey);
        return fabric.api(a.url, token).post(`/v1/tasks/${keyToUuid(held[0]!.key)}/secrets`, {});
      };
      expect((await secrets()).body.code).toBe("LEASE_UNKNOWN");
      const second = await connectAgent(a, endpoint, { held: held.map((task) => task.key) });
      expect((await secrets()).status).toBe(200);
      second.reply(first.received, {});
      await client.untilOutcomes(keys);
      await expectOutcomes(keys);
      const ran = [...first.received, ...second.received].map((task) => task.key);
      expect(new Set(ran).size).toBe(TASKS);
      const heldKeys = new Set(held.map((task) => task.key));
      expect(second.received.filter((task) => heldKeys.has(task.key))).toEqual([]);
      await b.restart();
    });

    it("lose nothing when the one that has the client is killed and the client connects to the other", async () => {
      const endpoint = await newEndpoint();
      const agent = await connectAgent(b, endpoint, { window: 50 });
      const client = await connectClient(a);
      const keys = client.submit({ endpointId: endpoint.id, fn, args: args(TASKS) });
      await client.peer.until(() => client.outcomes.size > 0, "a first result");
      await a.kill();
      const again = await connectClient(b, client.group);
      // What was not marked durable is submitted again; here all of it, which must make no difference.
      again.submit({ endpointId: endpoint.id, fn, args: args(TASKS), keys, again: true });
      again.watch(keys);
      await again.untilOutcomes(keys);
      await expectOutcomes(keys);
      expect(agent.received).toHaveLength(TASKS);
      await a.restart();
    });
  });
}
