import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { NodeHarness, node, PYTHON, python } from "../../../../test/support/node-harness.js";
import { readEnvironments } from "./environments/environment-config.js";
import { socketPathFor } from "./listener.js";

vi.setConfig({ testTimeout: 60_000, hookTimeout: 30_000 });

const AGENT = fileURLToPath(new URL("../../../../test/support/node-agent.mjs", import.meta.url));
const LOG =
  "import time\ndef log(path, word, wait=0):\n    open(path, 'a').write('+' + word + ' ')\n    time.sleep(wait)\n    open(path, 'a').write('-' + word + ' ')\n    return word\n";

let stateDir: string;
let log: string;
const agents: ChildProcess[] = [];

beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "fl-a-"));
  log = join(stateDir, "log");
});

afterEach(() => {
  for (const agent of agents.splice(0)) agent.kill("SIGKILL");
  rmSync(stateDir, { recursive: true, force: true });
});

/** An agent in a process of its own, which sends these calls and never marks a result. */
async function startAgent(
  code: string,
  calls: unknown[][],
  workers = 1,
  runtime = "python",
): Promise<ChildProcess> {
  const agent = spawn(process.execPath, [AGENT], {
    env: {
      ...process.env,
      AGENT: JSON.stringify({ stateDir, code, calls, workers, runtime, python: PYTHON }),
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  agents.push(agent);
  return agent;
}

async function kill9(agent: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => agent.once("exit", resolve));
  agent.kill("SIGKILL");
  await gone;
}

const words = () => (existsSync(log) ? readFileSync(log, "utf8").trim().split(" ") : []);

it("the agent's kill -9 costs nothing: what runs goes on, what was finished is kept, the rest comes back unstarted", async () => {
  const agent = await startAgent(LOG, [
    [log, "a"],
    [log, "b", 3],
    [log, "c"],
    [log, "d"],
  ]);
  await expect.poll(words, { timeout: 20_000 }).toContain("+b");
  await kill9(agent);
  await using next = await new NodeHarness({ stateDir }).start();
  const { keys } = JSON.parse(readFileSync(join(stateDir, "keys.json"), "utf8")) as { keys: string[] };
  const key = keys.map((hex) => Buffer.from(hex, "hex").toString("latin1"));
  expect(next.held, "b runs").toContain(key[1]);
  const [a, b] = await next.ends([key[0]!, key[1]!]);
  expect([a!.value, b!.value]).toEqual(["a", "b"]);
  expect(b!.runUs).toBeGreaterThan(2_900_000);
  for (const later of [key[2]!, key[3]!]) {
    if (next.held.includes(later))
      await next.until(() => next.returned.has(later) || next.outcomes.has(later));
  }
  expect(words().filter((word) => word === "+b" || word === "+a")).toHaveLength(2);
  const pid = next.pids[0];
  expect(
    (await next.call(python(LOG, { entry: "log" }), [log, "new"])).value,
    "the old worker serves the new agent",
  ).toBe("new");
  expect(next.pids[0]).toBe(pid);
});

it("a task that finished while there was no agent reports to the next one", async () => {
  const agent = await startAgent(LOG, [[log, "x", 1]]);
  await expect.poll(words, { timeout: 20_000 }).toContain("+x");
  await kill9(agent);
  await expect.poll(words, { timeout: 10_000 }).toContain("-x");
  await using next = await new NodeHarness({ stateDir }).start();
  await next.until(() => next.outcomes.size === 1);
  expect([...next.outcomes.values()][0]!.value).toBe("x");
  expect(next.held).toHaveLength(0);
});

it("a worker of another configuration finishes what it runs, and runs nothing more", async () => {
  const lab = (who: string) => ({
    runtimes: {
      python: { default: PYTHON },
      environments: readEnvironments({
        environments: { lab: { python: PYTHON, worker_init: `export WHO=${who}` } },
      }),
    },
  });
  const who = python(
    "def who(path='', wait=0):\n    import os, time\n    if path:\n        open(path, 'w').close()\n    time.sleep(wait)\n    return os.environ['WHO']\n",
    { env: { interpreter: "lab" } },
  );
  const first = await new NodeHarness({ stateDir, ...lab("one") }).start();
  const [running] = first.send({ fn: who, args: [log, 2] });
  await expect.poll(() => existsSync(log), { timeout: 20_000 }).toBe(true);
  await first.manager.close({ leaveWorkers: true });
  await using next = await new NodeHarness({ stateDir, ...lab("two") }).start();
  expect((await next.call(who)).value).toBe("two");
  expect((await next.ends([running!]))[0]!.value).toBe("one");
  // The same configuration keeps its warm worker.
  const pids = [...next.pids];
  await next.manager.close({ leaveWorkers: true });
  await using last = await new NodeHarness({ stateDir, ...lab("two") }).start();
  expect((await last.call(who)).value).toBe("two");
  expect(pids).toContain(last.pids[0]);
});

it("a re-adopted task can be cancelled, and keeps its time limit", async () => {
  const agent = await startAgent(LOG, [[log, "x", 60]], 1);
  await expect.poll(words, { timeout: 20_000 }).toContain("+x");
  await kill9(agent);
  await using next = await new NodeHarness({ stateDir }).start();
  const [key] = next.held;
  next.port.send({ t: "cancel", ids: Buffer.from(key!, "latin1") });
  expect((await next.ends([key!]))[0]!.state).toBe("CANCELLED");
});

it("a worker that died with its agent is not waited for, and what it had finished is still told", async () => {
  const agent = await startAgent(LOG, [[log, "x", 60]]);
  await expect.poll(words, { timeout: 20_000 }).toContain("+x");
  const records = JSON.parse(readFileSync(join(stateDir, "run", "workers.json"), "utf8")) as {
    pid: number;
  }[];
  await kill9(agent);
  for (const { pid } of records) process.kill(pid, "SIGKILL");
  const at = performance.now();
  await using next = await new NodeHarness({ stateDir }).start();
  expect(performance.now() - at).toBeLessThan(2_500);
  expect(next.held).toHaveLength(0);
});

it("a worker that is deep in C code when its agent dies is not taken for lost", async () => {
  const code =
    "def log(path, word, n):\n    with open(path, 'a') as f: f.write('+' + word + ' ')\n    return sum(range(n)) > 0 and word\n";
  // One C call that never lets another thread of the interpreter run.
  const agent = await startAgent(code, [[log, "x", 80_000_000]]);
  await expect.poll(words, { timeout: 20_000 }).toContain("+x");
  await kill9(agent);
  await using next = await new NodeHarness({ stateDir, adoptWaitMs: 300 }).start();
  const { keys } = JSON.parse(readFileSync(join(stateDir, "keys.json"), "utf8")) as { keys: string[] };
  const key = Buffer.from(keys[0]!, "hex").toString("latin1");
  expect(next.held).toEqual([key]);
  const [end] = await next.ends([key], 50_000);
  expect([end!.state, end!.value]).toEqual(["SUCCEEDED", "x"]);
  expect(words()).toEqual(["+x"]);
});

it("a record with another process's number is not touched", async () => {
  const stranger = spawn("sleep", ["60"], { detached: true });
  agents.push(stranger);
  await using first = await new NodeHarness({ stateDir }).start();
  await first.manager.close();
  writeFileSync(
    join(stateDir, "run", "workers.json"),
    JSON.stringify([
      {
        name: "python-1",
        pid: stranger.pid,
        startTime: "1",
        secret: "s",
        lane: "python:default",
        dir: join(stateDir, "run", "python-1"),
      },
    ]),
  );
  await using next = await new NodeHarness({ stateDir }).start();
  expect(next.held).toHaveLength(0);
  expect(() => process.kill(stranger.pid!, 0)).not.toThrow();
});

it("a Node function that awaits survives its agent as well", async () => {
  const code =
    "import { appendFileSync } from 'node:fs';\nexport async function log(path, word, wait) {\n  appendFileSync(path, `+` + word + ` `);\n  await new Promise((r) => setTimeout(r, wait * 1000));\n  return word;\n}\n";
  const agent = await startAgent(code, [[log, "n", 3]], 1, "node");
  await expect.poll(words, { timeout: 20_000 }).toContain("+n");
  await kill9(agent);
  await using next = await new NodeHarness({ stateDir, runtimes: {} }).start();
  const [key] = next.held;
  expect((await next.ends([key!]))[0]!.value).toBe("n");
  expect(
    (await next.call(node("export function main(a: number): number { return a * 2 }"), [21])).value,
  ).toBe(42);
});

it("a state folder with a long path gets a short socket, the same one each time", () => {
  const long = join(tmpdir(), "x".repeat(120));
  const path = socketPathFor(long);
  expect(Buffer.byteLength(path)).toBeLessThan(104);
  expect(socketPathFor(long)).toBe(path);
  rmSync(join(path, ".."), { recursive: true });
});
