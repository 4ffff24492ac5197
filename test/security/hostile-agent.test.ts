/**
 * An agent with a valid key that behaves as badly as it can, against the real service, real PostgreSQL and real sockets.
 * Beside it a good agent of another person works: after each case nothing of that person has changed, nothing of it was
 * told, and its next task is done. Each case says what it tries; the controls at the end show that the same frames and
 * requests work for whoever they are meant for, so that a service which let everybody would fail here.
 */
import { createHash, randomBytes, sign } from "node:crypto";
import {
  buildOutput,
  encodeFrame,
  FRAMES_DOWN,
  type Frame,
  type IdKey,
  keysToColumn,
  keyToUuid,
  limits,
  TaskIdAllocator,
} from "@farloom/protocol";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  agentHello,
  EchoAgent,
  type EchoAgentOptions,
  type EchoEndpoint,
  makeEchoEndpoint,
  type ReceivedTask,
} from "../support/echo-agent.js";
import { agentToken } from "../support/fake-agent.js";
import { FramePeer } from "../support/frame-peer.js";
import { LinkClient } from "../support/link-client.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

/** Stands in everything that is the other person's. */
const MARK = "nobody-elses";
/** What one case may leave in the service's memory; a frame's fields are views of it. */
const MAX_GROWTH_BYTES = 128 * 1024 ** 2;
const CASE_MS = 30_000;

const ids = new TaskIdAllocator();
const secret = Buffer.from(JSON.stringify([[MARK], {}]));
const holding: EchoAgentOptions = { onTask: () => undefined };

let rest: RestService;
let ann: Person;
let mallory: Person;
let agent: EchoAgent;
let client: LinkClient;
/** Open at ann's agent from the beginning to the end. */
let open: ReceivedTask;
/** Whether ann's agent answers what comes. */
let answers = false;
/** Waits at ann's second endpoint, which has no agent. */
let waiting: string;
let payload: string;
const undo: (() => Promise<unknown>)[] = [];
const peers: { close(): Promise<void> }[] = [];

interface Person {
  readonly api: RestClient;
  readonly endpoint: EchoEndpoint;
  readonly fn: Buffer;
}

async function person(name: string): Promise<Person> {
  const { body } = await rest.api.post("/v1/keys", { label: name, owner: name });
  const api = new RestClient(rest.url, body.key);
  const code = `def f(*args): return "${name === "ann" ? MARK : name}"\n`;
  const made = await api.post("/v1/functions", { name: "f", runtime: "python", code });
  return { api, endpoint: await makeEchoEndpoint(api, `${name}-here`), fn: Buffer.from(made.body.id, "hex") };
}

beforeAll(async () => {
  rest = await startRestService();
  undo.push(() => rest.close());
  ann = await person("ann");
  mallory = await person("mallory");
  const bytes = Buffer.from(`${MARK}${"x".repeat(70_000)}`);
  payload = createHash("sha256").update(bytes).digest("hex");
  const put = await ann.api.call("PUT", `/v1/payloads/${payload}`, {
    raw: bytes,
    headers: { "content-type": "application/octet-stream" },
  });
  expect(put.status).toBe(201);
  agent = await EchoAgent.connect(rest.url, ann.endpoint, {
    onTask: () => (answers ? {} : undefined),
  });
  undo.push(() => agent.close());
  client = await LinkClient.connect(rest.url, ann.api.credential!);
  undo.push(() => client.close());
  const [key] = client.submit({
    endpointId: ann.endpoint.id,
    fn: ann.fn,
    args: [secret],
    options: { nested: true },
  });
  [open] = (await agent.untilReceived(1)) as [ReceivedTask];
  expect(open.key).toBe(key);
  answers = true;
  const away = await ann.api.post("/v1/endpoints", { name: "away" });
  const [queued] = client.submit({ endpointId: away.body.id, fn: ann.fn, args: [secret] });
  waiting = keyToUuid(queued!);
  await client.untilDurable();
});
afterEach(async () => {
  for (const peer of peers.splice(0)) await peer.close();
});
afterAll(async () => {
  for (const step of undo.reverse()) await step();
});

/** An agent of mallory's that answers nothing by itself. */
async function hostile(options: EchoAgentOptions = holding): Promise<EchoAgent> {
  const connected = await EchoAgent.connect(rest.url, mallory.endpoint, options);
  peers.push(connected);
  return connected;
}

const session = (): Promise<string> =>
  agentToken(rest.url, mallory.endpoint.id, mallory.endpoint.keys.privateKey);

/** A connection that has said nothing yet. */
async function knock(): Promise<FramePeer> {
  const place = {
    url: rest.url,
    path: limits.AGENT_LINK_PATH,
    token: await session(),
    kinds: FRAMES_DOWN.agent,
  };
  const peer = await FramePeer.open(place, () => undefined);
  peers.push(peer);
  return peer;
}

const raw = (fields: object): Frame => fields as unknown as Frame;

/** One task of mallory's own, at mallory's agent. */
async function ownTask(at: EchoAgent, { id: endpointId } = mallory.endpoint): Promise<ReceivedTask> {
  const own = await LinkClient.connect(rest.url, mallory.api.credential!);
  peers.push(own);
  const before = at.received.length;
  own.submit({ endpointId, fn: mallory.fn, args: [Buffer.from("[[],{}]")] });
  await own.untilDurable();
  return (await at.untilReceived(before + 1)).at(-1)!;
}

/** All that came so far was read: frames are taken in order. */
async function read(peer: FramePeer): Promise<void> {
  const before = peer.of("pong").length;
  peer.send({ t: "ping", n: 1 });
  await peer.until(() => peer.of("pong").length > before || peer.closedWith !== undefined, "the pong");
}

async function stateOf(task: ReceivedTask, api: RestClient): Promise<string> {
  return (await api.get(`/v1/tasks/${keyToUuid(task.key)}`)).body.state;
}

async function outputOf(key: IdKey): Promise<string[]> {
  const { rows } = await rest.database.pool.query("SELECT data FROM task_output WHERE task_id = $1", [
    keyToUuid(key),
  ]);
  return rows.map(({ data }) => (data as Buffer).toString());
}

/** What of ann's the database holds, but for the tasks that she submits meanwhile. */
async function annsThings(): Promise<string> {
  const owner = (await ann.api.get("/v1/me")).body.ownerId;
  const { rows } = await rest.database.pool.query(
    `SELECT (SELECT md5(string_agg(t::text, '' ORDER BY t.id)) FROM task t WHERE id = ANY($2::uuid[])) AS tasks,
       (SELECT count(*) FROM outcome WHERE task_id = ANY($2::uuid[])) AS outcomes,
       (SELECT count(*) FROM task_output WHERE task_id = ANY($2::uuid[])) AS output,
       (SELECT md5(string_agg(e::text, '' ORDER BY e.id)) FROM endpoint e WHERE owner_id = $1) AS endpoints,
       (SELECT md5(string_agg(f::text, '')) FROM function f WHERE owner_id = $1) AS functions,
       (SELECT count(*) FROM audit_entry WHERE owner_id = $1) AS audit`,
    [owner, [keyToUuid(open.key), waiting]],
  );
  return JSON.stringify(rows);
}

/** What the service has told this connection, as text. */
const heard = (peer: FramePeer): string =>
  peer.frames
    .flatMap((frame) => Object.values(frame).flat(2))
    .map((value) =>
      value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : JSON.stringify(value),
    )
    .join("\n");

const resultsOf = (keys: readonly IdKey[], more: object = {}): Frame =>
  raw({
    ...{ t: "results", n: keys.length, ids: keysToColumn(keys), codecs: 1, states: 1 },
    ends: Buffer.alloc(4 * keys.length),
    data: Buffer.alloc(0),
    ...more,
  });

interface Case {
  readonly tries: string;
  /** Returns the connections on which nothing of ann's may have been heard. */
  readonly act: () => Promise<readonly FramePeer[]>;
}

/** `send` at an agent that is welcome; where `ends`, with that word. */
const frames = (tries: string, send: () => readonly (Frame | Buffer)[], ends?: string): Case => ({
  tries,
  act: async () => {
    const { peer } = await hostile();
    for (const frame of send()) {
      if (Buffer.isBuffer(frame)) peer.sendBytes(frame);
      else peer.send(frame);
    }
    if (ends === undefined) await read(peer);
    else if (ends === "cut") await peer.until(() => peer.closedWith !== undefined, "the end");
    else expect(await peer.untilEnded()).toBe(ends);
    if (ends === undefined) expect(peer.closedWith).toBeUndefined();
    return [peer];
  },
});

const foreign = (): Buffer => keysToColumn([open.key]);

const CASES: readonly Case[] = [
  // ─── what is another's ───
  ...(["SUCCEEDED", "FAILED", "LOST"] as const).map((state) => ({
    tries: `a result ${state} for a task of another endpoint`,
    act: async () => {
      const bad = await hostile();
      bad.reply([open], { state, bytes: Buffer.from('"stolen"') });
      await bad.untilDurable();
      expect(bad.unknown).toEqual([open.key]);
      return [bad.peer];
    },
  })),
  frames("to give another endpoint's task back", () => [{ t: "returned", ids: foreign() }]),
  frames("to say that another's task runs, and how far it is", () => [
    { t: "progress", ids: foreign(), kind: "started" },
    { t: "progress", ids: foreign(), kind: "progress", done: 1, total: 2 },
  ]),
  frames("output of another's task", () => [
    buildOutput([{ key: open.key, attempt: 1, stream: 1, at: 0, data: Buffer.from("forged") }]),
  ]),
  {
    tries: "the code of another's function",
    act: async () => {
      const { peer } = await hostile();
      peer.send({ t: "need", functions: [ann.fn] });
      await read(peer);
      expect(peer.of("functions")).toEqual([]);
      return [peer];
    },
  },
  {
    tries: "another's payload file, and a token for another's task",
    act: async () => {
      const thief = new RestClient(rest.url, await session());
      expect((await thief.get(`/v1/payloads/${payload}`)).status).toBe(404);
      expect((await thief.call("HEAD", `/v1/payloads/${payload}`)).status).toBe(404);
      expect((await thief.post(`/v1/tasks/${keyToUuid(open.key)}/token`, { attempt: 1 })).status).toBe(404);
      return [];
    },
  },
  {
    tries: "with its session what is a person's: tasks, endpoints, keys",
    act: async () => {
      const thief = new RestClient(rest.url, await session());
      for (const path of [
        "/v1/tasks",
        "/v1/endpoints",
        "/v1/keys",
        "/v1/audit",
        `/v1/endpoints/${ann.endpoint.id}`,
      ])
        expect((await thief.get(path)).status, path).toBe(401);
      expect((await thief.post(`/v1/endpoints/${ann.endpoint.id}/revoke`, {})).status).toBe(401);
      return [];
    },
  },
  // ─── who it is ───
  {
    tries: "to be another endpoint: by its name in the hello, or its challenge under a key of its own",
    act: async () => {
      const { peer } = await hostile({ ...holding, hello: { endpoint: ann.endpoint.id } as object });
      const nobody = new RestClient(rest.url, undefined);
      const { body } = await nobody.post(`/v1/endpoints/${ann.endpoint.id}/challenge`);
      for (const id of [ann.endpoint.id, mallory.endpoint.id]) {
        const text = `farloom-agent-v1\n${new URL(rest.url).host}\n${id}\n${body.nonce}`;
        const signature = sign(null, Buffer.from(text), mallory.endpoint.keys.privateKey).toString(
          "base64url",
        );
        for (const at of [ann.endpoint.id, mallory.endpoint.id]) {
          const reply = await nobody.post(`/v1/endpoints/${at}/session`, { nonce: body.nonce, signature });
          expect(reply.status).toBe(401);
        }
      }
      return [peer];
    },
  },
  frames("a second hello", () => [agentHello()], "FRAME_INVALID"),
  {
    tries: "anything before its hello",
    act: async () => {
      const peer = await knock();
      peer.send(resultsOf([open.key]));
      expect(await peer.untilEnded()).toBe("FRAME_INVALID");
      return [peer];
    },
  },
  {
    tries: "two connections at once: the later one counts, and only of its own endpoint",
    act: async () => {
      const first = await hostile();
      const second = await hostile();
      expect(await first.peer.untilEnded()).toBe("LINK_REPLACED");
      return [first.peer, second.peer];
    },
  },
  {
    tries: "to hold other people's tasks already: the answer is the same as for tasks that there are not",
    act: async () => {
      const words: string[] = [];
      const all: FramePeer[] = [];
      for (const held of [open.key, ids.next()]) {
        const { peer, cancelled } = await hostile({ ...holding, held: [held] });
        await read(peer);
        words.push(JSON.stringify(cancelled.map((key) => (key === held ? "it" : "another"))));
        all.push(peer);
      }
      expect(words[0]).toBe(words[1]);
      return all;
    },
  },
  {
    tries: "isolation, GPUs and a machine that it has not: believed of its own endpoint alone",
    act: async () => {
      const agentInfo = {
        ...(agentHello() as unknown as { agent: object }).agent,
        cores: 1e6,
        host: MARK.repeat(50),
      };
      const isolation = { level: "user", offers: ["none", "user"], network: false };
      const { peer } = await hostile({ ...holding, hello: { agent: { ...agentInfo, isolation } } as object });
      await read(peer);
      const { body } = await ann.api.get(`/v1/endpoints/${ann.endpoint.id}`);
      expect(JSON.stringify(body)).not.toContain('"user"');
      return [];
    },
  },
  // ─── what is its own, and not now ───
  ...(
    [
      ["of an attempt that is not yet", { attempt: 2 }],
      ["of an attempt that never was", { attempt: 0 }],
      ["of a lease that is not yet", { fence: Number.MAX_SAFE_INTEGER }],
    ] as const
  ).map(([what, reply]) => ({
    tries: `a result ${what}`,
    act: async () => {
      const bad = await hostile();
      const task = await ownTask(bad);
      bad.reply([task], reply);
      await bad.untilDurable();
      expect(await stateOf(task, mallory.api)).not.toBe("SUCCEEDED");
      return [bad.peer];
    },
  })),
  {
    tries: "a second outcome for what has one, and another state for it",
    act: async () => {
      const bad = await hostile();
      const task = await ownTask(bad);
      bad.reply([task], { bytes: Buffer.from('"first"') });
      await bad.untilDurable();
      bad.reply([task], { state: "FAILED" });
      bad.reply([task], { bytes: Buffer.from('"second"') });
      await bad.untilDurable();
      const { body } = await mallory.api.get(`/v1/tasks/${keyToUuid(task.key)}`);
      expect(body).toMatchObject({ state: "SUCCEEDED" });
      return [bad.peer];
    },
  },
  {
    tries: "starts and returns for tasks that were not sent",
    act: async () => {
      const bad = await hostile({ ...holding, window: 0 });
      const own = await LinkClient.connect(rest.url, mallory.api.credential!);
      peers.push(own);
      const [key] = own.submit({
        endpointId: mallory.endpoint.id,
        fn: mallory.fn,
        args: [Buffer.from("[[],{}]")],
      });
      await own.untilDurable();
      bad.peer.send({ t: "progress", ids: keysToColumn([key!]), kind: "started" });
      bad.peer.send({ t: "returned", ids: keysToColumn([key!]) });
      await read(bad.peer);
      expect((await mallory.api.get(`/v1/tasks/${keyToUuid(key!)}`)).body.state).toBe("QUEUED");
      return [bad.peer];
    },
  },
  {
    tries:
      "what belongs to a task, its file, token and secrets, before it leases it and after: also across connections",
    act: async () => {
      const shared = await makeEchoEndpoint(mallory.api, "shared");
      const guests = await mallory.api.call("PUT", `/v1/endpoints/${shared.id}/access`, {
        json: { person: "ann", allow: "invoke" },
      });
      expect(guests.status, JSON.stringify(guests.body)).toBeLessThan(300);
      const connect = async (options: EchoAgentOptions = {}): Promise<EchoAgent> => {
        const agent = await EchoAgent.connect(rest.url, shared, { ...holding, window: 0, ...options });
        peers.push(agent);
        return agent;
      };
      const bad = await connect();
      const call = {
        function: "ann/f",
        endpoint: shared.id,
        payload: { digest: payload, codec: "json" },
        options: { nested: true },
      };
      const { body, status } = await ann.api.post("/v1/tasks", call);
      expect(status, JSON.stringify(body)).toBeLessThan(300);
      const thief = new RestClient(rest.url, await agentToken(rest.url, shared.id, shared.keys.privateKey));
      const gets = async (): Promise<number[]> => [
        (await thief.get(`/v1/payloads/${payload}`)).status,
        (await thief.post(`/v1/tasks/${body.id}/token`, {})).status,
        (await thief.post(`/v1/tasks/${body.id}/secrets`, {})).status,
      ];
      const NOTHING = [404, 404, 404];
      const ALL = [200, 200, 200];
      expect(await gets(), "before any credit").toEqual(NOTHING);
      bad.grant(1);
      const [task] = await bad.untilReceived(1);
      expect(keyToUuid(task!.key)).toBe(body.id);
      expect(await gets()).toEqual(ALL);
      bad.peer.send({ t: "returned", ids: keysToColumn([task!.key]) });
      await read(bad.peer);
      expect(await gets(), "given back, and waiting for credit").toEqual(NOTHING);
      bad.grant(2);
      const [, again] = await bad.untilReceived(2);
      await read(bad.peer);
      await bad.close();
      // The end of a connection ends no lease; until its record is written, nobody can say.
      const seen = new Set<number>();
      const look = async (): Promise<number[]> => {
        const now = await gets();
        for (const one of now) seen.add(one);
        return now;
      };
      await expect.poll(look, { timeout: CASE_MS, interval: 50 }).toEqual(ALL);
      expect([...seen].filter((one) => one !== 200 && one !== 503)).toEqual([]);
      await connect();
      expect(await gets(), "not listed by the agent itself").toEqual(NOTHING);
      const back = await connect({ held: [again!.key] });
      expect(await gets()).toEqual(ALL);
      back.reply([again!], {});
      await back.untilDurable();
      expect(await gets(), "ended").toEqual([404, 403, 409]);
      return [];
    },
  },
  {
    tries: "a file of its endpoint's owner that no task of its is called with",
    act: async () => {
      const bad = await hostile({ ...holding, window: 0 });
      const bytes = Buffer.from(`mallory's ${"x".repeat(70_000)}`);
      const digest = createHash("sha256").update(bytes).digest("hex");
      const path = `/v1/payloads/${digest}`;
      expect((await mallory.api.call("PUT", path, { raw: bytes })).status).toBe(201);
      const thief = new RestClient(rest.url, await session());
      expect((await thief.get(path)).status).toBe(404);
      // It may ask whether what it would put is there.
      expect((await thief.call("HEAD", path)).status).toBe(200);
      const call = { function: "f", endpoint: mallory.endpoint.id, payload: { digest, codec: "json" } };
      expect((await mallory.api.post("/v1/tasks", call)).status).toBeLessThan(300);
      expect((await thief.get(path)).status).toBe(404);
      // What earlier cases have left at this endpoint comes first.
      bad.grant(1_000);
      const refers = ({ bytes: args }: ReceivedTask): boolean => args.toString("hex").startsWith(digest);
      await bad.peer.until(() => bad.received.some(refers), "the task with the file");
      expect((await thief.get(path)).body.equals(bytes)).toBe(true);
      return [];
    },
  },
  // ─── numbers that lie ───
  frames(
    "a mark for tasks that it was not sent",
    () => [{ t: "mark", accepted: 9, durable: 9 }],
    "FRAME_INVALID",
  ),
  frames(
    "a mark that is durable beyond accepted",
    () => [{ t: "mark", accepted: 0, durable: 1 }],
    "FRAME_INVALID",
  ),
  {
    tries: "a mark that goes backward",
    act: async () => {
      const bad = await hostile();
      await ownTask(bad);
      bad.peer.send({ t: "mark", accepted: 0, durable: 0 });
      await read(bad.peer);
      return [bad.peer];
    },
  },
  frames("credit without bounds, and less than before", () => [
    { t: "credit", tasks: Number.MAX_SAFE_INTEGER, bytes: Number.MAX_SAFE_INTEGER },
    { t: "credit", tasks: 0, bytes: 0 },
  ]),
  frames(
    "results at a position that they have not",
    () => [resultsOf([ids.next()], { first: 77 })],
    "FRAME_INVALID",
  ),
  frames("a state that there is not", () => [resultsOf([ids.next()], { states: 9 })], "FRAME_INVALID"),
  frames(
    "columns that do not fit",
    () => [resultsOf([ids.next()], { ends: Buffer.alloc(1) })],
    "FRAME_INVALID",
  ),
  frames(
    "more results than a batch has",
    () => [resultsOf(Array.from({ length: 4097 }, () => ids.next()))],
    "FRAME_INVALID",
  ),
  // ─── too much ───
  frames("what is no frame", () => [randomBytes(64)], "FRAME_INVALID"),
  frames(
    "a frame that nests too deep",
    () => [encodeFrame(raw({ t: "report", report: nested(40) }))],
    "FRAME_INVALID",
  ),
  frames(
    "a frame of too many elements",
    () => [encodeFrame(raw({ t: "report", report: { blocks: Array.from({ length: 70_000 }, () => 0) } }))],
    "FRAME_INVALID",
  ),
  frames("a frame that is too large", () => [Buffer.alloc(limits.MAX_FRAME_BYTES + 1, 0xc0)], "cut"),
  frames("a report of a thousand blocks and endless words", () => [
    raw({
      t: "report",
      report: {
        blocks: Array.from({ length: 1_000 }, () => ({ state: "pending", detail: "x".repeat(1_000) })),
      },
    }),
  ]),
  frames("fifty thousand pings", () =>
    Array.from({ length: 50_000 }, () => encodeFrame({ t: "ping", n: 1 })),
  ),
  {
    tries: "80,000 results of tasks that there are not",
    act: async () => {
      const { peer } = await hostile();
      for (let i = 0; i < 20; i++) peer.send(resultsOf(Array.from({ length: 4_000 }, () => ids.next())));
      await peer.until(() => (peer.of("mark").at(-1)?.durable ?? 0) >= 80_000, "the mark of all", CASE_MS);
      return [peer];
    },
  },
  {
    tries: "to ask and never to read the answers",
    act: async () => {
      const { peer } = await hostile();
      peer.socket.pause();
      const ping = encodeFrame({ t: "ping", n: 1 });
      for (let i = 0; i < 200; i++) {
        for (let j = 0; j < 500; j++) peer.sendBytes(ping);
        await new Promise((resolve) => setImmediate(resolve));
      }
      peer.socket.terminate();
      return [];
    },
  },
];

function nested(depth: number): object {
  let value: object = {};
  for (let i = 0; i < depth; i++) value = { value };
  return value;
}

describe("an agent with a valid key tries", () => {
  for (const { tries, act } of CASES)
    it(
      tries,
      async () => {
        const before = await annsThings();
        const bytes = memory();
        for (const peer of await act()) expect(heard(peer)).not.toContain(MARK);
        expect(await annsThings()).toBe(before);
        // The good one works on meanwhile, on the connection that it has.
        const [key] = client.submit({ endpointId: ann.endpoint.id, fn: ann.fn, args: [secret] });
        expect(await client.untilOutcomes([key!], CASE_MS)).toMatchObject([{ state: "SUCCEEDED" }]);
        expect(agent.peer.closedWith).toBeUndefined();
        expect(memory() - bytes).toBeLessThan(MAX_GROWTH_BYTES);
      },
      CASE_MS,
    );
});

const memory = (): number => {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};

describe("the same from whoever it is meant for", () => {
  it("is taken: output, progress, the code, a token, the file, and the one result", async () => {
    const { peer } = agent;
    peer.send({ t: "need", functions: [ann.fn] });
    peer.send({ t: "progress", ids: foreign(), kind: "started" });
    peer.send(buildOutput([{ key: open.key, attempt: 1, stream: 1, at: 0, data: Buffer.from("mine") }]));
    const functions = peer.of("functions").length;
    await peer.until(() => peer.of("functions").length > functions, "the code");
    expect(heard(peer)).toContain(MARK);
    const token = await agentToken(rest.url, ann.endpoint.id, ann.endpoint.keys.privateKey);
    const own = new RestClient(rest.url, token);
    answers = false;
    const call = { function: "f", endpoint: ann.endpoint.id, payload: { digest: payload, codec: "json" } };
    const arrived = agent.received.length;
    expect((await ann.api.post("/v1/tasks", call)).status).toBeLessThan(300);
    await agent.untilReceived(arrived + 1);
    expect((await own.get(`/v1/payloads/${payload}`)).status).toBe(200);
    expect((await own.post(`/v1/tasks/${keyToUuid(open.key)}/token`, { attempt: 1 })).status).toBeLessThan(
      300,
    );
    // What is written behind has been written by now: of the forged output there is nothing.
    await expect.poll(() => outputOf(open.key), { timeout: CASE_MS }).toEqual(["mine"]);
    const before = await annsThings();
    agent.reply([open], { bytes: Buffer.from('"mine"') });
    expect((await client.untilOutcomes([open.key]))[0]!.bytes.toString()).toBe('"mine"');
    expect(await annsThings()).not.toBe(before);
    expect(await stateOf(open, ann.api)).toBe("SUCCEEDED");
  });
});
