/**
 * Who may speak for an endpoint, in real processes over real sockets: of two agents with one identity the newest
 * works and the older stops; versions that have nothing in common part with a reason.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { FRAMES_DOWN, type Frame, limits } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { agentHello, makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { agentToken } from "../support/fake-agent.js";
import { FramePeer } from "../support/frame-peer.js";

const AGENT = join(import.meta.dirname, "../../apps/endpoint-agent/dist/bundle/main.js");
const LIMIT_MS = 60_000;

let fabric: Fabric;
let service: ServiceProcess;
const launched: ChildProcess[] = [];

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
}, LIMIT_MS);
afterAll(async () => {
  for (const child of launched) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGTERM");
    await once(child, "exit");
  }
  await fabric?.close();
}, LIMIT_MS);

interface Launched {
  readonly child: ChildProcess;
  readonly said: () => string;
}

function launch(stateDir: string): Launched {
  const child = spawn(
    process.execPath,
    [AGENT, "run", "--state-dir", stateDir, "--workers", "1", "--stop-workers"],
    {
      stdio: ["ignore", "inherit", "pipe"],
      env: { ...process.env, FARLOOM_TEST_FABRIC: fabric.home },
    },
  );
  launched.push(child);
  let text = "";
  child.stderr!.setEncoding("utf8").on("data", (more: string) => {
    text += more;
  });
  return { child, said: () => text };
}

async function enrolled(name: string): Promise<string> {
  const made = await fabric.api(service.url).post("/v1/endpoints", { name });
  const stateDir = join(fabric.home, name);
  const args = ["enroll", "--service", service.url, "--code-file", "-", "--state-dir", stateDir];
  const child = spawn(process.execPath, [AGENT, ...args], { stdio: ["pipe", "ignore", "ignore"] });
  child.stdin.end(made.body.enrolmentCode);
  const [code] = await once(child, "exit");
  expect(code).toBe(0);
  return stateDir;
}

describe("two agents with one identity", () => {
  it(
    "the newest works; the older stops leasing at once, says why, and ends; nothing runs twice",
    async () => {
      const first = await enrolled("twin");
      const older = launch(first);
      await expect.poll(older.said, { timeout: 20_000 }).toContain('"msg":"connected"');
      const evidence = join(fabric.home, "twin-evidence");
      mkdirSync(evidence);
      const code =
        "import os, time\ndef run(folder, name, seconds):\n    with open(os.path.join(folder, name), 'a') as f: f.write('x')\n    time.sleep(seconds)\n    return name\n";
      const digest = await fabric.register(service.url, { name: "run", code, entry: "run" });
      const api = fabric.api(service.url);
      const submit = async (names: string[], seconds: number) => {
        const made = await api.post("/v1/tasks", {
          tasks: names.map((name) => ({
            endpoint: "twin",
            function: digest.toString("hex"),
            args: [evidence, name, seconds],
          })),
        });
        expect(made.status, JSON.stringify(made.body)).toBeLessThan(300);
      };
      await submit(["running", "queued-1", "queued-2"], 1.5);
      await expect.poll(() => existsSync(join(evidence, "running")), { timeout: 20_000 }).toBe(true);

      // A copy of the whole folder: identity, journal, records of workers.
      const second = join(fabric.home, "twin-copy");
      cpSync(first, second, { recursive: true, filter: (path) => !path.endsWith(".sock") });
      rmSync(join(second, "agent.lock"), { force: true });
      const newer = launch(second);
      await expect.poll(newer.said, { timeout: 20_000 }).toContain('"msg":"connected"');
      const [exitCode] = await once(older.child, "exit");
      expect(exitCode).toBe(4);
      expect(older.said()).toMatch(
        /A newer connection of the same endpoint took over[\s\S]*Another agent runs with this endpoint's identity/,
      );

      await submit(["after"], 0);
      await expect.poll(() => existsSync(join(evidence, "after")), { timeout: 20_000 }).toBe(true);
      for (const name of ["running", "queued-1", "queued-2"]) {
        const path = join(evidence, name);
        expect(existsSync(path) ? readFileSync(path, "utf8").length : 0, name).toBeLessThanOrEqual(1);
      }
      expect(newer.said().match(/"msg":"connected"/g), "no fight over the connection").toHaveLength(1);
      newer.child.kill("SIGTERM");
      await once(newer.child, "exit");
    },
    LIMIT_MS,
  );
});

describe("versions and capabilities", () => {
  async function hello(change: Partial<Extract<Frame, { t: "hello" }>>): Promise<FramePeer> {
    const api = fabric.api(service.url);
    const endpoint = await makeEchoEndpoint(api, `skew-${Math.random().toString(36).slice(2)}`);
    const token = await agentToken(service.url, endpoint.id, endpoint.keys.privateKey);
    const peer = await FramePeer.open(
      { url: service.url, path: limits.AGENT_LINK_PATH, token, kinds: FRAMES_DOWN.agent },
      () => {},
    );
    peer.send({ ...(agentHello() as Extract<Frame, { t: "hello" }>), ...change });
    await peer.until(() => peer.frames.length > 0, "an answer");
    return peer;
  }

  it("an agent of a newer version that still speaks ours is welcome in ours", async () => {
    const peer = await hello({ versions: [1, 2], software: "farloom-endpoint-agent/99" });
    expect(peer.of("welcome")).toMatchObject([{ version: 1 }]);
    await peer.close();
  });

  it("an agent of another version alone is refused with both lists and what to do", async () => {
    const peer = await hello({ versions: [2] });
    expect(peer.of("welcome")).toEqual([]);
    expect(peer.of("refuse")).toMatchObject([
      { code: "VERSION_UNSUPPORTED", message: expect.stringMatching(/protocol 1.*2.*upgrade the older/) },
    ]);
    await peer.until(() => peer.closedWith !== undefined, "the end");
  });

  it("capabilities that nobody knows are not in force, and harm nothing", async () => {
    const peer = await hello({ caps: ["ref", "teleport"] });
    expect(peer.of("welcome")[0]!.caps).toEqual(["ref"]);
    await peer.close();
  });
});

describe("a replica whose clock is a day wrong", () => {
  const LIBRARY = ["x86_64", "aarch64"]
    .map((arch) => `/usr/lib/${arch}-linux-gnu/faketime/libfaketime.so.1`)
    .find((path) => existsSync(path));

  it.each(["+1d", "-1d"])(
    "takes the credentials that another one gave, and the other way round (%s)",
    async (offset) => {
      if (LIBRARY === undefined) {
        process.stderr.write("left out: libfaketime is not installed (apt-get install faketime)\n");
        return;
      }
      const wrong = await fabric.service({
        LD_PRELOAD: LIBRARY,
        FAKETIME: offset,
        FAKETIME_DONT_FAKE_MONOTONIC: "1",
        DONT_FAKE_MONOTONIC: "1",
      });
      const endpoint = await makeEchoEndpoint(fabric.api(service.url), `clock${offset.replace("+", "p")}`);
      for (const [made, used] of [
        [service, wrong],
        [wrong, service],
        [wrong, wrong],
      ] as const) {
        const token = await agentToken(made.url, endpoint.id, endpoint.keys.privateKey);
        const peer = await FramePeer.open(
          { url: used.url, path: limits.AGENT_LINK_PATH, token, kinds: FRAMES_DOWN.agent },
          () => {},
        );
        peer.send(agentHello());
        await peer.until(() => peer.of("welcome").length > 0, "a welcome");
        await peer.close();
      }
    },
    LIMIT_MS,
  );
});
