/**
 * Nodes of blocks: a real agent process, real node processes over real TLS on this machine, real workers, a fake service.
 * Nodes and agents are killed with kill -9, connections are cut; what ran, and how often, the functions write themselves.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  CODEC_REFERENCE,
  CODECS,
  columnToKeys,
  encodeReference,
  type FunctionDefinition,
  type IdKey,
  keyToUuid,
  REASONS,
  TERMINAL_STATES,
} from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type AgentStatus, agentStatus } from "../../apps/endpoint-agent/src/agent.js";
import {
  type BlockParameters,
  readParameters,
  writeParameters,
} from "../../apps/endpoint-agent/src/blocks/parameters.js";
import { makeCertificate } from "../../apps/endpoint-agent/src/nodes/certificate.js";
import { enrolledStateDir } from "../support/agent.js";
import { defineFunction, FakeService } from "../support/fake-service.js";
import { TcpProxy } from "../support/tcp-proxy.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");
const WAIT_MS = 60_000;

/** Writes a file for each run that it begins, with the node's marker in it, and waits. */
const EVIDENCE = `
import os, time
def run(folder, name, seconds=0.0):
    fd = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, (os.environ["FARLOOM_NODE_MARKER"] + "\\n").encode())
    os.close(fd)
    time.sleep(seconds)
    return name
`;

let service: FakeService;
let stateDir: string;
let evidence: string;
/** Where nodes have their folders. */
let tmp: string;
let agent: ChildProcess | undefined;
let proxy: TcpProxy | undefined;
let said = "";
const strangers: ChildProcess[] = [];

beforeEach(async () => {
  service = await FakeService.start();
  service.def = defineFunction({ entry: "run", code: Buffer.from(EVIDENCE) });
  const dir = await enrolledStateDir(service);
  stateDir = dir.stateDir;
  evidence = join(stateDir, "evidence");
  mkdirSync(evidence);
  tmp = join(stateDir, "..", "tmp");
  mkdirSync(tmp);
});
afterEach(async () => {
  if (isUp()) await stop("SIGKILL");
  const pids = [...nodePids(), ...strangers.map((child) => child.pid!)];
  // The first signal has a node wait for what it runs, and the second ends it at once.
  for (let i = 0; i < 2; i++) {
    for (const pid of pids) if (isAlive(pid)) process.kill(pid, "SIGTERM");
    await sleep(100);
  }
  await until(async () => !pids.some(isAlive), "the nodes' end");
  strangers.length = 0;
  await proxy?.close();
  proxy = undefined;
  await service.close();
  rmSync(join(stateDir, ".."), { recursive: true, force: true });
}, 120_000);

function configure(blocks: Readonly<Record<string, number | string | string[]>>): void {
  const lines = Object.entries({ workers_per_node: 2, status_seconds: 0.5, ...blocks }).map(
    ([name, value]) => `${name} = ${JSON.stringify(value)}`,
  );
  writeFileSync(
    join(stateDir, "agent.toml"),
    `provider = "process"\ntrust = "off"\n[blocks]\n${lines.join("\n")}\n`,
  );
}

/** How often the agent has said this. */
const count = (text: string): number => said.split(text).length - 1;

function launch(...options: string[]): void {
  const args = ["run", "--state-dir", stateDir, "--drain-ms", "200", ...options];
  agent = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "inherit", "pipe"],
    env: { ...process.env, TMPDIR: tmp },
  });
  said = "";
  agent.stderr!.setEncoding("utf8").on("data", (text: string) => {
    said = (said + text).slice(-1_000_000);
    if (process.env.FARLOOM_TEST_LOG) process.stderr.write(text);
  });
}

/** Starts an agent, and waits until it is connected. */
async function start(blocks: Readonly<Record<string, number | string | string[]>> = {}): Promise<void> {
  const before = service.hellos.length;
  configure(blocks);
  launch();
  await service.until(
    () => service.hellos.length > before && service.connected && service.roomTasks > 0,
    "the agent is connected, with credit",
    WAIT_MS,
  );
}

function isUp(): boolean {
  return agent !== undefined && agent.exitCode === null && agent.signalCode === null;
}

async function stop(signal: NodeJS.Signals): Promise<void> {
  const gone = once(agent!, "exit");
  agent!.kill(signal);
  await gone;
}

async function status(): Promise<AgentStatus | undefined> {
  const answer = await agentStatus(stateDir);
  return answer.running ? answer.status : undefined;
}

/** The nodes that are connected, by their names. */
async function nodes(): Promise<string[]> {
  const { blocks } = (await status()) ?? {};
  return (blocks?.blocks ?? []).flatMap((block) =>
    block.nodes.filter((node) => node.connected).map((node) => node.name),
  );
}

async function until(holds: () => Promise<boolean>, what: string, withinMs = WAIT_MS): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
    await sleep(50);
  }
}

const untilNodes = (count: number) => until(async () => (await nodes()).length === count, `${count} nodes`);

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

interface KeptBlock {
  readonly id: string;
  readonly providerId?: string;
}

function book(): KeptBlock[] {
  const path = join(stateDir, "blocks/book.json");
  if (!existsSync(path)) return [];
  return (JSON.parse(readFileSync(path, "utf8")) as { blocks: KeptBlock[] }).blocks;
}

/** Process ids of the nodes of all blocks, in the order in which they were started. */
function nodePids(): number[] {
  return book().flatMap(({ providerId = "" }) =>
    [...providerId.matchAll(/(\d+)\.\d+\.[0-9a-f]+/g)].map((m) => Number(m[1])),
  );
}

function isAlive(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.startsWith("Z") === false;
  } catch {
    return false;
  }
}

function parametersFile(): string {
  return join(stateDir, "blocks", `${book()[0]!.id}.json`);
}

function submit(count: number, seconds = 0, def: FunctionDefinition = service.def): IdKey[] {
  service.def = def;
  return service.sendTasks(
    Array.from({ length: count }, () => {
      const key = service.ids.next();
      return { key, args: Buffer.from(JSON.stringify([[evidence, keyToUuid(key), seconds], {}])) };
    }),
  );
}

/** Which node each run of the task began on. */
function runs(key: IdKey): string[] {
  const path = join(evidence, keyToUuid(key));
  return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
}

const begun = (): number => readdirSync(evidence).length;

/** Every task ended so, and ran so often. */
function expectAll(keys: readonly IdKey[], state: number): void {
  for (const key of keys) {
    expect(service.resultOf(key)?.state, keyToUuid(key)).toBe(state);
    expect(runs(key), keyToUuid(key)).toHaveLength(1);
  }
}

const untilResults = (count: number) =>
  service.until(() => new Set(service.results.map((r) => r.key)).size >= count, `${count} results`, WAIT_MS);

/** Starts the node program by hand, as whoever has its parameters might. Resolves to its exit code and what it said. */
async function runNodeByHand(
  change: Partial<BlockParameters>,
  name: string,
): Promise<{ readonly code: number | null; readonly said: string }> {
  const file = join(stateDir, `${name}.json`);
  writeParameters(file, { ...readParameters(parametersFile()), giveUpMs: 2_000, ...change });
  const child = spawn(process.execPath, [MAIN, "node", "--parameters", file], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, TMPDIR: tmp, FARLOOM_NODE_NAME: name },
  });
  strangers.push(child);
  let said = "";
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const [code] = (await once(child, "exit")) as [number | null];
  return { code, said };
}

describe("nodes of blocks", () => {
  it("share the work, run each task once, and are let go when they are idle", async () => {
    await start({ max_blocks: 2, nodes_per_block: 2, init_blocks: 2, idle_seconds: 3 });
    await untilNodes(4);
    const keys = submit(200, 0.02);
    await untilResults(200);
    expectAll(keys, TERMINAL_STATES.SUCCEEDED);
    expect(new Set(keys.flatMap(runs)).size).toBe(4);
    const pids = nodePids();
    expect(readdirSync(tmp)).toHaveLength(4);
    await until(async () => book().length === 0, "all blocks are let go");
    expect(pids.filter(isAlive)).toEqual([]);
    expect(readdirSync(tmp), "they have tidied up").toEqual([]);
    // From zero and back.
    const [again] = submit(1);
    await untilResults(201);
    expectAll([again!], TERMINAL_STATES.SUCCEEDED);
  }, 150_000);

  it("that is killed with kill -9 loses what it had, and the rest runs on the other", async () => {
    await start({ max_blocks: 2, init_blocks: 2, min_blocks: 2, node_grace_seconds: 1 });
    await untilNodes(2);
    const keys = submit(4, 6);
    await service.until(() => begun() === 4, "all run", WAIT_MS);
    const [first] = nodePids();
    const killedAtMs = performance.now();
    process.kill(first!, "SIGKILL");
    await untilResults(4);
    const lost = keys.filter((key) => service.resultOf(key)!.state === TERMINAL_STATES.LOST);
    expect(lost).toHaveLength(2);
    for (const key of lost) expect(service.resultOf(key)!.reason).toBe(REASONS.agent_lost);
    for (const key of keys) expect(runs(key)).toHaveLength(1);
    // As the service does for at_least_once: another attempt. It runs, within the time that the issue allows.
    service.sendTasks([
      { key: lost[0]!, attempt: 2, args: Buffer.from(JSON.stringify([[evidence, keyToUuid(lost[0]!)], {}])) },
    ]);
    await service.until(() => service.results.some((r) => r.attempt === 2), "the second attempt", WAIT_MS);
    expect(runs(lost[0]!)).toHaveLength(2);
    expect(performance.now() - killedAtMs).toBeLessThan(45_000);
    await untilNodes(2);
  }, 150_000);

  it("whose connection is cut, or goes dumb, comes back, keeps what it runs and loses no result", async () => {
    const port = await freePort();
    proxy = await TcpProxy.open([port]);
    const callback = [`127.0.0.1:${new URL(proxy.url).port}`];
    await start({ init_blocks: 1, port, callback, node_grace_seconds: 30 });
    await untilNodes(1);
    const keys = submit(2, 6);
    await service.until(() => begun() === 2, "both run", WAIT_MS);
    for (let i = 0; i < 3; i++) {
      proxy.cut();
      await until(async () => count("a node is back") === i + 1, "it is back");
    }
    keys.push(...submit(300, 0.005));
    for (let i = 0; i < 5; i++) {
      await service.until(() => begun() >= 50 * (i + 1), "some begun", WAIT_MS);
      proxy.cut();
    }
    await untilResults(302);
    // Nothing says that it is gone: only the heartbeat tells.
    keys.push(...submit(2, 2));
    await service.until(() => begun() === 304, "both run", WAIT_MS);
    const before = count("a node is back");
    proxy.forget();
    await untilResults(304);
    expect(count("a node is back")).toBeGreaterThan(before);
    expectAll(keys, TERMINAL_STATES.SUCCEEDED);
  }, 150_000);

  it("gives back what has not begun when the agent drains, and runs on", async () => {
    await start({ init_blocks: 1, workers_per_node: 1 });
    await untilNodes(1);
    const keys = submit(6, 2);
    await service.until(() => begun() === 1, "one runs", WAIT_MS);
    await stop("SIGTERM");
    const returned = service.frames.flatMap((frame) =>
      frame.t === "returned" ? columnToKeys(frame.ids) : [],
    );
    expect(new Set(returned)).toEqual(new Set(keys.slice(1)));
    await start({ init_blocks: 1, workers_per_node: 1 });
    await untilResults(1);
    expectAll(keys.slice(0, 1), TERMINAL_STATES.SUCCEEDED);
    expect(begun()).toBe(1);
    // The same node takes what comes next.
    const [later] = submit(1);
    await untilResults(2);
    expectAll([later!], TERMINAL_STATES.SUCCEEDED);
    expect(runs(later!)).toEqual(runs(keys[0]!));
  }, 120_000);

  it("outlives the agent: what it runs is found again, and what finished meanwhile is not lost", async () => {
    await start({ init_blocks: 2, max_blocks: 2, nodes_per_block: 1 });
    await untilNodes(2);
    const keys = submit(40, 0.5);
    for (const share of [4, 16]) {
      await service.until(() => begun() >= share, `${share} begun`, WAIT_MS);
      await stop("SIGKILL");
      await sleep(700);
      await start({ init_blocks: 2, max_blocks: 2, nodes_per_block: 1 });
      await untilNodes(2);
    }
    await untilResults(40);
    expectAll(keys, TERMINAL_STATES.SUCCEEDED);
    expect(new Set(keys.flatMap(runs)).size).toBe(2);
  }, 150_000);

  it("is cancelled through a cut and a restart of the agent alike", async () => {
    await start({ init_blocks: 1 });
    await untilNodes(1);
    const [key] = submit(1, 60);
    await service.until(() => begun() === 1, "it runs", WAIT_MS);
    await stop("SIGKILL");
    await start({ init_blocks: 1 });
    service.send({ t: "cancel", ids: Buffer.from(key!, "latin1") });
    await untilResults(1);
    expect(service.resultOf(key!)!.state).toBe(TERMINAL_STATES.CANCELLED);
  }, 120_000);

  it("that comes late gets its share of the long tasks that wait in another", async () => {
    await start({ init_blocks: 1, max_blocks: 2, prefetch: 64 });
    await untilNodes(1);
    const keys = submit(24, 1.5);
    await untilNodes(2);
    await untilResults(24);
    expectAll(keys, TERMINAL_STATES.SUCCEEDED);
    const [first] = runs(keys[0]!);
    const elsewhere = keys.filter((key) => runs(key)[0] !== first);
    // The first one alone would need 18 s; the other came after three of them, and took half of the rest.
    expect(elsewhere.length).toBeGreaterThanOrEqual(5);
  }, 120_000);

  it("of a block whose walltime ends hands back what has not started; nothing is lost", async () => {
    // The time counts from a node's first word: a walltime of 12 s is over for the agent after 4.
    await start({ init_blocks: 1, walltime_seconds: 12, drain_before_seconds: 8, prefetch: 4 });
    await untilNodes(1);
    const keys = submit(40, 0.5);
    await untilResults(40);
    expectAll(keys, TERMINAL_STATES.SUCCEEDED);
    expect(new Set(keys.flatMap(runs)).size).toBeGreaterThan(1);
  }, 120_000);

  it("runs worker_init once before its workers, which have what it exports", async () => {
    const count = join(stateDir, "inits");
    const worker_init = `echo once >> '${count}'\nexport FARLOOM_NODE_MARKER="$FARLOOM_NODE_MARKER with init"`;
    await start({ init_blocks: 1, worker_init });
    const keys = submit(4);
    await untilResults(4);
    for (const key of keys) expect(runs(key)).toEqual([expect.stringMatching(/ with init$/)]);
    expect(readFileSync(count, "utf8")).toBe("once\n");
  }, 120_000);

  it("moves arguments and results that are too large for a frame", async () => {
    await start({ init_blocks: 1 });
    const text = "x".repeat(200_000);
    const args = Buffer.from(JSON.stringify([[text], {}]));
    const digest = createHash("sha256").update(args).digest();
    service.payloads.set(digest.toString("hex"), args);
    service.def = defineFunction({
      entry: "twice",
      code: Buffer.from("def twice(text): return text + text\n"),
    });
    const codec = CODECS.json | CODEC_REFERENCE;
    const [key] = service.sendTasks([{ codec, args: encodeReference(digest, args.length) }]);
    await untilResults(1);
    const result = service.resultOf(key!)!;
    expect(result).toMatchObject({ state: TERMINAL_STATES.SUCCEEDED, codec });
    const sent = service.payloads.get(result.data.subarray(0, 32).toString("hex"))!;
    expect(JSON.parse(sent.toString())).toBe(text + text);
  }, 120_000);

  it("takes tasks by their needs: what it cannot hold waits, small ones go beside", async () => {
    await start({ init_blocks: 1, workers_per_node: 2 });
    await untilNodes(1);
    const code = Buffer.from(EVIDENCE);
    const impossible = defineFunction({ entry: "run", code, resources: { gpus: 512 } });
    const [waits] = submit(1, 0, impossible);
    const fits = submit(20, 0, defineFunction({ entry: "run", code }));
    await untilResults(20);
    expectAll(fits, TERMINAL_STATES.SUCCEEDED);
    expect(runs(waits!)).toEqual([]);
    expect((await status())!.tasks).toMatchObject({ queued: 1, handed: 0 });
  }, 120_000);
});

describe("a node that should not be there", () => {
  it("is fenced when its block was begun anew: what it had is lost, and it ends what it runs (split brain)", async () => {
    await start({ init_blocks: 1, status_seconds: 30 });
    await untilNodes(1);
    const [pid] = nodePids();
    const [key] = submit(1, 120);
    await service.until(() => begun() === 1, "it runs", WAIT_MS);
    const child = spawn(process.execPath, [MAIN, "node", "--parameters", parametersFile()], {
      stdio: "ignore",
      env: {
        ...process.env,
        TMPDIR: tmp,
        FARLOOM_NODE_NAME: "node0",
        FARLOOM_NODE_RESTART: "1",
        FARLOOM_NODE_MARKER: "anew",
      },
    });
    strangers.push(child);
    await untilResults(1);
    expect(service.resultOf(key!)).toMatchObject({
      state: TERMINAL_STATES.LOST,
      reason: REASONS.agent_lost,
    });
    await until(async () => !isAlive(pid!), "the old node's end");
    const [next] = submit(1);
    await untilResults(2);
    expect(runs(next!)).toEqual(["anew"]);
    expect(await nodes()).toEqual([`${book()[0]!.id}/node0~1`]);
  }, 120_000);

  it("is refused with a wrong secret, for a second use of the right one, and for a block that is not known", async () => {
    await start({ init_blocks: 1 });
    await untilNodes(1);
    for (const [name, change] of [
      ["other", { secret: "x".repeat(43) }],
      ["node0", {}],
      ["node1", {}],
      ["node2", { block: "b0000" }],
    ] as const) {
      const { code, said } = await runNodeByHand(change, name);
      expect(code, name).toBe(4);
      expect(said).toContain("does not take this node");
    }
    expect(await nodes()).toHaveLength(1);
    const [key] = submit(1);
    await untilResults(1);
    expectAll([key!], TERMINAL_STATES.SUCCEEDED);
  }, 120_000);

  it("says nothing to an agent with another certificate, and gives up when nothing runs", async () => {
    await start({ init_blocks: 1 });
    await untilNodes(1);
    const { code, said } = await runNodeByHand({ fingerprint: makeCertificate().fingerprint }, "node7");
    expect(code).toBe(0);
    expect(said).toContain("certificate is not that of the agent");
  }, 120_000);
});

describe("blocks that do not come", () => {
  it("are not asked for in a storm, and the reason is told", async () => {
    // A node program that ends at once: its interpreter's options are wrong.
    configure({ init_blocks: 1, min_blocks: 1 });
    const before = service.hellos.length;
    agent = spawn(process.execPath, [MAIN, "run", "--state-dir", stateDir, "--drain-ms", "200"], {
      stdio: ["ignore", "inherit", process.env.FARLOOM_TEST_LOG ? "inherit" : "ignore"],
      env: { ...process.env, TMPDIR: join(stateDir, "no-such-folder") },
    });
    await service.until(() => service.hellos.length > before, "the agent is connected", WAIT_MS);
    await until(async () => ((await status())?.blocks?.failures ?? 0) >= 2, "two failures");
    await sleep(3_000);
    const { blocks } = (await status())!;
    expect(blocks!.lastFailure).toMatch(/ended before its nodes came.*exit code 1/);
    expect(blocks!.failures).toBeLessThanOrEqual(4);
  }, 120_000);
});
