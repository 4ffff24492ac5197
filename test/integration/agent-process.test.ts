/** A real agent process with real workers against a fake service: killed with kill -9 at bad moments, and stopped well. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type IdKey, keyToUuid, TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { enrolledStateDir } from "../support/agent.js";
import { defineFunction, FakeService } from "../support/fake-service.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");

/** Writes a file for each run that it begins, and waits: what ran, and how often, is on the disk. */
const EVIDENCE = `
import os, time
def run(folder, name, seconds=0.0):
    fd = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)
    time.sleep(seconds)
    return name
`;

let service: FakeService;
let stateDir: string;
let evidence: string;
let cleanup: (() => void | Promise<void>)[];
let agent: ChildProcess | undefined;

beforeEach(async () => {
  service = await FakeService.start();
  service.def = defineFunction({ entry: "run", code: Buffer.from(EVIDENCE) });
  const dir = await enrolledStateDir(service);
  stateDir = dir.stateDir;
  evidence = join(stateDir, "evidence");
  mkdirSync(evidence);
  cleanup = [dir.remove, () => service.close()];
});
afterEach(async () => {
  // A last agent takes over what the test left, so that no worker outlives it.
  if (!agent || agent.exitCode !== null || agent.signalCode !== null) await start();
  agent!.kill("SIGTERM");
  await gone();
  for (const step of cleanup.reverse()) await step();
});

async function start(...options: string[]): Promise<void> {
  const connections = service.hellos.length;
  const args = [
    "run",
    "--state-dir",
    stateDir,
    "--workers",
    "2",
    "--stop-workers",
    "--drain-ms",
    "200",
    ...options,
  ];
  agent = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "inherit", process.env.FARLOOM_TEST_LOG ? "inherit" : "ignore"],
  });
  await service.until(
    () => service.hellos.length > connections && service.connected && service.roomTasks > 0,
    "the agent is connected, with credit",
    20_000,
  );
}

async function gone(): Promise<void> {
  if (agent!.exitCode === null && agent!.signalCode === null) await once(agent!, "exit");
}

async function kill9(): Promise<void> {
  agent!.kill("SIGKILL");
  await gone();
}

/** Sends calls of the evidence function; `seconds` is how long each takes. */
function submit(count: number, seconds = 0): IdKey[] {
  return service.sendTasks(
    Array.from({ length: count }, () => {
      const key = service.ids.next();
      return { key, args: Buffer.from(JSON.stringify([[evidence, keyToUuid(key), seconds], {}])) };
    }),
  );
}

/** How often the task has begun. */
function runs(key: IdKey): number {
  const path = join(evidence, keyToUuid(key));
  return existsSync(path) ? readFileSync(path).length : 0;
}

const begun = (): number => readdirSync(evidence).length;

describe("an agent process", () => {
  it("runs tasks in warm workers", async () => {
    await start();
    const keys = submit(300);
    await service.until(() => service.results.length === 300, "all results", 20_000);
    for (const key of keys) {
      expect(service.resultOf(key)).toMatchObject({ state: TERMINAL_STATES.SUCCEEDED });
      expect(runs(key)).toBe(1);
    }
  });

  it("loses nothing and runs nothing twice when it is killed in the middle of short tasks", async () => {
    await start();
    const keys: IdKey[] = [];
    for (let i = 0; i < 10; i++) keys.push(...submit(100, 0.002));
    for (const share of [100, 300, 500]) {
      await service.until(() => begun() >= share, `${share} begun`, 20_000);
      await kill9();
      await start();
    }
    await service.until(
      () => new Set(service.results.map((r) => r.key)).size === keys.length,
      "all results",
      30_000,
    );
    const lost = keys.filter((key) => service.resultOf(key)!.state !== TERMINAL_STATES.SUCCEEDED);
    expect(lost.map((key) => service.resultOf(key)!.state)).toEqual([]);
    for (const key of keys) expect(runs(key)).toBe(1);
  }, 60_000);

  it("finds a running task with its worker again, and does not start it a second time", async () => {
    await start();
    const keys = submit(2, 8);
    await service.until(() => begun() === 2, "both run", 20_000);
    await kill9();
    await start();
    expect(service.hellos.at(-1)!.held).toHaveLength(32);
    await service.until(() => service.results.length === 2, "both results", 20_000);
    for (const key of keys) {
      expect(service.resultOf(key)!.state).toBe(TERMINAL_STATES.SUCCEEDED);
      expect(runs(key)).toBe(1);
    }
  });

  it("sends again what finished while the service was away", async () => {
    await start();
    service.acknowledges = false;
    const keys = submit(20);
    await service.until(() => service.results.length === 20);
    await kill9();
    service.results.length = 0;
    service.acknowledges = true;
    await start();
    await service.until(() => service.results.length === 20, "again");
    for (const key of keys) expect(runs(key)).toBe(1);
  });

  it("acknowledges, starts and grants nothing while its journal cannot be written, and loses nothing", async () => {
    await start();
    const [first] = submit(1);
    await service.until(() => service.results.length === 1);
    const marks = () => service.frames.filter((f) => f.t === "mark").length;
    await service.until(() => marks() === 1, "the first is marked");
    // No file of the agent may grow beyond a few bytes: as on a full disk, writes fail.
    execFileSync("prlimit", ["--pid", String(agent!.pid), "--fsize=64:unlimited"]);
    const keys = submit(5);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(marks()).toBe(1);
    expect(keys.map(runs)).toEqual([0, 0, 0, 0, 0]);
    execFileSync("prlimit", ["--pid", String(agent!.pid), "--fsize=unlimited:unlimited"]);
    await service.until(() => service.results.length === 6, "the rest");
    expect([first!, ...keys].map(runs)).toEqual([1, 1, 1, 1, 1, 1]);
  });

  it("drains on SIGTERM: gives back what waits, finishes what runs, exits with 0", async () => {
    await start("--drain-ms", "10000");
    const keys = submit(6, 0.5);
    await service.until(() => begun() === 2, "two run", 20_000);
    agent!.kill("SIGTERM");
    await gone();
    expect(agent!.exitCode).toBe(0);
    const returned = service.frames
      .flatMap((f) => (f.t === "returned" ? [f.ids.toString("latin1")] : []))
      .join("");
    for (const key of keys) {
      if (service.resultOf(key)) expect(runs(key)).toBe(1);
      else {
        expect(returned).toContain(key);
        expect(runs(key)).toBe(0);
      }
    }
    expect(service.results.length).toBeGreaterThanOrEqual(2);
  });

  it("answers `status` while it runs, and says so when it does not", async () => {
    await start();
    const ask = async () => {
      const child = spawn(process.execPath, [MAIN, "status", "--state-dir", stateDir], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const chunks: Buffer[] = [];
      child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
      await once(child, "close");
      return { code: child.exitCode, answer: JSON.parse(Buffer.concat(chunks).toString()) };
    };
    expect(await ask()).toMatchObject({
      code: 0,
      answer: {
        running: true,
        status: { endpointId: service.endpointId, link: { phase: "open" }, pid: agent!.pid },
      },
    });
    await kill9();
    expect(await ask()).toMatchObject({ code: 3, answer: { running: false } });
  });
});
