// Credentials: keys, tokens of every forged kind, revocation, guessing, the bootstrap key.
import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { calculateJwkThumbprint, SignJWT } from "jose";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { resolveConfig } from "../../apps/web-service/src/config.js";
import { startService } from "../../apps/web-service/src/service.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
beforeAll(async () => {
  rest = await startRestService({ failedAuthPerMinute: 1_000 });
});
afterAll(() => rest.close());

const me = (credential: string) => new RestClient(rest.url, credential).get("/v1/me");
const makeKey = async (body: object) => (await rest.api.post("/v1/keys", { label: "test", ...body })).body;

describe("API keys", () => {
  it("know their owner, scopes and end, and are shown once", async () => {
    const key = await makeKey({ scopes: ["tasks:read"], expiresInDays: 2 });
    expect(key.key).toMatch(/^fl_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$/);
    expect((await me(key.key)).body).toMatchObject({
      owner: "me",
      admin: true,
      keyId: key.id,
      scopes: ["tasks:read"],
    });
    const { body } = await rest.api.get("/v1/keys");
    expect(JSON.stringify(body)).not.toContain(key.key.slice(-43));
    const { rows } = await rest.database.pool.query("SELECT * FROM api_key WHERE id = $1", [key.id]);
    expect(JSON.stringify(rows)).not.toContain(key.key.slice(-43));
  });

  it("are refused alike where the id, the secret or the form is wrong", async () => {
    const { key } = await makeKey({});
    const other = `${key.slice(0, -1)}${key.endsWith("A") ? "B" : "A"}`;
    const wrong = [
      other,
      `fl_${"0".repeat(16)}_${key.slice(-43)}`,
      key.slice(0, -1),
      `${key}x`,
      "fl__",
      "x",
      key.toUpperCase(),
    ];
    for (const credential of wrong) {
      expect(await me(credential), credential).toMatchObject({
        status: 401,
        body: { code: "UNAUTHENTICATED" },
      });
    }
    for (const authorization of [key, `Basic ${key}`, "Bearer", "Bearer ", `Bearer ${key} ${key}`]) {
      expect((await rest.api.get("/v1/me", { headers: { authorization } })).status, authorization).toBe(401);
    }
  });

  it("end at once when they are revoked, and the tokens made from them within 5 s", async () => {
    const key = await makeKey({});
    const { token } = (await new RestClient(rest.url, key.key).post("/v1/tokens")).body;
    expect((await me(token)).status).toBe(200);
    expect((await rest.api.delete(`/v1/keys/${key.id}`)).status).toBe(204);
    expect((await me(key.key)).status).toBe(401);
    expect((await me(token)).status).toBe(401);
    expect((await rest.api.delete(`/v1/keys/${key.id}`)).body.code).toBe("KEY_NOT_FOUND");
  });

  it("that another replica revokes or that expire are heard within 5 s", async () => {
    const [revoked, expired] = [await makeKey({}), await makeKey({})];
    expect((await me(revoked.key)).status).toBe(200);
    expect((await me(expired.key)).status).toBe(200);
    const { pool } = rest.database;
    await pool.query("UPDATE api_key SET revoked_at = now() WHERE id = $1", [revoked.id]);
    await pool.query("UPDATE api_key SET expires_at = now() WHERE id = $1", [expired.id]);
    for (const { key } of [revoked, expired]) {
      await expect.poll(async () => (await me(key)).status, { timeout: 5_000, interval: 200 }).toBe(401);
    }
  });

  it("never have more than their maker, and only an administrator makes them for others", async () => {
    const small = new RestClient(rest.url, (await makeKey({ scopes: ["keys:write", "tasks:read"] })).key);
    const greedy = await small.post("/v1/keys", { label: "x", scopes: ["tasks:submit"] });
    expect(greedy).toMatchObject({ status: 403, body: { code: "SCOPE_MISSING" } });
    expect((await small.post("/v1/keys", { label: "x" })).body.scopes).toEqual(["keys:write", "tasks:read"]);
    const ann = new RestClient(rest.url, (await makeKey({ owner: "ann" })).key);
    expect((await ann.get("/v1/me")).body).toMatchObject({ owner: "ann", admin: false });
    expect((await ann.post("/v1/keys", { label: "x", owner: "me" })).body.code).toBe("ADMIN_ONLY");
    expect((await ann.get("/v1/keys")).body.items.length).toBe(1);
  });
});

describe("access tokens", () => {
  const signingKey = async () => createPrivateKey(await readFile(join(rest.stateDir, "signing-key.pem")));
  const claims = { key: "", sub: "", iss: "farloom", aud: "farloom-api" };
  beforeAll(async () => {
    const { body } = await rest.api.get("/v1/me");
    claims.key = body.keyId;
    claims.sub = body.ownerId;
  });

  interface Forgery {
    readonly header?: Record<string, unknown>;
    readonly claims?: Record<string, unknown>;
    readonly issuedAgoS?: number;
    readonly lifeS?: number;
  }
  const forge = async (
    { header, claims: more, issuedAgoS = 0, lifeS = 600 }: Forgery,
    privateKey = undefined as never,
  ) => {
    const key = privateKey ?? (await signingKey());
    const kid = await calculateJwkThumbprint(createPublicKey(await signingKey()).export({ format: "jwk" }));
    const nowS = Math.floor(Date.now() / 1000) - issuedAgoS;
    const all = { ...claims, iat: nowS, exp: nowS + lifeS, ...more };
    return new SignJWT(all)
      .setProtectedHeader({ alg: "EdDSA", typ: "farloom-access+jwt", kid, ...header })
      .sign(key);
  };

  it("let in with the scopes of their key, and make no further token", async () => {
    const { token, expiresInMs } = (await rest.api.post("/v1/tokens")).body;
    expect(expiresInMs).toBe(600_000);
    expect((await me(token)).body.scopes.length).toBe(16);
    expect((await new RestClient(rest.url, token).post("/v1/tokens")).status).toBe(401);
    expect((await me(await forge({}))).status, "the forger of these tests makes good tokens").toBe(200);
  });

  it.each<[string, Forgery]>([
    ["another audience", { claims: { aud: "farloom-agent" } }],
    ["another issuer", { claims: { iss: "elsewhere" } }],
    ["another type", { header: { typ: "JWT" } }],
    ["the agents' type", { header: { typ: "farloom-agent+jwt" } }],
    ["an unknown key id", { header: { kid: "other" } }],
    ["no key id", { header: { kid: undefined } }],
    ["another owner's key", { claims: { sub: "00000000-0000-7000-8000-000000000000" } }],
    ["an unknown API key", { claims: { key: "0".repeat(16) } }],
    ["an object for its API key", { claims: { key: { not: "" } } }],
    ["no subject", { claims: { sub: undefined } }],
    ["no end", { claims: { exp: undefined } }],
    ["no beginning", { claims: { iat: undefined } }],
  ])("are refused with %s", async (_what, forgery) => {
    expect(await me(await forge(forgery))).toMatchObject({ status: 401, body: { code: "UNAUTHENTICATED" } });
  });

  it("are refused when they have expired, or claim to live longer than ten minutes", async () => {
    expect((await me(await forge({ issuedAgoS: 700 }))).body.code).toBe("TOKEN_EXPIRED");
    expect((await me(await forge({ issuedAgoS: 700, lifeS: 10_000 }))).status).toBe(401);
  });

  it("are refused when another key signed them, or none", async () => {
    const stranger = generateKeyPairSync("ed25519").privateKey;
    expect((await me(await forge({}, stranger as never))).status).toBe(401);
    const good = await forge({});
    const [header, body, signature] = good.split(".") as [string, string, string];
    const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const decoded = JSON.parse(Buffer.from(header, "base64url").toString());
    const none = encode({ ...decoded, alg: "none" });
    const hmac = encode({ ...decoded, alg: "HS256" });
    const bent = encode({ ...JSON.parse(Buffer.from(body, "base64url").toString()), key: "x" });
    for (const token of [
      `${none}.${body}.`,
      `${none}.${body}.${signature}`,
      `${hmac}.${body}.${signature}`,
      `${header}.${bent}.${signature}`,
      `${header}.${body}.`,
      `${header}.${body}`,
      good.slice(0, -4),
      `${"e".repeat(7_000)}`,
    ]) {
      expect((await me(token)).status, token.slice(0, 60)).toBe(401);
    }
    expect((await me(good)).status).toBe(200);
  });
});

describe("guessing", () => {
  it("meets 429 after some failures, which does not touch callers known to be good", async () => {
    const strict = await startRestService({ failedAuthPerMinute: 5 });
    try {
      const guess = () =>
        new RestClient(strict.url, `fl_${"0".repeat(16)}_${randomBytes(32).toString("base64url")}`).get(
          "/v1/me",
        );
      await strict.api.get("/v1/me");
      const statuses = [];
      for (let i = 0; i < 7; i++) statuses.push((await guess()).status);
      expect(statuses).toEqual([401, 401, 401, 401, 401, 429, 429]);
      expect((await guess()).headers.get("retry-after")).toBe("60");
      // A change of access, after which every credential is proved anew.
      const { body: key } = await strict.api.post("/v1/keys", { label: "short" });
      expect((await strict.api.delete(`/v1/keys/${key.id}`)).status).toBeLessThan(300);
      expect((await strict.api.get("/v1/me")).status).toBe(200);
      // One that was good and is no more has one try, as any other.
      const gone = new RestClient(strict.url, key.key);
      expect((await gone.get("/v1/me")).status).toBe(429);
    } finally {
      await strict.close();
    }
  });

  it("and too many requests of one key meet 429 with the time to wait", async () => {
    const strict = await startRestService({ rateLimitPerMinute: 10 });
    try {
      const replies = [];
      for (let i = 0; i < 12; i++) replies.push(await strict.api.get("/v1/me"));
      expect(replies.map((r) => r.status).slice(8)).toEqual([200, 200, 429, 429]);
      expect(replies[11]!.body).toMatchObject({ code: "RATE_LIMITED", retryable: true });
      expect(Number(replies[11]!.headers.get("retry-after"))).toBeGreaterThan(0);
    } finally {
      await strict.close();
    }
  });
});

describe("the bootstrap key", () => {
  it("is kept while it is good, and made anew where it is not, for its owner's eyes only", async () => {
    const file = join(rest.stateDir, "first.key");
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect((await stat(join(rest.stateDir, "signing-key.pem"))).mode & 0o777).toBe(0o600);
    const again = async () => {
      const config = resolveConfig(
        { port: 0, databaseUrl: rest.database.url, stateDir: rest.stateDir, bootstrapKeyFile: file },
        {},
      );
      await (await startService(config, pino({ level: "silent" }))).close();
      return (await readFile(file, "utf8")).trim();
    };
    expect(await again()).toBe(rest.key);
    await writeFile(file, "fl_0000000000000000_nonsense");
    const made = await again();
    expect(made).not.toBe(rest.key);
    expect((await me(made)).body.owner).toBe("me");
  });
});
