// Registering, naming, listing and removing functions over REST.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
beforeAll(async () => {
  rest = await startRestService();
});
afterAll(() => rest.close());

const base = { name: "f", runtime: "python", code: "def f(): return 1\n" };
const register = (body: object) => rest.api.post("/v1/functions", body);
const get = (ref: string) => rest.api.get(`/v1/functions/${encodeURIComponent(ref)}`);

describe("registering", () => {
  it("fills in what was left out, and gives the same for the same", async () => {
    const first = await register(base);
    expect(first.status).toBe(201);
    expect(first.body).toMatchObject({
      name: "f",
      version: 1,
      ref: "me/f@1",
      entry: "f",
      format: "source",
      mode: "at_most_once",
      timeoutMs: 0,
      retries: 0,
      codeBytes: 18,
    });
    expect(first.body.id).toMatch(/^[0-9a-f]{64}$/);
    const again = await register(base);
    expect(again.status).toBe(200);
    expect(again.body).toEqual(first.body);
    expect((await register({ ...base, name: "g", entry: "f" })).body.id, "a name is no part of the id").toBe(
      first.body.id,
    );
    expect((await register({ ...base, name: "r", retries: 2 })).body.mode).toBe("at_least_once");
  });

  it("gives every change a new version, and the bare name means the one registered last", async () => {
    const v = (n: number) => ({ name: "v", runtime: "node", code: `export function v() { return ${n} }` });
    expect((await register(v(1))).body.version).toBe(1);
    expect((await register(v(2))).body.version).toBe(2);
    expect((await get("v")).body.version).toBe(2);
    expect((await register({ ...v(2), description: "told" })).body.version).toBe(3);
    const back = await register(v(1));
    expect(back).toMatchObject({ status: 200, body: { version: 1 } });
    expect((await get("v")).body.version).toBe(1);
    for (const ref of ["v@2", "me/v@2"]) expect((await get(ref)).body.version, ref).toBe(2);
    expect((await get("me/v")).body.version).toBe(1);
    expect((await get(back.body.id)).body.name).toBe("v");
  });

  it("numbers versions without gaps where many register at once", async () => {
    const replies = await Promise.all(
      Array.from({ length: 12 }, (_, i) =>
        register({ name: "race", runtime: "python", code: `race = ${i}` }),
      ),
    );
    expect(replies.map((r) => r.status)).toEqual(replies.map(() => 201));
    expect(replies.map((r) => r.body.version).sort((a, b) => a - b)).toEqual(replies.map((_, i) => i + 1));
  });

  it("takes pickles in base64 or, in MessagePack, as bytes; and gives code back as it was", async () => {
    const bytes = Buffer.from([0x80, 4, 0, 255]);
    const pickle = { name: "p", runtime: "python", format: "pickle", env: { python: "3.11" } };
    const text = await register({ ...pickle, code: bytes.toString("base64") });
    const packed = await rest.api.post("/v1/functions", { ...pickle, code: bytes }, { msgpack: true });
    expect([text.status, packed.status]).toEqual([201, 200]);
    expect((await rest.api.get("/v1/functions/p/code")).body).toEqual(bytes);
    const source = await rest.api.get("/v1/functions/f/code");
    expect(source.headers.get("content-type")).toContain("text/plain");
    expect(source.body.toString()).toBe(base.code);
  });

  it("takes commands", async () => {
    const { status, body } = await register({
      name: "sort",
      runtime: "command",
      command: { argv: ["sort", "-n"], stdin: "{0}", outputs: ["out/a.txt"] },
    });
    expect(status).toBe(201);
    expect(body).toMatchObject({ command: { argv: ["sort", "-n"] }, entry: "", codeBytes: 0 });
  });

  it.each<[string, object, string]>([
    ["a name with a slash", { name: "a/b" }, "the name"],
    ["a name that looks like an id", { name: "a".repeat(64) }, "taken for an id"],
    ["an entry that is no name", { entry: "f()" }, "the entry"],
    ["an entry with code in it", { entry: "f;import os" }, "the entry"],
    ["a name that is no entry", { name: "f-1" }, "set entry"],
    ["no code", { code: "" }, "code is missing"],
    ["NUL in the source", { code: "a\0b" }, "NUL"],
    ["a pickle that is not base64", { format: "pickle", code: "not base64!" }, "base64"],
    ["a pickle for node", { runtime: "node", format: "pickle", code: "AAAA" }, "only runtime python"],
    ["a command without an argv", { runtime: "command", code: undefined }, "needs a command"],
    ["a command with code", { runtime: "command", command: { argv: ["x"] } }, "has no code"],
    ["a command for python", { command: { argv: ["x"] } }, "only for runtime command"],
    [
      "an output outside",
      { runtime: "command", code: undefined, command: { argv: ["x"], outputs: ["../x"] } },
      "stay inside",
    ],
    ["a variable's name with =", { env: { vars: { "A=B": "1" } } }, "no variable's name"],
    ["a Python version such as 3", { env: { python: "3" } }, "minor version"],
    ["a schema without a type", { argsSchema: {} }, "its type is"],
    [
      "a schema with a regular expression",
      { argsSchema: { type: "array", items: { pattern: "(a+)+$" } } },
      "pattern is not taken",
    ],
    [
      "a schema that refers to itself",
      {
        argsSchema: {
          type: "array",
          items: { $ref: "#/$defs/a" },
          $defs: { a: { items: { $ref: "#/$defs/a" } } },
        },
      },
      "refers to itself",
    ],
    ["more than one GPU and a half", { resources: { gpus: 1.5 } }, "whole ones"],
    ["ranks of no nodes", { resources: { ranks: 4 } }, "go with resources.nodes"],
    [
      "fewer ranks than nodes",
      { resources: { nodes: 3, ranks: 2 } },
      "less than one for each of the 3 nodes",
    ],
    [
      "ranks that are not as many",
      { resources: { nodes: 2, ranks: 5, ranksPerNode: 2 } },
      "2 nodes of 2 ranks",
    ],
    ["a schema that is none", { argsSchema: { type: "array", minItems: "x" } }, "argsSchema"],
  ])("refuses %s", async (_what, more, detail) => {
    const { status, body } = await register({ ...base, ...more });
    expect({ status, code: body.code }).toEqual({ status: 422, code: "FUNCTION_INVALID" });
    expect(body.detail).toContain(detail);
  });

  it("refuses a schema whose references blow up, without trying", async () => {
    const $defs: Record<string, unknown> = { d0: { type: "integer" } };
    for (let i = 1; i <= 40; i++)
      $defs[`d${i}`] = { allOf: [{ $ref: `#/$defs/d${i - 1}` }, { $ref: `#/$defs/d${i - 1}` }] };
    const startedAtMs = performance.now();
    const { body } = await register({
      ...base,
      argsSchema: { type: "array", items: { $ref: "#/$defs/d40" }, $defs },
    });
    expect(body.detail).toContain("subschemas");
    expect(performance.now() - startedAtMs).toBeLessThan(2_000);
  });

  it.each<[string, object]>([
    ["an unknown runtime", { runtime: "ruby" }],
    ["an unknown field", { entrypoint: "f" }],
    ["a time limit of a year", { timeoutMs: 365 * 24 * 3_600_000 }],
    ["half a core", { resources: { cores: 0.5 } }],
    ["no name", { name: undefined }],
    ["variables that are no texts", { env: { vars: { A: 1 } } }],
  ])("finds %s in the request itself", async (_what, more) => {
    expect(await register({ ...base, ...more })).toMatchObject({
      status: 400,
      body: { code: "REQUEST_INVALID" },
    });
  });

  it("refuses more than 1 MiB of code, and code that is neither text nor bytes", async () => {
    expect(await register({ ...base, code: "#".repeat(1024 * 1024 + 1) })).toMatchObject({
      status: 413,
      body: { code: "CODE_TOO_LARGE" },
    });
    for (const code of [7, {}, [1], true, { length: 5 }]) {
      expect(await register({ ...base, code }), JSON.stringify(code)).toMatchObject({
        status: 422,
        body: { code: "FUNCTION_INVALID" },
      });
    }
  });
});

describe("finding and removing", () => {
  it("lists in pages, and looks into names and descriptions for exactly what was asked", async () => {
    for (const name of ["find_a", "find_b", "findXc"])
      await register({ ...base, name, entry: "f", description: `about ${name}, 100%` });
    const names = async (query: string) =>
      (await rest.api.get(`/v1/functions?${query}`)).body.items.map((f: { name: string }) => f.name);
    expect(await names("q=find_")).toEqual(["find_b", "find_a"]);
    expect(await names("q=ABOUT+FIND")).toEqual(["findXc", "find_b", "find_a"]);
    expect(await names("q=100%25")).toHaveLength(3);
    expect(await names("q=%25%25")).toEqual([]);
    const page = await rest.api.get("/v1/functions?q=find&limit=2");
    expect(page.body.items[0]).not.toHaveProperty("code");
    expect(await names(`q=find&limit=2&cursor=${page.body.nextCursor}`)).toEqual(["find_a"]);
  });

  it("removes one version: its names are gone, the version before is meant again, its number is not used again", async () => {
    for (const n of [1, 2]) await register({ name: "gone", runtime: "python", code: `gone = ${n}` });
    expect((await rest.api.delete("/v1/functions/gone@2")).status).toBe(204);
    expect((await get("gone@2")).status).toBe(404);
    expect((await get("gone")).body.version).toBe(1);
    expect((await register({ name: "gone", runtime: "python", code: "gone = 2" })).body.version).toBe(3);
    expect((await rest.api.delete("/v1/functions/gone@2")).status).toBe(404);
  });
});
