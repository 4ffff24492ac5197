/**
 * Who is nobody: forged and misplaced credentials at every kind of door, agents' handshakes used again, requests for hosts
 * that are not ours, and pages of others. What is refused looks the same, whichever part was wrong.
 */
import { createHmac, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { FRAMES_DOWN, limits } from "@farloom/protocol";
import { type JWTHeaderParameters, type JWTPayload, SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadSigningKey, type SigningKey } from "../../apps/web-service/src/identity/signing-key.js";
import { Browser } from "../support/browser.js";
import { agentHello, EchoAgent, type EchoEndpoint, makeEchoEndpoint } from "../support/echo-agent.js";
import { agentToken, FakeAgent } from "../support/fake-agent.js";
import { FramePeer } from "../support/frame-peer.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";
import { type RawReply, raw, upgradeLines } from "./raw-http.js";

/** Far more than any refusal takes: one that parses, fetches or computes for long is seen. */
const FAST_MS = 2_000;

let rest: RestService;
let host: string;
let endpoint: EchoEndpoint;
let other: EchoEndpoint;
let signing: SigningKey;
let access: string;
let session: string;
let objects: string;
let claims: JWTPayload;

beforeAll(async () => {
  rest = await startRestService({ failedAuthPerMinute: 1_000_000 });
  host = new URL(rest.url).host;
  endpoint = await makeEchoEndpoint(rest.api, "one");
  other = await makeEchoEndpoint(rest.api, "two");
  signing = await loadSigningKey(rest.stateDir, undefined);
  access = (await rest.api.post("/v1/tokens")).body.token;
  session = await agentToken(rest.url, endpoint.id, endpoint.keys.privateKey);
  const grant = { bucket: "b", prefix: "", methods: ["get", "list"] };
  objects = (await rest.api.post("/v1/objects/sign", grant)).body.token;
  claims = JSON.parse(Buffer.from(access.split(".")[1]!, "base64url").toString());
});
afterAll(() => rest?.close());

/** One route of each kind of policy, and the two links. `{"takes"}` is a credential that is good there. */
const DOORS: readonly { name: string; lines: () => string[]; takes: () => string }[] = [
  { name: "any credential", lines: () => get("/v1/me"), takes: () => access },
  { name: "a scope", lines: () => get("/v1/tasks"), takes: () => access },
  { name: "a scope, or an agent", lines: () => get(`/v1/payloads/${"0".repeat(64)}`), takes: () => session },
  { name: "a scope, or a token for objects", lines: () => get("/v1/objects/b"), takes: () => objects },
  {
    name: "an agent",
    lines: () => [...get(`/v1/tasks/${endpoint.id}/token`, "POST"), "Content-Length: 0"],
    takes: () => session,
  },
  {
    name: "a client's link",
    lines: () => upgradeLines(host, limits.CLIENT_LINK_PATH),
    takes: () => access,
  },
  { name: "an agent's link", lines: () => upgradeLines(host, limits.AGENT_LINK_PATH), takes: () => session },
];
const get = (path: string, method = "GET", to = host): string[] => [
  `${method} ${path} HTTP/1.1`,
  `Host: ${to}`,
];
const bearer = (token: string): string => `Authorization: Bearer ${token}`;
const at = (door: { lines: () => string[] }, ...headers: string[]): Promise<RawReply> =>
  raw(rest.url, [...door.lines(), ...headers]);

const encode = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
const stranger = generateKeyPairSync("ed25519");
const jwk = stranger.publicKey.export({ format: "jwk" });
const header = (): JWTHeaderParameters => ({ alg: "EdDSA", typ: "farloom-access+jwt", kid: signing.kid });

/** A token whose header and claims are the real ones but for what is given. */
const forge = (
  { head, body }: { head?: object; body?: object },
  key: KeyObject = signing.privateKey,
): Promise<string> =>
  new SignJWT({ ...claims, ...body } as JWTPayload).setProtectedHeader({ ...header(), ...head }).sign(key);
/** The same without a library's checks: header and claims as they are written. */
const assemble = (head: unknown, body: unknown, key: KeyObject): string => {
  const text = `${encode(head)}.${encode(body)}`;
  return `${text}.${sign(null, Buffer.from(text), key).toString("base64url")}`;
};
const hmac = (secret: Buffer | string): string => {
  const text = `${encode({ ...header(), alg: "HS256" })}.${encode(claims)}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
};
const parts = (): [string, string, string] => access.split(".") as [string, string, string];
const nowS = (): number => Math.floor(Date.now() / 1000);

/** As header lines; every one must be refused at every door. */
const FORGERIES: readonly [string, () => Promise<string[]> | string[]][] = [
  ["none at all", () => []],
  ["alg none, unsigned", () => [bearer(`${encode({ ...header(), alg: "none" })}.${parts()[1]}.`)]],
  ["alg none, with a signature", () => [bearer(`${encode({ alg: "None" })}.${parts()[1]}.${parts()[2]}`)]],
  [
    "HS256 under the public key's PEM",
    () => [bearer(hmac(signing.publicKey.export({ format: "pem", type: "spki" }) as string))],
  ],
  [
    "HS256 under the public key's bytes",
    () => [bearer(hmac(signing.publicKey.export({ format: "der", type: "spki" }).subarray(-32)))],
  ],
  ["a stranger's key under our kid", async () => [bearer(await forge({}, stranger.privateKey))]],
  ["another kid", async () => [bearer(await forge({ head: { kid: "other" } }))]],
  ["no kid", async () => [bearer(await forge({ head: { kid: undefined } }))]],
  ["a path as kid", async () => [bearer(await forge({ head: { kid: "../../../../dev/null" } }))]],
  ["a name of every object as kid", async () => [bearer(await forge({ head: { kid: "__proto__" } }))]],
  ["SQL as kid", async () => [bearer(await forge({ head: { kid: "' OR '1'='1" } }))]],
  ["its own key as jwk", async () => [bearer(await forge({ head: { jwk } }, stranger.privateKey))]],
  [
    "its own key as jwk, by its thumbprint",
    () => [bearer(assemble({ ...header(), jwk, kid: undefined }, claims, stranger.privateKey))],
  ],
  [
    "its own keys at a jku",
    async () => [bearer(await forge({ head: { jku: `${rest.url}/v1/me` } }, stranger.privateKey))],
  ],
  [
    "its own certificate at an x5u",
    async () => [bearer(await forge({ head: { x5u: "http://127.0.0.1:1/x" } }, stranger.privateKey))],
  ],
  ["another type", async () => [bearer(await forge({ head: { typ: "JWT" } }))]],
  ["no type", async () => [bearer(await forge({ head: { typ: undefined } }))]],
  ["another audience", async () => [bearer(await forge({ body: { aud: "elsewhere" } }))]],
  ["another issuer", async () => [bearer(await forge({ body: { iss: "farloom.evil" } }))]],
  ["a time that has not come", async () => [bearer(await forge({ body: { nbf: nowS() + 300 } }))]],
  ["a beginning in the future", async () => [bearer(await forge({ body: { iat: nowS() + 300 } }))]],
  ["no end", async () => [bearer(await forge({ body: { exp: undefined } }))]],
  ["no beginning", async () => [bearer(await forge({ body: { iat: undefined } }))]],
  [
    "an end that is text",
    () => [bearer(assemble(header(), { ...claims, exp: "9999999999" }, signing.privateKey))],
  ],
  ["another's subject", async () => [bearer(await forge({ body: { sub: other.id } }))]],
  ["an API key that there is not", async () => [bearer(await forge({ body: { key: "0".repeat(16) } }))]],
  [
    "an extension that must be understood",
    () => [bearer(assemble({ ...header(), crit: ["x"], x: 1 }, claims, signing.privateKey))],
  ],
  [
    "a payload that is not encoded",
    () => [bearer(assemble({ ...header(), b64: false, crit: ["b64"] }, claims, signing.privateKey))],
  ],
  [
    "a claim twice, signed by nobody",
    () => [
      bearer(
        `${parts()[0]}.${encode(JSON.stringify(claims).replace("{", '{"aud":"farloom-agent",'))}.${parts()[2]}`,
      ),
    ],
  ],
  ["a signature cut short", () => [bearer(access.slice(0, -8))]],
  ["a signature of another token", () => [bearer(`${parts()[0]}.${parts()[1]}.${session.split(".")[2]}`)]],
  ["no signature", () => [bearer(`${parts()[0]}.${parts()[1]}`)]],
  ["two dots", () => [bearer("..")]],
  ["five parts, as if encrypted", () => [bearer(`${access}.a.b`)]],
  ["huge", () => [bearer(`${parts()[0]}.${"A".repeat(12_000)}.${parts()[2]}`)]],
  ["a header nested deep", () => [bearer(`${encode(`${"[".repeat(900)}${"]".repeat(900)}`)}.e30.AA`)]],
  ["a null byte, escaped", () => [bearer(`${access}%00`)]],
  ["an API key of another secret", () => [bearer(`${rest.key.slice(0, -43)}${"A".repeat(43)}`)]],
  ["an API key's id alone", () => [bearer(rest.key.slice(0, 19))]],
  ["a browser's cookie of nobody", () => [bearer(`fls_${"A".repeat(43)}`)]],
  ["a good key as Basic", () => [`Authorization: Basic ${Buffer.from(`x:${rest.key}`).toString("base64")}`]],
  ["a good key under another scheme", () => [`Authorization: Token ${rest.key}`]],
  ["a good key with a second word", () => [`Authorization: Bearer ${rest.key} ${rest.key}`]],
  ["a good key behind a bad one", () => [bearer("nonsense"), bearer(rest.key)]],
  ["a good key in a cookie", () => [`Cookie: farloom-loopback=${rest.key}; authorization=${rest.key}`]],
  [
    "a good key in another header",
    () => [`X-Api-Key: ${rest.key}`, `Proxy-Authorization: Bearer ${rest.key}`],
  ],
  ["a good key in the protocols of a WebSocket", () => [`Sec-WebSocket-Protocol: ${rest.key}`]],
];

describe("the doors", () => {
  it("take what is theirs: else the refusals below would say nothing", async () => {
    for (const door of DOORS) expect((await at(door, bearer(door.takes()))).status, door.name).not.toBe(401);
    expect((await raw(rest.url, [...get("/v1/me"), `authorization: bearer ${rest.key}`])).status).toBe(200);
    expect((await raw(rest.url, [...get("/v1/me"), bearer(await forge({}))])).status).toBe(200);
  });

  it.each(FORGERIES)("refuse with one and the same 401: %s", async (_what, lines) => {
    const headers = await lines();
    const answers = new Map<string, string[]>();
    for (const door of DOORS) {
      const startedAtMs = performance.now();
      const reply = await at(door, ...headers);
      expect(performance.now() - startedAtMs, door.name).toBeLessThan(FAST_MS);
      expect(reply.status, `${door.name}: ${reply.body}`).toBe(401);
      const { code, detail } = JSON.parse(reply.body);
      const words = JSON.stringify({ code, detail });
      answers.set(words, [...(answers.get(words) ?? []), door.name]);
    }
    const [nobody] = [await at(DOORS[0]!)].map((reply) => JSON.parse(reply.body));
    expect([...answers.keys()]).toEqual([JSON.stringify({ code: nobody.code, detail: nobody.detail })]);
  });

  it("take no token of one kind for one of another", async () => {
    const tokens = { access, session, objects };
    const wrong: [string, keyof typeof tokens][] = [
      ["any credential", "session"],
      ["any credential", "objects"],
      ["a scope", "session"],
      ["a scope", "objects"],
      ["a scope, or an agent", "objects"],
      ["a scope, or a token for objects", "session"],
      ["an agent", "access"],
      ["an agent", "objects"],
      ["a client's link", "session"],
      ["a client's link", "objects"],
      ["an agent's link", "access"],
      ["an agent's link", "objects"],
    ];
    for (const [name, kind] of wrong) {
      const door = DOORS.find((one) => one.name === name)!;
      const reply = await at(door, bearer(tokens[kind]));
      expect([reply.status, JSON.parse(reply.body).code], `${kind} at ${name}`).toEqual([
        401,
        "UNAUTHENTICATED",
      ]);
    }
  });

  it("say of one of ours that is too old that it is, and of nothing else", async () => {
    for (const body of [{ exp: nowS() - 10 }, { iat: nowS() - 700, exp: nowS() + 600 }]) {
      const reply = await at(DOORS[0]!, bearer(await forge({ body })));
      expect([reply.status, JSON.parse(reply.body).code]).toEqual([401, "TOKEN_EXPIRED"]);
      const fake = await at(DOORS[0]!, bearer(await forge({ body }, stranger.privateKey)));
      expect(JSON.parse(fake.body).code).toBe("UNAUTHENTICATED");
    }
  });

  it("take no credential from a URL, and no request that is not HTTP", async () => {
    const nobody = (await raw(rest.url, get("/v1/me"))).body;
    for (const query of [
      `access_token=${rest.key}`,
      `authorization=Bearer%20${rest.key}`,
      `token=${access}`,
    ]) {
      const reply = await raw(rest.url, get(`/v1/me?${query}`));
      expect([reply.status, reply.body], query.slice(0, 12)).toEqual([401, nobody]);
      const link = await raw(rest.url, upgradeLines(host, `${limits.CLIENT_LINK_PATH}?${query}`));
      expect(link.status).toBe(401);
    }
    for (const bytes of ["\0", "\r", "\n\nx", "\x7f\x01"]) {
      const reply = await raw(rest.url, [...get("/v1/me"), `Authorization: Bearer ${rest.key}${bytes}`]);
      expect([400, 401], JSON.stringify(bytes)).toContain(reply.status);
    }
  });

  it("take as long over an unknown key as over a wrong secret", async () => {
    const right = rest.key.slice(0, -43);
    const unknown = `fl_${"0".repeat(16)}_`;
    const times: Record<string, number[]> = { [right]: [], [unknown]: [] };
    for (let i = 0; i < 120; i++) {
      // In turns, and each with a secret of its own: nothing is remembered of it.
      const start = i % 2 === 0 ? right : unknown;
      const startedAtMs = performance.now();
      const secret = Buffer.alloc(32, i).toString("base64url");
      const { status } = await new RestClient(rest.url, start + secret).get("/v1/me");
      times[start]!.push(performance.now() - startedAtMs);
      expect(status).toBe(401);
    }
    const median = (list: number[]): number => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]!;
    const [a, b] = [median(times[right]!), median(times[unknown]!)];
    expect(Math.abs(a - b), `${a} ms, ${b} ms`).toBeLessThan(Math.max(5, 0.75 * Math.max(a, b)));
  });
});

describe("a running task's own token", () => {
  it("is for its task alone: for no other task, at no other door, and not after its end", async () => {
    const agent = await FakeAgent.start(rest.api, "nests", ({ bytes }) =>
      bytes.includes("hold") ? undefined : { value: 1 },
    );
    try {
      const fn = { name: "f", runtime: "python", code: "def f(*a): return 1\n" };
      expect((await rest.api.post("/v1/functions", fn)).status).toBe(201);
      const call = { function: "f", endpoint: agent.endpointId, args: ["hold"] };
      const submit = async (options: object): Promise<string> =>
        (await rest.api.post("/v1/tasks", { ...call, ...options })).body.id;
      const task = await submit({ options: { nested: true } });
      const another = await submit({ options: { nested: true } });
      const plain = await submit({});
      const asked = (id: string, token: string) =>
        new RestClient(rest.url, token).post(`/v1/tasks/${id}/token`, {});
      expect((await asked(plain, agent.token)).body.code).toBe("NESTED_NOT_ASKED");
      expect((await asked(task, session)).body.code, "another endpoint's agent").toBe("TASK_NOT_FOUND");
      const { token } = (await asked(task, agent.token)).body;
      const nested = new RestClient(rest.url, token);
      expect((await nested.get("/v1/tasks")).body.items).toEqual([]);
      for (const id of [task, another, plain]) {
        for (const path of [`/v1/tasks/${id}`, `/v1/tasks/${id}/result`, `/v1/tasks/${id}/output`])
          expect([403, 404], path).toContain((await nested.get(path)).status);
        expect([403, 404]).toContain((await nested.post(`/v1/tasks/${id}/cancel`, {})).status);
        expect((await asked(id, token)).status).toBe(401);
      }
      for (const path of ["/v1/me", "/v1/keys", "/v1/audit", "/v1/groups"])
        expect((await nested.get(path)).status, path).toBe(403);
      expect((await nested.post("/v1/tokens")).status).toBe(403);
      const elsewhere = await nested.post("/v1/tasks", { ...call, endpoint: other.id });
      expect(elsewhere.body.code).toBe("NESTED_SCOPE");
      const upgrade = upgradeLines(host, limits.AGENT_LINK_PATH, [bearer(token)]);
      expect((await raw(rest.url, upgrade)).status).toBe(401);
      // Its endpoint's end is the task's.
      expect((await rest.api.delete(`/v1/endpoints/${agent.endpointId}`)).status).toBe(204);
      await expect.poll(async () => (await nested.get("/v1/tasks")).body.code).toBe("NESTED_ENDED");
    } finally {
      await agent.close();
    }
  });
});

describe("an upgrade", () => {
  const odd = [
    "/",
    "//v1/link",
    "/v1/link/",
    "/V1/LINK",
    "/v1//link",
    "/v1/x/../link",
    "/v1%2Flink",
    "/v1/link%00",
  ];
  const more = [
    "/v1/link#x",
    "*",
    "http://evil.example/v1/link",
    "/v1/agent-link/x",
    "/socket.io/",
    "/docs",
    "/v1/me",
  ];

  it("opens on no path but the two, and on those for nobody without a credential", async () => {
    const { body } = await rest.api.get("/openapi.json");
    const paths = Object.keys(body.paths).map((path) => path.replace(/\{\w+\}/g, "x"));
    for (const path of [...paths, ...odd, ...more]) {
      for (const token of [rest.key, session]) {
        const { status } = await raw(rest.url, upgradeLines(host, path, [bearer(token)]));
        expect([400, 404, 421], path).toContain(status);
      }
    }
    for (const path of [limits.CLIENT_LINK_PATH, limits.AGENT_LINK_PATH])
      expect((await raw(rest.url, upgradeLines(host, path))).status, path).toBe(401);
    const good = await raw(rest.url, upgradeLines(host, limits.CLIENT_LINK_PATH, [bearer(rest.key)]));
    expect(good.status).toBe(101);
  });
});

describe("an agent's handshake", () => {
  const nonceOf = async (id: string): Promise<string> =>
    (await rest.api.post(`/v1/endpoints/${id}/challenge`)).body.nonce;
  const signed = (nonce: string, id: string, at = host): string =>
    sign(null, Buffer.from(`farloom-agent-v1\n${at}\n${id}\n${nonce}`), endpoint.keys.privateKey).toString(
      "base64url",
    );
  const hand = async (id: string, nonce: string, signature: string, to = host): Promise<[number, string]> => {
    const body = JSON.stringify({ nonce, signature });
    const head = ["Content-Type: application/json", `Content-Length: ${body.length}`];
    const reply = await raw(rest.url, [...get(`/v1/endpoints/${id}/session`, "POST", to), ...head], body);
    return [reply.status, JSON.parse(reply.body).code ?? "ok"];
  };

  it("that was recorded is good once, for this endpoint, on this host", async () => {
    const nonce = await nonceOf(endpoint.id);
    const recorded = signed(nonce, endpoint.id);
    expect(await hand(endpoint.id, nonce, recorded)).toEqual([200, "ok"]);
    expect(await hand(endpoint.id, nonce, recorded)).toEqual([401, "CHALLENGE_INVALID"]);
    const again = await nonceOf(endpoint.id);
    expect(await hand(endpoint.id, again, recorded)).toEqual([401, "SIGNATURE_INVALID"]);
    const mine = await nonceOf(endpoint.id);
    expect(await hand(other.id, mine, signed(mine, other.id))).toEqual([401, "CHALLENGE_INVALID"]);
    const theirs = await nonceOf(other.id);
    expect(await hand(other.id, theirs, signed(theirs, other.id))).toEqual([401, "SIGNATURE_INVALID"]);
    const elsewhere = await nonceOf(endpoint.id);
    expect(await hand(endpoint.id, elsewhere, signed(elsewhere, endpoint.id, "localhost:1"))).toEqual([
      401,
      "SIGNATURE_INVALID",
    ]);
  });

  it("made for another service is worth nothing, even where the request says that host", async () => {
    const nonce = await nonceOf(endpoint.id);
    const relayed = signed(nonce, endpoint.id, "evil.example");
    expect(await hand(endpoint.id, nonce, relayed, "evil.example")).toEqual([421, "HOST_REFUSED"]);
  });
});

describe("an agent's upgrade that was recorded", () => {
  const tokenOf = ({ id, keys }: EchoEndpoint): Promise<string> => agentToken(rest.url, id, keys.privateKey);
  const dial = async (token: string): Promise<FramePeer> => {
    const kinds = FRAMES_DOWN.agent;
    const peer = await FramePeer.open(
      { url: rest.url, path: limits.AGENT_LINK_PATH, token, kinds },
      () => {},
    );
    peer.send(agentHello());
    await peer.until(() => peer.frames.length > 0, "an answer to the hello");
    return peer;
  };
  const refused = async (token: string): Promise<string | undefined> => {
    const peer = await dial(token);
    expect(peer.frames[0]).toMatchObject({ t: "refuse", code: "SESSION_TOKEN_USED" });
    return peer.untilEnded();
  };

  it("opens nothing, while its connection is there and after its end, and harms that connection in nothing", async () => {
    const one = await makeEchoEndpoint(rest.api, "recorded");
    const token = await tokenOf(one);
    const first = await dial(token);
    expect(first.frames[0]!.t).toBe("welcome");
    expect(await refused(token)).toBe("SESSION_TOKEN_USED");
    expect(first.closedWith).toBeUndefined();
    await first.close();
    expect(await refused(token)).toBe("SESSION_TOKEN_USED");
    // Whoever has the key asks for another.
    const next = await EchoAgent.connect(rest.url, one);
    await next.close();
  });

  it("with the token of a request opens nothing", async () => {
    const one = await makeEchoEndpoint(rest.api, "requests");
    const { nonce } = (await rest.api.post(`/v1/endpoints/${one.id}/challenge`)).body;
    const text = `farloom-agent-v1\n${host}\n${one.id}\n${nonce}`;
    const signature = sign(null, Buffer.from(text), one.keys.privateKey).toString("base64url");
    const asked = await rest.api.post(`/v1/endpoints/${one.id}/session?for=requests`, { nonce, signature });
    const { token } = asked.body;
    const file = `/v1/payloads/${"0".repeat(64)}`;
    expect((await new RestClient(rest.url, token).get(file)).body.code).toBe("PAYLOAD_NOT_FOUND");
    const { status, body } = await raw(rest.url, upgradeLines(host, limits.AGENT_LINK_PATH, [bearer(token)]));
    expect([status, JSON.parse(body).code]).toEqual([401, "UNAUTHENTICATED"]);
  });

  it("and sent many times at once wins at most once; one made before another connection came, never", async () => {
    const one = await makeEchoEndpoint(rest.api, "at-once");
    const [token, early] = [await tokenOf(one), await tokenOf(one)];
    const peers = await Promise.all(Array.from({ length: 8 }, () => dial(token)));
    const codes = peers.map(({ frames: [frame] }) => (frame && "code" in frame ? frame.code : frame?.t));
    expect(codes.filter((code) => code === "welcome")).toHaveLength(1);
    expect(codes.filter((code) => code === "SESSION_TOKEN_USED")).toHaveLength(7);
    expect(await refused(early)).toBe("SESSION_TOKEN_USED");
    await Promise.all(peers.map((peer) => peer.close()));
  });
});

describe("a request for another host", () => {
  const names = [
    "evil.example",
    `evil.example:${8722}`,
    "localhost.evil.example",
    "127.0.0.1.nip.example",
    "0",
  ];

  it("is for nobody here: no route, no page and no link answers, whoever asks", async () => {
    for (const name of names) {
      for (const path of [
        "/v1/me",
        "/v1/tasks",
        "/openapi.json",
        "/docs",
        "/login",
        "/health/live",
        "/nothing",
      ]) {
        const reply = await raw(rest.url, [...get(path, "GET", name), bearer(rest.key)]);
        expect(reply.status, `${name} ${path}`).toBe(421);
        expect(reply.body).toMatch(/HOST_REFUSED|This service is not called/);
      }
      for (const path of [limits.CLIENT_LINK_PATH, limits.AGENT_LINK_PATH])
        expect((await raw(rest.url, upgradeLines(name, path, [bearer(rest.key)]))).status).toBe(421);
    }
  });

  it("is known by Host alone: no header of a stranger's says another", async () => {
    const lines = get("/v1/me", "GET", "evil.example");
    const reply = await raw(rest.url, [
      ...lines,
      bearer(rest.key),
      `X-Forwarded-Host: ${host}`,
      `Forwarded: host=${host}`,
    ]);
    expect(reply.status).toBe(421);
  });
});

describe("a page of another origin", () => {
  it("reads nothing: no reply allows it, and no preflight is answered", async () => {
    for (const origin of ["https://evil.example", "null", "http://localhost:1"]) {
      for (const path of ["/v1/me", "/openapi.json", "/health/live"]) {
        const { headers } = await raw(rest.url, [...get(path), `Origin: ${origin}`, bearer(rest.key)]);
        expect(Object.keys(headers).filter((name) => name.startsWith("access-control"))).toEqual([]);
        expect(headers["cross-origin-resource-policy"]).toBe("same-origin");
        const asked = ["Access-Control-Request-Method: POST", `Origin: ${origin}`];
        const preflight = await raw(rest.url, [...get(path, "OPTIONS"), ...asked]);
        expect(preflight.status).toBeGreaterThanOrEqual(400);
        expect(Object.keys(preflight.headers).filter((name) => name.startsWith("access-control"))).toEqual(
          [],
        );
      }
    }
  });

  it("does nothing with a cookie that the browser sends along, by request or by link", async () => {
    const browser = new Browser();
    const page = await browser.get(`${rest.url}/setup`);
    const password = "correct horse battery";
    await browser.submit(page, { token: rest.service.firstAdminToken!, name: "ada", password });
    const cookie = `Cookie: farloom-loopback=${browser.cookie(rest.url, "farloom-loopback")}`;
    expect((await raw(rest.url, [...get("/v1/me"), cookie])).status).toBe(200);
    const post = [...get("/v1/groups", "POST"), cookie, "Content-Type: text/plain", "Content-Length: 2"];
    const link = upgradeLines(host, limits.CLIENT_LINK_PATH, [cookie]);
    for (const origin of [
      ["Origin: https://evil.example"],
      ["Origin: null"],
      [`Origin: https://${host}`],
      [],
    ]) {
      expect((await raw(rest.url, [...post, ...origin], "{}")).status, origin[0]).toBe(403);
      expect((await raw(rest.url, [...link, ...origin])).status, origin[0]).toBe(403);
    }
    expect((await raw(rest.url, [...link, `Origin: http://${host}`])).status).toBe(101);
  });
});
