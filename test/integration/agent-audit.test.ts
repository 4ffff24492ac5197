/**
 * The agent's own audit, by real agent processes with real workers: what the service made this machine do stands in it, in
 * the machine's own words, and goes on over a kill -9.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type AgentAuditEntry, type IdKey, keyToBytes, keyToUuid, TERMINAL_STATES } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { auditFileName } from "../../apps/endpoint-agent/src/audit/audit-files.js";
import { verifyAudit } from "../../apps/endpoint-agent/src/audit/verify-audit.js";
import { enrolledStateDir } from "../support/agent.js";
import { defineFunction, FakeService } from "../support/fake-service.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");
const CLI = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");
const START_MS = 30_000;
const ARGUMENT = "an-argument-that-nobody-is-to-read";
const RESULT = "a-result-that-nobody-is-to-read";

const CODE = `
import os, time
def run(folder, name, seconds, text):
    open(os.path.join(folder, name), "w").close()
    time.sleep(seconds)
    return "${RESULT}"
`;
const boxed = defineFunction({ entry: "run", code: Buffer.from(CODE), env: { isolation: "container" } });

let service: FakeService;
let stateDir: string;
let evidence: string;
let remove: () => void;
let agent: ChildProcess;
const idOf = (key: IdKey): string => keyToBytes(key).toString("hex");
const auditDir = (): string => join(stateDir, "audit");

beforeAll(async () => {
  service = await FakeService.start();
  service.def = defineFunction({ entry: "run", code: Buffer.from(CODE) });
  ({ stateDir, remove } = await enrolledStateDir(service));
  evidence = join(stateDir, "evidence");
  mkdirSync(evidence);
  await start();
});
afterAll(async () => {
  if (agent.exitCode === null && agent.signalCode === null) await stop();
  remove();
  await service.close();
});

async function start(): Promise<void> {
  const connections = service.hellos.length;
  const flags = ["--workers", "1", "--stop-workers", "--drain-ms", "100", "--kill-grace-ms", "100"];
  agent = spawn(process.execPath, [MAIN, "run", "--state-dir", stateDir, ...flags], {
    stdio: ["ignore", "ignore", process.env.FARLOOM_TEST_LOG ? "inherit" : "ignore"],
  });
  await service.until(
    () => service.hellos.length > connections && service.connected && service.roomTasks > 0,
    "the agent is connected, with credit",
    START_MS,
  );
}

async function stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
  agent.kill(signal);
  await once(agent, "exit");
}

function call(seconds = 0, options?: { submitter: string }): { key: IdKey; args: Buffer } {
  const key = service.ids.next();
  const args = Buffer.from(JSON.stringify([[evidence, keyToUuid(key), seconds, ARGUMENT], {}]));
  return { key, args, ...(options && { options }) };
}

async function entries(): Promise<AgentAuditEntry[]> {
  const all: AgentAuditEntry[] = [];
  const verdict = await verifyAudit(auditDir(), { onRecord: (record) => all.push(...record.entries) });
  expect(verdict.why).toBeUndefined();
  return all;
}

async function saidOf(key: IdKey): Promise<AgentAuditEntry[]> {
  return (await entries()).filter(({ ids }) => typeof ids === "string" && ids.includes(idOf(key)));
}

/** The first entry of its kind; what nobody waits for is written some milliseconds later. */
async function soon(find: (entry: AgentAuditEntry) => boolean): Promise<AgentAuditEntry | undefined> {
  const deadline = performance.now() + 10_000;
  for (;;) {
    const found = (await entries()).find(find);
    if (found !== undefined || performance.now() > deadline) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const endOf = (key: IdKey): Promise<AgentAuditEntry | undefined> =>
  soon(
    ({ what, ids }) =>
      (what === "task.ended" || what === "task.refused") &&
      typeof ids === "string" &&
      ids.includes(idOf(key)),
  );

describe("the audit of an agent process", () => {
  it("says when it was enrolled, started and connected, by digests and names", async () => {
    const opened = await soon(({ what }) => what === "link.opened");
    const [enrolled, started] = await entries();
    expect(enrolled).toMatchObject({ what: "agent.enrolled", endpoint: service.endpointId, owner: "ada" });
    expect(started).toMatchObject({
      what: "agent.started",
      pid: agent.pid,
      service: service.url,
      tells: "tasks",
    });
    expect(started!.config).toMatch(/^[0-9a-f]{64}$/);
    expect(opened).toMatchObject({ what: "link.opened", service: service.url });
  });

  it("names each task with its function and submitter before it runs, and how it ended; no argument, no result", async () => {
    const [plain, other] = service.sendTasks([call(), call(0, { submitter: "bob" })]) as [IdKey, IdKey];
    const function_ = service.def.digest.toString("hex");
    await service.until(() => service.results.length === 2, "both results", START_MS);
    expect(await endOf(plain)).toMatchObject({ what: "task.ended", state: "SUCCEEDED" });
    expect(await endOf(other)).toMatchObject({ what: "task.ended", state: "SUCCEEDED" });
    const [started] = await saidOf(plain);
    expect(started).toMatchObject({
      what: "task.started",
      function: function_,
      node: "local",
      isolation: "none",
    });
    expect(started).not.toHaveProperty("submitter");
    expect((await saidOf(other))[0]).toMatchObject({ what: "task.started", submitter: "bob" });
    const text = readFileSync(auditFileName(auditDir(), 1), "utf8");
    expect(text).not.toContain(ARGUMENT);
    expect(text).not.toContain(RESULT);
  });

  it("says what was refused, and why", async () => {
    service.sendFunction(boxed);
    const [key] = service.sendTasks([{ ...call(), digest: boxed.digest }]) as [IdKey];
    expect(await endOf(key)).toMatchObject({
      what: "task.refused",
      code: "ISOLATION_UNAVAILABLE",
      function: boxed.digest.toString("hex"),
      ids: idOf(key),
    });
    expect(await saidOf(key)).toHaveLength(1);
  });

  it("has what runs in it, whenever the agent is killed, and the next one goes on with the chain", async () => {
    const [key] = service.sendTasks([call(60)]) as [IdKey];
    await service.until(() => existsSync(join(evidence, keyToUuid(key))), "it runs", START_MS);
    await stop("SIGKILL");
    expect((await saidOf(key)).map(({ what }) => what)).toEqual(["task.started"]);
    const before = (await verifyAudit(auditDir())).head;
    // As a write that the kill had interrupted.
    appendFileSync(auditFileName(auditDir(), 1), '{"at":"2026-');
    expect(await verifyAudit(auditDir())).toMatchObject({ whole: true, cutBytes: 12 });
    await start();
    expect(await verifyAudit(auditDir(), { head: before })).toMatchObject({ whole: true });
    const all = await entries();
    expect(all.filter(({ what }) => what === "agent.started")).toHaveLength(2);
    expect(all).toContainEqual({ what: "audit.cut", bytes: 12 });
    service.send({ t: "cancel", ids: keyToBytes(key) });
    expect(await endOf(key)).toMatchObject({ what: "task.ended", state: "CANCELLED" });
  });

  it("is shown and verified by farloom; a running agent knows where it must end", async () => {
    const cli = (...args: string[]): string =>
      execFileSync(process.execPath, [CLI, ...args, "--state-dir", stateDir, "--json"], { encoding: "utf8" });
    const [key] = [...service.results].filter(({ state }) => state === TERMINAL_STATES.SUCCEEDED);
    const shown = cli("endpoint", "audit", "--task", keyToUuid(key!.key)).trim().split("\n");
    expect(shown.map((line) => (JSON.parse(line) as AgentAuditEntry).what)).toEqual([
      "task.started",
      "task.ended",
    ]);
    expect(JSON.parse(cli("audit", "verify", "--agent"))).toMatchObject({ whole: true, from: 1 });
    const file = auditFileName(auditDir(), 1);
    const text = readFileSync(file, "utf8");
    writeFileSync(file, `${text.trimEnd().split("\n").slice(0, -1).join("\n")}\n`);
    const failed = (): string => {
      try {
        return cli("audit", "verify", "--agent");
      } catch (error) {
        return String((error as { stdout: string }).stdout);
      }
    };
    expect(JSON.parse(failed())).toMatchObject({ whole: false, why: expect.stringContaining("was cut off") });
    writeFileSync(file, text);
  });

  it("says how it was stopped", async () => {
    await stop();
    expect((await entries()).slice(-4).map(({ what }) => what)).toEqual([
      "operator.drain",
      "agent.stopping",
      "link.lost",
      "agent.stopped",
    ]);
  });
});
