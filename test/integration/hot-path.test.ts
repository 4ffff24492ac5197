/**
 * The road of a task through a real service process, real PostgreSQL and real sockets, with a scripted agent below
 * and a client above that speaks frames by hand: what each side is told, and that it is told only what is committed.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type IdKey, keyToUuid, newBatchId } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  EchoAgent,
  type EchoAgentOptions,
  type EchoEndpoint,
  makeEchoEndpoint,
} from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient } from "../support/link-client.js";

const args = (...values: unknown[]): Buffer => Buffer.from(JSON.stringify([values, {}]));
const numbers = (n: number): Buffer[] => Array.from({ length: n }, (_, i) => args(i));
/** Long enough for what must not happen to have happened. */
const QUIET_MS = 250;

let fabric: Fabric;
let service: ServiceProcess;
let plain: Buffer;
const open: { close(): Promise<void> }[] = [];
let names = 0;

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  plain = await fabric.register(service.url, { name: "plain" });
});
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric.close());

async function connectClient(group?: Buffer, key = fabric.key): Promise<LinkClient> {
  const client = await LinkClient.connect(service.url, key, group);
  open.push(client);
  return client;
}
async function connectAgent(endpoint: EchoEndpoint, options?: EchoAgentOptions): Promise<EchoAgent> {
  const agent = await EchoAgent.connect(service.url, endpoint, options);
  open.push(agent);
  return agent;
}
const newEndpoint = (): Promise<EchoEndpoint> => makeEchoEndpoint(fabric.api(service.url), `echo-${++names}`);

/** A client, and an agent on an endpoint of its own. */
async function pair(options?: EchoAgentOptions) {
  const endpoint = await newEndpoint();
  const agent = await connectAgent(endpoint, options);
  return { client: await connectClient(), agent, endpoint, endpointId: endpoint.id };
}
const holding: EchoAgentOptions = { onTask: () => undefined };

async function count(sql: string, keys: readonly IdKey[]): Promise<number> {
  const { rows } = await fabric.database.pool.query(sql, [keys.map(keyToUuid)]);
  return Number(rows[0].count);
}
const taskRows = (keys: readonly IdKey[]) =>
  count("SELECT count(*) FROM task WHERE id = ANY($1::uuid[])", keys);
const outcomeRows = (keys: readonly IdKey[]) =>
  count("SELECT count(*) FROM outcome WHERE task_id = ANY($1::uuid[])", keys);

/** Holds every INSERT of a task back until the function it gives is called, or its test has ended. */
async function holdInserts(): Promise<() => Promise<void>> {
  const connection = await fabric.database.pool.connect();
  await connection.query("BEGIN");
  await connection.query("LOCK TABLE task IN EXCLUSIVE MODE");
  let released: Promise<void> | undefined;
  const release = (): Promise<void> => {
    released ??= connection.query("COMMIT").then(() => connection.release());
    return released;
  };
  open.push({ close: release });
  return release;
}

describe("what each side is told", () => {
  it("carries tasks down and results up, and marks them durable at both ends", async () => {
    const { client, agent, endpointId } = await pair();
    const keys = client.submit({ endpointId, fn: plain, args: numbers(50) });
    const outcomes = await client.untilOutcomes(keys);
    expect(outcomes.map((o) => o.bytes.toString())).toEqual(numbers(50).map(String));
    expect(outcomes.every((o) => o.state === "SUCCEEDED" && o.attempt === 1)).toBe(true);
    await client.untilDurable();
    await agent.untilDurable();
    expect(agent.received.map((task) => task.key)).toEqual(keys);
    expect(await taskRows(keys)).toBe(50);
    expect(await outcomeRows(keys)).toBe(50);
  });

  it("keeps the order of a client's frames, also where the first of them names what is not in the caches", async () => {
    const { client, agent, endpointId } = await pair({ onTask: () => undefined });
    const keys: IdKey[] = [];
    for (let round = 0; round < 10; round++) {
      // A group that nobody has named yet is looked up, and made; by then the next frames are there.
      const group = newBatchId();
      for (let i = 0; i < 5; i++)
        keys.push(...client.submit({ endpointId, fn: plain, args: numbers(1), group }));
      await agent.untilReceived(keys.length);
    }
    expect(agent.received.map((task) => task.key)).toEqual(keys);
    await client.untilDurable();
  });

  it("says durable, delivers and lets the agent forget only after the commit, though the task has travelled", async () => {
    const { client, agent, endpointId } = await pair();
    const commit = await holdInserts();
    const keys = client.submit({ endpointId, fn: plain, args: numbers(3) });
    await agent.untilReceived(3);
    await sleep(QUIET_MS);
    expect(client.mark.durable).toBe(0);
    expect(client.outcomes.size).toBe(0);
    expect(agent.mark.durable).toBe(0);
    await commit();
    await client.untilOutcomes(keys);
    await client.untilDurable();
    await agent.untilDurable();
    expect(await taskRows(keys)).toBe(3);
  });

  it("keeps a failure that comes before the commit for its retry", async () => {
    const fn = await fabric.register(service.url, { name: "early-retry", retries: 1, backoffMs: 0 });
    const { client, agent, endpointId } = await pair({
      onTask: (task) => (task.attempt === 1 ? { state: "FAILED" } : {}),
    });
    const commit = await holdInserts();
    const keys = client.submit({ endpointId, fn, args: numbers(1) });
    await agent.untilReceived(1);
    await sleep(QUIET_MS);
    await commit();
    const [outcome] = await client.untilOutcomes(keys);
    expect(outcome).toMatchObject({ state: "SUCCEEDED", attempt: 2 });
    await agent.untilDurable();
  });
});

describe("a submission that comes again", () => {
  it("gets the outcome of a task that is finished, and does not run it again", async () => {
    const { client, agent, endpointId } = await pair();
    const keys = client.submit({ endpointId, fn: plain, args: numbers(2) });
    await client.untilOutcomes(keys);
    await client.close();
    const second = await connectClient(client.group);
    second.submit({ endpointId, fn: plain, args: numbers(2), keys, again: true });
    await second.untilOutcomes(keys);
    await second.untilDurable();
    expect(agent.received).toHaveLength(2);
  });

  it("joins a task that runs", async () => {
    const { client, agent, endpointId } = await pair(holding);
    const keys = client.submit({ endpointId, fn: plain, args: numbers(2) });
    await agent.untilReceived(2);
    await client.untilDurable();
    client.submit({ endpointId, fn: plain, args: numbers(2), keys, again: true });
    await client.untilDurable();
    await sleep(QUIET_MS);
    expect(agent.received).toHaveLength(2);
    agent.reply(agent.received, {});
    await client.untilOutcomes(keys);
    expect(client.results).toBe(2);
  });

  it("runs a task that never arrived", async () => {
    const { client, endpointId } = await pair();
    const keys = client.submit({ endpointId, fn: plain, args: numbers(2), again: true });
    await client.untilOutcomes(keys);
  });

  it("leaves a task that waits out its backoff waiting, and its next attempt counts", async () => {
    const fn = await fabric.register(service.url, { name: "slow-retry", retries: 1, backoffMs: 1_000 });
    const { client, agent, endpointId } = await pair({
      onTask: (task) => (task.attempt === 1 ? { state: "FAILED" } : {}),
    });
    const keys = client.submit({ endpointId, fn, args: numbers(1) });
    await agent.untilReceived(1);
    await agent.untilDurable();
    client.submit({ endpointId, fn, args: numbers(1), keys, again: true });
    const [outcome] = await client.untilOutcomes(keys);
    expect(outcome).toMatchObject({ state: "SUCCEEDED", attempt: 2 });
    expect(agent.received.map((task) => task.attempt)).toEqual([1, 2]);
  });

  it("queues what is open and was not sent once, in order, wherever it waits", async () => {
    const endpoint = await newEndpoint();
    const client = await connectClient();
    const submission = { endpointId: endpoint.id, fn: plain, args: numbers(100) };
    const keys = client.submit(submission);
    await client.untilDurable();
    const agent = await connectAgent(endpoint, { window: 0, onTask: () => undefined });
    client.submit({ ...submission, keys, again: true });
    await client.untilDurable();
    agent.grant(1_000);
    await agent.untilReceived(100);
    await sleep(QUIET_MS);
    expect(agent.received.map((task) => task.key)).toEqual(keys);
    agent.reply(agent.received, {});
    await client.untilOutcomes(keys);
  });

  for (const again of [false, true]) {
    it(`is refused under an id of another owner, group or endpoint (again: ${again})`, async () => {
      const { client, agent, endpoint } = await pair();
      const keys = client.submit({ endpointId: endpoint.id, fn: plain, args: numbers(2) });
      await client.untilOutcomes(keys);
      await agent.untilDurable();

      const otherKey = await fabric.keyOf(service.url, `other-${again}`);
      const otherApi = fabric.api(service.url, otherKey);
      const otherFn = await fabric.register(service.url, { name: "plain" }, otherKey);
      const otherEndpoint = await makeEchoEndpoint(otherApi, "theirs");
      const otherAgent = await connectAgent(otherEndpoint);
      const other = await connectClient(undefined, otherKey);
      const taken = [keys[0]!, keyWithIndex(keys[0]!, 900), keys[1]!];
      other.submit({ endpointId: otherEndpoint.id, fn: otherFn, args: numbers(3), keys: taken, again });
      await other.untilOutcomes([taken[1]!]);
      await other.untilDurable();
      expect(other.refusals.map((r) => [r.from, r.code])).toEqual([
        [1, "TASK_ID_TAKEN"],
        [3, "TASK_ID_TAKEN"],
      ]);
      expect(other.outcomes.size).toBe(1);
      if (again) expect(otherAgent.received).toHaveLength(1);

      client.submit({
        endpointId: endpoint.id,
        fn: plain,
        args: numbers(2),
        keys,
        group: newBatchId(),
        again,
      });
      await client.untilDurable();
      const elsewhere = await newEndpoint();
      client.submit({ endpointId: elsewhere.id, fn: plain, args: numbers(2), keys, again });
      await client.untilDurable();
      expect(client.refusals.map((r) => r.code)).toEqual(new Array(4).fill("TASK_ID_TAKEN"));
    });
  }
});

describe("results", () => {
  it("of another attempt or of no known task change nothing; the agent hears which are unknown", async () => {
    const { client, agent, endpointId } = await pair(holding);
    const keys = client.submit({ endpointId, fn: plain, args: numbers(1) });
    const [task] = await agent.untilReceived(1);
    await client.untilDurable();
    const stranger = { key: keyWithIndex(keys[0]!, 77), attempt: 1, bytes: Buffer.from("1") };
    agent.reply([task!, stranger], (t) => (t === task ? { attempt: 2 } : {}));
    await agent.untilDurable();
    expect(agent.unknown).toEqual([stranger.key]);
    expect(await outcomeRows([...keys, stranger.key])).toBe(0);
    agent.reply([task!], {});
    expect(await client.untilOutcomes(keys)).toMatchObject([{ state: "SUCCEEDED", attempt: 1 }]);
  });

  it("of another endpoint's task change nothing", async () => {
    const { client, agent, endpointId } = await pair(holding);
    const thief = await connectAgent(await newEndpoint());
    const keys = client.submit({ endpointId, fn: plain, args: numbers(1) });
    const [task] = await agent.untilReceived(1);
    await client.untilDurable();
    thief.reply([task!], { bytes: Buffer.from("666") });
    await thief.untilDurable();
    expect(thief.unknown).toEqual(keys);
    expect(await outcomeRows(keys)).toBe(0);
  });

  it("that come twice count in the marks and leave the first as it was committed", async () => {
    const { client, agent, endpointId } = await pair(holding);
    const keys = client.submit({ endpointId, fn: plain, args: numbers(2) });
    const [a, b] = await agent.untilReceived(2);
    agent.reply([a!, a!, b!], { bytes: Buffer.from('"first"') });
    await agent.untilDurable();
    agent.reply([a!, b!], { state: "FAILED", bytes: Buffer.from('"second"') });
    await agent.untilDurable();
    const { rows } = await fabric.database.pool.query(
      "SELECT state, convert_from(result, 'UTF8') AS result FROM outcome WHERE task_id = ANY($1::uuid[])",
      [keys.map(keyToUuid)],
    );
    expect(rows).toEqual([
      { state: 1, result: '"first"' },
      { state: 1, result: '"first"' },
    ]);
    expect((await client.untilOutcomes(keys)).map((o) => o.bytes.toString())).toEqual(['"first"', '"first"']);
  });

  it("can be changed by no statement", async () => {
    const { client, endpointId } = await pair();
    const keys = client.submit({ endpointId, fn: plain, args: numbers(1) });
    await client.untilOutcomes(keys);
    const update = fabric.database.pool.query("UPDATE outcome SET state = 2 WHERE task_id = $1", [
      keyToUuid(keys[0]!),
    ]);
    await expect(update).rejects.toThrow(/is final and cannot be changed/);
  });

  it("of an older connection of the same endpoint change nothing, and it is told that it was replaced", async () => {
    const { client, agent: older, endpoint } = await pair(holding);
    const keys = client.submit({ endpointId: endpoint.id, fn: plain, args: numbers(1) });
    const [task] = await older.untilReceived(1);
    await client.untilDurable();
    const newer = await connectAgent(endpoint, { ...holding, held: keys });
    older.reply([task!], { bytes: Buffer.from('"late"') });
    expect(await older.peer.untilEnded()).toBe("LINK_REPLACED");
    await sleep(QUIET_MS);
    expect(await outcomeRows(keys)).toBe(0);
    expect(newer.received).toEqual([]);
    newer.reply([task!], { bytes: Buffer.from('"mine"') });
    const [outcome] = await client.untilOutcomes(keys);
    expect(outcome!.bytes.toString()).toBe('"mine"');
  });

  it("under an epoch that is over, as on a replica that lost the endpoint, change nothing", async () => {
    const { client, agent: older, endpoint } = await pair(holding);
    const keys = client.submit({ endpointId: endpoint.id, fn: plain, args: numbers(1) });
    const [task] = await older.untilReceived(1);
    await client.untilDurable();
    await fabric.database.pool.query("UPDATE endpoint SET epoch = epoch + 1 WHERE id = $1", [endpoint.id]);
    older.reply([task!], { bytes: Buffer.from('"stale"') });
    expect(await older.peer.untilEnded()).toBe("LINK_REPLACED");
    expect(older.mark.durable).toBe(0);
    expect(await outcomeRows(keys)).toBe(0);
    const newer = await connectAgent(endpoint, { held: keys });
    newer.reply([task!], {});
    await client.untilOutcomes(keys);
  });
});

describe("another attempt", () => {
  it("follows a failure after a growing backoff, as often as there are retries", async () => {
    const fn = await fabric.register(service.url, { name: "retries", retries: 2, backoffMs: 200 });
    const at: number[] = [];
    const { client, agent, endpointId } = await pair({
      onTask: (task) => {
        at.push(performance.now());
        return task.attempt < 3 ? { state: "FAILED" } : {};
      },
    });
    const keys = client.submit({ endpointId, fn, args: numbers(1) });
    const [outcome] = await client.untilOutcomes(keys);
    expect(outcome).toMatchObject({ state: "SUCCEEDED", attempt: 3 });
    expect(agent.received.map((task) => task.attempt)).toEqual([1, 2, 3]);
    expect(at[1]! - at[0]!).toBeGreaterThan(140);
    expect(at[2]! - at[1]!).toBeGreaterThan(290);
  });

  it("ends with the failure when the retries are used up", async () => {
    const fn = await fabric.register(service.url, { name: "one-retry", retries: 1, backoffMs: 0 });
    const { client, agent, endpointId } = await pair({ onTask: () => ({ state: "FAILED" }) });
    const keys = client.submit({ endpointId, fn, args: numbers(3) });
    const outcomes = await client.untilOutcomes(keys);
    expect(outcomes.every((o) => o.state === "FAILED" && o.reason === "user_error" && o.attempt === 2)).toBe(
      true,
    );
    expect(agent.received).toHaveLength(6);
  });

  it("follows a worker's death in mode at_least_once, and not in at_most_once", async () => {
    const fn = await fabric.register(service.url, { name: "idempotent", mode: "at_least_once" });
    const { client, agent, endpointId } = await pair({
      onTask: (task) => (task.attempt === 1 ? { state: "FAILED", reason: "worker_died" } : {}),
    });
    const often = client.submit({ endpointId, fn, args: numbers(1) });
    expect(await client.untilOutcomes(often)).toMatchObject([{ state: "SUCCEEDED", attempt: 2 }]);
    const once = client.submit({ endpointId, fn: plain, args: numbers(1) });
    expect(await client.untilOutcomes(once)).toMatchObject([
      { state: "FAILED", reason: "worker_died", attempt: 1 },
    ]);
    expect(agent.received).toHaveLength(3);
  });
});

describe("a delayed task", () => {
  it("is sent when its time has come, not before", async () => {
    const { client, agent, endpointId } = await pair();
    const startedAt = performance.now();
    const keys = client.submit({ endpointId, fn: plain, args: numbers(2), options: { delayMs: 600 } });
    await client.untilDurable();
    expect(agent.received).toEqual([]);
    await client.untilOutcomes(keys);
    expect(performance.now() - startedAt).toBeGreaterThan(580);
    expect(agent.received).toHaveLength(2);
  });

  it("is found by an owner that comes after its release, wherever that owner begins to read", async () => {
    const endpoint = await newEndpoint();
    const client = await connectClient();
    const keys = client.submit({
      endpointId: endpoint.id,
      fn: plain,
      args: numbers(1),
      options: { delayMs: 300 },
    });
    await client.untilDurable();
    // As the sweep of an owner does that has seen everything else end.
    await fabric.database.pool.query(
      "UPDATE endpoint SET floor_seq = (SELECT max(seq) FROM task) WHERE id = $1",
      [endpoint.id],
    );
    await eventually(async () => {
      const { rows } = await fabric.database.pool.query("SELECT not_before FROM task WHERE id = $1", [
        keyToUuid(keys[0]!),
      ]);
      return rows[0].not_before === null;
    });
    await connectAgent(endpoint);
    await client.untilOutcomes(keys);
  });
});

describe("a cancel", () => {
  it("ends what was not sent, at once and for good", async () => {
    const { client, agent, endpointId } = await pair({ window: 0 });
    const keys = client.submit({ endpointId, fn: plain, args: numbers(5) });
    await client.untilDurable();
    client.cancel(keys.slice(1));
    const outcomes = await client.untilOutcomes(keys.slice(1));
    expect(outcomes.every((o) => o.state === "CANCELLED" && o.reason === "cancelled_by_user")).toBe(true);
    agent.grant(100);
    await client.untilOutcomes(keys);
    expect(agent.received.map((task) => task.key)).toEqual([keys[0]]);
  });

  it("of what was sent is a request to the agent, whose answer counts", async () => {
    const { client, agent, endpointId } = await pair(holding);
    const keys = client.submit({ endpointId, fn: plain, args: numbers(2) });
    const [a, b] = await agent.untilReceived(2);
    await client.untilDurable();
    client.cancel(keys);
    await agent.peer.until(() => agent.cancelled.length === 2, "the cancel at the agent");
    expect(await outcomeRows(keys)).toBe(0);
    agent.reply([a!], { state: "CANCELLED", reason: "cancelled_by_user" });
    agent.reply([b!], {});
    expect((await client.untilOutcomes(keys)).map((o) => o.state)).toEqual(["CANCELLED", "SUCCEEDED"]);
  });

  it("of another owner's task does nothing", async () => {
    const { client, agent, endpointId } = await pair(holding);
    const keys = client.submit({ endpointId, fn: plain, args: numbers(1) });
    await agent.untilReceived(1);
    const stranger = await connectClient(undefined, await fabric.keyOf(service.url, "stranger"));
    stranger.cancel(keys);
    stranger.watch(keys);
    await sleep(QUIET_MS);
    expect(agent.cancelled).toEqual([]);
    agent.reply(agent.received, {});
    await client.untilOutcomes(keys);
    stranger.watch(keys);
    await sleep(QUIET_MS);
    expect(stranger.results).toBe(0);
  });
});

/** The id with another index in its batch. */
function keyWithIndex(key: IdKey, index: number): IdKey {
  return key.slice(0, 14) + String.fromCharCode((index >>> 8) & 0xff, index & 0xff);
}

async function eventually(condition: () => Promise<boolean>): Promise<void> {
  for (const until = performance.now() + 10_000; performance.now() < until; await sleep(50)) {
    if (await condition()) return;
  }
  throw new Error("it did not come about within 10 s");
}
