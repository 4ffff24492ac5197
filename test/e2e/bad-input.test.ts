/**
 * Functions that do everything wrong, through REST and the SDK, on a real agent with real workers: each task gets the
 * end that is its due, and the next task on the same endpoint works.
 */
import { keyToUuid, type Reason, TaskIdAllocator, type TerminalState } from "@farloom/protocol";
import { Farloom, type FarloomError, type TaskError } from "@farloom/sdk";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import type { RestClient } from "../support/rest-client.js";

const LIMIT_MS = 60_000;
/** As if it had just been made. */
const NOWHERE = keyToUuid(new TaskIdAllocator().next());

interface BadCase {
  readonly name: string;
  readonly code: string;
  readonly args?: readonly unknown[];
  readonly options?: { readonly timeoutMs?: number };
  readonly state: TerminalState;
  readonly reason: Reason;
  /** Of the SDK's error. */
  readonly error: string;
  readonly says: RegExp;
}

const CASES: readonly BadCase[] = [
  {
    name: "does-not-parse",
    code: "def f(:\n    return 1\n",
    state: "FAILED",
    reason: "function_invalid",
    error: "TASK_FAILED",
    says: /SyntaxError|syntax/,
  },
  {
    name: "has-no-entry",
    code: "def g():\n    return 1\n",
    state: "FAILED",
    reason: "function_invalid",
    error: "TASK_FAILED",
    says: /'?f'?/,
  },
  {
    name: "raises-while-loading",
    code: "raise RuntimeError('at import')\n",
    state: "FAILED",
    reason: "user_error",
    error: "TASK_FAILED",
    says: /at import/,
  },
  {
    name: "imports-what-is-missing",
    code: "import no_such_module\ndef f():\n    return 1\n",
    state: "FAILED",
    reason: "environment",
    error: "TASK_FAILED",
    says: /no_such_module/,
  },
  {
    name: "raises",
    code: "def f():\n    raise ValueError('no such thing')\n",
    state: "FAILED",
    reason: "user_error",
    error: "TASK_FAILED",
    says: /ValueError.*no such thing/,
  },
  {
    name: "asks-to-exit",
    code: "import sys\ndef f():\n    sys.exit(3)\n",
    state: "FAILED",
    reason: "user_error",
    error: "TASK_FAILED",
    says: /SystemExit/,
  },
  {
    name: "recurses",
    code: "def f():\n    return f()\n",
    state: "FAILED",
    reason: "user_error",
    error: "TASK_FAILED",
    says: /RecursionError/,
  },
  {
    name: "returns-nan",
    code: "def f():\n    return float('nan')\n",
    state: "FAILED",
    reason: "result_invalid",
    error: "TASK_FAILED",
    says: /JSON/i,
  },
  {
    name: "returns-an-object",
    code: "def f():\n    return object()\n",
    state: "FAILED",
    reason: "result_invalid",
    error: "TASK_FAILED",
    says: /JSON|object/i,
  },
  {
    name: "returns-too-deep",
    code: "def f():\n    x = []\n    for _ in range(100000):\n        x = [x]\n    return x\n",
    state: "FAILED",
    reason: "result_invalid",
    error: "TASK_FAILED",
    says: /deep|nest|recursion/i,
  },
  {
    name: "gets-wrong-arguments",
    code: "def f(a, b):\n    return a + b\n",
    args: [1],
    state: "FAILED",
    reason: "arguments_invalid",
    error: "TASK_FAILED",
    says: /argument/,
  },
  {
    name: "exits-the-worker",
    code: "import os\ndef f():\n    os._exit(7)\n",
    state: "FAILED",
    reason: "worker_died",
    error: "WORKER_DIED",
    says: /7/,
  },
  {
    name: "kills-the-worker",
    code: "import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    state: "FAILED",
    reason: "worker_died",
    error: "WORKER_DIED",
    says: /SIGKILL/,
  },
  {
    name: "never-returns",
    code: "import time\ndef f():\n    while True:\n        time.sleep(1)\n",
    options: { timeoutMs: 500 },
    state: "TIMED_OUT",
    reason: "run_time_limit",
    error: "TASK_TIMED_OUT",
    says: /time limit/,
  },
  {
    name: "never-returns-and-hears-no-signal",
    code: "import signal\ndef f():\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True:\n        pass\n",
    options: { timeoutMs: 500 },
    state: "TIMED_OUT",
    reason: "run_time_limit",
    error: "TASK_TIMED_OUT",
    says: /time limit/,
  },
];

let fabric: Fabric;
let service: ServiceProcess;
let api: RestClient;
let farloom: Farloom;

beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  api = fabric.api(service.url);
  await fabric.agent(service.url, "bad", ["--workers", "1", "--kill-grace-ms", "500"]);
  farloom = new Farloom({ url: service.url, apiKey: fabric.key, endpoint: "bad" });
  await register("sane", "def f(a, b):\n    return a * b\n");
  await register("echo", "def f(value):\n    return value\n");
}, LIMIT_MS);

afterEach(async () => {
  expect(await farloom.function("sane").call([6, 7])).toBe(42);
});

afterAll(async () => {
  await farloom?.close({ timeoutMs: 1_000 });
  await fabric?.close();
}, LIMIT_MS);

async function register(name: string, code: string): Promise<void> {
  const made = await api.post("/v1/functions", { name, runtime: "python", code, entry: "f" });
  expect(made.status, JSON.stringify(made.body)).toBe(201);
}

const call = (name: string, args: readonly unknown[], options = {}) =>
  api.post("/v1/tasks?wait=20", { function: name, endpoint: "bad", args, options });

describe("a function that", () => {
  for (const bad of CASES) {
    it(
      `${bad.name.replaceAll("-", " ")} ends ${bad.state} (${bad.reason}), and says why`,
      async () => {
        await register(bad.name, bad.code);
        const options = bad.options ?? {};
        const reply = await call(bad.name, bad.args ?? [], options);
        expect(reply.status).toBe(200);
        expect(reply.body).toMatchObject({ state: bad.state, reason: bad.reason, attempt: 1 });
        const error = await farloom
          .function(bad.name)
          .call(bad.args ?? [], options)
          .then(
            (value) => expect.fail(`it gave ${JSON.stringify(value)}`),
            (e: TaskError) => e,
          );
        expect(error).toMatchObject({ code: bad.error, state: bad.state, reason: bad.reason });
        expect(error.message).toMatch(bad.says);
      },
      LIMIT_MS,
    );
  }

  it("floods stdout has its result, and the tail of what it wrote", async () => {
    const code = "def f():\n    for i in range(200000):\n        print('line', i)\n    return 'done'\n";
    await register("floods", code);
    const { body } = await call("floods", []);
    expect(body).toMatchObject({ state: "SUCCEEDED", result: "done" });
    const handle = farloom.function("floods").submit([]);
    expect(await handle.result()).toBe("done");
    const stdout = handle.outcome?.stdout;
    expect(stdout).toMatch(/line 199999\n$/);
    expect(Buffer.byteLength(stdout!)).toBeLessThanOrEqual(64 * 1024);
  });

  it("writes garbage to every file descriptor costs at most its own worker", async () => {
    const code = [
      "import os",
      "def f():",
      "    for fd in range(1, 64):",
      "        try:",
      "            os.write(fd, b'\\xff\\x00garbage' * 100)",
      "        except OSError:",
      "            pass",
      "    return 'written'",
    ].join("\n");
    await register("garbage", code);
    const { body } = await call("garbage", []);
    expect(["SUCCEEDED", "FAILED"]).toContain(body.state);
    if (body.state === "FAILED") expect(body.reason).toBe("worker_died");
  });

  it("closes every file descriptor costs at most its own worker", async () => {
    await register("closes", "import os\ndef f():\n    os.closerange(0, 256)\n    return 1\n");
    const { body } = await call("closes", []);
    expect(body).toMatchObject({ state: "FAILED", reason: "worker_died" });
  });

  it("forks has one result, and its children end with it or by themselves", async () => {
    const code = [
      "import os, time",
      "def f():",
      "    for _ in range(3):",
      "        if os.fork() == 0:",
      "            time.sleep(0.2)",
      "            os._exit(0)",
      "    return os.getpid() > 0",
    ].join("\n");
    await register("forks", code);
    const { body } = await call("forks", []);
    expect(body).toMatchObject({ state: "SUCCEEDED", result: true, attempt: 1 });
  });

  it("whose child returns into the worker's own code disturbs nobody", async () => {
    await register(
      "forks-badly",
      "import os\ndef f():\n    return 'child' if os.fork() == 0 else 'parent'\n",
    );
    const { body } = await call("forks-badly", []);
    if (body.state === "SUCCEEDED") expect(body.result).toBe("parent");
    else expect(body).toMatchObject({ state: "FAILED", reason: "worker_died" });
    const values = await Promise.all(
      Array.from({ length: 50 }, (_, i) => farloom.function("sane").call([i, i])),
    );
    expect(values).toEqual(Array.from({ length: 50 }, (_, i) => i * i));
  });

  it("gives large or strange but honest values gives them back unchanged", async () => {
    const values = [
      null,
      "",
      "\u0000\ud83d\ude00 \u2028",
      -0.5,
      2 ** 53 - 1,
      [[]],
      { "": { a: [1] } },
      "x".repeat(300_000),
    ];
    for (const value of values) expect(await farloom.function("echo").call([value])).toEqual(value);
  });
});

describe("an id that is nobody's, or another owner's,", () => {
  const codeOf = (reply: { body: { code: string } }) => reply.body.code;

  it("is not found, whatever is asked of it", async () => {
    const calls = { args: [1, 2] };
    expect(codeOf(await api.get(`/v1/tasks/${NOWHERE}`))).toBe("TASK_NOT_FOUND");
    expect(codeOf(await api.get(`/v1/tasks/${NOWHERE}/result`))).toBe("TASK_NOT_FOUND");
    expect(codeOf(await api.post(`/v1/tasks/${NOWHERE}/cancel`))).toBe("TASK_NOT_FOUND");
    expect(codeOf(await api.post("/v1/tasks", { function: "nope", endpoint: "bad", ...calls }))).toBe(
      "FUNCTION_NOT_FOUND",
    );
    expect(codeOf(await api.post("/v1/tasks", { function: "sane", endpoint: "nope", ...calls }))).toBe(
      "ENDPOINT_NOT_FOUND",
    );
    const failed = (work: Promise<unknown>) =>
      work.then(
        () => "none",
        (e: FarloomError) => e.code,
      );
    expect(await failed(farloom.function("nope").call([]))).toBe("FUNCTION_NOT_FOUND");
    expect(await failed(farloom.function("sane").call([1, 2], { endpoint: "nope" }))).toBe(
      "ENDPOINT_NOT_FOUND",
    );
    expect(await failed(farloom.function("sane").call([1, 2], { endpoint: NOWHERE }))).toBe(
      "ENDPOINT_NOT_FOUND",
    );
    expect(await failed(farloom.task(NOWHERE).result())).toBe("TASK_NOT_FOUND");
  });

  it("looks the same to a stranger as one that is not there", async () => {
    const task = await call("sane", [2, 3]);
    const stranger = fabric.api(service.url, await fabric.keyOf(service.url, "stranger"));
    const id = task.body.id as string;
    for (const path of [`/v1/tasks/${id}`, `/v1/tasks/${id}/result`, `/v1/groups/${task.body.group}`]) {
      const theirs = await stranger.get(path);
      expect(theirs.status, path).toBe(404);
    }
    expect(codeOf(await stranger.post(`/v1/tasks/${id}/cancel`))).toBe("TASK_NOT_FOUND");
    const { body: fn } = await api.get("/v1/functions/sane");
    const { body: endpoint } = await api.get("/v1/endpoints/bad");
    const submit = (f: string, e: string) =>
      stranger.post("/v1/tasks", { function: f, endpoint: e, args: [1, 2] });
    expect(codeOf(await submit(fn.id, endpoint.id))).toMatch(/^(FUNCTION|ENDPOINT)_NOT_FOUND$/);
    await stranger.post("/v1/functions", {
      name: "own",
      runtime: "python",
      code: "def own():\n    pass\n",
    });
    expect(codeOf(await submit("own", endpoint.id))).toBe("ENDPOINT_NOT_FOUND");
    expect((await api.get(`/v1/tasks/${id}`)).body).toMatchObject({ state: "SUCCEEDED", result: 6 });
  });
});
