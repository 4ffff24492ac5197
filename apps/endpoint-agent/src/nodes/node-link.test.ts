/** A real node manager behind its uplink, over real TLS, against an agent of the test's making. */
import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  buildTasks,
  CODECS,
  columnToKeys,
  type Frame,
  type FrameKind,
  type FunctionDefinition,
  type HelloFrame,
  type IdKey,
  limits,
  TaskIdAllocator,
} from "@farloom/protocol";
import { pino } from "pino";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { PYTHON, python } from "../../../../test/support/node-harness.js";
import { dialAgent } from "../node/dial.js";
import { NodeManager } from "../node/node-manager.js";
import type { StreamPort } from "../node/stream-port.js";
import { Uplink, type UplinkEnd } from "../node/uplink.js";
import { loadCertificate, makeCertificate } from "./certificate.js";
import { NodeDoor } from "./node-door.js";

vi.setConfig({ testTimeout: 60_000 });
const log = pino({ level: process.env.FARLOOM_TEST_LOG ?? "silent" });
const ids = new TaskIdAllocator();
const ADD = python("def add(a, b): return a + b");
const NAP = python("import time\ndef nap(s):\n  time.sleep(s)\n  return s");
ADD.entry = "add";

/** The agent's end of one connection. */
interface Session {
  readonly hello: HelloFrame;
  readonly port: StreamPort;
  readonly frames: Frame[];
}

let dir: string;
let door: NodeDoor;
let sessions: Session[];
let manager: NodeManager;
let uplink: Uplink;
let ended: Promise<UplinkEnd>;
const certificate = makeCertificate();

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "fl-link-"));
  sessions = [];
  door = await NodeDoor.open({
    certificate,
    host: "127.0.0.1",
    port: 0,
    log,
    onHello: (hello, port) => {
      const session: Session = { hello, port, frames: [] };
      port.trust();
      port.onFrame((frame) => session.frames.push(frame));
      port.send({
        t: "welcome",
        version: 1,
        caps: [],
        session: "s",
        heartbeatMs: limits.HEARTBEAT_MS,
        deadAfterMs: limits.DEAD_AFTER_MS,
        maxFrameBytes: limits.MAX_FRAME_BYTES,
        software: "test",
      });
      sessions.push(session);
    },
  });
  uplink = new Uplink({
    log,
    giveUpMs: 600_000,
    dial: (signal) => dialAgent(door.addresses, certificate.fingerprint, signal),
    identity: () => ({
      versions: [1],
      caps: [],
      software: "farloom-node",
      block: "b",
      node: "n",
      token: "t",
    }),
    resume: () => manager.resume(),
    onWelcome: () => undefined,
  });
  manager = new NodeManager({
    port: uplink,
    log,
    stateDir: dir,
    workers: 1,
    prefetch: 3,
    runtimes: { python: { default: PYTHON } },
    killGraceMs: 500,
  });
  await manager.start();
  ended = uplink.run();
  await session(1);
});
afterEach(async () => {
  await uplink.stop("the test ends");
  await ended;
  await manager.close();
  door.close();
  rmSync(dir, { recursive: true, force: true });
});

/** The n-th session, once it has its first credit. */
async function session(n: number): Promise<Session> {
  await expect
    .poll(() => sessions[n - 1]?.frames.some((f) => f.t === "credit"), { timeout: 20_000 })
    .toBe(true);
  return sessions[n - 1]!;
}

function of<K extends FrameKind>({ frames }: Session, kind: K): Extract<Frame, { t: K }>[] {
  return frames.filter((frame): frame is Extract<Frame, { t: K }> => frame.t === kind);
}

function tasks(
  def: FunctionDefinition,
  ...args: unknown[][]
): { readonly frame: Frame; readonly keys: IdKey[] } {
  const items = args.map((list) => {
    const source = Buffer.from(JSON.stringify([list, {}]));
    return {
      key: ids.next(),
      codec: CODECS.json,
      attempt: 1,
      options: undefined,
      source,
      start: 0,
      end: source.length,
    };
  });
  return { frame: buildTasks(items, 0, items.length, () => def.digest), keys: items.map((item) => item.key) };
}

const resultKeys = (one: Session): IdKey[] => of(one, "results").flatMap((frame) => columnToKeys(frame.ids));

it("sends again what was not marked, before its first credit, with positions and credit from zero (U1, U2)", async () => {
  const first = await session(1);
  expect(of(first, "credit")[0]).toMatchObject({ tasks: 4 });
  const { frame, keys } = tasks(ADD, [1, 2], [3, 4], [5, 6]);
  first.port.send({ t: "functions", defs: [ADD] });
  first.port.send(frame);
  await expect.poll(() => resultKeys(first).length, { timeout: 20_000 }).toBe(3);
  const n = of(first, "results")[0]!.n;
  first.port.send({ t: "mark", accepted: n, durable: n });
  first.port.close("cut");
  const second = await session(2);
  // The mark may have been lost with the connection; what it covered is then sent once more.
  const again = resultKeys(second);
  expect(keys.slice(-again.length)).toEqual(again);
  expect(again.length).toBeGreaterThanOrEqual(3 - n);
  const kinds = second.frames.map((one) => one.t);
  expect(kinds.lastIndexOf("results")).toBeLessThan(kinds.indexOf("credit"));
  expect(columnToKeys(second.hello.held!)).toEqual([]);
  expect(second.hello.whole).toBe(true);
  // Three tasks came in the first session; the room of the second does not count them.
  const room = of(second, "credit").at(-1)!.tasks;
  expect(room).toBeGreaterThanOrEqual(1);
  second.port.send({ t: "mark", accepted: again.length, durable: again.length });
  second.port.send({ t: "functions", defs: [ADD] });
  second.port.send(tasks(ADD, [7, 8]).frame);
  await expect.poll(() => resultKeys(second).length, { timeout: 20_000 }).toBe(again.length + 1);
});

it("lists what it holds, and lets go, unstarted, of what waited for a definition of the last session (U3)", async () => {
  const first = await session(1);
  const running = tasks(NAP, [3]);
  first.port.send({ t: "functions", defs: [NAP] });
  first.port.send(running.frame);
  first.port.send(tasks(ADD, [1, 2]).frame);
  await expect.poll(() => of(first, "need").length, { timeout: 20_000 }).toBe(1);
  first.port.close("cut");
  const second = await session(2);
  expect(columnToKeys(second.hello.held!)).toEqual(running.keys);
  second.port.send({ t: "functions", defs: [ADD] });
  await expect.poll(() => resultKeys(second), { timeout: 20_000 }).toEqual(running.keys);
});

it("when it drains, gives back what has not started, takes nothing more, and ends once the rest is marked (U4)", async () => {
  const first = await session(1);
  const { frame, keys } = tasks(NAP, [2], [2], [2]);
  first.port.send({ t: "functions", defs: [NAP] });
  first.port.send(frame);
  await expect.poll(() => of(first, "progress").length, { timeout: 20_000 }).toBe(1);
  first.port.send({ t: "drain", code: "DRAINING", message: "" });
  await expect
    .poll(() => of(first, "returned").flatMap((f) => columnToKeys(f.ids)), { timeout: 20_000 })
    .toEqual(keys.slice(1));
  first.port.close("cut");
  const second = await session(2);
  expect(of(second, "credit").map((f) => f.tasks)).toEqual([0]);
  await expect.poll(() => resultKeys(second), { timeout: 20_000 }).toEqual(keys.slice(0, 1));
  expect(of(second, "bye")).toEqual([]);
  second.port.send({ t: "mark", accepted: 1, durable: 1 });
  expect(await ended).toEqual({ why: "drained" });
  await expect.poll(() => of(second, "bye")).toMatchObject([{ code: "DRAINING" }]);
});

it("ends when it is refused", async () => {
  const first = await session(1);
  first.port.send({ t: "bye", code: "DRAINING", message: "" });
  await session(2);
  // A refusal can only be the first word.
  const { port: doorPort } = door;
  door.close();
  const refusing = await NodeDoor.open({
    certificate,
    host: "127.0.0.1",
    port: doorPort,
    log,
    onHello: (_hello, port) => {
      port.send({ t: "refuse", code: "NODE_REFUSED", message: "no" });
      port.close("no");
    },
  });
  sessions[1]!.port.close("cut");
  expect(await ended).toEqual({ why: "refused", message: "no" });
  refusing.close();
});

it("what is no TLS, no frame or no hello is turned away, and costs others nothing", async () => {
  const plain = connect(door.port, "127.0.0.1");
  plain.write("GET / HTTP/1.1\r\n\r\n");
  await new Promise((resolve) => plain.once("close", resolve).once("error", () => undefined));
  const signal = new AbortController().signal;
  for (const bytes of [Buffer.from([0, 0, 0, 1, 0xc1]), Buffer.from([0xff, 0xff, 0xff, 0xff])]) {
    const dialled = await dialAgent(door.addresses, certificate.fingerprint, signal);
    if (!dialled.ok) throw new Error(dialled.message);
    const closed = new Promise((resolve) => dialled.socket.once("close", resolve));
    dialled.socket.on("error", () => undefined).resume();
    dialled.socket.write(bytes);
    await closed;
  }
  expect(sessions).toHaveLength(1);
  const { frame, keys } = tasks(ADD, [1, 2]);
  sessions[0]!.port.send({ t: "functions", defs: [ADD] });
  sessions[0]!.port.send(frame);
  await expect.poll(() => resultKeys(sessions[0]!), { timeout: 20_000 }).toEqual(keys);
});

it("the certificate is a real one, is kept, and another is not taken", async () => {
  const { certPem, fingerprint } = makeCertificate();
  const parsed = new X509Certificate(certPem);
  expect(parsed.verify(parsed.publicKey)).toBe(true);
  expect(parsed.fingerprint256.replaceAll(":", "").toLowerCase()).toBe(fingerprint);
  const path = join(dir, "door.json");
  expect(loadCertificate(path)).toEqual(loadCertificate(path));
  const dialled = await dialAgent(door.addresses, fingerprint, new AbortController().signal);
  expect(dialled).toMatchObject({ ok: false, message: expect.stringMatching(/not that of the agent/) });
});
