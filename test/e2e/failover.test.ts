/**
 * Two replicas behind one address, a real agent and the SDK: whichever replica dies, both find the other by
 * themselves, and the caller sees nothing but a pause.
 */
import { Farloom, type RemoteFunction } from "@farloom/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { TcpProxy } from "../support/tcp-proxy.js";

const TASKS = 3_000;
const LIMIT_MS = 90_000;

let fabric: Fabric;
let a: ServiceProcess;
let b: ServiceProcess;
let forAgent: TcpProxy;
let forClient: TcpProxy;
let farloom: Farloom;
let square: RemoteFunction<[number], number>;

beforeAll(async () => {
  fabric = await Fabric.open({ env: { FARLOOM_SWEEP_MS: "1000" } });
  a = await fabric.service();
  b = await fabric.service();
  // The agent at one, the client at the other, until one of them is gone.
  forAgent = await TcpProxy.open([b.port, a.port]);
  forClient = await TcpProxy.open([a.port, b.port]);
  await fabric.agent(forAgent.url, "real", ["--workers", "2"]);
  farloom = new Farloom({ url: forClient.url, apiKey: fabric.key, endpoint: "real" });
  const code = "import time\ndef square(x):\n    time.sleep(0.001)\n    return x * x\n";
  square = await farloom.register({ name: "square", runtime: "python", code });
  expect(await square.call([12])).toBe(144);
}, LIMIT_MS);

afterAll(async () => {
  await farloom?.close({ timeoutMs: 1_000 });
  await forClient?.close();
  await fabric?.close();
  await forAgent?.close();
}, LIMIT_MS);

async function runThrough(disturb: () => Promise<void>): Promise<void> {
  const group = square.map(Array.from({ length: TASKS }, (_, i): [number] => [i]));
  const wrong: unknown[] = [];
  let ended = 0;
  for await (const { index, value, error } of group.asCompleted()) {
    if (value !== index * index) wrong.push({ index, value, error: error?.message });
    if (++ended === 500) await disturb();
  }
  expect(wrong.slice(0, 5)).toEqual([]);
  expect(ended).toBe(TASKS);
}

describe("of two replicas", () => {
  it("the one with the agent may be killed", () => runThrough(() => b.kill()), LIMIT_MS);

  it(
    "the one with the client may be killed, the other being back",
    async () => {
      await b.restart();
      await runThrough(() => a.kill());
    },
    LIMIT_MS,
  );
});
