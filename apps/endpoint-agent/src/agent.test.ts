import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CODEC_REFERENCE, CODECS, encodeReference, REASONS, TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { enrolledStateDir, startEchoAgent } from "../../../test/support/agent.js";
import type { EchoNodeOptions } from "../../../test/support/echo-node.js";
import { defineFunction, FakeService } from "../../../test/support/fake-service.js";
import type { AgentOptions } from "./config.js";

// Real agents on a busy machine.
vi.setConfig({ testTimeout: 20_000 });

let service: FakeService;
let stateDir: string;
let cleanup: (() => void | Promise<void>)[];

beforeEach(async () => {
  service = await FakeService.start();
  const dir = await enrolledStateDir(service);
  stateDir = dir.stateDir;
  cleanup = [dir.remove, () => service.close()];
});
afterEach(async () => {
  for (const step of cleanup.reverse()) await step();
});

async function start(node: EchoNodeOptions = {}, options: AgentOptions = {}) {
  const started = await startEchoAgent(stateDir, node, options);
  cleanup.push(() => started.agent.close());
  await service.until(() => service.connected && service.roomTasks > 0, "connected, with credit");
  return started;
}

const lastMark = () => service.frames.filter((f) => f.t === "mark").at(-1);

describe("the road", () => {
  it("runs a task and brings its result", async () => {
    await start();
    const [key] = service.sendTasks([{ args: Buffer.from("[[42],{}]") }]);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({
      key,
      state: TERMINAL_STATES.SUCCEEDED,
      attempt: 1,
      held: false,
    });
    expect(service.results[0]!.data.toString()).toBe("[[42],{}]");
    expect(lastMark()).toEqual({ t: "mark", accepted: 1, durable: 1 });
  });

  it("runs ten thousand tasks in batches within credit, each once", async () => {
    const { agent } = await start();
    const keys: string[] = [];
    while (keys.length < 10_000) {
      await service.until(() => service.roomTasks >= 100, "room for a batch");
      keys.push(...service.sendTasks(Array.from({ length: 100 }, () => ({}))));
    }
    await service.until(() => service.results.length === 10_000);
    expect(new Set(service.results.map((r) => r.key))).toEqual(new Set(keys));
    await service.until(() => agent.status().unackedResults === 0, "all acknowledged");
    expect(agent.status().tasks).toEqual({ waiting: 0, queued: 0, handed: 0, done: 0, kept: 0 });
  });

  it("grants credit in few frames and never holds up a task at a time", async () => {
    await start({}, { windowTasks: 64 });
    for (let i = 0; i < 500; i++) {
      await service.until(() => service.roomTasks > 0, "room for one");
      service.sendTasks([{}]);
      await service.until(() => service.results.length === i + 1);
    }
    expect(service.creditFrames).toBeLessThanOrEqual(1 + 500 / 8);
  });

  it("asks for a function that it lacks, and runs the task when the definition comes", async () => {
    await start();
    service.def = defineFunction({ entry: "late", code: Buffer.from("def late(): pass\n") });
    service.sendTasks([{}], { withFunctions: false });
    await service.until(() => service.frames.some((f) => f.t === "need"));
    service.sendFunction(service.def);
    await service.until(() => service.results.length === 1);
  });

  it("ends the connection when more comes than it gave credit for", async () => {
    await start({ answers: false }, { windowTasks: 8 });
    service.sendTasks(Array.from({ length: 9 }, () => ({})));
    await service.until(() => service.frames.some((f) => f.t === "bye" && f.code === "CREDIT_EXCEEDED"));
  });

  it("ends the connection on a malformed frame, and answers an unknown one", async () => {
    await start();
    service.sendRaw(Buffer.from([0x81, 0xa1, 0x74, 0xa3, 0x66, 0x6f, 0x6f]));
    await service.until(() => service.frames.some((f) => f.t === "problem" && f.code === "FRAME_UNKNOWN"));
    service.sendRaw(Buffer.from([0xc1]));
    await service.until(() => service.frames.some((f) => f.t === "bye" && f.code === "FRAME_INVALID"));
    await service.until(() => service.hellos.length === 2 && service.connected, "connected again");
  });
});

describe("identity and resumption of ids", () => {
  it("does not run a task that is sent again while it is held (P11)", async () => {
    const { node } = await start({ answers: false });
    const [key] = service.sendTasks([{}]);
    service.sendTasks([{ key: key! }]);
    await service.until(() => lastMark()?.t === "mark" && (lastMark() as { durable: number }).durable === 2);
    expect(node.given).toHaveLength(1);
    node.finish(node.given);
    await service.until(() => service.results.length === 1);
  });

  it("answers for a newer attempt with the run that is under way", async () => {
    const { node } = await start({ answers: false });
    const [key] = service.sendTasks([{}]);
    await service.until(() => node.given.length === 1);
    service.sendTasks([{ key: key!, attempt: 2 }]);
    await service.until(() => (lastMark() as { durable: number }).durable === 2);
    node.finish(node.given);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]!.attempt).toBe(2);
    expect(node.given).toHaveLength(1);
  });

  it("runs a new attempt after the old one's result, acknowledged or not", async () => {
    service.acknowledges = false;
    const { node } = await start({ answers: false });
    const [key] = service.sendTasks([{}]);
    await service.until(() => node.given.length === 1);
    node.finish(node.given.slice(0, 1), { state: TERMINAL_STATES.FAILED, reason: REASONS.user_error });
    await service.until(() => service.results.length === 1);
    service.sendTasks([{ key: key!, attempt: 2 }]);
    await service.until(() => node.given.length === 2);
    node.finish(node.given.slice(1));
    await service.until(() => service.results.length === 2);
    expect(service.results.map((r) => r.attempt)).toEqual([1, 2]);
    service.markAll();
  });

  it("sends unacknowledged results again after a reconnect, before its first credit (P15)", async () => {
    service.acknowledges = false;
    const { agent } = await start();
    const keys = service.sendTasks([{}, {}, {}]);
    await service.until(() => service.results.length === 3);
    service.cut();
    await service.until(() => service.results.length === 6, "sent again");
    expect(service.hellos[1]).toMatchObject({ unacked: 3 });
    expect(service.hellos[1]!.held).toHaveLength(0);
    expect(service.results.slice(3).map((r) => [r.key, r.held])).toEqual(keys.map((key) => [key, true]));
    await service.until(() => service.roomTasks > 0, "credit");
    const second = service.frames.slice(service.frames.lastIndexOf(service.hellos[1]!));
    expect(second.findIndex((f) => f.t === "results")).toBeLessThan(
      second.findIndex((f) => f.t === "credit"),
    );
    service.markAll();
    await service.until(() => agent.status().unackedResults === 0);
  });

  it("lists what it holds in its next hello, and finishes it", async () => {
    const { node } = await start({ answers: false });
    const [key] = service.sendTasks([{}]);
    await service.until(() => node.given.length === 1);
    service.cut();
    await service.until(() => service.hellos.length === 2 && service.connected);
    expect(service.hellos[1]!.held!.toString("latin1")).toBe(key);
    node.finish(node.given);
    await service.until(() => service.results.length === 1);
  });

  it("answers a resubmission of a task that was never committed without running it again (P14)", async () => {
    const { agent, node } = await start({ answers: false });
    const key = service.ids.next();
    service.unknownKeys.add(key);
    service.sendTasks([{ key }]);
    await service.until(() => node.given.length === 1);
    node.finish(node.given);
    await service.until(() => agent.status().tasks.kept === 1, "kept aside");
    service.unknownKeys.clear();
    service.sendTasks([{ key }]);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({ key, held: true });
    expect(node.given).toHaveLength(1);
    await service.until(() => agent.status().tasks.done === 0 && agent.status().tasks.kept === 0);
  });
});

describe("being replaced", () => {
  const replace = () => {
    service.send({
      t: "bye",
      code: "LINK_REPLACED",
      message: "A newer connection of the same endpoint took over.",
    });
    service.cut();
  };

  it("ends the link for good, and leases nothing more", async () => {
    const { agent, node } = await start({ answers: false, creditTasks: 1 });
    service.sendTasks([{}, {}]);
    await service.until(() => node.given.length === 1);
    replace();
    expect((await agent.shutOut).code).toBe("LINK_REPLACED");
    expect(agent.status()).toMatchObject({ link: { phase: "stopped" }, draining: true });
    node.finish(node.given);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(node.given).toHaveLength(1);
    expect(service.hellos).toHaveLength(1);
  });

  it("is not what a token is refused for that has opened a connection: it asks for others, as often as it takes", async () => {
    service.refuse = { code: "SESSION_TOKEN_USED", message: "The session token has opened a connection." };
    const starting = start();
    await service.until(() => service.hellos.length === 2, "it tried again");
    service.refuse = undefined;
    const { agent } = await starting;
    expect(agent.status().link.phase).toBe("open");
  });

  it("is forgiven once for each handshake of its own that a hanging service may have taken up late", async () => {
    service.cutsAtHello = 1;
    const { agent } = await start();
    expect(service.hellos).toHaveLength(2);
    replace();
    await service.until(() => service.hellos.length === 3 && service.connected, "connected again");
    replace();
    expect((await agent.shutOut).code).toBe("LINK_REPLACED");
  });
});

describe("cancel, time limits and drain", () => {
  it("cancels what has not started itself, and passes on the rest (P20)", async () => {
    const { node } = await start({ answers: false, creditTasks: 1 });
    const [running, queued] = service.sendTasks([{}, {}]);
    await service.until(() => node.given.length === 1);
    service.send({ t: "cancel", ids: Buffer.from(`${running}${queued}`, "latin1") });
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({
      key: queued,
      state: TERMINAL_STATES.CANCELLED,
      reason: REASONS.cancelled_by_user,
    });
    await service.until(() => node.frames.some((f) => f.t === "cancel"));
    expect(node.frames.find((f) => f.t === "cancel")).toMatchObject({ ids: Buffer.from(running!, "latin1") });
  });

  it("ends a task that waited too long as TIMED_OUT", async () => {
    const { node } = await start({ answers: false, creditTasks: 1 });
    const [, queued] = service.sendTasks([{}, { options: { queueTimeoutMs: 40 } }]);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({
      key: queued,
      state: TERMINAL_STATES.TIMED_OUT,
      reason: REASONS.queue_time_limit,
    });
    node.finish(node.given);
    await service.until(() => service.results.length === 2);
  });

  it("ends a task at its deadline wherever it is: in the queue itself, on a node by stopping it", async () => {
    const { node } = await start({ answers: false, creditTasks: 1 });
    const options = { deadlineMs: 60 };
    const [running, queued] = service.sendTasks([{ options }, { options }]);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({
      key: queued,
      state: TERMINAL_STATES.TIMED_OUT,
      reason: REASONS.deadline,
    });
    await service.until(() => node.frames.some((f) => f.t === "cancel"));
    expect(node.frames.find((f) => f.t === "cancel")).toMatchObject({
      ids: Buffer.from(running!, "latin1"),
      why: "deadline",
    });
  });

  it("gives back what has not started when it drains, waits for the rest, and says bye", async () => {
    const { agent, node } = await start({ answers: false, creditTasks: 1 });
    const [running, queued] = service.sendTasks([{}, {}]);
    await service.until(() => node.given.length === 1);
    const drained = agent.drain(5000);
    await service.until(() => service.frames.some((f) => f.t === "returned"));
    expect(service.frames.find((f) => f.t === "returned")).toMatchObject({
      ids: Buffer.from(queued!, "latin1"),
    });
    expect(service.frames.findIndex((f) => f.t === "drain")).toBeGreaterThan(0);
    node.finish(node.given);
    await drained;
    expect(service.results).toMatchObject([{ key: running }]);
    await service.until(() => service.frames.at(-1)!.t === "bye");
  });

  it("leaves a task that outlasts the drain in its journal", async () => {
    const { agent, node } = await start({ answers: false });
    const [key] = service.sendTasks([{}]);
    await service.until(() => node.given.length === 1);
    await agent.drain(50);
    const again = await start({ answers: false, held: [key!] });
    expect(service.hellos.at(-1)!.held!.toString("latin1")).toBe(key);
    again.node.finish(node.given);
    await service.until(() => service.results.length === 1);
  });
});

describe("a restart", () => {
  it("charges what its workers no longer hold as LOST, and runs the rest (S5)", async () => {
    const first = await start({ answers: false, creditTasks: 2 });
    const [a, b, c] = service.sendTasks([{}, {}, {}]);
    await service.until(() => first.node.given.length === 2);
    await first.agent.close();
    const second = await start({ answers: false, held: [a!] });
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({
      key: b,
      state: TERMINAL_STATES.LOST,
      reason: REASONS.agent_lost,
    });
    expect(second.node.given.map((t) => t.key)).toEqual([c]);
    second.node.finish([first.node.given[0]!, ...second.node.given]);
    await service.until(() => service.results.length === 3);
  });

  it("runs again what provably never reached a worker", async () => {
    const first = await start({ answers: false });
    const [a, b] = service.sendTasks([{}, {}]);
    await service.until(() => first.node.given.length === 2);
    await first.agent.close();
    const second = await start({ answers: false, held: [a!], whole: true });
    await service.until(() => second.node.given.length === 1);
    expect(second.node.given[0]!.key).toBe(b);
    second.node.finish([first.node.given[0]!, ...second.node.given]);
    await service.until(() => service.results.length === 2);
  });

  it("sends results again that the service had not acknowledged, and forgets those it had", async () => {
    service.acknowledges = false;
    const first = await start();
    const keys = service.sendTasks([{}, {}]);
    await service.until(() => service.results.length === 2);
    service.send({ t: "mark", accepted: 2, durable: 1 });
    await service.until(() => first.agent.status().unackedResults === 1);
    await first.agent.close();
    await start();
    await service.until(() => service.results.length === 3);
    expect(service.results[2]).toMatchObject({ key: keys[1], held: true });
  });

  it("after another boot, counts all that it holds unfinished as maybe started, and says so by its boot id (P15c)", async () => {
    const first = await start({ answers: false, creditTasks: 1 });
    const keys = service.sendTasks([{}, {}]);
    await service.until(() => first.node.given.length === 1);
    await first.agent.close();
    const again = await start({ answers: false, creditTasks: 1, held: [keys[0]!] });
    await again.agent.close();
    process.env.FARLOOM_TEST_BOOT_ID = "another-boot";
    cleanup.push(() => {
      delete process.env.FARLOOM_TEST_BOOT_ID;
    });
    const second = await start({ answers: false, whole: true });
    await service.until(() => service.results.length === 2);
    expect(service.results.map((r) => [r.key, r.state, r.reason])).toEqual(
      keys.map((key) => [key, TERMINAL_STATES.LOST, REASONS.agent_lost]),
    );
    expect(second.node.given).toEqual([]);
    const boots = service.hellos.map((hello) => hello.bootId);
    expect(boots[1], "a restart is no other memory").toBe(boots[0]);
    expect(boots[2]).not.toBe(boots[0]);
  });

  it("after damage to its journal, goes on with what its workers hold, and counts the rest as maybe started", async () => {
    const first = await start({ answers: false, creditTasks: 2 });
    const [a, b, c] = service.sendTasks([{}, {}, {}]);
    await service.until(() => first.node.given.length === 2);
    await first.agent.close();
    const dir = join(stateDir, "journal");
    const path = join(dir, readdirSync(dir).at(-1)!);
    truncateSync(path, statSync(path).size - 1);
    const second = await start({ answers: false, held: [a!], whole: true });
    await service.until(() => service.results.length === 2);
    expect(service.results.map((r) => [r.key, r.state])).toEqual([
      [b, TERMINAL_STATES.LOST],
      [c, TERMINAL_STATES.LOST],
    ]);
    expect(second.node.given).toEqual([]);
    expect(service.hellos[1]!.bootId).not.toBe(service.hellos[0]!.bootId);
    second.node.finish(first.node.given.slice(0, 1));
    await service.until(() => service.resultOf(a!) !== undefined);
  });

  it("says for how long its leases stand while it is away (P15d)", async () => {
    await start({}, { reclaimMs: 1234 });
    expect(service.hellos[0]!.reclaimMs).toBe(1234);
  });

  it("keeps kept results over a restart (P14)", async () => {
    const first = await start();
    const key = service.ids.next();
    service.unknownKeys.add(key);
    service.sendTasks([{ key }]);
    await service.until(() => first.agent.status().tasks.kept === 1);
    await first.agent.close();
    service.unknownKeys.clear();
    const second = await start({ answers: false });
    service.sendTasks([{ key }]);
    await service.until(() => service.results.length === 1);
    expect(second.node.given).toHaveLength(0);
  });

  it("lets one agent at a time use a state folder", async () => {
    await start();
    await expect(startEchoAgent(stateDir)).rejects.toThrow(/an agent runs on this state folder already/);
  });
});

describe("payload files", () => {
  const bytes = Buffer.alloc(300_000, "far");
  const hex = createHash("sha256").update(bytes).digest("hex");
  const reference = encodeReference(Buffer.from(hex, "hex"), bytes.length);
  const codec = CODECS.json | CODEC_REFERENCE;

  it("fetches and verifies the arguments' file before it hands the task down", async () => {
    service.payloads.set(hex, bytes);
    const { node } = await start({ answers: false });
    service.sendTasks([{ args: reference, codec }]);
    await service.until(() => node.given.length === 1);
    expect(readFileSync(join(stateDir, "payloads", hex)).equals(bytes)).toBe(true);
  });

  it("moves files that are too large for memory as it moves small ones", async () => {
    const large = Buffer.alloc(6_000_000, "loom");
    const largeHex = createHash("sha256").update(large).digest("hex");
    const largeReference = encodeReference(Buffer.from(largeHex, "hex"), large.length);
    service.payloads.set(largeHex, large);
    const { node } = await start({ answers: false });
    service.sendTasks([{ args: largeReference, codec }]);
    await service.until(() => node.given.length === 1);
    expect(readFileSync(join(stateDir, "payloads", largeHex)).equals(large)).toBe(true);
    service.payloads.clear();
    node.finish([{ ...node.given[0]!, args: largeReference }], { codec });
    await service.until(() => service.results.length === 1);
    expect(service.payloads.get(largeHex)?.equals(large)).toBe(true);
  });

  it.each([
    ["other bytes", Buffer.alloc(300_000, "raf")],
    ["fewer bytes", Buffer.alloc(200_000, "far")],
    ["more bytes", Buffer.alloc(400_000, "far")],
  ])("never hands down a file that came with %s", async (_what, damaged) => {
    service.payloads.set(hex, damaged);
    const { node } = await start({ answers: false });
    service.sendTasks([{ args: reference, codec }]);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(node.given).toHaveLength(0);
    expect(readdirSync(join(stateDir, "payloads"))).toEqual([]);
    service.payloads.set(hex, bytes);
    await service.until(() => node.given.length === 1);
    expect(readFileSync(join(stateDir, "payloads", hex)).equals(bytes)).toBe(true);
  });

  it("fails a task whose file is gone as payload_missing", async () => {
    await start();
    service.sendTasks([{ args: reference, codec }]);
    await service.until(() => service.results.length === 1);
    expect(service.results[0]).toMatchObject({
      state: TERMINAL_STATES.FAILED,
      reason: REASONS.payload_missing,
    });
  });

  it("sends a result's file up before the result", async () => {
    const { node } = await start({ answers: false });
    service.sendTasks([{}]);
    await service.until(() => node.given.length === 1);
    mkdirSync(join(stateDir, "payloads"), { recursive: true });
    writeFileSync(join(stateDir, "payloads", hex), bytes);
    node.finish([{ ...node.given[0]!, args: reference }], { codec });
    await service.until(() => service.results.length === 1);
    expect(service.payloads.get(hex)?.equals(bytes)).toBe(true);
    expect(service.results[0]!.data.equals(reference)).toBe(true);
  });

  it("keeps no file beyond its cache once nothing refers to it", async () => {
    service.payloads.set(hex, bytes);
    const { agent, node } = await start({ answers: false }, { payloadCacheMb: 0 });
    service.sendTasks([{ args: reference, codec }]);
    await service.until(() => node.given.length === 1);
    expect(readdirSync(join(stateDir, "payloads"))).toEqual([hex]);
    node.finish(node.given, { codec: CODECS.json });
    await service.until(() => agent.status().tasks.done === 0 && service.results.length === 1);
    expect(readdirSync(join(stateDir, "payloads"))).toEqual([]);
  });
});
