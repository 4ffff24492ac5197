/**
 * A rolling restart of two replicas under load: SIGTERM to one, then to the other, while the SDK submits and a real
 * agent works. Each stops within ten seconds, and the callers see nothing of it.
 */
import { Farloom, type RemoteFunction } from "@farloom/sdk";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { TcpProxy } from "../support/tcp-proxy.js";

const LIMIT_MS = 180_000;
const STOP_MS = 10_000;

let fabric: Fabric;
let a: ServiceProcess;
let b: ServiceProcess;
let door: TcpProxy;
let farloom: Farloom;
let square: RemoteFunction<[number], number>;

beforeAll(async () => {
  fabric = await Fabric.open({ env: { FARLOOM_SWEEP_MS: "1000" } });
  a = await fabric.service();
  b = await fabric.service();
  door = await TcpProxy.open([a.port, b.port]);
  await fabric.agent(door.url, "real", ["--workers", "2"]);
  farloom = new Farloom({ url: door.url, apiKey: fabric.key, endpoint: "real" });
  const code = "import time\ndef square(x):\n    time.sleep(0.002)\n    return x * x\n";
  square = await farloom.register({ name: "square", runtime: "python", code });
  expect(await square.call([12])).toBe(144);
}, LIMIT_MS);

afterAll(async () => {
  await farloom?.close({ timeoutMs: 1_000 });
  await fabric?.close();
  await door?.close();
}, LIMIT_MS);

it(
  "loses nothing, runs nothing twice and shows no caller an error, by the link or over REST",
  async () => {
    let stop = false;
    const wrong: unknown[] = [];
    let calls = 0;
    const byLink = async (): Promise<void> => {
      for (let x = 0; !stop; x++) {
        const values = await Promise.all(Array.from({ length: 20 }, (_, i) => square.call([x + i]))).catch(
          (error: Error) => [error.message],
        );
        calls += values.length;
        if (values.some((value, i) => value !== (x + i) ** 2)) wrong.push(values);
      }
    };
    const byRest = async (): Promise<void> => {
      while (!stop) {
        await farloom.tasks.list({ limit: 5 }).catch((error: Error) => wrong.push(error.message));
        calls++;
      }
    };
    const load = Promise.all([byLink(), byRest()]);
    for (const replica of [a, b]) {
      // New connections go to the other one first, as a balancer sees to that hears of the stop.
      door.targets = [...door.targets].sort((port) => (port === replica.port ? 1 : -1));
      const startedAt = performance.now();
      expect(await replica.stop()).toBe(0);
      expect(performance.now() - startedAt).toBeLessThan(STOP_MS);
      await replica.restart();
    }
    stop = true;
    await load;
    expect(wrong.slice(0, 3)).toEqual([]);
    expect(calls).toBeGreaterThan(50);
    const { rows } = await fabric.database.pool.query(
      "SELECT count(*)::int AS tasks, count(o.task_id)::int AS ended, max(o.attempt) AS attempts FROM task t LEFT JOIN outcome o ON o.task_id = t.id",
    );
    expect(rows[0].ended).toBe(rows[0].tasks);
    expect(rows[0].attempts).toBe(1);
  },
  LIMIT_MS,
);
