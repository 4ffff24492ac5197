/**
 * Live output (P33) through real services, agents, nodes and workers. What a function wrote it says itself, with the time
 * at which it did; workers and nodes are killed with kill -9.
 */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { limits } from "@farloom/protocol";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { type AgentProcess, Fabric, type ServiceProcess } from "../support/fabric.js";

const BIN = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");
const WAIT_MS = 60_000;
vi.setConfig({ testTimeout: 2 * WAIT_MS });

const CODE = `
import os, sys, time
def lines(n, pause):
    for i in range(n):
        print("\\x1b[3%dmline %d at %.6f\\x1b[0m" % (i % 8, i, time.time()))
        print("err %d ü" % i, file=sys.stderr)
        time.sleep(pause)
    return n
def flood(megabytes):
    piece = "".join("%015d\\n" % i for i in range(65536))
    for _ in range(megabytes):
        sys.stdout.write(piece)
    sys.stdout.flush()
    time.sleep(1.5)
    return 42
def stay(seconds):
    print("pid %d" % os.getpid())
    print("before the end")
    time.sleep(seconds)
def twice():
    print("only this")
    return 1
`;

let fabric: Fabric;
let service: ServiceProcess;
let other: ServiceProcess;
let local: AgentProcess;
const fns: Record<string, string> = {};

interface Part {
  readonly status: number;
  readonly bytes: Buffer;
  readonly at: number;
  readonly next: number;
  readonly attempt: number;
  readonly more: boolean;
}

async function read(
  id: string,
  query: Record<string, string | number> = {},
  url = service.url,
): Promise<Part> {
  const search = new URLSearchParams(Object.entries(query).map(([k, v]): [string, string] => [k, String(v)]));
  const answer = await fetch(`${url}/v1/tasks/${id}/output?${search}`, {
    headers: { authorization: `Bearer ${fabric.key}` },
  });
  const number = (name: string): number => Number(answer.headers.get(name));
  return {
    status: answer.status,
    bytes: Buffer.from(await answer.arrayBuffer()),
    at: number("farloom-offset"),
    next: number("farloom-next-offset"),
    attempt: number("farloom-attempt"),
    more: answer.headers.get("farloom-more") === "true",
  };
}

/** All parts from the offset on, each as it comes, with the time of its coming. */
async function follow(
  id: string,
  options: { stream?: string; offset?: number; url?: string; until?: (text: string) => boolean } = {},
): Promise<{ parts: Part[]; cameAtMs: number[]; text: string }> {
  const { stream = "stdout", url, until } = options;
  let offset = options.offset ?? 0;
  const parts: Part[] = [];
  const cameAtMs: number[] = [];
  const text = (): string => Buffer.concat(parts.map(({ bytes }) => bytes)).toString();
  for (const end = performance.now() + WAIT_MS; performance.now() < end; ) {
    const part = await read(id, { stream, offset, wait: 20 }, url);
    expect(part.status).toBe(200);
    parts.push(part);
    cameAtMs.push(Date.now());
    offset = part.next;
    if (!part.more || until?.(text())) return { parts, cameAtMs, text: text() };
  }
  throw new Error(`no end of the output: ${text().slice(-500)}`);
}

async function submit(fn: string, args: unknown[], endpoint = "local"): Promise<string> {
  const made = await fabric.api(service.url).post("/v1/tasks", { endpoint, function: fns[fn], args });
  expect(made.status, JSON.stringify(made.body)).toBeLessThan(300);
  return made.body.id as string;
}

async function ended(id: string): Promise<Record<string, unknown>> {
  for (const end = performance.now() + WAIT_MS; performance.now() < end; ) {
    const { body } = await fabric.api(service.url).get(`/v1/tasks/${id}?wait=20`);
    if (!["QUEUED", "LEASED", "STARTED"].includes(body.state)) return body;
  }
  throw new Error(`task ${id} did not end`);
}

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  const stateDir = join(fabric.home, "agent-nodes");
  mkdirSync(stateDir, { mode: 0o700 });
  const blocks = "workers_per_node = 1\nmax_blocks = 1\nnode_grace_seconds = 1\nstatus_seconds = 0.5";
  writeFileSync(join(stateDir, "agent.toml"), `provider = "process"\ntrust = "off"\n[blocks]\n${blocks}\n`);
  const started = [
    fabric.service(),
    fabric.agent(service.url, "local", ["--workers", "2"]),
    fabric.agent(service.url, "nodes"),
  ] as const;
  [other, local] = await Promise.all(started);
  for (const entry of ["lines", "flood", "stay", "twice"]) {
    const digest = await fabric.register(service.url, { name: entry, code: CODE, entry });
    fns[entry] = digest.toString("hex");
  }
}, 2 * WAIT_MS);
afterAll(() => fabric?.close(), 2 * WAIT_MS);

it("comes while the task runs, in order, whole and with its ANSI, through either replica, and stays as it came", async () => {
  const count = 60;
  const id = await submit("lines", [count, 0.05]);
  const [out, err] = await Promise.all([follow(id, { url: other.url }), follow(id, { stream: "stderr" })]);
  const written = out.text.split("\n").slice(0, -1);
  expect(written.map((line) => line.replace(/ at [\d.]+/, ""))).toEqual(
    Array.from({ length: count }, (_, i) => `\u001b[3${i % 8}mline ${i}\u001b[0m`),
  );
  expect(err.text).toBe(Array.from({ length: count }, (_, i) => `err ${i} ü\n`).join(""));
  // It came in many parts: the task ran for three seconds.
  expect(out.parts.length).toBeGreaterThan(4);
  expect(out.parts.every((part, i) => part.at === (out.parts[i - 1]?.next ?? 0))).toBe(true);

  // What each line waited until it was here, but for those of the first moments, of which nothing is told yet.
  const waits: number[] = [];
  for (const [i, part] of out.parts.entries())
    for (const [, at] of part.bytes.toString().matchAll(/at ([\d.]+)/g))
      waits.push(out.cameAtMs[i]! - 1000 * Number(at));
  waits.sort((a, b) => a - b);
  const p = (share: number): number => Math.round(waits[Math.floor(share * (waits.length - 1))]!);
  console.log(`live output, ms from print to client: p50 ${p(0.5)}, p95 ${p(0.95)}, most ${p(1)}`);
  expect(p(0.95)).toBeLessThan(5_000);

  // Afterwards, from any byte on.
  expect((await ended(id)).state).toBe("SUCCEEDED");
  const whole = Buffer.from(out.text);
  for (const offset of [0, 1, 777, whole.length - 5, whole.length, whole.length + 10]) {
    const again = await follow(id, { offset, url: other.url });
    expect(again.text).toBe(whole.subarray(offset).toString());
  }
});

it("of a command and of a Node function is heard alike, the last words of a command from its result", async () => {
  const api = fabric.api(service.url);
  const argv = ["sh", "-c", "echo begun; sleep 1; printf ended"];
  const code = `export async function main() {
    console.log("begun");
    await new Promise((resolve) => setTimeout(resolve, 1000));
    process.stdout.write("ended");
  }`;
  for (const body of [
    { name: "shell", runtime: "command", command: { argv } },
    { name: "script", runtime: "node", code, entry: "main" },
  ]) {
    const made = await api.post("/v1/functions", body);
    expect(made.status, JSON.stringify(made.body)).toBeLessThan(300);
    fns[body.name] = made.body.id;
    const id = await submit(body.name, []);
    const seen = await follow(id);
    expect([seen.text, seen.parts[0]!.bytes.toString()]).toEqual(["begun\nended", "begun\n"]);
  }
});

it("of a task that is over at once is what its outcome has", async () => {
  const id = await submit("twice", []);
  const { text, parts } = await follow(id);
  expect(text).toBe("only this\n");
  expect(parts.at(-1)!.more).toBe(false);
  const answer = await fetch(`${service.url}/v1/tasks/${id}/output?follow=true`, {
    headers: { authorization: `Bearer ${fabric.key}` },
  });
  expect(await answer.text()).toBe("only this\n");
});

it("of a flood keeps the first and the last bytes, says what is missing, and hurts no result", async () => {
  const megabytes = 30;
  const id = await submit("flood", [megabytes]);
  expect(await ended(id)).toMatchObject({ state: "SUCCEEDED", result: 42 });
  const { parts } = await follow(id);
  const total = megabytes * 1024 * 1024;
  // What is written in the instant of a cut is not counted.
  expect(parts.at(-1)!.next).toBeLessThanOrEqual(total);
  expect(parts.at(-1)!.next).toBeGreaterThan(total / 2);
  const kept = parts.reduce((sum, part) => sum + part.bytes.length, 0);
  expect(kept).toBeLessThan(limits.OUTPUT_HEAD_BYTES + limits.OUTPUT_TAIL_BYTES + 512 * 1024);
  for (const [i, part] of parts.entries()) {
    expect(part.at).toBeGreaterThanOrEqual(parts[i - 1]?.next ?? 0);
    // Every 16 bytes say where they are in their megabyte, which is written at once.
    const from = Math.ceil(part.at / 16) * 16;
    const line = part.bytes.subarray(from - part.at, from - part.at + 15).toString();
    if (line.length === 15) expect(Number(line), `at ${part.at}`).toBe((from / 16) % 65_536);
  }
});

it("goes on after the agent was killed, without a gap and nothing twice", async () => {
  const count = 60;
  const id = await submit("lines", [count, 0.05]);
  const following = follow(id, { stream: "stderr" });
  await follow(id, { stream: "stderr", until: (text) => text.includes("err 5 ") });
  await local.kill();
  await local.restart();
  expect((await following).text).toBe(Array.from({ length: count }, (_, i) => `err ${i} ü\n`).join(""));
  expect((await ended(id)).state).toBe("SUCCEEDED");
});

it("stays when the worker, or its whole node, is killed: what had come", async () => {
  const onWorker = await submit("stay", [100]);
  const onNode = await submit("stay", [100], "nodes");
  const seen = await follow(onWorker, { until: (text) => text.includes("before the end\n") });
  await follow(onNode, { until: (text) => text.includes("before the end\n") });
  process.kill(Number(/pid (\d+)/.exec(seen.text)![1]), "SIGKILL");
  const book = JSON.parse(readFileSync(join(fabric.home, "agent-nodes/blocks/book.json"), "utf8"));
  process.kill(Number.parseInt(book.blocks[0].providerId, 10), "SIGKILL");
  expect(await ended(onWorker)).toMatchObject({ state: "FAILED", reason: "worker_died" });
  expect((await follow(onWorker)).text).toBe(seen.text);
  expect(await ended(onNode)).toMatchObject({ state: "LOST" });
  const left = await follow(onNode);
  expect(left.text).toMatch(/^pid \d+\nbefore the end\n$/);
});

/** The command, to its end. */
function farloom(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const env = {
    PATH: process.env.PATH,
    HOME: fabric.home,
    FARLOOM_URL: other.url,
    FARLOOM_API_KEY: fabric.key,
  };
  const child = spawn(process.execPath, [BIN, ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, stdout, stderr })));
}

it("that somebody follows ends with the credential that it is followed with, and not with the task", async () => {
  const id = await submit("stay", [60]);
  const made = await fabric.api(service.url).post("/v1/keys", { label: "follower" });
  const answer = await fetch(`${other.url}/v1/tasks/${id}/output?follow=true`, {
    headers: { authorization: `Bearer ${made.body.key}` },
  });
  expect(answer.status).toBe(200);
  await follow(id, { until: (text) => text.includes("before the end\n") });
  const revoked = await fabric.api(service.url).call("DELETE", `/v1/keys/${made.body.id}`);
  expect(revoked.status).toBeLessThan(300);
  expect(await answer.text()).toContain("before the end\n");
  const { body } = await fabric.api(service.url).get(`/v1/tasks/${id}`);
  expect(body.state).toBe("STARTED");
  await fabric.api(service.url).post(`/v1/tasks/${id}/cancel`, {});
});

it("is shown by the command as it was written, and to nobody else; a stream that follows ends with the task", async () => {
  const id = await submit("lines", [10, 0.1]);
  const shown = farloom("tasks", "logs", "-f", id);
  const stranger = await fabric.keyOf(service.url, "stranger");
  const refused = await fetch(`${service.url}/v1/tasks/${id}/output`, {
    headers: { authorization: `Bearer ${stranger}` },
  });
  expect(refused.status).toBe(404);
  const answer = await fetch(`${service.url}/v1/tasks/${id}/output?stream=stderr&follow=true`, {
    headers: { authorization: `Bearer ${fabric.key}` },
  });
  expect(await answer.text()).toBe(Array.from({ length: 10 }, (_, i) => `err ${i} ü\n`).join(""));
  const { code, stdout, stderr } = await shown;
  expect([code, stderr]).toEqual([0, Array.from({ length: 10 }, (_, i) => `err ${i} ü\n`).join("")]);
  expect(stdout.split("\u001b[3")).toHaveLength(11);
  const asked = await farloom("tasks", "why", id, "--json");
  expect(JSON.parse(asked.stdout)).toEqual({ id, state: "SUCCEEDED", waiting: null });
});
