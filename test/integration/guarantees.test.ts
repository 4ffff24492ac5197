/**
 * The service's guarantees about leases, losses, cancels and time, with two service processes on one database and
 * agents that a test scripts. docs/guarantees.md says which test shows what.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { CODEC_REFERENCE, type IdKey, keyToUuid } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import {
  EchoAgent,
  type EchoAgentOptions,
  type EchoEndpoint,
  makeEchoEndpoint,
  type ReceivedTask,
} from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { agentToken } from "../support/fake-agent.js";
import { LinkClient } from "../support/link-client.js";

const START_MS = 120_000;
/** Other work shares the machine: what is to come may take so long. */
const LONG_MS = 40_000;
/** Long enough for what must not happen to have happened. */
const QUIET_MS = 400;
const args = (n: number): Buffer[] => Array.from({ length: n }, (_, i) => Buffer.from(`[[${i}],{}]`));
const holding: EchoAgentOptions = { onTask: () => undefined };

vi.setConfig({ testTimeout: 3 * LONG_MS });

let fabric: Fabric;
let a: ServiceProcess;
let b: ServiceProcess;
let once: Buffer;
let often: Buffer;
let names = 0;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  fabric = await Fabric.open({ env: { FARLOOM_SWEEP_MS: "1000" } });
  a = await fabric.service();
  b = await fabric.service();
  once = await fabric.register(a.url, { name: "once" });
  often = await fabric.register(a.url, { name: "often", mode: "at_least_once" });
}, START_MS);
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric?.close(), START_MS);

async function connectClient(at: ServiceProcess = a): Promise<LinkClient> {
  const client = await LinkClient.connect(at.url, fabric.key);
  open.push(client);
  return client;
}
async function connectAgent(endpoint: EchoEndpoint, options?: EchoAgentOptions, at = a): Promise<EchoAgent> {
  const agent = await EchoAgent.connect(at.url, endpoint, options);
  open.push(agent);
  return agent;
}
const newEndpoint = (): Promise<EchoEndpoint> => makeEchoEndpoint(fabric.api(a.url), `echo-${++names}`);

async function outcomes(
  keys: readonly IdKey[],
): Promise<{ state: number; attempt: number; detail: unknown }[]> {
  const { rows } = await fabric.database.pool.query(
    "SELECT state, attempt, detail FROM outcome WHERE task_id = ANY($1::uuid[])",
    [keys.map(keyToUuid)],
  );
  return rows;
}
const task = async (key: IdKey) => (await fabric.api(a.url).get(`/v1/tasks/${keyToUuid(key)}`)).body;

async function eventually(condition: () => Promise<boolean>, what: string): Promise<void> {
  for (const until = performance.now() + LONG_MS; performance.now() < until; await sleep(100)) {
    if (await condition()) return;
  }
  throw new Error(`${what}: not within ${LONG_MS} ms`);
}

describe("leases of an agent that stays away", () => {
  it("lapse after reclaimMs, not before: at_most_once ends LOST, at_least_once has another attempt, the rest stays queued", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, window: 4, hello: { reclaimMs: 3_000 } });
    const client = await connectClient();
    const first = client.submit({ endpointId: endpoint.id, fn: once, args: args(2) });
    await agent.untilReceived(2);
    const second = client.submit({ endpointId: endpoint.id, fn: often, args: args(2) });
    await agent.untilReceived(4);
    const queued = client.submit({ endpointId: endpoint.id, fn: once, args: args(3) });
    await client.untilDurable();
    await agent.close();
    const leftAt = performance.now();
    const lost = await client.untilOutcomes(first, LONG_MS);
    expect(performance.now() - leftAt).toBeGreaterThan(2_900);
    expect(lost.map((o) => [o.state, o.reason])).toEqual([
      ["LOST", "agent_lost"],
      ["LOST", "agent_lost"],
    ]);
    expect(await outcomes([...second, ...queued])).toEqual([]);
    const again = await connectAgent(endpoint);
    const late = await client.untilOutcomes([...second, ...queued], LONG_MS);
    expect(late.map((o) => o.attempt)).toEqual([2, 2, 1, 1, 1]);
    expect(again.received).toHaveLength(5);
  });

  it("stand for ever where the agent says 0, and while it comes and goes", async () => {
    const endpoint = await newEndpoint();
    const never = await connectAgent(endpoint, { ...holding, hello: { reclaimMs: 0 } });
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(1) });
    const [given] = await never.untilReceived(1);
    await client.untilDurable();
    await never.close();
    await sleep(4_000);
    expect(await outcomes(keys)).toEqual([]);
    const back = await connectAgent(endpoint, { ...holding, held: keys });
    back.reply([given!], {});
    await client.untilOutcomes(keys);
    expect(back.received).toEqual([]);
  });

  it("a result that comes after LOST is kept aside and told, and changes nothing", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, hello: { reclaimMs: 500 } });
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(1) });
    const [given] = await agent.untilReceived(1);
    await client.untilDurable();
    await agent.close();
    await client.untilOutcomes(keys, LONG_MS);
    const back = await connectAgent(endpoint, { ...holding, held: keys });
    await back.peer.until(() => back.cancelled.length === 1, "the cancel of what has ended");
    for (let i = 0; i < 2; i++) back.reply([given!], { bytes: Buffer.from('"late"') });
    await back.untilDurable();
    expect(await task(keys[0]!)).toMatchObject({
      state: "LOST",
      late: { state: "SUCCEEDED", attempt: 1, result: "late" },
    });
    expect(await outcomes(keys)).toMatchObject([{ state: 5 }]);
  });

  it("are known to a replica that takes the observer's place", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, hello: { reclaimMs: 3_000 } }, b);
    const client = await connectClient(a);
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(2) });
    await agent.untilReceived(2);
    await client.untilDurable();
    await agent.close();
    await eventually(async () => {
      const { rows } = await fabric.database.pool.query(
        "SELECT octet_length(ids) AS n FROM endpoint_lease WHERE endpoint_id = $1",
        [endpoint.id],
      );
      // 16 bytes are those of nothing.
      return rows[0]?.n > 16;
    }, "the record of the leases");
    await b.kill();
    const lost = await client.untilOutcomes(keys, LONG_MS);
    expect(lost.map((o) => o.state)).toEqual(["LOST", "LOST"]);
    await b.restart();
  });
});

describe("an agent that comes back", () => {
  it("after another boot: what it had and does not know of may have started, and never runs again unasked", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, window: 4, hello: { bootId: "one" } });
    const client = await connectClient();
    const had = client.submit({ endpointId: endpoint.id, fn: once, args: args(3) });
    await agent.untilReceived(3);
    const repeat = client.submit({ endpointId: endpoint.id, fn: often, args: args(1) });
    const given = await agent.untilReceived(4);
    const queued = client.submit({ endpointId: endpoint.id, fn: once, args: args(2) });
    await client.untilDurable();
    await agent.close();
    // It still has the first, and a result of the second.
    const back = await connectAgent(endpoint, { held: [had[0]!], window: 0, hello: { bootId: "two" } });
    back.reply([given[1]!], {});
    back.grant(100);
    expect((await client.untilOutcomes([had[1]!, had[2]!], LONG_MS)).map((o) => o.state)).toEqual([
      "SUCCEEDED",
      "LOST",
    ]);
    expect((await client.untilOutcomes(repeat, LONG_MS))[0]).toMatchObject({
      state: "SUCCEEDED",
      attempt: 2,
    });
    await client.untilOutcomes(queued, LONG_MS);
    expect(back.received.map((t) => t.key).sort()).toEqual([...repeat, ...queued].sort());
    back.reply([given[0]!], {});
    await client.untilOutcomes(had);
  });

  it("after the same boot: what it does not list has not started, and is sent again", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, holding);
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(2) });
    await agent.untilReceived(2);
    await client.untilDurable();
    await agent.close();
    const back = await connectAgent(endpoint);
    await client.untilOutcomes(keys, LONG_MS);
    expect(back.received.map((t) => t.key)).toEqual(keys);
  });

  it("after another boot, of a service that was killed: the first of the queue may have started", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, window: 3, hello: { bootId: "one" } }, b);
    const client = await connectClient(a);
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(5) });
    await agent.untilReceived(3);
    await client.untilDurable();
    await b.kill();
    const back = await connectAgent(endpoint, { hello: { bootId: "two" } });
    const states = (await client.untilOutcomes(keys, LONG_MS)).map((o) => o.state);
    expect(states).toEqual(["LOST", "LOST", "LOST", "SUCCEEDED", "SUCCEEDED"]);
    expect(back.received).toHaveLength(2);
    await b.restart();
  });

  it("with an older attempt is told to stop it, and gets the newer one when it has answered", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, hello: { reclaimMs: 500 } });
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: often, args: args(1) });
    const [given] = await agent.untilReceived(1);
    await client.untilDurable();
    await agent.close();
    await eventually(async () => (await task(keys[0]!)).attempt === 2, "the second attempt");
    const attempts = Buffer.alloc(4);
    attempts.writeUInt32LE(1);
    const back = await connectAgent(endpoint, {
      ...holding,
      held: keys,
      hello: { heldAttempts: attempts, reclaimMs: 0 },
    });
    await back.peer.until(() => back.cancelled.length === 1, "the cancel of the older attempt");
    await sleep(QUIET_MS);
    expect(back.received).toEqual([]);
    back.reply([given!], { bytes: Buffer.from('"older"') });
    const [newer] = await back.untilReceived(1);
    expect(newer!.attempt).toBe(2);
    expect(await outcomes(keys)).toEqual([]);
    back.reply([newer!], { bytes: Buffer.from('"newer"') });
    expect((await client.untilOutcomes(keys))[0]!.bytes.toString()).toBe('"newer"');
  });
});

describe("two agents with one identity", () => {
  for (const place of ["one replica", "two replicas"] as const) {
    it(`on ${place}: the newest connection wins, and the older stops leasing at once`, async () => {
      const endpoint = await newEndpoint();
      const older = await connectAgent(endpoint, { ...holding, window: 2 }, a);
      const client = await connectClient(a);
      const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(6) });
      const had = [...(await older.untilReceived(2))];
      await client.untilDurable();
      const newer = await connectAgent(endpoint, {}, place === "one replica" ? a : b);
      older.grant(100);
      expect(await older.peer.untilEnded()).toBe("LINK_REPLACED");
      const ended = await client.untilOutcomes(keys, LONG_MS);
      // What the older had may have started there: it is not started at the newer.
      expect(ended.map((o) => o.state)).toEqual(["LOST", "LOST", ...new Array(4).fill("SUCCEEDED")]);
      expect(older.received).toEqual(had);
      expect(newer.received).toHaveLength(4);
    });
  }
});

describe("a cancel", () => {
  it("at any replica ends what no agent has at once, confirmed, also where the agent is away", async () => {
    const endpoint = await newEndpoint();
    const client = await connectClient(a);
    const never = client.submit({ endpointId: endpoint.id, fn: once, args: args(1) });
    await client.untilDurable();
    const cancel = (key: IdKey) => fabric.api(b.url).post(`/v1/tasks/${keyToUuid(key)}/cancel`);
    expect((await cancel(never[0]!)).body).toMatchObject({ state: "CANCELLED" });
    expect(await task(never[0]!)).toMatchObject({ state: "CANCELLED", confirmed: true });

    const agent = await connectAgent(endpoint, { ...holding, window: 1, hello: { reclaimMs: 60_000 } }, a);
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(3) });
    await agent.untilReceived(1);
    await client.untilDurable();
    await cancel(keys[1]!);
    await client.untilOutcomes([keys[1]!], LONG_MS);
    await agent.close();
    await eventually(async () => (await cancel(keys[2]!)).status !== 202, "the end of what was not sent");
    expect(await task(keys[2]!)).toMatchObject({ state: "CANCELLED", confirmed: true });
    expect((await cancel(keys[0]!)).body).toMatchObject({ cancelRequested: true });
    expect(await outcomes([keys[0]!])).toEqual([]);
  });

  it("of what an agent that stays away has ends with its leases, unconfirmed", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, hello: { reclaimMs: 1_500 } });
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: often, args: args(1) });
    await agent.untilReceived(1);
    await client.untilDurable();
    await agent.close();
    await fabric.api(b.url).post(`/v1/tasks/${keyToUuid(keys[0]!)}/cancel`);
    expect((await client.untilOutcomes(keys, LONG_MS))[0]).toMatchObject({ state: "CANCELLED", attempt: 1 });
    expect(await task(keys[0]!)).toMatchObject({ confirmed: false });
  });

  it("is found by the owner's sweep where no hint told of it", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, holding);
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(1) });
    await agent.untilReceived(1);
    await client.untilDurable();
    await fabric.database.pool.query("UPDATE task SET cancel_requested_at = now() WHERE id = $1", [
      keyToUuid(keys[0]!),
    ]);
    await agent.peer.until(() => agent.cancelled.length > 0, "the cancel at the agent", LONG_MS);
    agent.reply(agent.received, { state: "CANCELLED", detail: { confirmed: true } });
    await client.untilOutcomes(keys);
    expect(await task(keys[0]!)).toMatchObject({ state: "CANCELLED", confirmed: true });
  });
});

describe("limits of time", () => {
  it("end what waits in the service when they come, with and without an agent", async () => {
    const endpoint = await newEndpoint();
    const client = await connectClient();
    const submit = (options: { queueTimeoutMs?: number; deadlineMs?: number }) =>
      client.submit({ endpointId: endpoint.id, fn: once, args: args(1), options });
    const alone = [...submit({ queueTimeoutMs: 300 }), ...submit({ deadlineMs: 300 })];
    const reasons = (await client.untilOutcomes(alone, LONG_MS)).map((o) => [o.state, o.reason]);
    const expected = [
      ["TIMED_OUT", "queue_time_limit"],
      ["TIMED_OUT", "deadline"],
    ];
    expect(reasons).toEqual(expected);
    const agent = await connectAgent(endpoint, { ...holding, window: 1 });
    const held = submit({ queueTimeoutMs: 60_000, deadlineMs: 120_000 });
    const [given] = await agent.untilReceived(1);
    expect(given!.options!.queueTimeoutMs).toBeLessThanOrEqual(60_000);
    expect(given!.options!.deadlineMs).toBeLessThanOrEqual(120_000);
    const waiting = [...submit({ queueTimeoutMs: 300 }), ...submit({ deadlineMs: 300 })];
    expect((await client.untilOutcomes(waiting, LONG_MS)).map((o) => [o.state, o.reason])).toEqual(expected);
    agent.reply([given!], {});
    await client.untilOutcomes(held);
    expect(agent.received).toHaveLength(1);
  });

  it("a deadline ends what an agent that is away has, unconfirmed; time in the queue does not", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, { ...holding, hello: { reclaimMs: 0 } });
    const client = await connectClient();
    const submit = (options: { queueTimeoutMs?: number; deadlineMs?: number }) =>
      client.submit({ endpointId: endpoint.id, fn: once, args: args(1), options });
    const deadline = submit({ deadlineMs: 3_000 });
    const queue = submit({ queueTimeoutMs: 3_000 });
    await agent.untilReceived(2);
    await client.untilDurable();
    await agent.close();
    expect((await client.untilOutcomes(deadline, LONG_MS))[0]).toMatchObject({ reason: "deadline" });
    expect(await task(deadline[0]!)).toMatchObject({ state: "TIMED_OUT", confirmed: false });
    await sleep(QUIET_MS);
    expect(await outcomes(queue)).toEqual([]);
  });
});

/** An agent that holds the one task it has room for, and the client that sent it. */
async function connectBusyAgent(): Promise<{ endpoint: EchoEndpoint; agent: EchoAgent; client: LinkClient }> {
  const endpoint = await newEndpoint();
  const agent = await connectAgent(endpoint, { ...holding, window: 1 });
  const client = await connectClient();
  client.submit({ endpointId: endpoint.id, fn: once, args: args(1) });
  await agent.untilReceived(1);
  await client.untilDurable();
  return { endpoint, agent, client };
}

/** Runs `work` while no task can be committed. */
async function whileNoTaskCommits(work: () => Promise<void>): Promise<void> {
  const holder = await fabric.database.pool.connect();
  try {
    await holder.query("BEGIN");
    await holder.query("LOCK TABLE task IN EXCLUSIVE MODE");
    await work();
  } finally {
    await holder.query("COMMIT");
    holder.release();
  }
}

describe("a submission that its own repetition has overtaken", () => {
  it("is not run again", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint);
    const [slow, next] = [await connectClient(), await connectClient()];
    for (const fn of [once, often]) {
      const before = agent.received.length;
      const keys = next.submit({ endpointId: endpoint.id, fn, args: args(3), again: true });
      await next.untilOutcomes(keys, LONG_MS);
      slow.submit({ endpointId: endpoint.id, fn, args: args(3), keys, group: next.group });
      await slow.untilDurable(LONG_MS);
      await sleep(QUIET_MS);
      expect(agent.received.length - before).toBe(3);
    }
  });
});

describe("a task whose commit takes long", () => {
  it("ends by its queue time limit where that came first, and is not sent", async () => {
    const { endpoint, agent, client } = await connectBusyAgent();
    let late: IdKey[] = [];
    await whileNoTaskCommits(async () => {
      late = client.submit({
        endpointId: endpoint.id,
        fn: once,
        args: args(2),
        options: { queueTimeoutMs: 50 },
      });
      await sleep(QUIET_MS);
      agent.grant(10);
      await sleep(QUIET_MS);
    });
    const ends = await client.untilOutcomes(late, LONG_MS);
    expect(ends.map((o) => [o.state, o.reason])).toEqual(Array(2).fill(["TIMED_OUT", "queue_time_limit"]));
    expect(agent.received).toHaveLength(1);
  });

  it("goes to the agent's next connection where the last one ended with it on its way", async () => {
    const endpoint = await newEndpoint();
    const agent = await connectAgent(endpoint, {
      onTask: ({ bytes }) => (bytes.equals(args(1)[0]!) ? {} : undefined),
    });
    const client = await connectClient();
    await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn: once, args: args(1) }));
    let keys: IdKey[] = [];
    let next: EchoAgent | undefined;
    await whileNoTaskCommits(async () => {
      keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(4).slice(1) });
      await agent.untilReceived(4);
      await agent.close();
      next = await connectAgent(endpoint);
      await sleep(QUIET_MS);
    });
    expect((await client.untilOutcomes(keys, LONG_MS)).map((o) => o.state)).toEqual(
      Array(3).fill("SUCCEEDED"),
    );
    expect(next!.received).toHaveLength(3);
  });

  it("keeps nothing that goes with it from the agent that has it: where that is not there yet, it is told to ask again", async () => {
    const endpoint = await newEndpoint();
    const bytes = Buffer.from(`${endpoint.id}${"x".repeat(70_000)}`);
    const digest = createHash("sha256").update(bytes).digest();
    const file = `/v1/payloads/${digest.toString("hex")}`;
    expect((await fabric.api(a.url).call("PUT", file, { raw: bytes })).status).toBe(201);
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(bytes.length));
    const codec = CODEC_REFERENCE | 1;
    const call = { endpointId: endpoint.id, fn: once, args: [Buffer.concat([digest, size])], codec };
    const options = { nested: true };
    const isFirst = ({ bytes: given }: ReceivedTask): boolean => given.equals(args(1)[0]!);
    const agent = await connectAgent(endpoint, { onTask: (task) => (isFirst(task) ? {} : undefined) });
    const client = await connectClient();
    await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn: once, args: args(1) }));
    const token = await agentToken(a.url, endpoint.id, endpoint.keys.privateKey);
    const gets = async ({ url }: ServiceProcess, key: IdKey): Promise<number[]> => [
      (await fabric.api(url, token).get(file)).status,
      (await fabric.api(url, token).post(`/v1/tasks/${keyToUuid(key)}/token`, {})).status,
    ];
    let key: IdKey | undefined;
    await whileNoTaskCommits(async () => {
      [key] = client.submit({ ...call, options });
      await agent.untilReceived(2);
      expect(await gets(a, key!)).toEqual([200, 503]);
      expect(await gets(b, key!)).toEqual([503, 503]);
      await agent.close();
      const owner = "SELECT owner_replica FROM endpoint WHERE id = $1";
      await expect
        .poll(async () => (await fabric.database.pool.query(owner, [endpoint.id])).rows[0])
        .toEqual({ owner_replica: null });
      for (const at of [a, b]) expect(await gets(at, key!)).toEqual([503, 503]);
      await connectAgent(endpoint, { ...holding, held: [key!] });
      for (const at of [a, b]) expect(await gets(at, key!)).toEqual([503, 503]);
    });
    const seen = new Set<number>();
    for (const at of [a, b])
      await expect
        .poll(
          async () => {
            const now = await gets(at, key!);
            for (const status of now) seen.add(status);
            return now;
          },
          { timeout: LONG_MS, interval: 50 },
        )
        .toEqual([200, 200]);
    expect(seen).not.toContain(404);
  });

  it("ends, and is never sent, where it is cancelled before it has begun", async () => {
    const { endpoint, agent, client } = await connectBusyAgent();
    let keys: IdKey[] = [];
    await whileNoTaskCommits(async () => {
      keys = client.submit({ endpointId: endpoint.id, fn: once, args: args(2) });
      await sleep(QUIET_MS);
      client.cancel(keys, "unbegun");
      // It reads whose tasks they are before it holds them back, and says nothing: what is sent first would have begun.
      await sleep(4 * QUIET_MS);
      agent.grant(10);
      await sleep(QUIET_MS);
    });
    expect((await client.untilOutcomes(keys, LONG_MS)).map((o) => o.state)).toEqual(
      Array(2).fill("CANCELLED"),
    );
    expect(agent.received).toHaveLength(1);
  });
});

describe("losses", () => {
  it("three deaths of workers end a task poisoned, with its payload kept, and use up no retries", async () => {
    const fn = await fabric.register(a.url, {
      name: "poison",
      mode: "at_least_once",
      retries: 1,
      backoffMs: 0,
    });
    const endpoint = await newEndpoint();
    await connectAgent(endpoint, {
      onTask: ({ attempt }) =>
        attempt === 2 ? { state: "FAILED" } : { state: "FAILED", reason: "worker_died" },
    });
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn, args: args(1) });
    expect(await client.untilOutcomes(keys, LONG_MS)).toMatchObject([
      { state: "FAILED", reason: "poisoned", attempt: 4 },
    ]);
    const { rows } = await fabric.database.pool.query("SELECT args FROM task WHERE id = $1", [
      keyToUuid(keys[0]!),
    ]);
    expect(rows[0].args.toString()).toBe("[[0],{}]");
  });

  it("of agents are bounded apart: the tenth ends it LOST", async () => {
    const endpoint = await newEndpoint();
    await connectAgent(endpoint, { onTask: () => ({ state: "LOST", reason: "agent_lost" }) });
    const client = await connectClient();
    const keys = client.submit({ endpointId: endpoint.id, fn: often, args: args(1) });
    expect(await client.untilOutcomes(keys, LONG_MS)).toMatchObject([{ state: "LOST", attempt: 10 }]);
  });
});
