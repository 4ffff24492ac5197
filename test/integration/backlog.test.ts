/**
 * More than fits in memory, and more than a reader takes: queues longer than what their owner reads at once, INSERTs
 * that commit in another order than they began, and clients that do not read.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { IdKey } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { RING_ENTRIES } from "../../apps/web-service/src/dispatch/endpoint-queue.js";
import { EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient, type Submission } from "../support/link-client.js";

const FRAME_TASKS = 2_000;
/** Pages are read while fewer than this wait, and each brings as many. */
const PAGED_ENTRIES = 3 * 2048;
/** Rows that two statements may add to a ring that has just become full. */
const OVERSHOOT = 2 * 8192;
const LONG_MS = 60_000;

let fabric: Fabric;
let service: ServiceProcess;
let fn: Buffer;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  fn = await fabric.register(service.url, { name: "plain" });
});
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric.close());

async function connectClient(group?: Buffer): Promise<LinkClient> {
  const client = await LinkClient.connect(service.url, fabric.key, group);
  open.push(client);
  return client;
}

/** Submits `[i, {}]` for every i below `count`, within credit; resolves with the ids once all are durable. */
async function submitMany(
  client: LinkClient,
  count: number,
  how: Pick<Submission, "endpointId" | "again">,
): Promise<IdKey[]> {
  const keys: IdKey[] = [];
  for (let from = 0; from < count; from += FRAME_TASKS) {
    const args = Array.from({ length: Math.min(FRAME_TASKS, count - from) }, (_, i) =>
      Buffer.from(`[[${from + i}],{}]`),
    );
    await client.peer.until(() => client.credit.tasks >= client.sent + args.length, "credit", LONG_MS);
    keys.push(...client.submit({ ...how, fn, args }));
  }
  await client.untilDurable(LONG_MS);
  return keys;
}

async function queued(): Promise<number> {
  const reply = await fetch(`${service.url}/metrics`, { headers: { authorization: `Bearer ${fabric.key}` } });
  const found = /^farloom_tasks_queued (\d+)$/m.exec(await reply.text());
  if (!found) throw new Error("the metrics do not tell how many tasks are queued");
  return Number(found[1]);
}

const endpointOf = (name: string): Promise<EchoEndpoint> => makeEchoEndpoint(fabric.api(service.url), name);

describe("a backlog", () => {
  it(
    "of 30,000 tasks for an absent agent drains whole and in order, through a small part of memory",
    async () => {
      const endpoint = await endpointOf("absent");
      const client = await connectClient();
      const keys = await submitMany(client, 30_000, { endpointId: endpoint.id });
      const agent = await EchoAgent.connect(service.url, endpoint, { window: 512 });
      open.push(agent);
      let most = 0;
      while (client.outcomes.size < keys.length) {
        most = Math.max(most, await queued());
        await sleep(20);
      }
      expect(most).toBeGreaterThan(0);
      expect(most).toBeLessThanOrEqual(PAGED_ENTRIES);
      // Two INSERTs run at a time and draw their numbers side by side: the order is that of the rows.
      const { rows } = await fabric.database.pool.query<{ id: Buffer }>(
        "SELECT uuid_send(id) AS id FROM task WHERE endpoint_id = $1 ORDER BY seq",
        [endpoint.id],
      );
      expect(rows).toHaveLength(keys.length);
      expect(rows.findIndex((row, i) => row.id.toString("latin1") !== agent.received[i]!.key)).toBe(-1);
      expect(client.outcomes.get(keys[29_999]!)!.bytes.toString()).toBe("[[29999],{}]");
    },
    LONG_MS,
  );

  it(
    "for an agent that takes nothing stays within the ring, also where it was submitted again",
    async () => {
      const endpoint = await endpointOf("full");
      const agent = await EchoAgent.connect(service.url, endpoint, { window: 0 });
      open.push(agent);
      const client = await connectClient();
      const count = RING_ENTRIES + OVERSHOOT + 10_000;
      const keys = await submitMany(client, count, { endpointId: endpoint.id, again: true });
      expect(await queued()).toBeLessThanOrEqual(RING_ENTRIES + OVERSHOOT);
      agent.grant(count);
      await client.untilOutcomes(keys, LONG_MS);
      expect(agent.received).toHaveLength(count);
    },
    LONG_MS,
  );

  it("loses nothing where INSERTs on two connections commit in any order", async () => {
    const endpoint = await endpointOf("lanes");
    const agent = await EchoAgent.connect(service.url, endpoint, { window: 200 });
    open.push(agent);
    const clients = await Promise.all(Array.from({ length: 4 }, () => connectClient()));
    const all = await Promise.all(
      clients.map(async (client, c) => {
        const keys: IdKey[] = [];
        for (let i = 0; i < 60; i++) {
          const args = Array.from({ length: 1 + ((i * 7) % 40) }, () => Buffer.from(`[[${c}],{}]`));
          keys.push(...client.submit({ endpointId: endpoint.id, fn, args, again: (i + c) % 3 === 0 }));
          // Another turn of the service's loop, and so another statement.
          if (i % 4 === c) await sleep(3);
        }
        await client.untilOutcomes(keys);
        return keys;
      }),
    );
    expect(agent.received).toHaveLength(all.flat().length);
    expect(new Set(agent.received.map((task) => task.key))).toEqual(new Set(all.flat()));
  });
});

describe("a client that does not read", () => {
  it(
    "is cut, disturbs nobody, and gets everything after it has connected again",
    async () => {
      const result = Buffer.alloc(60_000, "x");
      const endpoint = await endpointOf("large-results");
      const agent = await EchoAgent.connect(service.url, endpoint, { onTask: () => ({ bytes: result }) });
      open.push(agent);
      const slow = await connectClient();
      slow.peer.socket.pause();
      // What is pending may reach 64 MiB, and some lies in the socket.
      const args = Array.from({ length: 1_400 }, () => Buffer.from("[[],{}]"));
      const keys = slow.submit({ endpointId: endpoint.id, fn, args });
      await agent.peer.until(() => agent.mark.durable >= 1_400, "all results committed", LONG_MS);

      const other = await connectClient();
      const startedAt = performance.now();
      const one = other.submit({ endpointId: endpoint.id, fn, args: args.slice(0, 1) });
      await other.untilOutcomes(one);
      expect(performance.now() - startedAt).toBeLessThan(2_000);

      slow.peer.socket.resume();
      await slow.peer.untilEnded();
      expect(slow.outcomes.size).toBeLessThan(1_400);
      const again = await connectClient(slow.group);
      again.watch(keys);
      const outcomes = await again.untilOutcomes(keys, LONG_MS);
      expect(outcomes.every((outcome) => outcome.bytes.equals(result))).toBe(true);
    },
    LONG_MS,
  );

  it("for a moment loses nothing and stays connected", async () => {
    const endpoint = await endpointOf("paused");
    const agent = await EchoAgent.connect(service.url, endpoint, {
      onTask: () => ({ bytes: Buffer.alloc(50_000, "y") }),
    });
    open.push(agent);
    const client = await connectClient();
    client.peer.socket.pause();
    const args = Array.from({ length: 400 }, () => Buffer.from("[[],{}]"));
    const keys = client.submit({ endpointId: endpoint.id, fn, args });
    await agent.peer.until(() => agent.mark.durable >= 400, "all results committed");
    client.peer.socket.resume();
    await client.untilOutcomes(keys);
    expect(client.results).toBe(400);
  });
});
