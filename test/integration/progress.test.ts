/** How far functions say that they are (P21a), through a service process, with an agent and clients that a test scripts. */
import { type IdKey, keyAt, keyToBytes, keyToUuid } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient } from "../support/link-client.js";

const START_MS = 120_000;

vi.setConfig({ testTimeout: START_MS });

let fabric: Fabric;
let service: ServiceProcess;
let fn: Buffer;
let endpoint: EchoEndpoint;
let agent: EchoAgent;
let names = 0;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  fabric = await Fabric.open({});
  service = await fabric.service();
  fn = await fabric.register(service.url, { name: "long", retries: 1, mode: "at_least_once" });
}, START_MS);
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(() => fabric?.close(), START_MS);

async function connectAgent(): Promise<void> {
  endpoint = await makeEchoEndpoint(fabric.api(service.url), `echo-${++names}`);
  agent = await EchoAgent.connect(service.url, endpoint, { onTask: () => undefined });
  open.push(agent);
}
async function connectClient(group?: Buffer, caps?: string[]): Promise<LinkClient> {
  const client = await LinkClient.connect(service.url, fabric.key, group, caps);
  open.push(client);
  return client;
}
const started = (key: IdKey): void =>
  agent.peer.send({ t: "progress", ids: keyToBytes(key), kind: "started" });
const say = (key: IdKey, done: number, total?: number): void =>
  agent.peer.send({
    t: "progress",
    ids: keyToBytes(key),
    kind: "progress",
    done,
    ...(total !== undefined && { total }),
  });
const words = (client: LinkClient) => client.peer.of("progress").filter((frame) => frame.kind === "progress");
const view = async (key: IdKey) => (await fabric.api(service.url).get(`/v1/tasks/${keyToUuid(key)}`)).body;
const submit = async (client: LinkClient): Promise<IdKey> => {
  const [key] = client.submit({ endpointId: endpoint.id, fn, args: [Buffer.from("[[],{}]")] });
  await client.untilDurable();
  await agent.untilReceived(agent.received.length || 1);
  return key!;
};

it("is told to whoever watches the group and knows the frame, and stands in the task until it ends", async () => {
  await connectAgent();
  const client = await connectClient(undefined, ["ref", "progress"]);
  const older = await connectClient(client.group);
  const other = await connectClient(undefined, ["ref", "progress"]);
  const key = await submit(client);
  // Before its start was told, it is of nobody.
  say(key, 1);
  started(key);
  say(key, 2, 10);
  say(key, 3.5, 10);
  await client.peer.until(() => words(client).length === 2, "two words");
  expect(words(client).map(({ ids, done, total }) => [keyAt(ids), done, total])).toEqual([
    [key, 2, 10],
    [key, 3.5, 10],
  ]);
  expect(await view(key)).toMatchObject({ state: "STARTED", progress: { done: 3.5, total: 10 } });
  agent.reply([agent.received[0]!], { state: "SUCCEEDED", bytes: Buffer.from("1") });
  await client.untilOutcomes([key]);
  await older.untilOutcomes([key]);
  // A late word is of a task that is over.
  say(key, 4, 10);
  expect(await view(key)).not.toHaveProperty("progress");
  // One that never named the capability would end its connection over such a frame.
  expect(words(older)).toEqual([]);
  expect(words(other)).toEqual([]);
});

it("of an attempt that failed is not the next one's", async () => {
  await connectAgent();
  const client = await connectClient(undefined, ["ref", "progress"]);
  const key = await submit(client);
  started(key);
  say(key, 9, 10);
  await client.peer.until(() => words(client).length === 1, "a word");
  agent.reply([agent.received[0]!], { state: "FAILED", reason: "user_error" });
  await agent.untilReceived(2);
  expect(agent.received[1]!.attempt).toBe(2);
  started(key);
  await vi.waitFor(async () => expect((await view(key)).state).toBe("STARTED"), 20_000);
  expect(await view(key)).not.toHaveProperty("progress");
});

it("of another endpoint's task is dropped, and what is no amount ends the connection", async () => {
  await connectAgent();
  const client = await connectClient(undefined, ["ref", "progress"]);
  const key = await submit(client);
  started(key);
  const first = agent;
  await connectAgent();
  say(key, 1, 2);
  first.peer.send({ t: "progress", ids: keyToBytes(key), kind: "progress", done: -1 });
  expect(await first.peer.untilEnded()).toBe("FRAME_INVALID");
  expect(words(client)).toEqual([]);
});
