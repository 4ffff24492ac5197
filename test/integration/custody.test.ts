/**
 * Seals and fences through a real service over real PostgreSQL: from the caller to the agent, from the agent to the
 * caller, and what peers of before them see.
 */
import { fenceFor, type IdKey, keyToUuid, SEAL_BYTES, writeSeal } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  EchoAgent,
  type EchoAgentOptions,
  type EchoEndpoint,
  makeEchoEndpoint,
} from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient } from "../support/link-client.js";

const numbers = (n: number): Buffer[] => Array.from({ length: n }, (_, i) => Buffer.from(`[[${i}],{}]`));
const seal = (key: IdKey, bytes: Buffer): Buffer => {
  const out = Buffer.alloc(SEAL_BYTES);
  writeSeal(out, 0, key, bytes);
  return out;
};

let fabric: Fabric;
let service: ServiceProcess;
let fn: Buffer;
const open: { close(): Promise<void> }[] = [];
let names = 0;

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  fn = await fabric.register(service.url, { name: "plain" });
});
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric.close());

async function client(group?: Buffer): Promise<LinkClient> {
  const made = await LinkClient.connect(service.url, fabric.key, group);
  open.push(made);
  return made;
}
async function agent(endpoint: EchoEndpoint, options?: EchoAgentOptions): Promise<EchoAgent> {
  const made = await EchoAgent.connect(service.url, endpoint, options);
  open.push(made);
  return made;
}
const endpoint = (): Promise<EchoEndpoint> => makeEchoEndpoint(fabric.api(service.url), `custody-${++names}`);

interface Row {
  epoch: number;
  args_sha256: Buffer | null;
  result_sha256: Buffer | null;
}
async function rows(keys: readonly IdKey[]): Promise<Row[]> {
  const { rows: found } = await fabric.database.pool.query<Row>(
    `SELECT e.epoch, t.args_sha256, o.result_sha256 FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, n)
     JOIN task t ON t.id = u.id JOIN endpoint e ON e.id = t.endpoint_id LEFT JOIN outcome o ON o.task_id = t.id
     ORDER BY u.n`,
    [keys.map(keyToUuid)],
  );
  return found;
}

describe("a seal", () => {
  it("goes from the caller to the agent, and from the worker to the caller, by way of the rows (P25)", async () => {
    const at = await endpoint();
    const below = await agent(at, { onTask: (task) => ({ seal: seal(task.key, task.bytes) }) });
    const above = await client();
    const keys = above.submit({ endpointId: at.id, fn, args: numbers(50), seal });
    const outcomes = await above.untilOutcomes(keys);
    const wanted = keys.map((key, i) => seal(key, numbers(50)[i]!));
    expect(below.received.map((task) => task.seal)).toEqual(wanted);
    expect(outcomes.map((outcome) => outcome.seal)).toEqual(wanted);
    await above.untilDurable();
    const stored = await rows(keys);
    expect(stored.map((row) => row.args_sha256)).toEqual(wanted);
    expect(stored.map((row) => row.result_sha256)).toEqual(wanted);
  });

  it("comes from the rows where the agent, or the client, was away", async () => {
    const at = await endpoint();
    const first = await client();
    const keys = first.submit({ endpointId: at.id, fn, args: numbers(5), seal });
    await first.untilDurable();
    await first.close();
    const below = await agent(at, { onTask: (task) => ({ seal: seal(task.key, task.bytes) }) });
    await below.untilReceived(5);
    await below.untilDurable();
    const wanted = keys.map((key, i) => seal(key, numbers(5)[i]!));
    expect(below.received.map((task) => task.seal)).toEqual(wanted);
    const second = await client(first.group);
    second.watch(keys);
    expect((await second.untilOutcomes(keys)).map((outcome) => outcome.seal)).toEqual(wanted);
  });

  it("is made at intake for what comes over REST, and shown with the result's bytes", async () => {
    const at = await endpoint();
    const made = Buffer.alloc(SEAL_BYTES, 7);
    const below = await agent(at, { onTask: () => ({ bytes: Buffer.from("3"), seal: made }) });
    const api = fabric.api(service.url);
    const tasks = [1, 2].map((n) => ({ function: fn.toString("hex"), endpoint: at.id, args: [n] }));
    const { status, body } = await api.post("/v1/tasks?wait=10", { tasks });
    expect([status, body.tasks?.length]).toEqual([expect.any(Number), 2]);
    expect(below.received).toHaveLength(2);
    for (const task of below.received) expect(task.seal).toEqual(seal(task.key, task.bytes));
    const reply = await fetch(`${service.url}/v1/tasks/${keyToUuid(below.received[0]!.key)}/result`, {
      headers: { authorization: `Bearer ${fabric.key}` },
    });
    expect([reply.headers.get("farloom-seal"), await reply.text()]).toEqual([made.toString("hex"), "3"]);
  });

  it("is missed by nobody where the caller, or the worker, is of before seals", async () => {
    const at = await endpoint();
    const below = await agent(at);
    const above = await client();
    const keys = above.submit({ endpointId: at.id, fn, args: numbers(3) });
    const outcomes = await above.untilOutcomes(keys);
    expect(below.received.map((task) => task.seal)).toEqual([undefined, undefined, undefined]);
    expect(outcomes.map((outcome) => [outcome.state, outcome.seal])).toEqual(
      keys.map(() => ["SUCCEEDED", undefined]),
    );
    await above.untilDurable();
    for (const row of await rows(keys)) expect(row).toMatchObject({ args_sha256: null, result_sha256: null });
  });

  it("of zeroes is none, beside others of the same batch", async () => {
    const at = await endpoint();
    await agent(at, {
      onTask: (task) => (task.bytes[2] === 0x30 ? {} : { seal: seal(task.key, task.bytes) }),
    });
    const above = await client();
    const some = (key: IdKey, bytes: Buffer) =>
      bytes[2] === 0x31 ? Buffer.alloc(SEAL_BYTES) : seal(key, bytes);
    const keys = above.submit({ endpointId: at.id, fn, args: numbers(3), seal: some });
    await above.untilOutcomes(keys);
    await above.untilDurable();
    const stored = await rows(keys);
    expect(stored.map((row) => row.args_sha256 !== null)).toEqual([true, false, true]);
    expect(stored.map((row) => row.result_sha256 !== null)).toEqual([false, true, true]);
  });
});

describe("a fence", () => {
  it("comes with every task: the endpoint's epoch and the attempt, higher after a reconnect (P26)", async () => {
    const at = await endpoint();
    const first = await agent(at, { onTask: () => undefined });
    const above = await client();
    const keys = above.submit({ endpointId: at.id, fn, args: numbers(2) });
    const [task] = await first.untilReceived(2);
    await above.untilDurable();
    const [row] = await rows(keys);
    expect(task!.fence).toBe(fenceFor(row!.epoch, 1));
    await first.close();
    const second = await agent(at, { held: [keys[0]!], onTask: () => undefined });
    const more = above.submit({ endpointId: at.id, fn, args: numbers(1) });
    await second.peer.until(() => second.received.some((t) => t.key === more[0]), "the new task");
    const later = second.received.find((t) => t.key === more[0])!;
    expect(later.fence).toBe(fenceFor(row!.epoch + 1, 1));
    // What it held over the reconnect is answered under the fence that it was run under.
    second.reply([task!], {});
    expect((await above.untilOutcomes([keys[0]!]))[0]!.state).toBe("SUCCEEDED");
  });

  it("that is ahead of the lease is nobody's: its result changes nothing, and the next one counts", async () => {
    const at = await endpoint();
    const below = await agent(at, { onTask: () => undefined });
    const above = await client();
    const keys = above.submit({ endpointId: at.id, fn, args: numbers(1) });
    const [task] = await below.untilReceived(1);
    below.reply([task!], { fence: task!.fence! + 65_536, bytes: Buffer.from('"stolen"') });
    await below.untilDurable();
    expect(above.outcomes.size).toBe(0);
    below.reply([task!], { bytes: Buffer.from('"own"') });
    expect((await above.untilOutcomes(keys))[0]!.bytes.toString()).toBe('"own"');
  });

  it("is not asked of an agent of before fences", async () => {
    const at = await endpoint();
    await agent(at, { onTask: () => ({ fence: 0 }) });
    const above = await client();
    const keys = above.submit({ endpointId: at.id, fn, args: numbers(3) });
    for (const outcome of await above.untilOutcomes(keys)) expect(outcome.state).toBe("SUCCEEDED");
  });
});
