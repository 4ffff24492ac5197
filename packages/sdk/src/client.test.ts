import { keyToBytes, REASONS, TERMINAL_STATES } from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Farloom } from "./client.js";
import {
  TaskCancelledError,
  TaskFailedError,
  TaskLostError,
  TaskTimedOutError,
  WorkerDiedError,
} from "./errors.js";
import { cancelled, FakeService, succeeded } from "./testing/fake-service.js";

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
const json = (value: unknown) => succeeded(Buffer.from(JSON.stringify(value)));

describe("progress of a function", () => {
  test("is the handle's, and its listeners' until they stop or it ends", async () => {
    fake.options.run = () => undefined;
    const handle = farloom.function<[], number>("f").submit([]);
    await until(() => fake.committed.size === 1);
    const key = [...fake.committed.keys()][0]!;
    const say = (done: number, total?: number) =>
      fake.sendAll({ t: "progress", ids: keyToBytes(key), kind: "progress", done, ...(total && { total }) });
    const heard: unknown[] = [];
    const few: unknown[] = [];
    handle.onProgress((progress) => heard.push(progress));
    const stop = handle.onProgress((progress) => few.push(progress));
    say(1);
    await until(() => heard.length === 1);
    stop();
    say(2.5, 10);
    await until(() => heard.length === 2);
    expect(heard).toEqual([{ done: 1 }, { done: 2.5, total: 10 }]);
    expect(few).toEqual([{ done: 1 }]);
    expect(handle.progress).toEqual({ done: 2.5, total: 10 });
    expect(handle.state).toBe("STARTED");
    fake.finish(key, json(7));
    expect(await handle.result()).toBe(7);
    say(3, 10);
    fake.sendAll({ t: "progress", ids: Buffer.alloc(16), kind: "progress", done: 1 });
    expect(await farloom.function<[], number>("g").submit([]).durable()).toBeUndefined();
    expect(heard).toHaveLength(2);
  });
});

describe("calls", () => {
  test("a call resolves with the function's result", async () => {
    const fn = farloom.function<[number], number>("double");
    expect(await fn.call([21])).toBe(21);
    expect(fake.requests.every((r) => r.authorization === "Bearer k.s")).toBe(true);
  });

  test("a handle has its id before anything is sent, and is no thenable", () => {
    const handle = farloom.function("f").submit([1]);
    expect(handle.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8/);
    expect("then" in handle).toBe(false);
    expect(fake.frames).toEqual([]);
  });

  test("what is submitted in one turn travels in one frame for each endpoint", async () => {
    const fn = farloom.function<[number], number>("f");
    await fn.call([0]);
    await fn.call([0], { endpoint: "cluster" });
    const before = fake.framesOf("tasks").length;
    const handles = Array.from({ length: 100 }, (_, i) => fn.submit([i]));
    const others = Array.from({ length: 50 }, (_, i) => fn.submit([i], { endpoint: "cluster" }));
    expect(await Promise.all([...handles, ...others].map((h) => h.result()))).toHaveLength(150);
    expect(
      fake
        .framesOf("tasks")
        .slice(before)
        .map((f) => f.n),
    ).toEqual([100, 50]);
  });

  test("options and keyword arguments travel with the task", async () => {
    fake.options.run = (task) => json([task.options, JSON.parse(task.bytes.toString())]);
    const result = await farloom
      .function("f")
      .call([1], { kwargs: { x: 2 }, timeoutMs: 5, retries: 1, mode: "at_least_once" });
    expect(result).toEqual([{ timeoutMs: 5, retries: 1, mode: "at_least_once" }, [[1], { x: 2 }]]);
  });

  test("arguments and results above 64 KiB go by payload file, each file once", async () => {
    const text = "x".repeat(200_000);
    const fn = farloom.function<[string], string>("f");
    expect(await fn.call([text])).toBe(text);
    expect(await fn.call([text])).toBe(text);
    expect(fake.requests.filter((r) => r.method === "PUT")).toHaveLength(1);
    // Asking first would cost a small file as much as sending it.
    expect(fake.requests.filter((r) => r.method === "HEAD")).toHaveLength(0);
    expect(fake.framesOf("tasks").every((f) => f.args.length === 40)).toBe(true);
  });

  test("a file above 4 MiB is sent only where the service does not have it", async () => {
    const text = "x".repeat(5_000_000);
    expect(await farloom.function<[string], string>("f").call([text])).toBe(text);
    const other = new Farloom({ url: fake.url, apiKey: "k.s", endpoint: "laptop" });
    expect(await other.function<[string], string>("f").call([text])).toBe(text);
    await other.close();
    expect(fake.requests.filter((r) => r.method === "HEAD")).toHaveLength(2);
    expect(fake.requests.filter((r) => r.method === "PUT")).toHaveLength(1);
  });

  test("bytes travel with codec msgpack", async () => {
    fake.options.run = (task) => ({ ...json(0), codec: 2, bytes: task.bytes });
    const result = await farloom.function("f").call([new Uint8Array([1, 2, 255])], { codec: "msgpack" });
    expect(result).toEqual([[Buffer.from([1, 2, 255])], {}]);
  });

  test.each([
    [Number.NaN, "args[1].a[0]"],
    [Number.POSITIVE_INFINITY, "args[1].a[0]"],
    [10n, "args[1].a[0]"],
    [() => 1, "args[1].a[0]"],
    [new Map(), "args[1].a[0]"],
    [undefined, "args[1].a[0]"],
    [new Uint8Array(1), "args[1].a[0]"],
  ])("%s is refused, naming its path", (value, path) => {
    expect(() => farloom.function("f").submit([0, { a: [value] }])).toThrow(path);
  });

  test("arguments that refer to themselves are refused", () => {
    const loop: unknown[] = [];
    loop.push(loop);
    expect(() => farloom.function("f").submit([loop])).toThrow("refers to itself");
  });

  test("without an endpoint the error says what to set", () => {
    const client = new Farloom({ url: fake.url, apiKey: "k" });
    expect(() => client.function("f").submit([])).toThrow("FARLOOM_ENDPOINT");
  });
});

describe("ends", () => {
  const detail = {
    error: { type: "ValueError", message: "boom", traceback: "Traceback …" },
    stdout: "out",
    stderr: "err",
  };
  test.each([
    ["FAILED", "user_error", TaskFailedError, "ValueError: boom"],
    ["FAILED", "worker_died", WorkerDiedError, "boom"],
    ["TIMED_OUT", "run_time_limit", TaskTimedOutError, "run time limit"],
    ["CANCELLED", "cancelled_by_user", TaskCancelledError, "cancelled"],
    ["LOST", "agent_lost", TaskLostError, "at_least_once"],
  ] as const)("%s for %s rejects with its own error", async (state, reason, type, message) => {
    fake.options.run = () => ({
      ...cancelled(),
      state: TERMINAL_STATES[state],
      reason: REASONS[reason],
      detail,
    });
    const error = await farloom
      .function("f")
      .call([])
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(type);
    expect((error as Error).message).toContain(message);
    expect(error).toMatchObject({ state, reason, stdout: "out", stderr: "err" });
  });

  test("a pickled result says that only Python reads it", async () => {
    fake.options.run = () => ({ ...json(0), codec: 3 });
    await expect(farloom.function("f").call([])).rejects.toMatchObject({ code: "RESULT_UNREADABLE" });
  });

  test("cancel ends a running task and says so", async () => {
    fake.options.run = () => undefined;
    const handle = farloom.function("f").submit([]);
    await until(() => fake.committed.size === 1);
    expect(await handle.cancel()).toBe(true);
    await expect(handle.result()).rejects.toBeInstanceOf(TaskCancelledError);
  });

  test("a task cancelled in the turn of its submission is never sent", async () => {
    const fn = farloom.function("f");
    await fn.call([]);
    const handle = fn.submit([]);
    expect(await handle.cancel()).toBe(true);
    await fn.call([]);
    expect(fake.committed.size).toBe(2);
  });

  test("aborting the signal cancels the task and rejects the call with the signal's reason", async () => {
    fake.options.run = () => undefined;
    const abort = new AbortController();
    const call = farloom.function("f").call([], { signal: abort.signal });
    await until(() => fake.committed.size === 1);
    abort.abort(new Error("enough"));
    await expect(call).rejects.toThrow("enough");
    await until(() => fake.outcomes.size === 1);
    expect([...fake.outcomes.values()][0]!.state).toBe(TERMINAL_STATES.CANCELLED);
  });
});

describe("map", () => {
  test("all gives the values in the order of the input", async () => {
    const inputs = Array.from({ length: 10_000 }, (_, i): [number] => [i]);
    const values = await farloom.function<[number], number>("f").map(inputs).all();
    expect(values).toEqual(inputs.map(([i]) => i));
  });

  test("asCompleted gives every index once, errors as items", async () => {
    fake.options.run = (task) => {
      const [[n]] = JSON.parse(task.bytes.toString()) as [[number]];
      return n % 2 ? { ...json(0), state: TERMINAL_STATES.FAILED, reason: REASONS.user_error } : json(n);
    };
    const group = farloom.function<[number], number>("f").map([[0], [1], [2], [3]]);
    const seen: unknown[] = [];
    for await (const { index, value, error } of group.asCompleted()) seen.push([index, value, error?.code]);
    expect(seen).toEqual([
      [0, 0, undefined],
      [1, undefined, "TASK_FAILED"],
      [2, 2, undefined],
      [3, undefined, "TASK_FAILED"],
    ]);
    expect(group.progress).toEqual({ done: 2, failed: 2, submitted: 4, total: 4 });
  });

  test("input is read only as far as credit and one frame allow", async () => {
    fake.options.creditTasks = 100;
    let read = 0;
    const endless = function* (): Generator<[number]> {
      for (;;) yield [read++];
    };
    const group = farloom
      .function<[number], number>("f")
      .map(endless(), { endpoint: "00000000-0000-4000-8000-000000000000" });
    await until(() => fake.committed.size === 100);
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(read).toBeLessThanOrEqual(100 + 4096);
    const before = read;
    fake.grant(50);
    await until(() => fake.committed.size === 150);
    expect(read).toBeLessThanOrEqual(before + 50);
    expect(fake.creditOverruns).toBe(0);
    await group.cancel();
  });

  test("endless input with keepResults false is handed out once and let go", async () => {
    const endless = async function* (): AsyncGenerator<[number]> {
      for (let i = 0; ; i++) yield [i];
    };
    const group = farloom.function<[number], number>("f").map(endless(), { keepResults: false });
    let count = 0;
    for await (const { value } of group.asCompleted()) {
      expect(value).toBe(count++);
      if (count === 20_000) break;
    }
    await group.cancel();
  });

  test("an item that cannot be encoded is that item's error", async () => {
    const group = farloom.function<[unknown], number>("f").map([[1], [Number.NaN], [3]]);
    const items = [];
    for await (const { error } of group.results()) items.push(error?.code);
    expect(items).toEqual([undefined, "VALUE_UNENCODABLE", undefined]);
  });

  test("a function that does not exist ends the map with that error", async () => {
    fake.rest = (_, url) =>
      url.startsWith("/v1/functions/")
        ? { status: 404, body: { code: "FUNCTION_NOT_FOUND", detail: "There is no function f." } }
        : undefined;
    const group = farloom.function<[number], number>("f").map(Array.from({ length: 5000 }, () => [1]));
    await expect(group.all()).rejects.toMatchObject({ code: "FUNCTION_NOT_FOUND" });
  });

  test("progress is told at most once a turn", async () => {
    const group = farloom.function<[number], number>("f").map(Array.from({ length: 1000 }, (_, i) => [i]));
    const told: number[] = [];
    group.onProgress((p) => told.push(p.done));
    await group.all();
    await until(() => told.at(-1) === 1000);
    expect(told.length).toBeLessThan(20);
  });

  test("a handle of a map can be asked like any other", async () => {
    const group = farloom.function<[number], number>("f").map([[5]]);
    for await (const { handle } of group.asCompleted()) {
      expect(await handle.result()).toBe(5);
      expect(handle.outcome).toMatchObject({ state: "SUCCEEDED", runUs: 2 });
      expect(handle.group).toBe(group.id);
    }
  });
});

describe("close", () => {
  test("close waits until what was submitted is durable, and refuses what comes later", async () => {
    fake.options.run = () => undefined;
    const fn = farloom.function("f");
    fn.submit([]);
    await farloom.close();
    expect(fake.committed.size).toBe(1);
    expect(() => fn.submit([])).toThrow("closed");
  });

  test("a result that is still awaited at the end of close rejects, and says that the task runs on", async () => {
    fake.options.run = () => undefined;
    const call = farloom.function("f").call([]);
    const rejected = expect(call).rejects.toMatchObject({ code: "CLIENT_CLOSED" });
    await until(() => fake.committed.size === 1);
    await farloom.close({ timeoutMs: 20 });
    await rejected;
  });
});
