/**
 * The two doors for WebSockets: who is let in, what a frame must look like, what becomes of one that does not, and
 * that whatever is sent at one door disturbs nobody else.
 */
import { request } from "node:http";
import { encodeFrame, encodeValue, FRAMES_UP, type Frame, keysToColumn, limits } from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { agentHello, EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { agentToken } from "../support/fake-agent.js";
import { FramePeer } from "../support/frame-peer.js";
import { clientHello, LinkClient, tasksFrame } from "../support/link-client.js";

const FUZZ_FRAMES = 2_500;
const SEED = 20_261_123;
const none = Buffer.from("[[],{}]");

let fabric: Fabric;
let service: ServiceProcess;
let fn: Buffer;
let endpoint: EchoEndpoint;
let agent: EchoAgent;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  fn = await fabric.register(service.url, { name: "plain" });
  endpoint = await makeEchoEndpoint(fabric.api(service.url), "echo");
  agent = await EchoAgent.connect(service.url, endpoint);
});
afterEach(async () => {
  for (const peer of open.splice(0)) await peer.close();
});
afterAll(async () => {
  await agent?.close();
  await fabric.close();
});

async function connectClient(): Promise<LinkClient> {
  const client = await LinkClient.connect(service.url, fabric.key);
  open.push(client);
  return client;
}
/** A socket at the clients' door before its hello. */
async function knock(): Promise<FramePeer> {
  const options = {
    url: service.url,
    path: limits.CLIENT_LINK_PATH,
    token: fabric.key,
    kinds: FRAMES_UP.client,
  };
  const peer = await FramePeer.open(options, () => undefined);
  open.push(peer);
  return peer;
}

/** The status with which an upgrade is refused; 101 where it is not. */
function upgrade(path: string, headers: Record<string, string>): Promise<{ status: number; code: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(service.url + path, {
      headers: {
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        ...headers,
      },
    });
    sent.on("upgrade", (_reply, socket) => {
      socket.destroy();
      resolve({ status: 101, code: "" });
    });
    sent.on("response", (reply) => {
      let body = "";
      reply.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      reply.on("end", () => resolve({ status: reply.statusCode!, code: JSON.parse(body).code }));
    });
    sent.on("error", reject);
    sent.end();
  });
}

/** A task still goes down and up. */
async function expectWell(): Promise<void> {
  const client = await LinkClient.connect(service.url, fabric.key);
  await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn, args: [none, none] }));
  await client.close();
}

describe("an upgrade", () => {
  const protocol = { "sec-websocket-protocol": limits.SUBPROTOCOL };
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

  it("needs a credential that is good at this door", async () => {
    const session = await agentToken(service.url, endpoint.id, endpoint.keys.privateKey);
    for (const path of [limits.CLIENT_LINK_PATH, limits.AGENT_LINK_PATH]) {
      expect(await upgrade(path, protocol)).toMatchObject({ status: 401 });
      expect(await upgrade(path, { ...protocol, ...bearer("nonsense") })).toMatchObject({ status: 401 });
      expect(await upgrade(path, { ...protocol, authorization: "Basic eDp5" })).toMatchObject({
        status: 401,
      });
    }
    expect(await upgrade(limits.CLIENT_LINK_PATH, { ...protocol, ...bearer(session) })).toMatchObject({
      status: 401,
    });
    expect(await upgrade(limits.AGENT_LINK_PATH, { ...protocol, ...bearer(fabric.key) })).toMatchObject({
      status: 401,
    });
    expect(await upgrade(limits.CLIENT_LINK_PATH, { ...protocol, ...bearer(fabric.key) })).toMatchObject({
      status: 101,
    });
  });

  it("needs our subprotocol and a path that there is", async () => {
    const headers = bearer(fabric.key);
    expect(await upgrade(limits.CLIENT_LINK_PATH, headers)).toEqual({
      status: 426,
      code: "VERSION_UNSUPPORTED",
    });
    const other = { ...headers, "sec-websocket-protocol": "farloom.v9" };
    expect(await upgrade(limits.CLIENT_LINK_PATH, other)).toMatchObject({ status: 426 });
    expect(await upgrade("/v1/nothing", { ...headers, ...protocol })).toEqual({
      status: 404,
      code: "ROUTE_NOT_FOUND",
    });
  });
});

describe("a frame", () => {
  it("that is a text message, or no frame at all, ends the connection with the reason", async () => {
    const text = await knock();
    text.socket.send("hello");
    expect(await text.untilEnded()).toBe("FRAME_INVALID");
    const bytes = await knock();
    bytes.sendBytes(Buffer.from([0xc1, 1, 2, 3]));
    expect(await bytes.untilEnded()).toBe("FRAME_INVALID");
  });

  it("before the hello, or a second hello, ends the connection", async () => {
    const early = await knock();
    early.send({ t: "watch", group: Buffer.alloc(16) });
    expect(await early.untilEnded()).toBe("FRAME_INVALID");
    const twice = await connectClient();
    twice.peer.send(clientHello());
    expect(await twice.peer.untilEnded()).toBe("FRAME_INVALID");
  });

  it("of a version that we do not speak is refused with both lists", async () => {
    const peer = await knock();
    peer.send({ ...clientHello(), versions: [7, 9] } as Frame);
    await peer.untilEnded();
    expect(peer.of("refuse")[0]).toMatchObject({ code: "VERSION_UNSUPPORTED" });
    expect(peer.of("refuse")[0]!.message).toMatch(/1.*7, 9/);
  });

  it("of an unknown kind, or of another hop, is complained of and ignored", async () => {
    const client = await connectClient();
    client.peer.sendBytes(encodeValue({ t: "sing", verse: 1 }));
    client.peer.send({ t: "credit", tasks: 5, bytes: 5 });
    await client.peer.until(() => client.peer.of("problem").length === 2, "two complaints");
    expect(client.peer.of("problem").map((p) => p.code)).toEqual(["FRAME_UNKNOWN", "FRAME_UNKNOWN"]);
    await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn, args: [none] }));
  });

  it("above the limit ends the connection", async () => {
    const client = await connectClient();
    client.peer.sendBytes(Buffer.alloc(limits.MAX_FRAME_BYTES + 1));
    await client.peer.untilEnded();
    expect(client.peer.closedWith).toBe(1009);
    await expectWell();
  });
});

describe("a submission", () => {
  it("has its bad tasks refused one by one while the others go on", async () => {
    const client = await connectClient();
    const args = [none, Buffer.alloc(limits.MAX_INLINE_BYTES + 1, "1"), none, none];
    const frame = tasksFrame({ endpointId: endpoint.id, fn, args }, keysOfBatch(4), client.group);
    frame.codecs = Buffer.from([1, 1, 99, 1]);
    client.sent += 4;
    client.peer.send(frame);
    const keys = [0, 3].map((i) => frame.ids.toString("latin1", 16 * i, 16 * i + 16));
    await client.untilOutcomes(keys);
    await client.untilDurable();
    expect(client.refusals.map((r) => [r.from, r.n, r.code])).toEqual([
      [2, 1, "ARGUMENTS_TOO_LARGE"],
      [3, 1, "ARGUMENTS_INVALID"],
    ]);
  });

  it("for an endpoint or a function that there is not is refused whole, and the link goes on", async () => {
    const client = await connectClient();
    client.submit({ endpointId: "00000000-0000-4000-8000-000000000000", fn, args: [none, none] });
    client.submit({ endpointId: endpoint.id, fn: Buffer.alloc(32), args: [none] });
    await client.untilDurable();
    expect(client.refusals.map((r) => [r.from, r.n, r.code]).sort()).toEqual([
      [1, 2, "ENDPOINT_NOT_FOUND"],
      [3, 1, "FUNCTION_NOT_FOUND"],
    ]);
    await client.untilOutcomes(client.submit({ endpointId: endpoint.id, fn, args: [none] }));
  });

  it("beyond the credit in tasks or in bytes ends the connection", async () => {
    const lock = await fabric.database.pool.connect();
    await lock.query("BEGIN");
    await lock.query("LOCK TABLE task IN EXCLUSIVE MODE");
    try {
      const many = await connectClient();
      const args = new Array<Buffer>(4096).fill(none);
      for (let i = 0; i < 5; i++) many.submit({ endpointId: endpoint.id, fn, args });
      expect(await many.peer.untilEnded()).toBe("CREDIT_EXCEEDED");
      const large = await connectClient();
      const big = new Array<Buffer>(100).fill(Buffer.alloc(60_000, "1"));
      for (let i = 0; i < 8; i++) large.submit({ endpointId: endpoint.id, fn, args: big });
      expect(await large.peer.untilEnded()).toBe("CREDIT_EXCEEDED");
    } finally {
      await lock.query("COMMIT");
      lock.release();
    }
    await expectWell();
  });
});

describe("thousands of mutated frames", () => {
  const random = mulberry32(SEED);
  const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;

  /** Valid frames with bits turned, bytes cut out, put in or put together. */
  function mutate(frames: readonly Buffer[]): Buffer {
    const bytes = Buffer.from(pick(frames));
    for (let n = Math.floor(random() * 4); n >= 0; n--) {
      const at = Math.floor(random() * bytes.length);
      const kind = random();
      if (kind < 0.5) bytes[at]! ^= 1 << Math.floor(random() * 8);
      else if (kind < 0.7) bytes[at] = Math.floor(random() * 256);
      else if (kind < 0.8) return bytes.subarray(0, at);
      else if (kind < 0.9) return Buffer.concat([bytes.subarray(0, at), pick(frames)]);
      else bytes.fill(pick([0, 0xff, 0xc0, 0xdf]), at, Math.min(bytes.length, at + 8));
    }
    return bytes;
  }

  async function fuzz(connect: () => Promise<FramePeer>, frames: readonly Buffer[]): Promise<number> {
    let connections = 0;
    for (let sent = 0; sent < FUZZ_FRAMES; connections++) {
      const peer = await connect();
      for (let i = 0; i < 40 && sent < FUZZ_FRAMES && peer.closedWith === undefined; i++, sent++) {
        peer.sendBytes(mutate(frames));
        if (i % 8 === 7) await new Promise((resolve) => setImmediate(resolve));
      }
      peer.socket.terminate();
    }
    return connections;
  }

  async function expectUnharmed(): Promise<void> {
    await expectWell();
    expect(service.crash).toBeUndefined();
    const errors = service.lines.filter((line) => /"level":(50|60)/.test(line));
    expect(errors).toEqual([]);
  }

  it("at the clients' door leave the service and everybody else as they were", async () => {
    const keys = keysOfBatch(8);
    const args = new Array<Buffer>(8).fill(none);
    const group = keysToColumn(keysOfBatch(1));
    const submission = { endpointId: endpoint.id, fn, args };
    const frames = [
      tasksFrame(submission, keys, group),
      tasksFrame({ ...submission, again: true, options: { timeoutMs: 5, env: { A: "b" } } }, keys, group),
      { t: "watch", group, ids: keysToColumn(keys) },
      { t: "cancel", ids: keysToColumn(keys) },
      { t: "mark", accepted: 0, durable: 0 },
      clientHello(),
      { t: "ping", n: 1 },
    ].map((frame) => encodeFrame(frame as Frame));
    const connections = await fuzz(async () => {
      const peer = await knock();
      open.pop();
      peer.send(clientHello());
      return peer;
    }, frames);
    expect(connections).toBeGreaterThan(50);
    await expectUnharmed();
  });

  it("at the agents' door leave the service and everybody else as they were", async () => {
    const hostile = await makeEchoEndpoint(fabric.api(service.url), "hostile");
    const client = await connectClient();
    const keys = client.submit({ endpointId: hostile.id, fn, args: new Array<Buffer>(200).fill(none) });
    await client.untilDurable();
    const column = keysToColumn(keys.slice(0, 20));
    const ends = Buffer.alloc(80);
    const results = {
      t: "results",
      n: 20,
      ids: column,
      codecs: 1,
      ends,
      data: Buffer.alloc(0),
      states: Buffer.alloc(20, 1),
      reasons: Buffer.alloc(20),
      attempts: Buffer.alloc(80),
      queueUs: Buffer.alloc(80, 0xff),
      detail: { 3: { error: { type: "E", message: "m" }, stdout: "x" } },
    };
    const frames = [
      results,
      { ...results, states: 2, attempts: undefined },
      agentHello(keys.slice(0, 5)),
      { t: "credit", tasks: 100, bytes: 1e6 },
      { t: "mark", accepted: 1, durable: 1 },
      { t: "returned", ids: column },
      { t: "progress", ids: column, kind: "started" },
      { t: "need", functions: [fn, Buffer.alloc(32)] },
      { t: "ping", n: 1 },
    ].map((frame) => encodeFrame(frame as Frame));
    const path = limits.AGENT_LINK_PATH;
    const kinds = new Set(["welcome", "refuse", "bye", "problem", "tasks", "functions", "mark"] as const);
    await fuzz(async () => {
      const all = new Set([...kinds, "cancel", "unknown", "ping", "pong", "drain"] as const);
      const token = await agentToken(service.url, hostile.id, hostile.keys.privateKey);
      const peer = await FramePeer.open({ url: service.url, path, token, kinds: all }, () => undefined);
      peer.send(agentHello());
      // A frame before the welcome would end it.
      await peer.until(() => peer.of("welcome").length > 0, "the welcome");
      return peer;
    }, frames);
    await expectUnharmed();
    // Its own tasks still have exactly one end each.
    const honest = await EchoAgent.connect(service.url, hostile);
    open.push(honest);
    await client.untilOutcomes(keys);
  });
});

function keysOfBatch(n: number): string[] {
  const batch = Buffer.alloc(13, Math.floor(Math.random() * 256)).toString("latin1");
  const time = Buffer.alloc(6);
  time.writeUIntBE(Date.now(), 0, 6);
  return Array.from(
    { length: n },
    (_, i) =>
      `${time.toString("latin1")}\x80${batch.slice(0, 1)}\x80${batch.slice(0, 6)}${String.fromCharCode(i)}`,
  );
}

/** A small seeded generator: the same frames in every run. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
