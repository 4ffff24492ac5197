/**
 * Peers that send anything: 100,000 frames through what decodes them, and some thousands over real sockets at the
 * service's two doors, at an agent by its service, and at an agent's door for nodes. Nothing crashes, nobody else's
 * things change, memory stays bounded, and honest work goes on. (An unhandled rejection fails the run by itself.)
 */
import { connect } from "node:tls";
import {
  decodeFrame,
  encodeFrame,
  FRAMES_DOWN,
  FRAMES_UP,
  type FrameKind,
  keysToColumn,
  limits,
  newBatchId,
  TaskIdAllocator,
  withLength,
} from "@farloom/protocol";
import { pino } from "pino";
import { afterAll, describe, expect, it } from "vitest";
import { makeCertificate } from "../../apps/endpoint-agent/src/nodes/certificate.js";
import { NodeDoor } from "../../apps/endpoint-agent/src/nodes/node-door.js";
import { enrolledStateDir, startEchoAgent } from "../support/agent.js";
import { agentHello, EchoAgent, makeEchoEndpoint } from "../support/echo-agent.js";
import { agentToken } from "../support/fake-agent.js";
import { FakeService } from "../support/fake-service.js";
import { FramePeer } from "../support/frame-peer.js";
import { clientHello, LinkClient, tasksFrame } from "../support/link-client.js";
import { RestClient } from "../support/rest-client.js";
import { startRestService } from "../support/rest-service.js";
import { FrameFuzzer, fuzzSeed } from "./frame-fuzzer.js";

const DECODED = 100_000;
const AT_EACH_DOOR = 1_000;
const AT_THE_AGENT = 1_500;
const AT_THE_NODES_DOOR = 1_000;
const FRAMES_A_CONNECTION = 40;
/** A frame's fields are views of it; what fuzzing leaves behind is far less. */
const MAX_GROWTH_BYTES = 96 * 1024 ** 2;

const none = Buffer.from("[[],{}]");
const allocator = new TaskIdAllocator();
const ids = keysToColumn([allocator.next(), allocator.next()]);
const column = (...numbers: number[]): Buffer => {
  const out = Buffer.alloc(4 * numbers.length);
  for (const [i, value] of numbers.entries()) out.writeUInt32LE(value, 4 * i);
  return out;
};
const endpointId = "0197f000-0000-7000-8000-000000000001";
const fn = Buffer.alloc(32, 7);
const link = [
  { t: "mark", accepted: 0, durable: 0 },
  { t: "ping", n: 1 },
  { t: "pong", n: 1 },
  { t: "problem", code: "X", message: "x" },
];
const tasks = (endpoint = endpointId, of = fn) =>
  tasksFrame(
    { endpointId: endpoint, fn: of, args: [none, none], options: { timeoutMs: 5, env: { A: "b" } } },
    [allocator.next(), allocator.next()],
    newBatchId(),
  );
/** What a client sends, and what an agent, a node and a service do. */
const CLIENT = [
  tasks(),
  clientHello(),
  { t: "watch", group: newBatchId(), ids },
  { t: "cancel", ids, why: "unbegun" },
  ...link,
];
const RESULTS = {
  ...{ t: "results", n: 2, ids, codecs: 1, ends: column(4, 8), data: Buffer.from("nullnull") },
  ...{ states: Buffer.from([1, 1]), reasons: Buffer.alloc(2), attempts: column(1, 1), queueUs: column(1, 1) },
  detail: { 1: { error: { type: "E", message: "m" }, stdout: "x" } },
};
const AGENT = [
  RESULTS,
  agentHello(),
  { t: "credit", tasks: 100, bytes: 1e6 },
  { t: "returned", ids },
  { t: "progress", ids, kind: "started" },
  { t: "progress", ids: ids.subarray(0, 16), kind: "progress", done: 1, total: 2 },
  { t: "report", report: { places: 1, blocks: [] } },
  { t: "need", functions: [fn] },
  ...link,
];
const NODE = [
  ...AGENT,
  { t: "hello", role: "node", versions: [1], caps: [], software: "x", block: "b", node: "n", secret: "s" },
];
const SERVICE = [
  { ...tasks(), endpoint: undefined },
  { t: "functions", defs: [], refs: [] },
  { t: "cancel", ids },
  { t: "unknown", ids },
  ...link,
];

/** Kinds whose ids are columns; in others an unknown field may have the name. */
const WITH_IDS = new Set<FrameKind>([
  "tasks",
  "results",
  "returned",
  "cancel",
  "unknown",
  "watch",
  "progress",
]);

const undo: (() => Promise<unknown> | unknown)[] = [];
afterAll(async () => {
  for (const step of undo.reverse()) await step();
});

describe("what decodes frames", () => {
  const directions: readonly [string, ReadonlySet<FrameKind>][] = [
    ["client to service", FRAMES_DOWN.service],
    ["agent to service", FRAMES_UP.service],
    ["service to agent", FRAMES_DOWN.agent],
    ["node to agent", FRAMES_UP.agent],
    ["agent to node", FRAMES_DOWN.node],
    ["worker to node", FRAMES_UP.node],
  ];

  it(`takes ${DECODED} frames of every direction without a word too much: never throws, and what it accepts is a frame`, () => {
    const fuzzer = new FrameFuzzer(fuzzSeed("decoding"), [...CLIENT, ...NODE, ...SERVICE]);
    const before = process.memoryUsage().heapUsed + process.memoryUsage().external;
    let accepted = 0;
    for (let i = 0; i < DECODED; i++) {
      const bytes = fuzzer.next();
      const [name, kinds] = directions[i % directions.length]!;
      const decoded = decodeFrame(bytes, kinds);
      if (!decoded.ok) continue;
      accepted++;
      const { frame } = decoded;
      if (!kinds.has(frame.t)) throw new Error(`${name} took ${frame.t}`);
      if (WITH_IDS.has(frame.t) && "ids" in frame && Number(frame.ids?.length) % 16 > 0)
        throw new Error(`${frame.t} has ids of ${frame.ids?.length} bytes`);
      // What was accepted once is accepted again as it is written.
      if (!decodeFrame(encodeFrame(frame), kinds).ok) throw new Error(`${frame.t} is not what it was`);
    }
    expect(({} as Record<string, unknown>).a).toBeUndefined();
    // Neither all nonsense nor all good: both roads were taken.
    expect(accepted).toBeGreaterThan(DECODED / 100);
    expect(accepted).toBeLessThan(DECODED / 2);
    const after = process.memoryUsage().heapUsed + process.memoryUsage().external;
    expect(after - before).toBeLessThan(MAX_GROWTH_BYTES);
  });
});

describe("the service", () => {
  it(`takes ${AT_EACH_DOOR} frames at each of its doors: other tenants' things stay, and honest work goes on`, async () => {
    const rest = await startRestService();
    undo.push(() => rest.close());
    const { body: made } = await rest.api.post("/v1/keys", { label: "x", owner: "mallory" });
    const mallory = new RestClient(rest.url, made.key);
    const hostile = await makeEchoEndpoint(mallory, "hostile");
    const honest = await makeEchoEndpoint(rest.api, "honest");
    const registered = await rest.api.post("/v1/functions", {
      ...{ name: "f", runtime: "python", code: "def f(): return 1\n" },
    });
    const ours = Buffer.from(registered.body.id, "hex");
    const agent = await EchoAgent.connect(rest.url, honest, { onTask: () => undefined });
    undo.push(() => agent.close());
    const client = await LinkClient.connect(rest.url, rest.key);
    undo.push(() => client.close());
    const open = client.submit({ endpointId: honest.id, fn: ours, args: [none, none] });
    await client.untilDurable();
    const held = await agent.untilReceived(2);

    const rows = async (): Promise<string> => {
      const { rows: found } = await rest.database.pool.query(
        `SELECT (SELECT md5(string_agg(t::text, '' ORDER BY t.id)) FROM task t WHERE owner_id = $1) AS tasks,
           (SELECT count(*) FROM outcome o JOIN task t ON t.id = o.task_id WHERE t.owner_id = $1) AS outcomes,
           (SELECT md5(string_agg(f::text, '')) FROM function f) AS functions,
           (SELECT string_agg(name, ' ' ORDER BY name) FROM endpoint) AS endpoints,
           (SELECT max(seq) FROM audit_entry WHERE owner_id = $1) AS audit`,
        [(await rest.api.get("/v1/me")).body.ownerId],
      );
      return JSON.stringify(found);
    };
    const before = await rows();
    const named = keysToColumn(open);
    const about = [
      { ...tasks(honest.id, ours), ids: named },
      { t: "cancel", ids: named },
      { t: "watch", group: client.group, ids: named },
    ];
    const by = [
      { ...RESULTS, ids: named },
      { t: "returned", ids: named },
      { t: "progress", ids: named, kind: "started" },
    ];
    const kinds = new Set([...FRAMES_UP.client, ...FRAMES_DOWN.agent]);
    const seed = fuzzSeed("the service's doors");
    const session = () => agentToken(rest.url, hostile.id, hostile.keys.privateKey);
    for (const [path, tokenOf, hello, templates] of [
      [limits.CLIENT_LINK_PATH, async () => made.key as string, clientHello(), [...CLIENT, ...about]],
      [limits.AGENT_LINK_PATH, session, agentHello(), [...AGENT, ...by]],
    ] as const) {
      const fuzzer = new FrameFuzzer(seed, templates);
      for (let sent = 0; sent < AT_EACH_DOOR; ) {
        const token = await tokenOf();
        const peer = await FramePeer.open({ url: rest.url, path, token, kinds }, () => undefined);
        // One in eight meets a peer that has not said who it is.
        if (sent % (8 * FRAMES_A_CONNECTION) !== 0) {
          peer.send(hello);
          await peer.until(() => peer.of("welcome").length > 0, "the welcome");
        }
        for (let i = 0; i < FRAMES_A_CONNECTION; i++, sent++) {
          peer.sendBytes(fuzzer.next());
          if (i % 8 === 7) await new Promise((resolve) => setImmediate(resolve));
          if (peer.closedWith !== undefined) sent--;
          if (peer.closedWith !== undefined) break;
        }
        peer.socket.terminate();
      }
    }
    expect(await rows()).toBe(before);
    expect((await rest.api.get("/health/ready")).status).toBe(200);
    agent.reply(held, {});
    expect((await client.untilOutcomes(open, 20_000)).map(({ state }) => state)).toEqual([
      "SUCCEEDED",
      "SUCCEEDED",
    ]);
  });
});

describe("an agent", () => {
  it(`takes ${AT_THE_AGENT} frames of its service: it comes back after each cut, and runs what is honest once`, async () => {
    const service = await FakeService.start();
    undo.push(() => service.close());
    const { stateDir, remove } = await enrolledStateDir(service);
    undo.push(remove);
    const { agent } = await startEchoAgent(stateDir, { answers: true });
    undo.push(() => agent.close({ stopWorkers: true }));
    await service.until(() => service.roomTasks > 0, "credit", 20_000);
    const fuzzer = new FrameFuzzer(fuzzSeed("an agent"), SERVICE);
    let cuts = 0;
    for (let sent = 0; sent < AT_THE_AGENT; sent++) {
      const bytes = fuzzer.next();
      const decoded = decodeFrame(bytes, FRAMES_DOWN.agent);
      // What is no frame ends the session, and the next is some seconds away: a few are enough.
      if (!decoded.ok && decoded.code !== "FRAME_UNKNOWN" && ++cuts > 4) continue;
      service.sendRaw(bytes);
      if (sent % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
      await service.until(() => service.connected, "the agent's next session", 30_000);
    }
    // What it has not read yet may still end its session: this comes after it.
    for (let n = 1_000_000; ; n++) {
      await service.until(() => service.connected && service.roomTasks > 0, "credit again", 30_000);
      const hasRead = (): boolean => service.frames.some((frame) => frame.t === "pong" && frame.n === n);
      service.send({ t: "ping", n });
      await service.until(() => hasRead() || !service.connected, "all is read", 30_000);
      if (hasRead()) break;
    }
    const [key] = service.sendTasks([{ args: Buffer.from("[[42],{}]") }]);
    await service.until(() => service.resultOf(key!) !== undefined, "the honest task's result", 30_000);
    const said = service.resultOf(key!)!;
    expect(said.data.toString(), JSON.stringify(said)).toBe("[[42],{}]");
    expect(service.results.filter((result) => result.key === key)).toHaveLength(1);
  });
});

describe("an agent's door for nodes", () => {
  it(`takes ${AT_THE_NODES_DOOR} frames of strangers: none of them is let in, and it stays open`, async () => {
    const certificate = makeCertificate();
    const hellos: string[] = [];
    const log = pino({ level: "silent" });
    const door = await NodeDoor.open({
      ...{ certificate, host: "127.0.0.1", port: 0, log },
      onHello: (hello, port) => {
        hellos.push(hello.secret ?? "");
        port.close("nobody that is known");
      },
    });
    undo.push(() => door.close());
    const fuzzer = new FrameFuzzer(fuzzSeed("the nodes' door"), NODE);
    const knock = async (frames: readonly Buffer[]): Promise<void> => {
      const socket = connect({ host: "127.0.0.1", port: door.port, rejectUnauthorized: false });
      await new Promise<void>((resolve) => {
        socket.on("error", () => undefined);
        socket.on("close", () => resolve());
        socket.on("data", () => undefined);
        socket.on("secureConnect", () => {
          for (const frame of frames) socket.write(frame);
          socket.end();
        });
      });
    };
    for (let sent = 0; sent < AT_THE_NODES_DOOR; sent += 10) {
      // Some with a length that lies.
      const frames = Array.from({ length: 10 }, (_, i) =>
        i % 5 === 4 ? fuzzer.next() : withLength(fuzzer.next()),
      );
      await knock(frames);
    }
    const before = hellos.length;
    const good = { t: "hello", role: "node", versions: [1], caps: [], software: "x", secret: "the last" };
    await knock([withLength(encodeFrame(good as never))]);
    expect(hellos.slice(before)).toEqual(["the last"]);
  });
});
