// Tasks over REST on a whole service: submitting in all forms, waiting, reading, cancelling, idempotency.
import { createHash, randomBytes } from "node:crypto";
import { CODEC_REFERENCE, CODECS, decodeReference, encodeValue, keyToUuid } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Answer, FakeAgent, type GivenTask } from "../support/fake-agent.js";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
let agent: FakeAgent;
/** Every task that reached the agent, by id. */
const seen = new Map<string, GivenTask[]>();

/** Answers by the first argument, so that a test says in its call what shall happen. */
function answer(task: GivenTask): Answer | undefined {
  const id = keyToUuid(task.key);
  seen.set(id, [...(seen.get(id) ?? []), task]);
  if (task.codec !== CODECS.json) return { value: { codec: task.codec, bytes: task.bytes.length } };
  const [args] = JSON.parse(task.bytes.toString()) as [unknown[], unknown];
  switch (args[0]) {
    case "never":
      return undefined;
    case "fail":
      return {
        state: "FAILED",
        reason: "user_error",
        detail: {
          error: { type: "ValueError", message: "no", traceback: "Traceback…" },
          stdout: "said",
          stderr: "cried",
        },
      };
    case "pickle":
      return { bytes: Buffer.from([0x80, 4, 0x4e, 0x2e]), codec: CODECS.pickle };
    case "msgpack":
      return { bytes: encodeValue({ raw: Buffer.from("bytes") }), codec: CODECS.msgpack };
    case "deep":
      return { bytes: Buffer.from("[".repeat(5_000) + "]".repeat(5_000)) };
    default:
      return { value: args[0] ?? null, detail: { stdout: "hello\n" } };
  }
}

beforeAll(async () => {
  rest = await startRestService();
  agent = await FakeAgent.start(rest.api, "laptop", answer);
  const { status } = await rest.api.post("/v1/functions", {
    name: "echo",
    runtime: "python",
    code: "def echo(x): return x\n",
  });
  expect(status).toBe(201);
  await rest.api.post("/v1/endpoints", { name: "nowhere" });
});
afterAll(async () => {
  await agent.close();
  await rest.close();
});

const call = (args: unknown[], more: object = {}) => ({
  function: "echo",
  endpoint: "laptop",
  args,
  ...more,
});

describe("submitting", () => {
  it("answers one call with its result in one request", async () => {
    const { status, body } = await rest.api.post(
      "/v1/tasks?wait=20",
      call([{ deep: [1, null, "ü"] }], { kwargs: { k: 1 } }),
    );
    expect(status).toBe(200);
    expect(body).toMatchObject({
      state: "SUCCEEDED",
      result: { deep: [1, null, "ü"] },
      resultCodec: "json",
      function: "me/echo@1",
      endpointName: "laptop",
      attempt: 1,
      stdout: "hello\n",
      times: { queueMs: 1.5, runMs: 2.5, cpuMs: 2 },
    });
    expect(JSON.parse(seen.get(body.id)![0]!.bytes.toString())).toEqual([
      [{ deep: [1, null, "ü"] }],
      { k: 1 },
    ]);
  });

  it("answers without wait as soon as the task is committed", async () => {
    const { status, body } = await rest.api.post("/v1/tasks", call([1]));
    expect(status).toBe(202);
    const { rowCount } = await rest.database.pool.query("SELECT 1 FROM task WHERE id = $1", [body.id]);
    expect(rowCount).toBe(1);
    expect((await rest.api.get(`/v1/tasks/${body.id}?wait=20`)).body).toMatchObject({
      state: "SUCCEEDED",
      result: 1,
    });
  });

  it("keeps the order of many calls in ids and in tasks", async () => {
    const calls = Array.from({ length: 150 }, (_, i) => ({ args: [i] }));
    const { status, body } = await rest.api.post("/v1/tasks?wait=20", {
      function: "echo",
      endpoint: "laptop",
      calls,
    });
    expect(status).toBe(200);
    expect(body.ids).toEqual(body.tasks.map((t: { id: string }) => t.id));
    expect(body.tasks.map((t: { result: number }) => t.result)).toEqual(calls.map((_, i) => i));
    expect((await rest.api.get(`/v1/groups/${body.group}`)).body).toMatchObject({
      total: 150,
      open: 0,
      states: { SUCCEEDED: 150 },
    });
  });

  it("takes tasks for several endpoints and keeps their order", async () => {
    const tasks = [call(["a"]), { ...call(["b"]), endpoint: "nowhere" }, call(["c"])];
    const { status, body } = await rest.api.post("/v1/tasks", { tasks });
    expect(status).toBe(202);
    const { body: now } = await rest.api.post("/v1/tasks/status", {
      ids: [body.ids[0], body.ids[2]],
      wait: 20,
      results: true,
    });
    expect(now.tasks.map((t: { result: string }) => t.result)).toEqual(["a", "c"]);
    const { body: away } = await rest.api.get(`/v1/tasks/${body.ids[1]}`);
    expect(away).toMatchObject({ state: "QUEUED", endpointName: "nowhere", waiting: { for: "endpoint" } });
    expect(away.waiting.message).toContain("never connected");
  });

  it("puts arguments above 64 KiB into a payload file by itself", async () => {
    const large = "x".repeat(100_000);
    const { body } = await rest.api.post("/v1/tasks?wait=20", call([large]));
    expect(body).toMatchObject({
      state: "SUCCEEDED",
      result: { codec: CODECS.json | CODEC_REFERENCE, bytes: 40 },
    });
    const { digest, sizeBytes } = decodeReference(seen.get(body.id)![0]!.bytes)!;
    const file = await rest.api.get(`/v1/payloads/${digest.toString("hex")}`);
    expect(file.body.length).toBe(sizeBytes);
    expect(JSON.parse(file.body.toString())).toEqual([[large], {}]);
  });

  it("takes a reference to a payload that is there, and refuses one that is not", async () => {
    const bytes = Buffer.from(JSON.stringify([[7], {}]));
    const digest = createHash("sha256").update(bytes).digest("hex");
    const payload = { digest, codec: "json" };
    const before = await rest.api.post("/v1/tasks", { function: "echo", endpoint: "laptop", payload });
    expect(before).toMatchObject({ status: 404, body: { code: "PAYLOAD_NOT_FOUND" } });
    await rest.api.call("PUT", `/v1/payloads/${digest}`, { raw: bytes });
    const { status } = await rest.api.post("/v1/tasks?wait=20", {
      function: "echo",
      endpoint: "laptop",
      payload,
    });
    expect(status).toBe(200);
    const wrongSize = { ...payload, size: 1 };
    expect(
      (await rest.api.post("/v1/tasks", { function: "echo", endpoint: "laptop", payload: wrongSize })).body
        .code,
    ).toBe("ARGUMENTS_INVALID");
  });

  it("keeps JSON arguments of a MessagePack body as JSON, and bytes as MessagePack", async () => {
    const plain = await rest.api.post("/v1/tasks?wait=20", call([[1, "a"]]), { msgpack: true });
    expect(plain.headers.get("content-type")).toContain("msgpack");
    expect(plain.body).toMatchObject({ state: "SUCCEEDED", result: [1, "a"] });
    const binary = await rest.api.post("/v1/tasks?wait=20", call([Buffer.from("raw")]), { msgpack: true });
    expect(binary.body.result).toMatchObject({ codec: CODECS.msgpack });
    const nan = await rest.api.post("/v1/tasks?wait=20", call([Number.NaN]), { msgpack: true });
    expect(nan.body.result).toMatchObject({ codec: CODECS.msgpack });
  });

  it("puts single calls into the default group and takes a group that was made", async () => {
    const [a, b] = [await rest.api.post("/v1/tasks", call([1])), await rest.api.post("/v1/tasks", call([2]))];
    expect(a.body.group).toBe(b.body.group);
    const { body: group } = await rest.api.post("/v1/groups", { name: "mine" });
    const { body } = await rest.api.post("/v1/tasks", call([3], { group: group.id }));
    expect(body.group).toBe(group.id);
    expect((await rest.api.get(`/v1/groups/${group.id}`)).body).toMatchObject({ name: "mine", total: 1 });
    const unknown = await rest.api.post(
      "/v1/tasks",
      call([3], { group: "00000000-0000-7000-8000-000000000000" }),
    );
    expect(unknown).toMatchObject({ status: 404, body: { code: "GROUP_NOT_FOUND" } });
  });

  it("checks arguments against the function's schema before anything is kept", async () => {
    await rest.api.post("/v1/functions", {
      name: "typed",
      runtime: "python",
      code: "def typed(n): return n\n",
      argsSchema: { type: "array", prefixItems: [{ type: "integer" }], minItems: 1, maxItems: 1 },
    });
    const submit = (more: object) =>
      rest.api.post("/v1/tasks", { function: "typed", endpoint: "laptop", ...more });
    expect((await submit({ args: [1] })).status).toBe(202);
    for (const wrong of [{ args: ["1"] }, { args: [] }, { args: [1, 2] }, { args: [1], kwargs: { n: 1 } }]) {
      expect(await submit(wrong)).toMatchObject({ status: 422, body: { code: "ARGUMENTS_INVALID" } });
    }
  });
});

describe("what is refused", () => {
  it.each([
    ["an unknown field", { ...call([1]), functon: "echo" }, 'unknown field "functon"'],
    ["an unknown option", call([1], { options: { timeout: 5 } }), 'unknown field "timeout"'],
    ["a negative time limit", call([1], { options: { timeoutMs: -1 } }), "timeoutMs"],
    ["a text for a number", call([1], { options: { retries: "3" } }), "retries"],
    ["args that are no list", { ...call([]), args: { a: 1 } }, "args"],
    ["no endpoint", { function: "echo", args: [] }, "no endpoint"],
    ["no function", { endpoint: "laptop", args: [] }, "no function"],
    ["calls beside args", { ...call([1]), calls: [{ args: [1] }] }, "stand in each call"],
    ["tasks beside a function", { function: "echo", tasks: [call([1])] }, "stands alone"],
    ["no calls at all", { function: "echo", endpoint: "laptop", calls: [] }, "calls"],
    ["a group that is no UUID", call([1], { group: "mine" }), "group"],
  ])("%s", async (_what, body, detail) => {
    const reply = await rest.api.post("/v1/tasks", body);
    expect(reply).toMatchObject({ status: 400, body: { code: "REQUEST_INVALID", retryable: false } });
    expect(reply.body.detail).toContain(detail);
    expect(reply.headers.get("content-type")).toContain("application/problem+json");
  });

  it.each([
    ["NaN", '{"function":"echo","endpoint":"laptop","args":[NaN]}', 400, "JSON_INVALID"],
    ["half a body", '{"function":"echo"', 400, "JSON_INVALID"],
    [
      "__proto__",
      '{"function":"echo","endpoint":"laptop","kwargs":{"__proto__":{"a":1}}}',
      400,
      "JSON_INVALID",
    ],
    ["nesting of 200,000", `{"args":${"[".repeat(200_000)}${"]".repeat(200_000)}}`, 400, "BODY_TOO_DEEP"],
    ["17 MiB", `{"args":["${"x".repeat(17 * 1024 * 1024)}"]}`, 413, "BODY_TOO_LARGE"],
    ["nothing", "", 400, "REQUEST_INVALID"],
    ["null", "null", 400, "REQUEST_INVALID"],
  ])("a body of %s", async (_what, raw, status, code) => {
    const reply = await rest.api.call("POST", "/v1/tasks", {
      raw,
      headers: { "content-type": "application/json" },
    });
    expect(reply).toMatchObject({ status, body: { code } });
  });

  it("other media types, malformed MessagePack, and text where MessagePack was said", async () => {
    const send = (raw: string | Buffer, type: string) =>
      rest.api.call("POST", "/v1/tasks", { raw, headers: { "content-type": type } });
    expect(await send("a=b", "application/x-www-form-urlencoded")).toMatchObject({
      status: 415,
      body: { code: "MEDIA_TYPE_UNSUPPORTED" },
    });
    expect(await send("{}", "text/plain")).toMatchObject({ status: 415 });
    expect(await send(Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff]), "application/msgpack")).toMatchObject({
      status: 400,
      body: { code: "BODY_INVALID" },
    });
    expect(await send(Buffer.alloc(1_000, 0x91), "application/msgpack")).toMatchObject({
      status: 400,
      body: { code: "BODY_TOO_DEEP" },
    });
    expect(await send(randomBytes(100), "application/msgpack")).toMatchObject({ status: 400 });
  });

  it("unknown functions and endpoints, by every kind of name", async () => {
    for (const fn of ["nope", "echo@9", "you/echo", "me/echo@2", "f".repeat(64), "a/b/c"]) {
      expect(await rest.api.post("/v1/tasks", { ...call([1]), function: fn })).toMatchObject({
        status: 404,
        body: { code: "FUNCTION_NOT_FOUND" },
      });
    }
    for (const endpoint of ["nope", "00000000-0000-7000-8000-000000000000"]) {
      expect(await rest.api.post("/v1/tasks", { ...call([1]), endpoint })).toMatchObject({
        status: 404,
        body: { code: "ENDPOINT_NOT_FOUND" },
      });
    }
  });

  it("ids that are no ids, waits that are too long, and cursors of others", async () => {
    for (const path of [
      "/v1/tasks/x",
      "/v1/tasks/x/result",
      "/v1/tasks?wait=1",
      "/v1/tasks?cursor=abc",
      "/v1/tasks?limit=0",
      "/v1/tasks?state=DONE",
      "/v1/groups?cursor=1",
    ]) {
      expect(await rest.api.get(path), path).toMatchObject({
        status: 400,
        body: { code: "REQUEST_INVALID" },
      });
    }
    expect((await rest.api.post("/v1/tasks?wait=301", call([1]))).status).toBe(400);
    expect((await rest.api.get("/v1/tasks/%ff")).status).toBe(400);
    expect((await rest.api.get("/v1/nothing")).body.code).toBe("ROUTE_NOT_FOUND");
  });
});

describe("Idempotency-Key", () => {
  const headers = (key: string) => ({ headers: { "idempotency-key": key } });

  it("gives the same ids for the same body, and runs the tasks once", async () => {
    const body = { function: "echo", endpoint: "laptop", calls: [{ args: ["once"] }, { args: ["twice"] }] };
    const first = await rest.api.post("/v1/tasks?wait=20", body, headers("k1"));
    const again = await rest.api.post("/v1/tasks?wait=20", body, headers("k1"));
    expect(again.body.ids).toEqual(first.body.ids);
    expect(again.body.group).toBe(first.body.group);
    expect(first.body.ids.map((id: string) => seen.get(id)!.length)).toEqual([1, 1]);
    const single = await Promise.all(
      Array.from({ length: 20 }, () => rest.api.post("/v1/tasks?wait=20", call(["one"]), headers("k2"))),
    );
    expect(single.map((r) => r.status)).toEqual(single.map(() => 200));
    expect(new Set(single.map((r) => r.body.id)).size).toBe(1);
    expect(seen.get(single[0]!.body.id)!.length).toBe(1);
  });

  it("refuses another body under the same key", async () => {
    await rest.api.post("/v1/tasks", call([1]), headers("k3"));
    const other = await rest.api.post("/v1/tasks", call([2]), headers("k3"));
    expect(other).toMatchObject({ status: 409, body: { code: "IDEMPOTENCY_MISMATCH" } });
  });

  it("is not used up by a submission that was refused", async () => {
    await rest.api.post("/v1/tasks", { ...call([1]), endpoint: "later" }, headers("k4"));
    expect((await rest.api.post("/v1/tasks", call([1]), headers("k4"))).status).toBe(202);
  });

  it("submits the same tasks where the first request ended between its record and its tasks", async () => {
    const body = { tasks: [call(["s1"]), { ...call(["s2"]), endpoint: "nowhere" }] };
    const first = await rest.api.post("/v1/tasks", body, headers("k5"));
    const { pool } = rest.database;
    await rest.api.post("/v1/tasks/status", { ids: [first.body.ids[0]], wait: 20 });
    await pool.query("DELETE FROM task WHERE id = $1", [first.body.ids[1]]);
    const again = await rest.api.post("/v1/tasks", body, headers("k5"));
    expect(again.body).toEqual(first.body);
    expect((await pool.query("SELECT 1 FROM task WHERE id = $1", [first.body.ids[1]])).rowCount).toBe(1);
    expect(seen.get(first.body.ids[0])!.length).toBe(1);
  });
});

describe("reading", () => {
  it("shows a failure with its error, traceback and output", async () => {
    const { status, body } = await rest.api.post("/v1/tasks?wait=20", call(["fail"]));
    expect(status).toBe(200);
    expect(body).toMatchObject({
      state: "FAILED",
      reason: "user_error",
      error: { type: "ValueError", message: "no", traceback: "Traceback…" },
      stdout: "said",
      stderr: "cried",
    });
    expect(body).not.toHaveProperty("result");
    const { body: list } = await rest.api.get("/v1/tasks?state=FAILED");
    expect(list.items[0].error).toEqual({ type: "ValueError", message: "no" });
    expect(await rest.api.get(`/v1/tasks/${body.id}/result`)).toMatchObject({
      status: 409,
      body: { code: "RESULT_NONE" },
    });
  });

  it("gives results in their own media type, and what it cannot decode in base64 or as bytes", async () => {
    const { body } = await rest.api.post("/v1/tasks?wait=20", call(["pickle"]));
    expect(body).toMatchObject({ resultCodec: "pickle", resultBytes: "gAROLg==" });
    const raw = await rest.api.get(`/v1/tasks/${body.id}/result`);
    expect(raw.headers.get("content-type")).toBe("application/octet-stream");
    expect(raw.headers.get("farloom-codec")).toBe("pickle");
    expect(raw.body).toEqual(Buffer.from([0x80, 4, 0x4e, 0x2e]));
    const packed = await rest.api.post("/v1/tasks?wait=20", call(["msgpack"]), { msgpack: true });
    expect(packed.body.result).toEqual({ raw: Buffer.from("bytes") });
    const deep = await rest.api.post("/v1/tasks?wait=20", call(["deep"]));
    expect(deep.body.resultBytes.length).toBeGreaterThan(10_000);
  });

  it("lists the newest first, in pages, by every filter", async () => {
    const { body: group } = await rest.api.post("/v1/groups", { name: "pages" });
    const calls = Array.from({ length: 7 }, (_, i) => ({ args: [i === 3 ? "fail" : i] }));
    const { body: made } = await rest.api.post("/v1/tasks?wait=20", {
      function: "echo",
      endpoint: "laptop",
      group: group.id,
      calls,
    });
    const ids: string[] = [];
    let cursor: string | undefined;
    do {
      const { body } = await rest.api.get(
        `/v1/tasks?group=${group.id}&limit=3${cursor ? `&cursor=${cursor}` : ""}`,
      );
      ids.push(...body.items.map((t: { id: string }) => t.id));
      cursor = body.nextCursor;
    } while (cursor);
    expect(new Set(ids)).toEqual(new Set(made.ids));
    expect(ids.length).toBe(7);
    const count = async (query: string) =>
      (await rest.api.get(`/v1/tasks?group=${group.id}&${query}`)).body.items.length;
    expect(await count("state=FAILED")).toBe(1);
    expect(await count("state=SUCCEEDED,FAILED")).toBe(7);
    expect(await count("state=QUEUED,LEASED,STARTED")).toBe(0);
    expect(await count("endpoint=laptop&function=echo@1")).toBe(7);
    expect(await count("endpoint=nowhere")).toBe(0);
  });

  it("lists by live state what is with the agent", async () => {
    const { body } = await rest.api.post("/v1/tasks", call(["never"]));
    await expect.poll(async () => (await rest.api.get(`/v1/tasks/${body.id}`)).body.state).toBe("LEASED");
    const { body: list } = await rest.api.get("/v1/tasks?state=LEASED");
    expect(list.items.map((t: { id: string }) => t.id)).toContain(body.id);
  });

  it("ends a wait in time, with the task as it is", async () => {
    const startedAtMs = performance.now();
    const { status, body } = await rest.api.post("/v1/tasks?wait=0.3", call(["never"]));
    expect(status).toBe(202);
    expect(["QUEUED", "LEASED"]).toContain(body.state);
    expect(performance.now() - startedAtMs).toBeGreaterThan(250);
    expect(await rest.api.get(`/v1/tasks/${body.id}/result`)).toMatchObject({
      status: 409,
      body: { code: "RESULT_NOT_READY", retryable: true },
    });
  });

  it("tells a task that its retention took from one that never was", async () => {
    const [old, never] = ["00000000-0001-8000-8000-000000000000", "00000000-0001-8000-8000-000000000001"];
    await rest.database.pool.query(
      `INSERT INTO tombstone (task_id, owner_id, state, reason, finished_at)
       SELECT $1, id, 2, 1, '2026-01-02T03:04:05Z' FROM owner LIMIT 1`,
      [old],
    );
    const expired = await rest.api.get(`/v1/tasks/${old}`);
    expect(expired).toMatchObject({ status: 410, body: { code: "TASK_EXPIRED" } });
    expect(expired.body.detail).toContain("FAILED at 2026-01-02T03:04:05.000Z");
    expect(await rest.api.get(`/v1/tasks/${old}/result`)).toMatchObject({ status: 410 });
    expect(await rest.api.get(`/v1/tasks/${never}`)).toMatchObject({ status: 404 });
    const { body } = await rest.api.post("/v1/tasks/status", { ids: [old] });
    expect(body).toEqual({ tasks: [], missing: [old] });
  });
});

describe("cancelling", () => {
  it("ends what has not been sent at once, and says so of what had ended", async () => {
    const { body } = await rest.api.post("/v1/tasks", { ...call([1]), endpoint: "nowhere" });
    const cancelled = await rest.api.post(`/v1/tasks/${body.id}/cancel`);
    expect(cancelled).toMatchObject({
      status: 202,
      body: { state: "CANCELLED", reason: "cancelled_by_user" },
    });
    const again = await rest.api.post(`/v1/tasks/${body.id}/cancel`);
    expect(again).toMatchObject({ status: 409, body: { code: "NOT_CANCELLABLE" } });
    expect(again.body.detail).toContain("CANCELLED");
  });

  it("marks what is with the agent as asked to stop", async () => {
    const { body } = await rest.api.post("/v1/tasks", call(["never"]));
    await expect.poll(async () => (await rest.api.get(`/v1/tasks/${body.id}`)).body.state).toBe("LEASED");
    expect((await rest.api.post(`/v1/tasks/${body.id}/cancel`)).body).toMatchObject({
      cancelRequested: true,
    });
  });

  it("takes ids, or all of a group", async () => {
    const calls = Array.from({ length: 5 }, () => ({ args: [1] }));
    const { body } = await rest.api.post("/v1/tasks", { function: "echo", endpoint: "nowhere", calls });
    const missing = "00000000-0001-8000-8000-000000000000";
    expect((await rest.api.post("/v1/tasks/cancel", { ids: [body.ids[0], missing] })).body).toEqual({
      requested: 1,
      finished: 0,
      missing: [missing],
    });
    expect((await rest.api.post("/v1/tasks/cancel", { group: body.group })).body).toEqual({
      requested: 4,
      finished: 1,
      missing: [],
    });
    expect((await rest.api.get(`/v1/groups/${body.group}`)).body.states).toEqual({ CANCELLED: 5 });
    expect((await rest.api.post("/v1/tasks/cancel", {})).status).toBe(400);
  });
});
