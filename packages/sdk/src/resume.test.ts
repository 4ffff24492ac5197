import { REASONS, TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Farloom } from "./client.js";
import { FakeService, succeeded } from "./testing/fake-service.js";

// The machine may be busy with other tests.
vi.setConfig({ testTimeout: 30_000 });

let fake: FakeService;
let farloom: Farloom;

beforeEach(async () => {
  fake = await FakeService.start();
  farloom = new Farloom({ url: fake.url, apiKey: "k.s", endpoint: "laptop" });
});
afterEach(async () => {
  await farloom.close({ timeoutMs: 0 });
  await fake.close();
});

const until = async (what: () => boolean): Promise<void> => {
  const endMs = performance.now() + 20_000;
  while (!what()) {
    if (performance.now() > endMs) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
};
const one = succeeded(Buffer.from("1"));

describe("a cut link", () => {
  test("results that came while the link was cut arrive after it, each once", async () => {
    fake.options.run = () => undefined;
    const fn = farloom.function<[number], number>("f");
    const handles = Array.from({ length: 50 }, (_, i) => fn.submit([i]));
    let settled = 0;
    const results = handles.map((h) => h.result().finally(() => settled++));
    await until(() => fake.committed.size === 50);
    const keys = [...fake.committed.keys()];
    for (const key of keys.slice(0, 20)) fake.finish(key, one);
    await until(() => settled === 20);
    fake.cut();
    for (const key of keys.slice(20, 40)) fake.finish(key, one);
    await until(() => settled === 40);
    for (const key of keys.slice(40)) fake.finish(key, one);
    expect(await Promise.all(results)).toEqual(Array(50).fill(1));
    expect([...fake.submissions.values()]).toEqual(Array(50).fill(1));
    const resumed = fake.framesOf("watch").filter((f) => f.ids !== undefined);
    expect(resumed.map((f) => f.ids!.length / 16)).toEqual([30]);
  });

  test("tasks that were not durable are sent again with the same ids, marked as sent before", async () => {
    fake.options.deaf = true;
    const fn = farloom.function<[number], number>("f");
    const results = Promise.all(Array.from({ length: 10 }, (_, i) => fn.submit([i]).result()));
    await until(() => fake.framesOf("tasks").length === 1);
    fake.options.deaf = false;
    fake.cut();
    expect(await results).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const [first, second] = fake.framesOf("tasks");
    expect(second!.ids.equals(first!.ids)).toBe(true);
    expect([first!.again, second!.again]).toEqual([undefined, 1]);
  });

  test("tasks that were committed and finished before their mark was heard still give their results", async () => {
    fake.options.mute = true;
    const fn = farloom.function<[number], number>("f");
    const results = Promise.all(Array.from({ length: 10 }, (_, i) => fn.submit([i]).result()));
    await until(() => fake.committed.size === 10);
    fake.options.mute = false;
    fake.cut();
    expect(await results).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect([...fake.submissions.values()]).toEqual(Array(10).fill(2));
  });

  test("a map survives cut after cut", async () => {
    const inputs = Array.from({ length: 60_000 }, (_, i): [number] => [i]);
    const group = farloom.function<[number], number>("f").map(inputs);
    // Cut by progress and not by time: a loaded machine gets as many cuts as an idle one.
    let cutAt = 2_000;
    fake.options.run = (task) => {
      if (fake.committed.size >= cutAt) {
        cutAt += 4_000;
        setImmediate(() => fake.cut());
      }
      return fake.echo(task);
    };
    const values = await group.all();
    expect(fake.sessions).toBeGreaterThan(4);
    expect(values).toEqual(inputs.map(([i]) => i));
    expect(fake.creditOverruns).toBe(0);
  });

  test("a cancel that was asked for while the link was cut is told after it", async () => {
    fake.options.run = () => undefined;
    const handle = farloom.function("f").submit([]);
    await until(() => fake.committed.size === 1 && handle.state === "QUEUED");
    await new Promise((resolve) => setTimeout(resolve, 20));
    fake.cut();
    expect(await handle.cancel()).toBe(true);
  });

  test("frames that break the rules end connections, and when nothing else comes, fail what waits, with the reason", async () => {
    fake.options.run = () => undefined;
    const call = farloom.function("f").call([]);
    const rejected = expect(call).rejects.toMatchObject({ code: "FRAME_INVALID" });
    await until(() => fake.committed.size === 1);
    const again = setInterval(() => fake.sendAll(Buffer.from([0xc1, 0xff])), 50);
    try {
      await rejected;
    } finally {
      clearInterval(again);
    }
  });

  test("an unknown frame is complained of and changes nothing", async () => {
    fake.options.run = () => undefined;
    const call = farloom.function("f").call([]);
    await until(() => fake.committed.size === 1);
    fake.sendAll({ t: "novelty", x: 1 } as never);
    await until(() => fake.framesOf("problem").length === 1);
    fake.finish([...fake.committed.keys()][0]!, one);
    expect(await call).toBe(1);
  });

  test("a complaint that does not pass fails what waits, and what is called next goes on", async () => {
    fake.options.run = () => undefined;
    const lost = farloom.function("f").submit([]);
    await until(() => fake.committed.size === 1);
    fake.sendAll({ t: "problem", code: "SCOPE_MISSING", message: "no" });
    await expect(lost.result()).rejects.toMatchObject({ code: "SCOPE_MISSING" });
    fake.options.run = () => one;
    expect(await farloom.function("f").call([])).toBe(1);
  });

  test("a complaint that passes costs a session, and no task", async () => {
    fake.options.run = () => undefined;
    const handle = farloom.function("f").submit([]);
    await until(() => fake.committed.size === 1);
    fake.sendAll({ t: "problem", code: "NOT_READY", message: "later" });
    await until(() => fake.sessions === 2);
    fake.finish([...fake.committed.keys()][0]!, one);
    expect(await handle.result()).toBe(1);
  });

  test("a result that comes twice settles once", async () => {
    fake.options.run = () => undefined;
    const handle = farloom.function("f").submit([]);
    await until(() => fake.committed.size === 1);
    const key = [...fake.committed.keys()][0]!;
    fake.finish(key, one);
    fake.finish(key, { ...one, state: TERMINAL_STATES.FAILED, reason: REASONS.user_error });
    expect(await handle.result()).toBe(1);
    await until(() => fake.framesOf("mark").at(-1)?.durable === 2);
  });
});

describe("refusals", () => {
  test("a refusal that passes is submitted again by itself, after the wait it names", async () => {
    let refused = 0;
    fake.options.refuse = () =>
      refused++ < 2 ? { code: "OVERLOADED", message: "full", retryAfterMs: 60 } : undefined;
    const startMs = performance.now();
    expect(await farloom.function<[number], number>("f").call([7])).toBe(7);
    expect(performance.now() - startMs).toBeGreaterThanOrEqual(115);
    expect(new Set(fake.framesOf("tasks").map((f) => f.ids.toString("hex"))).size).toBe(1);
  });

  test("a refusal for good is the task's error, in the service's words", async () => {
    fake.options.refuse = () => ({ code: "ENDPOINT_NOT_FOUND", message: "There is no endpoint laptop." });
    await expect(farloom.function("f").call([])).rejects.toMatchObject({
      code: "ENDPOINT_NOT_FOUND",
      message: "There is no endpoint laptop.",
    });
  });

  test("a key that is not valid fails waiting calls at once", async () => {
    fake.options.rejectUpgrade = {
      status: 401,
      body: { code: "UNAUTHENTICATED", detail: "No valid credential." },
    };
    await expect(farloom.function("f").call([])).rejects.toMatchObject({ code: "UNAUTHENTICATED" });
  });

  test("an overloaded service is dialled again after Retry-After", async () => {
    const rejection = { status: 503, body: { code: "OVERLOADED", detail: "wait" }, retryAfter: "1" };
    fake.options.rejectUpgrade = rejection;
    setTimeout(() => {
      fake.options.rejectUpgrade = undefined;
    }, 200);
    const startMs = performance.now();
    expect(await farloom.function<[number], number>("f").call([1])).toBe(1);
    expect(performance.now() - startMs).toBeGreaterThan(950);
  });

  test("REST waits and tries again where the service says 429", async () => {
    let times = 0;
    fake.rest = (method, url) =>
      method === "GET" && url.startsWith("/v1/endpoints") && times++ < 2
        ? {
            status: 429,
            body: { code: "RATE_LIMITED", detail: "slow down" },
            headers: { "retry-after": "0.05" },
          }
        : undefined;
    expect((await farloom.endpoints.get("laptop")).name).toBe("laptop");
    expect(times).toBe(3);
  });
});

describe("a service that is away", () => {
  test("calls fail with SERVICE_UNREACHABLE after connectForMs, and the next call dials anew", async () => {
    const id = "00000000-0000-4000-8000-000000000000";
    const port = fake.port;
    await fake.close();
    const client = new Farloom({
      url: `http://127.0.0.1:${port}`,
      apiKey: "k.s",
      endpoint: id,
      connectForMs: 150,
    });
    const fn = client.function<[number], number>("0".repeat(64));
    await expect(fn.call([1])).rejects.toMatchObject({ code: "SERVICE_UNREACHABLE" });
    fake = await FakeService.start({}, port);
    expect(await fn.call([2])).toBe(2);
    await client.close();
  });

  test("pongs keep a quiet link alive", async () => {
    Object.assign(fake.options, { heartbeatMs: 40, deadAfterMs: 800, run: () => undefined });
    const call = farloom.function("f").call([]);
    await until(() => fake.framesOf("ping").length >= 25 && fake.committed.size === 1);
    expect(fake.sessions).toBe(1);
    fake.finish([...fake.committed.keys()][0]!, one);
    expect(await call).toBe(1);
  });

  test("silence is noticed, and the link dialled again", async () => {
    Object.assign(fake.options, { heartbeatMs: 20, deadAfterMs: 60, silent: true, run: () => undefined });
    const call = farloom.function("f").call([]);
    await until(() => fake.sessions >= 2);
    fake.options.silent = false;
    fake.finish([...fake.committed.keys()][0]!, one);
    expect(await call).toBe(1);
  });
});
