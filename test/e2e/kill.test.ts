/**
 * Ten thousand tasks in mode at_most_once through the whole fabric (SDK, service, PostgreSQL, agent, Python workers)
 * while its parts are killed. What counts is the evidence that the function writes itself: each number once.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Farloom, type RemoteFunction } from "@farloom/sdk";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AgentProcess, Fabric, type ServiceProcess } from "../support/fabric.js";

const TASKS = 10_000;
const LIMIT_MS = 120_000;
/** An append of a few bytes is one write, and whole; the pause keeps the run long enough to be killed in its middle. */
const CODE = `
import os, time

def record(number, path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\\n" % number)
    os.close(fd)
    time.sleep(0.0005)
    return number * number
`;

let fabric: Fabric;
let service: ServiceProcess;
let agent: AgentProcess;
let farloom: Farloom;
let record: RemoteFunction<[number, string], number>;
/** Under the tenants' role, whose connections nobody else may end. */
let tenants: pg.Pool;

beforeAll(async () => {
  fabric = await Fabric.open();
  tenants = new pg.Pool({ connectionString: fabric.database.tenantUrl, max: 1 });
  service = await fabric.service();
  agent = await fabric.agent(service.url, "real", ["--workers", "2"]);
  farloom = new Farloom({ url: service.url, apiKey: fabric.key, endpoint: "real" });
  record = await farloom.register({ name: "record", runtime: "python", code: CODE, entry: "record" });
  await record.call([-1, join(fabric.home, "warm")]);
}, LIMIT_MS);

afterAll(async () => {
  await farloom?.close({ timeoutMs: 1_000 });
  await tenants?.end();
  await fabric?.close();
}, LIMIT_MS);

/** Runs all of them, calls `disturb` once when a third has ended, and holds the end to the evidence. */
async function runThrough(name: string, disturb: () => Promise<void>): Promise<void> {
  const evidence = join(fabric.home, `${name}.evidence`);
  const group = record.map(
    Array.from({ length: TASKS }, (_, i): [number, string] => [i, evidence]),
    { keepResults: false },
  );
  let disturbed: Promise<void> | undefined;
  let ended = 0;
  const wrong: unknown[] = [];
  for await (const { index, value, error, handle } of group.asCompleted()) {
    if (value !== index * index) wrong.push({ index, value, state: handle.state, error: error?.message });
    if (++ended === Math.floor(TASKS / 3)) disturbed = disturb();
  }
  await disturbed;
  expect(wrong.slice(0, 5)).toEqual([]);
  expect(ended).toBe(TASKS);
  expect(disturbed).toBeDefined();

  const ran = readFileSync(evidence, "utf8").trimEnd().split("\n").map(Number);
  const times = new Uint8Array(TASKS);
  for (const number of ran) times[number]!++;
  expect(times.findIndex((n) => n !== 1)).toBe(-1);
  expect(ran).toHaveLength(TASKS);
  const { rows } = await fabric.database.pool.query(
    `SELECT count(*)::int AS good FROM task t JOIN outcome o ON o.task_id = t.id
     WHERE t.group_id = $1 AND o.state = 1 AND t.attempt = 1`,
    [group.id],
  );
  expect(rows[0].good).toBe(TASKS);
}

/** Ends the service's connections, each as the role that it has, and says how many there were. */
async function cutAll(): Promise<number> {
  let cut = 0;
  for (const pool of [fabric.database.pool, tenants]) {
    const { rows } = await pool.query<{ cut: number }>(
      `SELECT count(pg_terminate_backend(pid))::int AS cut FROM pg_stat_activity
       WHERE datname = current_database() AND usename = current_user AND application_name LIKE 'farloom%'`,
    );
    cut += rows[0]!.cut;
  }
  return cut;
}

describe("ten thousand tasks that may run once only", () => {
  it(
    "each run once and succeed though the service is killed and started again",
    () =>
      runThrough("service", async () => {
        await service.kill();
        await service.restart();
      }),
    LIMIT_MS,
  );

  it(
    "each run once and succeed though the agent is killed and started again",
    () =>
      runThrough("agent", async () => {
        await agent.kill();
        await agent.restart();
      }),
    LIMIT_MS,
  );

  it(
    "each run once and succeed though both are killed at once",
    () =>
      runThrough("both", async () => {
        await Promise.all([service.kill(), agent.kill()]);
        await Promise.all([service.restart(), agent.restart()]);
      }),
    LIMIT_MS,
  );

  it(
    "each run once and succeed though every connection to PostgreSQL is cut, twice",
    () =>
      runThrough("database", async () => {
        for (let i = 0; i < 2; i++) {
          // The second time as soon as the service is back.
          await expect.poll(cutAll, { timeout: 20_000, interval: 100 }).toBeGreaterThan(1);
        }
      }),
    LIMIT_MS,
  );
});
