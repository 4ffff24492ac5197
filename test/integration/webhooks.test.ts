/**
 * Webhooks from end to end: outcomes of a real service reach real https servers, by names that a real name server answers.
 * 127.0.0.1 is the one address that the operator of this service has allowed; 127.0.0.2 stands for all that it has not.
 */
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { WebhookSettings } from "../../apps/web-service/src/webhooks/settings.js";
import { DnsServer } from "../support/dns-server.js";
import { FakeAgent } from "../support/fake-agent.js";
import { type Authority, HookReceiver, isSigned, makeAuthority } from "../support/hook-receiver.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

const SECRET_VALUE = "value-5b1e";
let rest: RestService;
/** Without webhooks; later the same database with them. */
let plain: RestService;
let dns: DnsServer;
let authority: Authority;
let allowed: HookReceiver;
/** On the same port of an address that is not allowed: whatever comes here has got past the checks. */
let forbidden: HookReceiver;
let settings: WebhookSettings;
let fn: string;
/** An endpoint that no agent serves: what is cancelled there ends at once. */
let away: string;

beforeAll(async () => {
  authority = makeAuthority();
  dns = await DnsServer.start();
  allowed = await HookReceiver.start(authority, "127.0.0.1");
  forbidden = await HookReceiver.start(authority, "127.0.0.2", allowed.port);
  settings = {
    hosts: [],
    ports: [allowed.port],
    http: false,
    allow: ["127.0.0.1/32"],
    ca: authority.ca,
    dns: [dns.address],
    retryMs: 300,
  };
  rest = await startRestService({ webhooks: settings, sweepMs: 500 });
  fn = await register(rest.api);
  away = (await rest.api.post("/v1/endpoints", { name: "away" })).body.id;
}, 60_000);
afterAll(async () => {
  await rest?.close();
  await plain?.close();
  await allowed?.close();
  await forbidden?.close();
  await dns?.close();
});

async function register(api: RestClient): Promise<string> {
  const code = "def f(*a):\n    return a\n";
  return (await api.post("/v1/functions", { name: "f", runtime: "python", entry: "f", code })).body.id;
}

/** A name of its own, answered by `addresses`, and the URL of it. */
function named(host: string, path: string, addresses: () => string[] = () => ["127.0.0.1"]): string {
  dns.names.set(`${host}.hooks.test`, addresses);
  return `https://${host}.hooks.test:${allowed.port}${path}`;
}

interface Hook {
  readonly id: string;
  readonly secret: string;
}

async function hook(url: string, more: object = {}): Promise<Hook> {
  const { status, body } = await rest.api.post("/v1/webhooks", { url, events: ["task.done"], ...more });
  expect(status, JSON.stringify(body)).toBe(201);
  return body;
}

async function without<T>(made: Hook, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } finally {
    await rest.api.delete(`/v1/webhooks/${made.id}`);
  }
}

/** A task that has ended CANCELLED; returns its id. */
async function endOne(more: object = {}, api = rest.api): Promise<string> {
  const made = await api.post("/v1/tasks", { function: fn, endpoint: away, args: [SECRET_VALUE], ...more });
  expect(made.status, JSON.stringify(made.body)).toBe(202);
  const cancelled = await api.post(`/v1/tasks/${made.body.id}/cancel`);
  expect(cancelled.status).toBe(202);
  return made.body.id;
}

const ping = (made: Hook) => rest.api.post(`/v1/webhooks/${made.id}/test`);

async function deliveries(
  id: string,
): Promise<{ id: string; state: string; attempts: number; error?: string }[]> {
  return (await rest.api.get(`/v1/webhooks/${id}/deliveries`)).body.items;
}

async function eventually<T>(look: () => Promise<T | undefined | false>, what: string): Promise<T> {
  const until = performance.now() + 20_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > until) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describe("a service whose operator has not asked for webhooks", () => {
  it("says so at every route, and keeps no cursor", async () => {
    plain = await startRestService();
    const id = randomUUID();
    const json = { url: "https://x.example/", events: ["task.done"] };
    const replies = [
      await plain.api.post("/v1/webhooks", json),
      await plain.api.get("/v1/webhooks"),
      await plain.api.get(`/v1/webhooks/${id}`),
      await plain.api.call("PATCH", `/v1/webhooks/${id}`, { json: { enabled: true } }),
      await plain.api.delete(`/v1/webhooks/${id}`),
      await plain.api.post(`/v1/webhooks/${id}/test`),
      await plain.api.post(`/v1/webhooks/${id}/rotate`),
      await plain.api.get(`/v1/webhooks/${id}/deliveries`),
    ];
    expect(replies.map(({ status, body }) => [status, body.code])).toEqual(
      replies.map(() => [403, "WEBHOOKS_OFF"]),
    );
    const { rows } = await plain.database.pool.query("SELECT count(*)::int4 AS n FROM webhook_cursor");
    expect(rows[0].n).toBe(0);
  });
});

describe("registering", () => {
  it("shows the secret once, and the audit log the host alone", async () => {
    const made = await hook(named("reg", "/reg/secret-path"), {
      name: "lab",
      onlyFailed: true,
      endpoint: "away",
    });
    await without(made, async () => {
      expect(made.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
      const { body } = await rest.api.get(`/v1/webhooks/${made.id}`);
      expect(body).toMatchObject({
        name: "lab",
        onlyFailed: true,
        endpoint: away,
        enabled: true,
        dropped: 0,
      });
      expect(JSON.stringify([body, (await rest.api.get("/v1/webhooks")).body])).not.toContain("whsec_");
      const { rows } = await rest.database.pool.query(
        "SELECT detail FROM audit_entry WHERE action = 'webhooks.create' AND target = $1",
        [made.id],
      );
      expect(JSON.parse(rows[0].detail)).toMatchObject({ host: `reg.hooks.test:${allowed.port}` });
      expect(rows[0].detail).not.toContain("secret-path");
    });
  });

  it("refuses URLs that carry credentials, are not https, or name a port or an address that is not allowed", async () => {
    const { port } = allowed;
    for (const url of [
      `https://user@reg.hooks.test:${port}/`,
      `https://:pw@reg.hooks.test:${port}/`,
      `http://reg.hooks.test:${port}/`,
      "https://reg.hooks.test/",
      `https://reg.hooks.test:${port}/#x`,
      `https://10.0.0.1:${port}/`,
      `https://2130706434:${port}/`,
      `https://0x7f.2:${port}/`,
      `https://0177.0.0.2:${port}/`,
      `https://[::1]:${port}/`,
      `https://[::ffff:127.0.0.1]:${port}/`,
      `https://169.254.169.254:${port}/`,
      `https://reg.hooks.test.:${port}/`,
      "ftp://reg.hooks.test/",
      "not a url",
    ]) {
      const { status, body } = await rest.api.post("/v1/webhooks", { url, events: ["task.done"] });
      expect([url, status, body.code]).toEqual([url, 422, "WEBHOOK_URL_REFUSED"]);
    }
  });

  it("stops at the quota, and needs its scope", async () => {
    const key = async (body: object): Promise<RestClient> =>
      new RestClient(rest.url, (await rest.api.post("/v1/keys", { label: "x", ...body })).body.key);
    const person = await key({ owner: "collector" });
    const json = { url: named("quota", "/q"), events: ["group.done"], enabled: false };
    for (let i = 0; i < 20; i++) expect((await person.post("/v1/webhooks", json)).status).toBe(201);
    const over = await person.post("/v1/webhooks", json);
    expect([over.status, over.body.code]).toEqual([403, "QUOTA_EXCEEDED"]);
    const weak = await (await key({ scopes: ["tasks:read"] })).get("/v1/webhooks");
    expect(weak.body.code).toBe("SCOPE_MISSING");
  });
});

describe("what has ended is told", () => {
  it("of tasks, signed, with names and states and never a value; filters hold", async () => {
    const agent = await FakeAgent.start(rest.api, "served", () => ({ value: SECRET_VALUE }));
    const all = await hook(named("all", "/all"));
    const failed = await hook(named("failed", "/failed"), { onlyFailed: true });
    const there = await hook(named("there", "/there"), { endpoint: agent.endpointId });
    try {
      const call = { function: fn, endpoint: agent.endpointId, args: [SECRET_VALUE] };
      const good = (await rest.api.post("/v1/tasks?wait=20", call)).body;
      expect(good.state).toBe("SUCCEEDED");
      const bad = await endOne();
      const [first, second] = await allowed.until("/all", 2);
      expect(new Set([first!.body.data.task, second!.body.data.task])).toEqual(new Set([good.id, bad]));
      const told = allowed.at("/all").find(({ body }) => body.data.task === good.id)!;
      expect(told.body).toMatchObject({
        type: "task.done",
        data: {
          function: "me/f@1",
          endpointName: "served",
          state: "SUCCEEDED",
          attempt: 1,
          link: `/v1/tasks/${good.id}`,
        },
      });
      expect(isSigned(told, all.secret)).toBe(true);
      expect(isSigned(told, failed.secret)).toBe(false);
      expect(isSigned({ ...told, raw: `${told.raw} ` }, all.secret)).toBe(false);
      expect(Math.abs(Number(told.headers["webhook-timestamp"]) - Date.now() / 1000)).toBeLessThan(60);
      const [onlyBad] = await allowed.until("/failed", 1);
      expect(onlyBad!.body.data).toMatchObject({
        task: bad,
        state: "CANCELLED",
        reason: "cancelled_by_user",
      });
      const [onlyThere] = await allowed.until("/there", 1);
      expect(onlyThere!.body.data.task).toBe(good.id);
      expect([allowed.at("/failed").length, allowed.at("/there").length]).toEqual([1, 1]);
      expect(allowed.received.map(({ raw }) => raw).join()).not.toContain(SECRET_VALUE);
    } finally {
      for (const { id } of [all, failed, there]) await rest.api.delete(`/v1/webhooks/${id}`);
      await agent.close();
    }
  });

  it("of a group once, when nothing of it is open, and again when it has gone on", async () => {
    const made = await hook(named("group", "/group"), { events: ["group.done"] });
    await without(made, async () => {
      const group = (await rest.api.post("/v1/groups", { name: "sweep" })).body.id;
      const open = await rest.api.post("/v1/tasks", { function: fn, endpoint: away, group });
      await endOne({ group });
      await endOne({ group });
      await new Promise((resolve) => setTimeout(resolve, 1_500));
      expect(allowed.at("/group")).toEqual([]);
      await rest.api.post(`/v1/tasks/${open.body.id}/cancel`);
      const [first] = await allowed.until("/group", 1);
      expect(first!.body).toMatchObject({
        type: "group.done",
        data: { group, name: "sweep", total: 3, states: { CANCELLED: 3 } },
      });
      await endOne({ group });
      const [, second] = await allowed.until("/group", 2);
      expect(second!.body.data.total).toBe(4);
      expect(second!.id).not.toBe(first!.id);
    });
  });

  it("again after a failure and after a restart of the service, with the same id and body", async () => {
    const { url: databaseUrl, tenantUrl: tenantDatabaseUrl } = plain.database;
    const start = () =>
      startRestService({ databaseUrl, tenantDatabaseUrl, stateDir: plain.stateDir, webhooks: settings });
    await plain.service.close();
    let own = await start();
    try {
      let answers = 0;
      // The first try fails, the second is under way when the service stops.
      allowed.answers.set("/again", (_received, response) => {
        answers++;
        if (answers === 1) response.writeHead(500).end();
        else if (answers > 2) response.writeHead(200).end();
      });
      const api = (): RestClient => new RestClient(own.url, plain.key);
      const url = named("again", "/again");
      const made = (await api().post("/v1/webhooks", { url, events: ["task.done"] })).body;
      const call = {
        function: await register(api()),
        endpoint: (await api().post("/v1/endpoints", { name: "away" })).body.id,
      };
      const task = (await api().post("/v1/tasks", call)).body.id;
      await api().post(`/v1/tasks/${task}/cancel`);
      await allowed.until("/again", 2);
      await own.close();
      own = await start();
      const tries = await allowed.until("/again", 3);
      expect(new Set(tries.map(({ id }) => id)).size).toBe(1);
      expect(new Set(tries.map(({ raw }) => raw)).size).toBe(1);
      expect(tries.every((one) => isSigned(one, made.secret))).toBe(true);
      const [row] = await eventually(async () => {
        const { items } = (await api().get(`/v1/webhooks/${made.id}/deliveries`)).body;
        return items[0].state === "delivered" && items;
      }, "the delivery is recorded");
      expect(row).toMatchObject({ id: tries[0]!.id, attempts: 3, status: 200 });
    } finally {
      await own.close();
    }
  });

  it("by another replica where the one that committed it died before it did, under the same id", async () => {
    const { pool } = rest.database;
    const made = await hook(named("left", "/left"));
    await without(made, async () => {
      await endOne();
      const [first] = await allowed.until("/left", 1);
      await eventually(async () => (await deliveries(made.id))[0]?.state === "delivered", "it is recorded");
      // As if nothing had been written: the cursor of a replica that is gone says that this is still to be told.
      await pool.query("DELETE FROM webhook_delivery");
      const gone = randomUUID();
      await pool.query(
        "INSERT INTO webhook_cursor VALUES ($1, now() - interval '1 minute', now() - interval '10 minutes')",
        [gone],
      );
      const [, second] = await allowed.until("/left", 2);
      expect([second!.id, second!.raw]).toEqual([first!.id, first!.raw]);
      await eventually(async () => {
        const { rows } = await pool.query("SELECT FROM webhook_cursor WHERE replica_id = $1", [gone]);
        return rows.length === 0;
      }, "the cursor of the replica that is gone is taken over");
      expect(allowed.at("/left")).toHaveLength(2);
    });
  });

  it("to others, while one receiver keeps what it got and does not answer", async () => {
    let [open, most] = [0, 0];
    allowed.answers.set("/slow", (_received, response) => {
      open++;
      most = Math.max(most, open);
      response.once("close", () => {
        open--;
      });
    });
    const slow = await hook(named("slow", "/slow"));
    const fast = await hook(named("fast", "/fast"));
    await without(slow, () =>
      without(fast, async () => {
        for (let i = 0; i < 8; i++) await endOne();
        await allowed.until("/fast", 8);
        await allowed.until("/slow", 4);
        expect(most).toBeLessThanOrEqual(4);
      }),
    );
  });
});

describe("an address that is not public and was not allowed is never called", () => {
  it.each([
    ["loopback", ["127.0.0.2"]],
    ["a cloud's metadata", ["169.254.169.254"]],
    ["a private network, beside a good address", ["127.0.0.1", "10.0.0.1"]],
    ["IPv6 of this machine, beside a good address", ["127.0.0.1", "::1"]],
    ["IPv4 in IPv6", ["::ffff:7f00:1"]],
    ["NAT64", ["64:ff9b::7f00:1"]],
    ["no address at all", []],
  ])("%s", async (_what, addresses) => {
    const made = await hook(
      named("bad", "/bad", () => addresses),
      { enabled: false },
    );
    await without(made, async () => {
      const { body } = await ping(made);
      expect(body).toMatchObject({ state: "failed", error: "address_refused" });
    });
    expect(forbidden.received).toEqual([]);
    expect(allowed.at("/bad")).toEqual([]);
  });

  it("where the name means another address once it was looked at", async () => {
    const asked = (): number => dns.asked.filter((name) => name === "rebind.hooks.test").length;
    const url = named("rebind", "/rebind", () => [asked() <= 1 ? "127.0.0.1" : "127.0.0.2"]);
    const made = await hook(url, { enabled: false });
    await without(made, async () => {
      expect((await ping(made)).body).toMatchObject({ state: "delivered", status: 204 });
      // The name means the other address by now, and the next delivery finds that out before it calls.
      expect((await ping(made)).body).toMatchObject({ state: "failed", error: "address_refused" });
    });
    expect(allowed.at("/rebind")).toHaveLength(1);
    expect(allowed.at("/rebind")[0]!.headers.host).toBe(`rebind.hooks.test:${allowed.port}`);
    expect(forbidden.received).toEqual([]);
  });

  it.each([302, 307, 308])("where a receiver redirects to it with %d", async (status) => {
    allowed.answers.set("/redirect", (_received, response) => {
      response.writeHead(status, { location: `https://127.0.0.2:${allowed.port}/redirected` }).end();
    });
    const made = await hook(named("redirect", "/redirect"), { enabled: false });
    await without(made, async () => {
      expect((await ping(made)).body).toMatchObject({ state: "failed", error: "redirect", status });
    });
    expect(forbidden.received).toEqual([]);
  });
});

describe("a receiver", () => {
  it("whose certificate is for another name is not told anything", async () => {
    dns.names.set("elsewhere.test", () => ["127.0.0.1"]);
    const made = await hook(`https://elsewhere.test:${allowed.port}/tls`, { enabled: false });
    await without(made, async () =>
      expect((await ping(made)).body).toMatchObject({ state: "failed", error: "tls" }),
    );
    expect(allowed.at("/tls")).toEqual([]);
  });

  it("that answers without end is cut off, and counts by its status", async () => {
    allowed.answers.set("/endless", (_received, response) => {
      response.writeHead(200);
      const more = (): void => {
        while (!response.destroyed && response.write(Buffer.alloc(32_768)));
      };
      response.on("drain", more);
      more();
    });
    const made = await hook(named("endless", "/endless"), { enabled: false });
    await without(made, async () => {
      const { body } = await ping(made);
      expect(body).toMatchObject({ state: "delivered", status: 200 });
      expect(body.ms).toBeLessThan(9_000);
    });
  });

  it("that says 410, or fails for three days, is told nothing more, and its owner why", async () => {
    allowed.answers.set("/gone", (_received, response) => void response.writeHead(410).end());
    allowed.answers.set("/broken", (_received, response) => void response.writeHead(503).end());
    const gone = await hook(named("gone", "/gone"));
    const broken = await hook(named("broken", "/broken"));
    await without(gone, () =>
      without(broken, async () => {
        await rest.database.pool.query(
          "UPDATE webhook SET failing_since = now() - interval '73 hours' WHERE id = $1",
          [broken.id],
        );
        await endOne();
        for (const { id } of [gone, broken]) {
          const { body } = await eventually(async () => {
            const reply = await rest.api.get(`/v1/webhooks/${id}`);
            return !reply.body.enabled && reply;
          }, "it is disabled");
          expect(body.disabledReason).toMatch(/410|three days/);
        }
        expect((await deliveries(gone.id))[0]).toMatchObject({
          state: "failed",
          attempts: 1,
          error: "status",
        });
        const { body } = await rest.api.call("PATCH", `/v1/webhooks/${broken.id}`, {
          json: { enabled: true },
        });
        expect(body).toMatchObject({ enabled: true });
        expect(body).not.toHaveProperty("failingSince");
        expect(body).not.toHaveProperty("disabledReason");
      }),
    );
  });

  it("can change its secret without a gap: for a day both sign", async () => {
    const made = await hook(named("rotate", "/rotate"), { enabled: false });
    await without(made, async () => {
      const { body } = await rest.api.post(`/v1/webhooks/${made.id}/rotate`);
      expect(body.secret).not.toBe(made.secret);
      await ping(made);
      const [both] = await allowed.until("/rotate", 1);
      expect([isSigned(both!, made.secret), isSigned(both!, body.secret)]).toEqual([true, true]);
      await rest.database.pool.query("UPDATE webhook SET previous_until = now() WHERE id = $1", [made.id]);
      await ping(made);
      const [, one] = await allowed.until("/rotate", 2);
      expect([isSigned(one!, made.secret), isSigned(one!, body.secret)]).toEqual([false, true]);
    });
  });
});
