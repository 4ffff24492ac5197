/**
 * Whatever is sent is answered in our words, or not at all: bytes that are no HTTP, paths that are no paths, methods that a
 * route does not have, bodies made to cost. A refusal is a problem document with its headers for browsers, and tells
 * neither of what it is made nor what was sent. (Credentials: forged-credentials.test.ts. Frames: frame-fuzz.test.ts.
 * Bodies that are too deep, too large or no JSON: integration/rest-tasks.test.ts.)
 */
import { ERRORS, encodeValue, limits } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { agentToken } from "../support/fake-agent.js";
import { type RestService, startRestService } from "../support/rest-service.js";
import { type RawReply, raw, upgradeLines } from "./raw-http.js";

let rest: RestService;
let host: string;
let endpoint: EchoEndpoint;
/** Of the API page, with ids that nobody has. */
let routes: { method: string; path: string; isPage: boolean }[];

beforeAll(async () => {
  rest = await startRestService({ failedAuthPerMinute: 1_000_000 });
  host = new URL(rest.url).host;
  endpoint = await makeEchoEndpoint(rest.api, "lab");
  const { paths } = (await rest.api.get("/openapi.json")).body;
  routes = Object.entries<Record<string, { responses: Record<string, { content?: object }> }>>(paths).flatMap(
    ([path, methods]) =>
      Object.entries(methods).map(([method, { responses }]) => ({
        method: method.toUpperCase(),
        path: path
          .replace("{id}", "0197f000-0000-7000-8000-000000000001")
          .replace("{digest}", "0".repeat(64))
          .replace(/\{\w+\}/g, "x"),
        isPage: "text/html" in (responses[200]?.content ?? {}),
      })),
  );
}, 60_000);
afterAll(() => rest?.close());

const MARK = "canary-5d1f";
const get = (target: string, method = "GET"): string[] => [`${method} ${target} HTTP/1.1`, `Host: ${host}`];
const bearer = (): string => `Authorization: Bearer ${rest.key}`;

/** Holds an answer to what a refusal is. */
function isRefusal({ status, headers, body }: RawReply, what: string): void {
  expect(headers["content-type"], what).toBe("application/problem+json; charset=utf-8");
  const problem = JSON.parse(body);
  expect(Object.keys(problem).sort(), what).toEqual(
    expect.arrayContaining(["code", "detail", "retryable", "status", "title", "type"]),
  );
  expect(problem.status, what).toBe(status);
  expect(ERRORS[problem.code as keyof typeof ERRORS]?.status, what).toBe(status);
  expect(body, what).not.toMatch(/node_modules|\.[jt]s:\d|\n\s+at |FST_ERR|HPE_|Error:/);
}

/** Nothing runs, nothing is framed, no form and no base leads anywhere. */
function isShut({ headers }: RawReply, what: string): void {
  const policy = headers["content-security-policy"] ?? "";
  for (const directive of ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"])
    expect(policy, what).toContain(directive);
  expect(policy, what).toMatch(/form-action '(none|self)'/);
  expect(headers["x-content-type-options"], what).toBe("nosniff");
  expect(headers["referrer-policy"], what).toMatch(/^(no-referrer|same-origin)$/);
  expect(headers["cache-control"], what).toBe("no-store");
  expect(Object.keys(headers), what).not.toContain("x-powered-by");
  expect(Object.keys(headers), what).not.toContain("server");
}

describe("bytes that are no request", () => {
  it.each<[string, () => string[], string?]>([
    ["no method that there is", () => get("/v1/me", "G@T")],
    ["another version", () => ["GET /v1/me HTTP/9.9", `Host: ${host}`]],
    ["a handshake of TLS", () => ["\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]],
    ["a null byte in a header", () => [...get("/v1/me"), `X-A: ${MARK}\0b`]],
    ["a space before a header's colon", () => [...get("/v1/me"), `X-A : ${MARK}`]],
    ["a header that goes on in the next line", () => [...get("/v1/me"), "X-A: a", ` ${MARK}`]],
    ["two lengths", () => [...get("/v1/groups", "POST"), "Content-Length: 2", "Content-Length: 3"], "{}"],
    [
      "a length, and chunks",
      () => [...get("/v1/groups", "POST"), "Content-Length: 2", "Transfer-Encoding: chunked"],
      "0\r\n\r\n",
    ],
    ["a length below nothing", () => [...get("/v1/groups", "POST"), "Content-Length: -1"]],
    [
      "chunks inside of something else",
      () => [...get("/v1/groups", "POST"), "Transfer-Encoding: chunked, identity"],
      "0\r\n\r\n",
    ],
    [
      "a chunk without a size",
      () => [
        ...get("/v1/groups", "POST"),
        bearer(),
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
      ],
      "zz\r\n{}\r\n0\r\n\r\n",
    ],
  ])("are refused, and nothing is said of them: %s", async (what, lines, body) => {
    const reply = await raw(rest.url, lines(), body);
    expect(reply.status).toBe(400);
    isRefusal(reply, what);
    isShut(reply, what);
    expect(reply.body).not.toContain(MARK);
  });

  it("or more headers than are read, are refused before anybody is asked who it is", async () => {
    for (const headers of [
      [`X-A: ${MARK.repeat(2_000)}`],
      Array.from({ length: 2_000 }, (_, i) => `X-${i}: ${MARK}`),
    ]) {
      const reply = await raw(rest.url, [...get("/v1/me"), bearer(), ...headers]);
      expect(reply.status).toBe(431);
      expect(JSON.parse(reply.body).code).toBe("HEADERS_TOO_LARGE");
      isRefusal(reply, "headers");
      isShut(reply, "headers");
      expect(reply.body).not.toContain(MARK);
    }
  });
});

describe("a path that is none", () => {
  it.each([
    "/v1/tasks/%",
    "/v1/tasks/%zz",
    "/v1/functions/%C0%AF",
    "/%ff%fe",
    `/v1/functions/${"x".repeat(401)}`,
    `/v1/functions/${"%41".repeat(500)}`,
  ])("is refused before there is a route: %s", async (path) => {
    for (const method of ["GET", "POST", "DELETE"]) {
      const reply = await raw(rest.url, [...get(path, method), bearer(), "Content-Length: 0"]);
      expect(reply.status, method).toBe(400);
      isShut(reply, method);
      isRefusal(reply, method);
    }
  });

  it("or leads out of where it is, is no other", async () => {
    for (const path of [
      "/v1/../v1/me",
      "/v1/./me",
      "//v1/me",
      "/v1/me/",
      "/V1/me",
      "/v1/me;x",
      "/v1%2fme",
      "/v1/me%00",
    ]) {
      const reply = await raw(rest.url, [...get(path), bearer()]);
      expect(reply.status, path).toBe(404);
      isRefusal(reply, path);
    }
  });
});

describe("a method that a path does not have", () => {
  it("is answered like a path that there is not, on every path, and sends nothing of the request back", async () => {
    const has = new Set(routes.map(({ method, path }) => `${method} ${path}`));
    // An object may have any name, and be put and deleted under it.
    const paths = routes.map((route) => route.path).filter((path) => !/^\/v1\/objects\/\w+\//.test(path));
    for (const path of new Set(paths)) {
      for (const method of ["OPTIONS", "TRACE", "PATCH", "PROPFIND", "PUT", "DELETE"]) {
        if (has.has(`${method} ${path}`)) continue;
        const reply = await raw(rest.url, [
          ...get(path, method),
          bearer(),
          `X-A: ${MARK}`,
          "Content-Length: 0",
        ]);
        expect(reply.status, `${method} ${path}`).toBe(404);
        isRefusal(reply, `${method} ${path}`);
        isShut(reply, `${method} ${path}`);
        expect(JSON.stringify([reply.headers, reply.body])).not.toMatch(new RegExp(`${MARK}|${rest.key}`));
      }
    }
    expect(
      (await raw(rest.url, ["CONNECT evil.example:443 HTTP/1.1", "Host: evil.example:443"])).status,
    ).toBe(0);
  });

  it("HEAD says what GET says, without a body", async () => {
    const client = (method: string, path: string) =>
      fetch(rest.url + path, {
        method,
        headers: { authorization: `Bearer ${rest.key}` },
        redirect: "manual",
      });
    for (const { method, path } of routes) {
      if (method !== "GET" || path.startsWith("/login/oidc")) continue;
      const [head, whole] = [await client("HEAD", path), await client("GET", path)];
      expect(head.status, path).toBe(whole.status);
      expect(head.headers.get("content-security-policy"), path).toBe(
        whole.headers.get("content-security-policy"),
      );
      expect((await head.arrayBuffer()).byteLength, path).toBe(0);
      await whole.arrayBuffer();
    }
  });
});

describe("every reply", () => {
  it("tells a browser to do nothing with it, whoever asks; a page, to send its forms to us alone", async () => {
    for (const { method, path, isPage } of routes) {
      for (const credential of [[bearer()], []]) {
        const reply = await raw(rest.url, [...get(path, method), ...credential, "Content-Length: 0"]);
        expect(reply.status, `${method} ${path}`).toBeLessThan(500);
        isShut(reply, `${method} ${path}`);
        if (isPage && reply.headers["content-type"]?.startsWith("text/html")) {
          expect(reply.headers["x-frame-options"], path).toBe("DENY");
          expect(reply.body, path).not.toMatch(
            /<script|javascript:| on\w+=|<base|<iframe|<object|<embed|src=/i,
          );
        }
      }
    }
  });

  it("but the page of the API runs no script of others, sends no form, and is framed by nobody", async () => {
    for (const path of ["/docs", "/docs/", "/docs/json", "/docs/static/index.css"]) {
      const { status, headers } = await raw(rest.url, get(path));
      expect(status, path).toBe(200);
      const policy = headers["content-security-policy"] ?? "";
      expect(policy, path).toMatch(/default-src '(self|none)'/);
      for (const directive of ["form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'"])
        expect(policy, path).toContain(directive);
      expect(policy, path).not.toMatch(/unsafe|https?:|\*/);
    }
  });

  it("with somebody's HTML in it is shown by no browser as a page that does anything", async () => {
    const page =
      "<base href=https://evil.example><form action=https://evil.example><script>alert(1)</script>";
    const headers = { "content-type": "text/html" };
    expect((await rest.api.call("PUT", "/v1/objects/b/page", { raw: page, headers })).status).toBe(201);
    isShut(await raw(rest.url, [...get("/v1/objects/b/page"), bearer()]), "an object");
  });
});

describe("a body that is made to cost", () => {
  const post = (path: string, raw: string | Buffer, type = "application/json") =>
    rest.api.call("POST", path, { raw, headers: { "content-type": type } });

  it("has 100,000 keys: it is refused, or taken, in the time that its bytes take", async () => {
    const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, i) => [`k${i}`, i]));
    const bodies: [string, string | Buffer, string?][] = [
      ["/v1/groups", JSON.stringify(many)],
      ["/v1/groups", encodeValue(many), "application/msgpack"],
      ["/v1/tasks", JSON.stringify({ function: "none", endpoint: "none", kwargs: many })],
      ["/v1/functions", JSON.stringify({ name: "f", runtime: "python", code: "x", env: { vars: many } })],
      [
        "/v1/functions",
        JSON.stringify({ name: "f", runtime: "python", code: "x", argsSchema: { properties: many } }),
      ],
      ["/v1/objects/b/compose", JSON.stringify({ key: "k", from: ["page"], metadata: many })],
      [
        "/v1/oauth/device",
        Array.from({ length: 1_000 }, (_, i) => `k${i}=1`).join("&"),
        "application/x-www-form-urlencoded",
      ],
    ];
    for (const [path, body, type] of bodies) {
      const startedAtMs = performance.now();
      const { status } = await post(path, body, type);
      expect(status, path).toBeGreaterThanOrEqual(400);
      expect(status, path).toBeLessThan(500);
      expect(performance.now() - startedAtMs, path).toBeLessThan(10_000);
    }
  });

  it("names what every object has: none of it reaches another request", async () => {
    const names = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"];
    for (const name of names) {
      const value = { polluted: MARK, label: MARK, admin: true };
      for (const path of ["/v1/groups", "/v1/keys", "/v1/functions", "/v1/tasks"]) {
        const json = await post(path, `{"${name}":${JSON.stringify(value)}}`);
        expect([400, 422], `${path} ${name}`).toContain(json.status);
        const map = Buffer.concat([
          Buffer.from([0x81, 0xa0 | name.length]),
          Buffer.from(name),
          encodeValue(value),
        ]);
        expect([400, 422], `${path} ${name}`).toContain(
          (await post(path, map, "application/msgpack")).status,
        );
      }
      const query = await rest.api.get(`/v1/tasks?${name}[polluted]=${MARK}&${name}=${MARK}`);
      expect([200, 400], name).toContain(query.status);
      const form = await post("/v1/oauth/device", `${name}=${MARK}`, "application/x-www-form-urlencoded");
      expect([200, 400], name).toContain(form.status);
      const header = { [`x-farloom-meta-${name}`]: "v" };
      const stored = await rest.api.call("PUT", `/v1/objects/b/${name}`, { raw: "x", headers: header });
      expect([200, 201, 400], name).toContain(stored.status);
      if (stored.status < 300) expect(Object.getPrototypeOf(stored.body.metadata)).toBe(Object.prototype);
    }
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
    const made = await rest.api.post("/v1/groups", {});
    expect(JSON.stringify(made.body)).not.toContain(MARK);
  });

  it("has a key twice: the last one counts, in what is checked and in what is kept", async () => {
    const twice = `{"name":"${"x".repeat(10_000)}","name":"kept"}`;
    expect((await post("/v1/groups", twice)).body).toMatchObject({ name: "kept" });
    const wrong = `{"name":"kept","name":5}`;
    expect(await post("/v1/groups", wrong)).toMatchObject({ status: 400 });
  });

  it("gives null where the schema takes anything: it is refused, and is no fault of ours", async () => {
    for (const runtime of ["python", "node", "command"]) {
      for (const code of ["null", "5", "[]", "{}", '{"type":"Buffer","data":[1]}', "true"]) {
        const reply = await post("/v1/functions", `{"name":"f","runtime":"${runtime}","code":${code}}`);
        expect(reply, `${runtime} ${code}`).toMatchObject({
          status: 422,
          body: { code: "FUNCTION_INVALID" },
        });
      }
    }
  });
});

describe("a link", () => {
  const offers = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits; server_no_context_takeover",
    "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8",
  ];

  it("compresses nothing, whatever its other side offers", async () => {
    const session = await agentToken(rest.url, endpoint.id, endpoint.keys.privateKey);
    const doors = [
      [limits.CLIENT_LINK_PATH, rest.key],
      [limits.AGENT_LINK_PATH, session],
    ] as const;
    for (const [path, token] of doors) {
      for (const offer of offers) {
        const asked = [`Authorization: Bearer ${token}`, `Sec-WebSocket-Extensions: ${offer}`];
        const { status, headers } = await raw(rest.url, upgradeLines(host, path, asked));
        expect([status, headers["sec-websocket-extensions"]], offer).toEqual([101, undefined]);
      }
    }
  });

  it("that gets a compressed frame all the same ends", async () => {
    const socket = new WebSocket(
      rest.url.replace("http", "ws") + limits.CLIENT_LINK_PATH,
      limits.SUBPROTOCOL,
      {
        headers: { authorization: `Bearer ${rest.key}` },
        perMessageDeflate: false,
      },
    );
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("open", resolve));
    const closed = new Promise<number>((resolve) => socket.once("close", resolve));
    // A binary frame of one byte with RSV1, which says that it is compressed; masked with zeros.
    (socket as unknown as { _socket: import("node:net").Socket })._socket.write(
      Buffer.from([0xc2, 0x81, 0, 0, 0, 0, 0x00]),
    );
    expect(await closed).toBe(1002);
  });

  it("is refused in the words of everywhere else", async () => {
    for (const path of [limits.CLIENT_LINK_PATH, limits.AGENT_LINK_PATH, "/v1/nothing"]) {
      const reply = await raw(rest.url, upgradeLines(host, path));
      expect([401, 404]).toContain(reply.status);
      isRefusal(reply, path);
      isShut(reply, path);
    }
    const other = upgradeLines(host, limits.CLIENT_LINK_PATH, [bearer()]).map((line) =>
      line.replace("farloom.v1", "farloom.v0"),
    );
    isRefusal(await raw(rest.url, other), "another subprotocol");
  });
});
