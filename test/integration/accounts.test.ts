// People: the first administrator, passwords, a real OpenID provider, sessions of browsers, device logins, refresh tokens,
// keys of tokens; all over real sockets, as a browser without scripts and a program would.
import { limits } from "@farloom/protocol";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { parseOidcProviders } from "../../apps/web-service/src/identity/oidc-config.js";
import { Browser, type Page } from "../support/browser.js";
import { CLIENT, startProvider, type TestProvider } from "../support/oidc-provider.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const SESSION = "farloom-loopback";
const PASSWORD = "correct horse battery";

let rest: RestService;
let provider: TestProvider;
let ada: Browser;

beforeAll(async () => {
  provider = await startProvider(() => `${rest.url}/login/oidc/uni/callback`);
  rest = await startRestService({
    failedAuthPerMinute: 1_000,
    oidcProviders: parseOidcProviders([
      {
        id: "uni",
        label: "the <University>",
        issuer: provider.issuer,
        clientId: CLIENT.id,
        clientSecret: CLIENT.secret,
        allow: { domains: ["uni.example"], subjects: ["guest-7"] },
      },
    ]),
  });
  ada = new Browser();
}, 60_000);
afterAll(async () => {
  await rest?.close();
  await provider?.close();
});

const audit = async (action: string): Promise<{ status: number; actor: string; detail: unknown }[]> => {
  const { rows } = await rest.database.pool.query(
    "SELECT status, actor, detail, target FROM audit_entry WHERE action = $1 ORDER BY seq",
    [action],
  );
  return rows;
};
const meOf = (browser: Browser) =>
  new RestClient(rest.url, undefined).get("/v1/me", {
    headers: { cookie: `${SESSION}=${browser.cookie(rest.url, SESSION)}` },
  });

const bearerOf = (token: string) => new RestClient(rest.url, token);
const form = async (path: string, fields: Record<string, string>) => {
  const response = await fetch(rest.url + path, { method: "POST", body: new URLSearchParams(fields) });
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies of every shape.
  return { status: response.status, body: (await response.json()) as any };
};
const pageOf = (browser: Browser, path: string) => browser.get(rest.url + path);
const logIn = async (browser: Browser, name: string, password: string): Promise<Page> =>
  browser.submit(await pageOf(browser, "/login"), { name, password });
/** A login of a program, approved by `browser`. */
const programLogin = async (browser: Browser, scope = "") => {
  const begun = await form("/v1/oauth/device", {
    client_id: "test program",
    host: "laptop",
    ...(scope && { scope }),
  });
  const page = await browser.get(begun.body.verification_uri_complete);
  await browser.submit(page, { decision: "approve" });
  const got = await form("/v1/oauth/token", { grant_type: DEVICE, device_code: begun.body.device_code });
  expect(got.status, JSON.stringify(got.body)).toBe(200);
  return got.body as { access_token: string; refresh_token: string; expires_in: number; scope: string };
};
const DEVICE = "urn:ietf:params:oauth:grant-type:device_code";
const refresh = (token: string, nonce?: string) =>
  form("/v1/oauth/token", { grant_type: "refresh_token", refresh_token: token, ...(nonce && { nonce }) });

describe("the first administrator", () => {
  it("makes an account with the one-time token of the console, which is good once", async () => {
    const token = rest.service.firstAdminToken!;
    expect(token).toMatch(/^fla_[A-Za-z0-9_-]{43}$/);
    const { rows } = await rest.database.pool.query("SELECT * FROM account_link");
    expect(JSON.stringify(rows)).not.toContain(token.slice(4));
    const weak = await ada.submit(await pageOf(ada, "/setup"), { token, name: "ada", password: "short" });
    expect([weak.status, weak.text]).toEqual([400, expect.stringContaining("at least 12")]);
    const page = await ada.submit(await pageOf(ada, "/setup"), { token, name: "ada", password: PASSWORD });
    expect(page).toMatchObject({ status: 200, url: `${rest.url}/account` });
    expect(page.text).toContain("<strong>ada</strong>");
    expect((await meOf(ada)).body).toMatchObject({ owner: "ada", admin: true });
    const again = await new Browser().submit(await pageOf(new Browser(), "/setup"), {});
    expect(again.status, "a form of another visitor").toBe(403);
    const eve = new Browser();
    const late = await eve.submit(await pageOf(eve, "/setup"), { token, name: "eve", password: PASSWORD });
    expect(late.status).toBe(401);
    const { rows: passwords } = await rest.database.pool.query("SELECT hash FROM local_password");
    expect(passwords[0].hash).toMatch(/^scrypt\$32768\$8\$3\$/);
  });

  it("invites others; nobody else does, and no key that lacks a scope", async () => {
    const invited = await rest.api.post("/v1/accounts", { name: "bob" });
    expect(invited.status).toBe(201);
    const bob = new Browser();
    const page = await bob.submit(await pageOf(bob, "/setup"), {
      token: invited.body.token,
      name: "ignored",
      password: PASSWORD,
    });
    expect(page.text).toContain("<strong>bob</strong>");
    expect((await meOf(bob)).body).toMatchObject({ owner: "bob", admin: false });
    const program = bearerOf((await programLogin(bob)).access_token);
    expect((await program.post("/v1/accounts", { name: "mallory" })).body.code).toBe("ADMIN_ONLY");
    expect((await program.get("/metrics")).status, "what is the whole service's").toBe(403);
    const { key } = (await rest.api.post("/v1/keys", { label: "x", scopes: ["keys:write"] })).body;
    expect((await bearerOf(key).post("/v1/accounts", { name: "m", admin: true })).body.code).toBe(
      "SCOPE_MISSING",
    );
  });
});

describe("passwords", () => {
  it("let in, and refuse alike a wrong one and an unknown name; refusals of accounts are in the audit log", async () => {
    const browser = new Browser();
    const wrong = await logIn(browser, "ada", "wrong wrong wrong");
    const unknown = await logIn(browser, "nobody-here", "wrong wrong wrong");
    for (const page of [wrong, unknown]) {
      expect([page.status, page.text]).toEqual([
        401,
        expect.stringContaining("The name or the password is not right."),
      ]);
    }
    expect((await logIn(browser, "ada", PASSWORD)).text).toContain("<strong>ada</strong>");
    const entries = await audit("sessions.login");
    expect(entries.filter(({ status }) => status === 401)).toMatchObject([{ actor: "ada" }]);
    expect(JSON.stringify(entries)).not.toContain(PASSWORD);
  });
});

describe("an OpenID provider", () => {
  const visit = async (person: TestProvider["person"], browser = new Browser()) => {
    provider.person = person;
    return { browser, page: await browser.get(`${rest.url}/login/oidc/uni`) };
  };

  it("brings somebody in, whose account is made once, and known by issuer and subject alone", async () => {
    expect((await pageOf(new Browser(), "/login")).text).toContain("Log in with the &lt;University&gt;");
    const grace = {
      sub: "g-1",
      email: "grace@uni.example",
      email_verified: true,
      preferred_username: "Grace.Hopper",
    };
    const first = await visit(grace);
    expect(first.page).toMatchObject({ status: 200, url: `${rest.url}/account` });
    expect((await meOf(first.browser)).body).toMatchObject({ owner: "grace.hopper", admin: false });
    // Another name and address, the same subject: the same person. The same name and address, another subject: another.
    const renamed = await visit({ ...grace, email: "gh@uni.example", preferred_username: "hopper" });
    expect((await meOf(renamed.browser)).body.owner).toBe("grace.hopper");
    const other = await visit({ ...grace, sub: "g-2" });
    expect((await meOf(other.browser)).body.owner).toBe("grace.hopper-2");
    // Nobody becomes a local account's owner by being called so.
    const claims = { sub: "g-3", email: "ada@uni.example", email_verified: true, preferred_username: "ada" };
    expect((await meOf((await visit(claims)).browser)).body).toMatchObject({ owner: "ada-2", admin: false });
    expect(await audit("accounts.create")).toMatchObject([
      { actor: "ada" },
      { actor: "bob" },
      { actor: "grace.hopper" },
      { actor: "grace.hopper-2" },
      { actor: "ada-2" },
    ]);
  });

  it("lets in whom the configuration names, and nobody else", async () => {
    const refused = async (person: TestProvider["person"]) => {
      const { browser, page } = await visit(person);
      expect([page.status, browser.cookie(rest.url, SESSION)], JSON.stringify(person)).toEqual([
        403,
        undefined,
      ]);
    };
    await refused({ sub: "x-1", email: "x@uni.example", email_verified: false });
    await refused({ sub: "x-2", email: "x@uni.example" });
    await refused({ sub: "x-3", email: "x@sub.uni.example", email_verified: true });
    await refused({ sub: "x-4", email: "x@uni.example.evil.example", email_verified: true });
    await refused({ sub: "x-5" });
    expect((await visit({ sub: "guest-7" })).page.status).toBe(200);
  });

  it("is asked with PKCE, state and nonce, and its answer is taken from the browser that began, once", async () => {
    provider.person = { sub: "guest-7" };
    const browser = new Browser();
    const begun = await browser.hop(`${rest.url}/login/oidc/uni`);
    const asked = new URL(begun.headers.get("location")!).searchParams;
    expect(Object.fromEntries(asked)).toMatchObject({ code_challenge_method: "S256", response_type: "code" });
    for (const name of ["state", "nonce", "code_challenge"])
      expect(asked.get(name)!.length).toBeGreaterThan(40);
    expect(begun.headers.get("set-cookie")).toMatch(/^farloom-loopback-flow=.*HttpOnly; SameSite=Lax/);
    // Follow to the provider by hand, and take its answer elsewhere.
    let url = begun.headers.get("location")!;
    while (!url.startsWith(rest.url))
      url = new URL((await browser.hop(url)).headers.get("location")!, url).href;
    expect((await new Browser().get(url)).status, "another browser").toBe(403);
    const bent = new URL(url);
    bent.searchParams.set("state", "other");
    const flow = browser.cookie(rest.url, `${SESSION}-flow`)!;
    expect((await browser.get(bent.href)).status, "another state").toBe(502);
    browser.setCookie(rest.url, `${SESSION}-flow`, flow);
    expect((await browser.get(url)).status).toBe(200);
    browser.setCookie(rest.url, `${SESSION}-flow`, flow);
    expect((await browser.get(url)).status, "the same code again").toBe(502);
  });
});

describe("a browser's session", () => {
  it("is a cookie that scripts do not see, opaque, hashed at rest, and changes what it may only from our own pages", async () => {
    const value = ada.cookie(rest.url, SESSION)!;
    expect(value).toMatch(/^fls_ses-[0-9a-f]{16}_[A-Za-z0-9_-]{43}$/);
    const { rows } = await rest.database.pool.query("SELECT * FROM login_session");
    expect(JSON.stringify(rows)).not.toContain(value.slice(-43));
    const cookie = `${SESSION}=${value}`;
    const { csrf } = (await meOf(ada)).body;
    const make = (headers: Record<string, string>) =>
      new RestClient(rest.url, undefined).post(
        "/v1/keys",
        { label: "by cookie" },
        { headers: { cookie, ...headers } },
      );
    const origin = rest.url;
    for (const headers of [
      {},
      { origin },
      { origin, "x-farloom-csrf": "x" },
      { "x-farloom-csrf": csrf },
      { origin: "null", "x-farloom-csrf": csrf },
      { origin: `${origin}.evil.example`, "x-farloom-csrf": csrf },
      { origin: "http://localhost:1", "x-farloom-csrf": csrf },
    ] as Record<string, string>[]) {
      expect((await make(headers)).body, JSON.stringify(headers)).toMatchObject({ code: "ORIGIN_REFUSED" });
    }
    expect((await make({ origin, "x-farloom-csrf": csrf })).status).toBe(201);
    // A form from elsewhere, with the victim's cookies and even a token of the attacker's own.
    const page = await pageOf(ada, "/account");
    expect((await ada.submit(page, {}, { origin: "https://evil.example" })).status).toBe(403);
    expect((await ada.submit(page, { csrf: "AAAA" })).status).toBe(403);
    expect((await meOf(ada)).status).toBe(200);
  });

  it("is shown pages that nobody frames and that run no script", async () => {
    for (const path of ["/login", "/setup", "/account", "/device"]) {
      const { headers, text } = await ada.get(rest.url + path);
      expect(headers.get("content-security-policy")).toMatch(
        /^default-src 'none';.*form-action 'self'.*frame-ancestors 'none'/,
      );
      expect([headers.get("x-frame-options"), headers.get("cache-control")]).toEqual(["DENY", "no-store"]);
      expect(text).not.toMatch(/<script|javascript:|onclick/i);
    }
  });

  it("opens no WebSocket for another site's page", async () => {
    const dial = (origin: string) =>
      new Promise<number>((resolve) => {
        const socket = new WebSocket(
          rest.url.replace("http", "ws") + limits.CLIENT_LINK_PATH,
          limits.SUBPROTOCOL,
          {
            headers: { cookie: `${SESSION}=${ada.cookie(rest.url, SESSION)}`, origin },
          },
        );
        socket.once("unexpected-response", (_request, response) => {
          response.resume();
          resolve(response.statusCode!);
        });
        socket.once("open", () => {
          socket.terminate();
          resolve(101);
        });
        socket.on("error", () => {});
      });
    expect([await dial("https://evil.example"), await dial(rest.url)]).toEqual([403, 101]);
  });

  it("ends by logging out, unused after its idle time, and where the account is disabled", async () => {
    const guest = async () => {
      const browser = new Browser();
      provider.person = { sub: "guest-7" };
      await browser.get(`${rest.url}/login/oidc/uni`);
      expect((await meOf(browser)).status).toBe(200);
      return browser;
    };
    const [leaving, idle, disabled] = [await guest(), await guest(), await guest()];
    const cookie = leaving.cookie(rest.url, SESSION)!;
    expect((await leaving.submit(await pageOf(leaving, "/account"), {})).url).toContain("/login");
    leaving.setCookie(rest.url, SESSION, cookie);
    expect((await meOf(leaving)).status, "the cookie of before").toBe(401);
    const id = idle.cookie(rest.url, SESSION)!.slice(4, 24);
    await rest.database.pool.query("UPDATE login_session SET idle_until = now() WHERE id = $1", [id]);
    await expect.poll(async () => (await meOf(idle)).status, { timeout: 8_000, interval: 300 }).toBe(401);
    const { owner } = (await meOf(disabled)).body;
    expect((await rest.api.post(`/v1/accounts/${owner}/disable`)).status).toBe(204);
    expect((await meOf(disabled)).status).toBe(401);
    const again = new Browser();
    expect((await again.get(`${rest.url}/login/oidc/uni`)).status).toBe(403);
    expect((await audit("sessions.logout")).length).toBeGreaterThan(0);
  });
});

describe("a program", () => {
  it("waits for a person who sees what asks and from where; it is told once, and not when it asks too often", async () => {
    const begun = await form("/v1/oauth/device", { client_id: "<b>evil</b>", host: "login7" });
    expect(begun.body).toMatchObject({
      expires_in: 600,
      interval: 2,
      verification_uri: `${rest.url}/device`,
    });
    expect(begun.body.user_code).toMatch(/^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$/);
    const ask = () => form("/v1/oauth/token", { grant_type: DEVICE, device_code: begun.body.device_code });
    expect(await ask()).toMatchObject({ status: 400, body: { error: "authorization_pending" } });
    expect(await ask()).toMatchObject({ status: 400, body: { error: "slow_down", retryAfterMs: 7_000 } });
    const stranger = new Browser();
    expect((await stranger.get(begun.body.verification_uri_complete)).url).toContain("/login?next=");
    const page = await ada.get(
      `${rest.url}/device?user_code=${begun.body.user_code.toLowerCase().replace("-", "+")}`,
    );
    for (const text of [
      "&lt;b&gt;evil&lt;/b&gt; on login7",
      "127.0.0.1",
      begun.body.user_code,
      "tasks:submit",
    ])
      expect(page.text).toContain(text);
    expect((await ada.submit(page, { decision: "approve" })).text).toContain(
      "is logged in as <strong>ada</strong>",
    );
    expect((await ada.submit(page, { decision: "deny" })).status, "decided once").toBe(404);
    const got = await Promise.all([ask(), ask(), ask()]);
    expect(got.map(({ status }) => status).sort()).toEqual([200, 400, 400]);
    const { body } = got.find(({ status }) => status === 200)!;
    expect(body).toMatchObject({ token_type: "Bearer", expires_in: 600 });
    expect((await bearerOf(body.access_token).get("/v1/me")).body).toMatchObject({
      owner: "ada",
      admin: true,
    });
    expect((await ask()).body.error).toBe("expired_token");
  });

  it("that is denied, or not approved in time, hears so; one that asked for few scopes has no more", async () => {
    const denied = await form("/v1/oauth/device", { client_id: "p" });
    await ada.submit(await ada.get(denied.body.verification_uri_complete), { decision: "deny" });
    const ask = (code: string) => form("/v1/oauth/token", { grant_type: DEVICE, device_code: code });
    expect((await ask(denied.body.device_code)).body.error).toBe("access_denied");
    const late = await form("/v1/oauth/device", { client_id: "p" });
    await rest.database.pool.query("UPDATE device_login SET expires_at = now()");
    expect((await ada.get(late.body.verification_uri_complete)).status).toBe(404);
    expect((await ask(late.body.device_code)).body.error).toBe("expired_token");
    const { access_token: token, scope } = await programLogin(ada, "tasks:read functions:read");
    expect(scope).toBe("tasks:read functions:read");
    expect((await bearerOf(token).post("/v1/keys", { label: "x" })).body.code).toBe("SCOPE_MISSING");
    expect((await form("/v1/oauth/device", { scope: "everything" })).status).toBe(400);
  });

  it("exchanges its refresh token for another; a lost answer can be asked for again, an old token ends the family", async () => {
    const first = await programLogin(ada);
    const { rows } = await rest.database.pool.query("SELECT * FROM login_session");
    expect(JSON.stringify(rows)).not.toContain(first.refresh_token.slice(-43));
    const nonce = "n".repeat(43);
    const second = await refresh(first.refresh_token, nonce);
    expect(second.body.refresh_token).not.toBe(first.refresh_token);
    expect((await refresh(first.refresh_token, nonce)).body.refresh_token).toBe(second.body.refresh_token);
    const third = await refresh(second.body.refresh_token);
    const api = bearerOf(third.body.access_token);
    expect((await api.get("/v1/me")).status).toBe(200);
    const [, id] = third.body.refresh_token.split("_");
    // Whoever knows the family's id alone ends nothing.
    expect((await refresh(`flr_${id}_${"A".repeat(22)}_${"B".repeat(43)}`)).body.error).toBe("invalid_grant");
    expect((await api.get("/v1/me")).status).toBe(200);
    expect((await refresh(first.refresh_token, nonce)).body.error, "its successor was used").toBe(
      "invalid_grant",
    );
    expect((await api.get("/v1/me")).status, "the access token of the family").toBe(401);
    expect((await refresh(third.body.refresh_token)).body.error, "the newest one").toBe("invalid_grant");
    expect(await audit("sessions.reuse")).toMatchObject([{ actor: "ada", target: id }]);
  });

  it("of many exchanges of one token at once, one is good, and the family ends", async () => {
    const { refresh_token: token } = await programLogin(ada);
    const answers = await Promise.all(Array.from({ length: 12 }, () => refresh(token)));
    expect(answers.filter(({ status }) => status === 200).length).toBeLessThanOrEqual(1);
    expect((await refresh(token)).status).toBe(400);
  });

  it("loses its open connection within 5 s when its login is revoked, and a browser's cookie hears of it too", async () => {
    const login = await programLogin(ada);
    const socket = new WebSocket(
      rest.url.replace("http", "ws") + limits.CLIENT_LINK_PATH,
      limits.SUBPROTOCOL,
      {
        headers: { authorization: `Bearer ${login.access_token}` },
      },
    );
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    const closed = new Promise((resolve) => socket.once("close", resolve));
    const said: string[] = [];
    socket.on("message", (data) => said.push(data.toString()));
    const atMs = performance.now();
    const { keyId } = (await bearerOf(login.access_token).get("/v1/me")).body;
    expect((await form("/v1/oauth/revoke", { token: login.refresh_token })).status).toBe(200);
    await closed;
    // What the database alone tells of, as where another replica's hint was lost.
    const other = await programLogin(ada);
    const second = new WebSocket(socket.url, limits.SUBPROTOCOL, {
      headers: { authorization: `Bearer ${other.access_token}` },
    });
    await new Promise((resolve, reject) => second.once("open", resolve).once("error", reject));
    const gone = new Promise((resolve) => second.once("close", resolve));
    const otherAtMs = performance.now();
    await rest.database.pool.query("UPDATE login_session SET revoked_at = now() WHERE id = $1", [
      other.refresh_token.split("_")[1],
    ]);
    await gone;
    expect(performance.now() - otherAtMs).toBeLessThan(5_000);
    expect(otherAtMs - atMs).toBeLessThan(5_000);
    expect(said.join()).toContain("CREDENTIAL_REVOKED");
    expect((await bearerOf(login.access_token).get("/v1/me")).status).toBe(401);
    const api = bearerOf((await programLogin(ada)).access_token);
    const { items } = (await api.get("/v1/sessions")).body;
    expect(items.map(({ id }: { id: string }) => id)).not.toContain(keyId);
    expect((await api.delete(`/v1/sessions/${keyId}`)).body.code).toBe("SESSION_NOT_FOUND");
  });
});

describe("the keys of tokens", () => {
  it("change with overlap: what the one before signed holds, and the next signs once all have heard of it", async () => {
    const { access_token: before, refresh_token: token } = await programLogin(ada);
    const kids = async () =>
      (await bearerOf(before).get("/.well-known/jwks.json")).body.keys.map((key: { kid: string }) => key.kid);
    const [old] = await kids();
    expect(decodeProtectedHeader(before)).toMatchObject({
      alg: "EdDSA",
      typ: "farloom-access+jwt",
      kid: old,
    });
    const claims = decodeJwt(before);
    expect(claims.exp! - claims.iat!).toBe(600);
    const { kid } = (await rest.api.post("/v1/signing-keys")).body;
    expect((await kids()).sort()).toEqual([old, kid].sort());
    const { rows } = await rest.database.pool.query("SELECT sealed, public_key FROM token_key");
    expect(rows[0].sealed.includes(Buffer.from("302e0201", "hex")), "PKCS #8 in the clear").toBe(false);
    const soon = await refresh(token);
    expect(decodeProtectedHeader(soon.body.access_token).kid, "not before all replicas know it").toBe(old);
    await rest.database.pool.query("UPDATE token_key SET active_at = now() - interval '1 second'");
    let latest = soon.body;
    await expect
      .poll(
        async () => {
          latest = (await refresh(latest.refresh_token)).body;
          return decodeProtectedHeader(latest.access_token).kid;
        },
        { timeout: 8_000, interval: 300 },
      )
      .toBe(kid);
    for (const good of [before, latest.access_token])
      expect((await bearerOf(good).get("/v1/me")).status).toBe(200);
    // An hour and a half later nothing that the old one signed can hold.
    await rest.database.pool.query("UPDATE token_key SET active_at = now() - interval '91 minutes'");
    await expect.poll(kids, { timeout: 8_000, interval: 300 }).toEqual([kid]);
    await expect
      .poll(async () => (await bearerOf(before).get("/v1/me")).status, { timeout: 8_000 })
      .toBe(401);
    expect(await audit("signing-keys.rotate")).toHaveLength(1);
  });
});

describe("guessing", () => {
  it("of user codes meets 429 after ten that nobody waits with", async () => {
    const bob = new Browser();
    provider.person = { sub: "b-1", email: "b@uni.example", email_verified: true };
    await bob.get(`${rest.url}/login/oidc/uni`);
    const statuses: number[] = [];
    for (let i = 0; i < 12; i++)
      statuses.push((await bob.get(`${rest.url}/device?user_code=BCDF-GHJ${"BCDFGHJKLMNP"[i]}`)).status);
    expect(statuses).toEqual([...Array(10).fill(404), 429, 429]);
  });
});

describe("guessing passwords", () => {
  it("meet 429 with the time to wait after ten tries of an account, the right one too", async () => {
    const { body } = await rest.api.post("/v1/accounts", { name: "carol" });
    const carol = new Browser();
    await carol.submit(await pageOf(carol, "/setup"), {
      token: body.token,
      name: "carol",
      password: PASSWORD,
    });
    const guesser = new Browser();
    const page = await pageOf(guesser, "/login");
    // Tries that run at once count too.
    const tries = await Promise.all(
      Array.from({ length: 14 }, () => guesser.submit(page, { name: "carol", password: "x".repeat(12) })),
    );
    const statuses = tries.map(({ status }) => status);
    expect([statuses.filter((s) => s === 401).length, statuses.filter((s) => s === 429).length]).toEqual([
      10, 4,
    ]);
    const right = await logIn(guesser, "carol", PASSWORD);
    expect(right.status).toBe(429);
    expect(Number(right.headers.get("retry-after"))).toBeGreaterThan(60);
  });
});
