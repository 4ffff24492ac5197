/**
 * What an agent promises when the world around it breaks: a full disk, a stop under load, a clock that jumps, workers
 * that wait in vain. A real agent process with real workers against a fake service; the functions write evidence.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type IdKey, keyToUuid, TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { enroll } from "../../apps/endpoint-agent/src/enrolment.js";
import { defineFunction, FakeService } from "../support/fake-service.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");

/** Writes a letter for each run that it begins. It waits in select: libfaketime breaks Python's time.sleep. */
const EVIDENCE = `
import os, select
def run(folder, name, seconds=0.0, ballast=""):
    fd = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)
    select.select([], [], [], seconds)
    return name
`;

let service: FakeService;
let parent: string;
let stateDir: string;
let evidence: string;
let cleanup: (() => void | Promise<void>)[];
let agent: ChildProcess | undefined;
let said = "";

beforeEach(async () => {
  service = await FakeService.start();
  service.def = defineFunction({ entry: "run", code: Buffer.from(EVIDENCE) });
  parent = mkdtempSync(join(tmpdir(), "farloom-g-"));
  stateDir = join(parent, "state");
  evidence = join(parent, "evidence");
  mkdirSync(evidence);
  cleanup = [() => rmSync(parent, { recursive: true, force: true }), () => service.close()];
});
afterEach(async () => {
  // A last agent takes over what the test left, so that no worker outlives it.
  if (existsSync(join(stateDir, "identity.json"))) {
    if (!isUp()) launch({}, "--stop-workers", "--drain-ms", "200");
    await connected();
    agent!.kill("SIGTERM");
    await gone();
  }
  agent = undefined;
  for (const step of cleanup.reverse()) await step();
});

function isUp(): boolean {
  return agent !== undefined && agent.exitCode === null && agent.signalCode === null;
}

async function enrolled(): Promise<void> {
  await enroll({ serviceUrl: service.url, code: "good-code", stateDir });
}

function launch(env: Record<string, string>, ...options: string[]): void {
  agent = spawn(process.execPath, [MAIN, "run", "--state-dir", stateDir, "--workers", "2", ...options], {
    stdio: ["ignore", "inherit", "pipe"],
    env: { ...process.env, ...env },
  });
  said = "";
  agent.stderr!.setEncoding("utf8").on("data", (text: string) => {
    said = (said + text).slice(-20_000);
    if (process.env.FARLOOM_TEST_LOG) process.stderr.write(text);
  });
}

async function connected(): Promise<void> {
  const pid = agent!.pid;
  await service.until(
    () => service.connected && service.roomTasks > 0 && agent!.pid === pid,
    "connected, with credit",
    20_000,
  );
}

async function start(...options: string[]): Promise<void> {
  const before = service.hellos.length;
  launch({}, ...options);
  await service.until(() => service.hellos.length > before, "a hello", 20_000);
  await connected();
}

async function gone(): Promise<void> {
  if (isUp()) await once(agent!, "exit");
}

async function kill9(): Promise<void> {
  agent!.kill("SIGKILL");
  await gone();
}

function submit(count: number, seconds = 0, ballastBytes = 0): IdKey[] {
  return service.sendTasks(
    Array.from({ length: count }, () => {
      const key = service.ids.next();
      const args = [evidence, keyToUuid(key), seconds, "b".repeat(ballastBytes)];
      return { key, args: Buffer.from(JSON.stringify([args, {}])) };
    }),
  );
}

function runs(key: IdKey): number {
  const path = join(evidence, keyToUuid(key));
  return existsSync(path) ? readFileSync(path).length : 0;
}

const distinct = () => new Set(service.results.map((result) => result.key));
const marked = () =>
  service.frames.reduce((most, f) => (f.t === "mark" ? Math.max(most, f.durable) : most), 0);

describe("a full disk", () => {
  /** A small disk of its own below the state folder; false where this machine does not let us. */
  function mountSmallDisk(): boolean {
    mkdirSync(stateDir, { mode: 0o700 });
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", stateDir], {
        stdio: "ignore",
      });
    } catch {
      process.stderr.write("left out: this machine does not let us mount a small disk\n");
      return false;
    }
    cleanup.push(() => void execFileSync("umount", ["-l", stateDir]));
    return true;
  }
  const filler = () => join(stateDir, "filler");
  function fill(): void {
    for (let blockBytes = 1 << 20; blockBytes >= 4096; blockBytes /= 2) {
      try {
        for (;;) writeFileSync(filler(), Buffer.alloc(blockBytes), { flag: "a" });
      } catch {
        // Smaller pieces may still fit.
      }
    }
    const { bavail } = statfsSync(stateDir);
    expect(bavail).toBe(0);
  }

  it("loses nothing acknowledged, takes nothing meanwhile, and is over by itself when there is room", async () => {
    if (!mountSmallDisk()) return;
    await enrolled();
    await start();
    const before = submit(3);
    await service.until(() => service.results.length === 3, "the first results", 20_000);
    const running = submit(1, 2);
    await service.until(() => runs(running[0]!) === 1, "one runs", 10_000);
    // It may run before its mark is sent, which waits for nothing.
    await service.until(() => marked() === 4, "it is accepted");
    fill();
    const markedBefore = marked();
    const refused = submit(5, 0, 20_000);
    await new Promise((resolve) => setTimeout(resolve, 2_500));
    expect(marked(), "nothing was acknowledged").toBe(markedBefore);
    expect(refused.map(runs)).toEqual([0, 0, 0, 0, 0]);
    expect(service.results).toHaveLength(3);
    rmSync(filler());
    await service.until(() => distinct().size === 9, "all results", 20_000);
    for (const key of [...before, ...running, ...refused]) {
      expect(service.resultOf(key)!.state).toBe(TERMINAL_STATES.SUCCEEDED);
      expect(runs(key)).toBe(1);
    }
    const more = submit(2);
    await service.until(() => more.every((key) => service.resultOf(key)), "more results", 20_000);
  }, 60_000);

  it("does not come of the journal's own garbage, nor stays once there is room for what is live", async () => {
    if (!mountSmallDisk()) return;
    await enrolled();
    await start();
    const keys: IdKey[] = [];
    // Twice as much as the disk holds passes through the journal, a little of it at a time: what is live has room twice.
    for (let i = 0; i < 100; i++) {
      keys.push(...submit(5, 0, 50_000));
      await service.until(() => distinct().size === keys.length, "a round of results", 60_000);
    }
    expect(said).not.toContain("the journal cannot be written");
    fill();
    const last = submit(20, 0, 50_000);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    // Room for a few pages, as a log that was rotated leaves: not for the journal to grow.
    truncateSync(filler(), statSync(filler()).size - 1024 * 1024);
    await service.until(() => last.every((key) => service.resultOf(key)), "the last results", 60_000);
    for (const key of [...keys, ...last]) expect(runs(key)).toBe(1);
  }, 120_000);

  it("does not keep an agent from taking up its work once there is room again", async () => {
    if (!mountSmallDisk()) return;
    await enrolled();
    await start();
    const keys = submit(2, 1.5);
    await service.until(() => keys.every((key) => runs(key) === 1), "both run", 20_000);
    const waiting = submit(3);
    await service.until(() => marked() === 5, "all are accepted");
    await kill9();
    fill();
    const hellos = service.hellos.length;
    launch({});
    await new Promise((resolve) => setTimeout(resolve, 4_000));
    expect(isUp(), "it waits for room").toBe(true);
    expect(service.results).toHaveLength(0);
    rmSync(filler());
    await service.until(() => distinct().size === 5, "all results", 20_000);
    for (const key of [...keys, ...waiting]) {
      expect(service.resultOf(key)!.state).toBe(TERMINAL_STATES.SUCCEEDED);
      expect(runs(key)).toBe(1);
    }
    expect(service.hellos.length).toBeGreaterThan(hellos);
  }, 60_000);
});

describe("a stop under load", () => {
  it("hands back or finishes within ten seconds; what still runs stays with its worker; nothing is lost or run twice", async () => {
    await enrolled();
    await start();
    const keys = submit(2, 14);
    await service.until(() => keys.every((key) => runs(key) === 1), "two long ones run", 20_000);
    await kill9();
    await start("--workers", "4");
    for (let i = 0; i < 10; i++) keys.push(...submit(100, 0.01));
    await service.until(() => distinct().size >= 200, "some have ended", 20_000);
    const at = performance.now();
    agent!.kill("SIGTERM");
    await gone();
    expect(performance.now() - at).toBeLessThan(10_000);
    expect(agent!.exitCode).toBe(0);
    const returned = new Set(
      service.frames.flatMap((f) =>
        f.t === "returned"
          ? Array.from({ length: f.ids.length / 16 }, (_, i) => f.ids.toString("latin1", 16 * i, 16 * i + 16))
          : [],
      ),
    );
    expect(returned.size).toBeGreaterThan(0);
    for (const key of returned) expect(runs(key), "what was handed back had not begun").toBe(0);
    await start();
    const held = service.hellos.at(-1)!.held!.toString("latin1");
    for (const key of keys) {
      const known = [distinct().has(key), returned.has(key), held.includes(key)].filter(Boolean).length;
      expect(known, "each is with the service or with the agent").toBeGreaterThanOrEqual(1);
    }
    await service.until(
      () => keys.every((key) => distinct().has(key) || returned.has(key)),
      "the rest",
      30_000,
    );
    for (const key of keys) expect(runs(key)).toBe(returned.has(key) ? 0 : 1);
  }, 90_000);
});

describe("workers that wait in vain for an agent", () => {
  it("leave their results behind, and the next agent finds them", async () => {
    process.env.FARLOOM_TEST_ORPHAN_S = "0.5";
    cleanup.push(() => {
      delete process.env.FARLOOM_TEST_ORPHAN_S;
    });
    await enrolled();
    await start();
    const keys = submit(2, 1);
    await service.until(() => keys.every((key) => runs(key) === 1), "both run", 20_000);
    const records = JSON.parse(readFileSync(join(stateDir, "run/workers.json"), "utf8")) as { pid: number }[];
    await kill9();
    const isThere = ({ pid }: { pid: number }) => existsSync(`/proc/${pid}`);
    await expect.poll(() => records.some(isThere), { timeout: 15_000 }).toBe(false);
    await start();
    await service.until(() => service.results.length === 2, "both results", 20_000);
    for (const key of keys) {
      expect(service.resultOf(key)!.state).toBe(TERMINAL_STATES.SUCCEEDED);
      expect(runs(key)).toBe(1);
    }
  }, 60_000);
});

describe("a clock that jumps by a day, forwards and back", () => {
  const LIBRARY = ["x86_64", "aarch64"]
    .map((arch) => `/usr/lib/${arch}-linux-gnu/faketime/libfaketime.so.1`)
    .find((path) => existsSync(path));

  it("changes no outcome", async () => {
    if (LIBRARY === undefined) {
      process.stderr.write("left out: libfaketime is not installed (apt-get install faketime)\n");
      return;
    }
    const clock = join(parent, "clock");
    const jump = (offset: string) => {
      writeFileSync(`${clock}.new`, `${offset}\n`);
      renameSync(`${clock}.new`, clock);
    };
    jump("+0d");
    await enrolled();
    const faked = {
      LD_PRELOAD: LIBRARY,
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
      // The variable's name differs between versions of the library.
      DONT_FAKE_MONOTONIC: "1",
    };
    // Workers end with it: one that is left waits for the next agent in a sleep that the library breaks, and spins.
    launch(faked, "--stop-workers", "--drain-ms", "200");
    await connected();
    const keys: IdKey[] = [];
    const limited = service.sendTasks(
      [1, 2].map(() => {
        const key = service.ids.next();
        const args = [evidence, keyToUuid(key), 6];
        return {
          key,
          args: Buffer.from(JSON.stringify([args, {}])),
          options: { timeoutMs: 60_000, deadlineMs: 90_000, queueTimeoutMs: 60_000 },
        };
      }),
    );
    keys.push(...limited);
    await service.until(() => limited.every((key) => runs(key) === 1), "two run", 20_000);
    for (const offset of ["+1d", "-1d", "+0d"]) {
      jump(offset);
      keys.push(...submit(50, 0.01));
      await new Promise((resolve) => setTimeout(resolve, 600));
    }
    const hellos = service.hellos.length;
    jump("-1d");
    service.cut();
    await service.until(() => service.hellos.length > hellos && service.connected, "connected again", 20_000);
    jump("+1d");
    await service.until(() => distinct().size === keys.length, "all results", 30_000);
    for (const key of keys) {
      expect(service.resultOf(key)!.state).toBe(TERMINAL_STATES.SUCCEEDED);
      expect(runs(key)).toBe(1);
    }
    expect(said).not.toContain("LINK_SILENT");
  }, 90_000);
});

describe("a service that this version cannot speak to", () => {
  it("ends the agent with its reason, what to do, and an exit code of its own; the work stays in the journal", async () => {
    await enrolled();
    await start();
    const [key] = submit(1, 1.5);
    await service.until(() => runs(key!) === 1, "it runs", 20_000);
    service.refuse = {
      code: "VERSION_UNSUPPORTED",
      message: "No common protocol version: this side speaks protocol 2, the other 1; upgrade the older one.",
    };
    service.cut();
    await gone();
    expect(agent!.exitCode).toBe(5);
    expect(said).toMatch(
      /this side speaks protocol 2, the other 1[\s\S]*Install the version of the agent that fits/,
    );
    service.refuse = undefined;
    await start();
    await service.until(() => service.results.length === 1, "its result", 20_000);
    expect(runs(key!)).toBe(1);
  }, 60_000);
});
