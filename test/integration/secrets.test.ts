/**
 * Secrets (P40) through a real service, agents and workers: given to the function and to nothing else. Whether a value lies
 * anywhere is looked up in every row of the database and every file and line of service and agents.
 */
import { spawn } from "node:child_process";
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Farloom } from "@farloom/sdk";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { SecretKeys } from "../../apps/web-service/src/secrets/keys.js";
import { type AgentProcess, Fabric, type ServiceProcess } from "../support/fabric.js";
import type { Reply, RestClient } from "../support/rest-client.js";

const BIN = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");
const WAIT_MS = 60_000;
vi.setConfig({ testTimeout: 2 * WAIT_MS, hookTimeout: 2 * WAIT_MS });

/** Digests come back, never values: a result would lie in the database. */
const PYTHON = `
import base64, hashlib, os, sys, time
def digest(value):
    return hashlib.sha256(value.encode()).hexdigest()
def given(wait=0.0):
    import farloom
    token = farloom.secret("TOKEN")
    time.sleep(wait)
    return [digest(token), "TOKEN" in os.environ, token in str(os.environ)]
def ungiven():
    import farloom
    return farloom.secret("TOKEN")
def writes():
    import farloom
    token = farloom.secret("TOKEN")
    print("plain " + token)
    print("base64 " + base64.b64encode(token.encode()).decode(), file=sys.stderr)
    return 1
def raises():
    import farloom
    raise ValueError("with " + farloom.secret("TOKEN"))
def dies():
    import farloom
    print("last words " + farloom.secret("TOKEN"), flush=True)
    os.kill(os.getpid(), 9)
def submits(fn, endpoint):
    import farloom, json, urllib.error, urllib.request
    own = farloom.own_token()
    body = json.dumps({"function": fn, "endpoint": endpoint}).encode()
    headers = {"authorization": "Bearer " + own["token"], "content-type": "application/json"}
    try:
        urllib.request.urlopen(urllib.request.Request(own["url"] + "/v1/tasks", body, headers), timeout=30)
    except urllib.error.HTTPError as error:
        return json.loads(error.read())["code"]
def drips(before, after):
    import farloom
    token = farloom.secret("TOKEN")
    sys.stdout.write("begin " + token[:11]); sys.stdout.flush()
    time.sleep(before)
    print(token[11:] + " middle", flush=True)
    time.sleep(after)
    print("again " + token, flush=True)
    return digest(token)
`;
const NODE = `
import { createHash } from "node:crypto";
export function given() {
  const token = globalThis.farloom.secret("TOKEN");
  console.log("node " + token);
  return createHash("sha256").update(token).digest("hex");
}
export function raises() { throw new Error("with " + globalThis.farloom.secret("TOKEN")); }
`;
const newSecret = (): string => `s3cr3t-${randomBytes(18).toString("base64url")}`;
const digestOf = (text: string): string => createHash("sha256").update(text).digest("hex");

let fabric: Fabric;
let service: ServiceProcess;
let api: RestClient;
let bob: RestClient;
let agent: AgentProcess;
let bobs: AgentProcess;
/** Every value that there was, so that none is found anywhere at the end. */
const values: string[] = [];
const ids: Record<string, string> = {};
const keysFile = (): string => join(fabric.home, "secrets-keys");
const newKey = (): string => `${randomBytes(32).toString("base64")}\n`;

async function ok(reply: Promise<Reply>): Promise<Reply["body"]> {
  const { status, body } = await reply;
  expect(status, JSON.stringify(body)).toBeLessThan(300);
  return body;
}
async function store(who: RestClient, name: string, more: object = {}): Promise<string> {
  const value = newSecret();
  values.push(value);
  await ok(who.call("PUT", `/v1/secrets/${name}`, { json: { value, ...more } }));
  return value;
}
const call = (who: RestClient, fn: string, endpoint: string, more: object = {}): Promise<Reply> =>
  who.post("/v1/tasks?wait=60", { function: ids[fn] ?? fn, endpoint, ...more });
const register = (who: RestClient, name: string, more: object) =>
  ok(who.post("/v1/functions", { name, env: { secrets: ["TOKEN"] }, ...more })).then((made) => made.id);
const task = (id: string, wait = 60) => ok(api.get(`/v1/tasks/${id}?wait=${wait}`));
async function output(id: string, stream = "stdout"): Promise<string> {
  const follow = (await state(id)) === "SUCCEEDED";
  const reply = await fetch(`${service.url}/v1/tasks/${id}/output?stream=${stream}&follow=${follow}`, {
    headers: { authorization: `Bearer ${fabric.key}` },
  });
  return reply.text();
}
const state = async (id: string) => (await ok(api.get(`/v1/tasks/${id}`))).state;

/** A row of the time before the file of keys had another first line. */
const CAROL = randomUUID();
const VERSION = randomUUID();
const carols = newSecret();
const aboutCarols = (): string => JSON.stringify(["farloom secret", CAROL, "OLD", VERSION, []]);
async function storeUnderOldKey(): Promise<void> {
  const old = newKey();
  writeFileSync(keysFile(), old, { mode: 0o600 });
  const keys = await SecretKeys.load(fabric.home, keysFile());
  const { pool } = fabric.database;
  await pool.query("INSERT INTO owner (id, name) VALUES ($1, 'carol')", [CAROL]);
  await pool.query(
    "INSERT INTO secret (owner_id, name, version, key_id, sealed) VALUES ($1, 'OLD', $2, $3, $4)",
    [CAROL, VERSION, keys.sealingId, keys.seal(Buffer.from(carols), aboutCarols())],
  );
  values.push(carols);
  writeFileSync(keysFile(), newKey() + old);
}

beforeAll(async () => {
  fabric = await Fabric.open();
  await storeUnderOldKey();
  service = await fabric.service({ FARLOOM_SECRETS_KEY_FILE: keysFile() });
  api = fabric.api(service.url);
  bob = fabric.api(service.url, await fabric.keyOf(service.url, "bob"));
  for (const name of ["given", "writes", "raises", "dies", "drips"])
    ids[name] = await register(api, name, { runtime: "python", code: PYTHON, entry: name });
  const gone = { runtime: "python", code: PYTHON, entry: "ungiven", env: { secrets: ["GONE"] } };
  ids.gone = await register(api, "gone", gone);
  for (const name of ["ungiven", "submits"])
    ids[name] = await register(api, name, { runtime: "python", code: PYTHON, entry: name, env: {} });
  for (const name of ["given", "raises"])
    ids[`node-${name}`] = await register(api, `node.${name}`, { runtime: "node", code: NODE, entry: name });
  ids.command = await register(api, "command", {
    runtime: "command",
    command: { argv: ["sh", "-c", 'echo "$TOKEN"; printf %s "$TOKEN" | sha256sum'] },
  });
  agent = await fabric.agent(service.url, "lab", ["--workers", "2"]);
  const made = await ok(bob.post("/v1/endpoints", { name: "other" }));
  bobs = await fabric.enrolled(service.url, made, "other");
  await ok(bob.call("PUT", "/v1/endpoints/other/access", { json: { person: "me", allow: "invoke" } }));
});
afterAll(() => fabric?.close());

it("a secret is stored, listed by name and removed, and no reply has its value", async () => {
  const value = await store(api, "FIRST");
  await store(api, "SECOND", { endpoints: ["bob/other"] });
  const { items } = await ok(api.get("/v1/secrets"));
  expect(items).toMatchObject([
    { name: "FIRST", endpoints: [] },
    { name: "SECOND", endpoints: ["bob/other"] },
  ]);
  expect(JSON.stringify(items)).not.toContain(value);
  expect((await ok(bob.get("/v1/secrets"))).items).toEqual([]);
  expect((await bob.delete("/v1/secrets/FIRST")).body.code).toBe("SECRET_NOT_FOUND");
  for (const name of ["FIRST", "SECOND"]) expect((await api.delete(`/v1/secrets/${name}`)).status).toBe(204);
  expect((await ok(api.get("/v1/secrets"))).items).toEqual([]);
  const { items: entries } = await ok(api.get("/v1/audit?limit=50"));
  const actions = (entries as { action: string; target: string }[]).filter(({ action }) =>
    action.startsWith("secrets."),
  );
  expect(actions.map(({ action, target }) => `${action} ${target}`)).toContain("secrets.set FIRST");
});

it.each([
  ["9LIVES", { value: "value" }],
  ["FARLOOM_KEY", { value: "value" }],
  ["EMPTY", { value: "" }],
  ["NUL", { value: "a\0b" }],
  ["LARGE", { value: "ü".repeat(40_000) }],
])("%s is no secret", async (name, json) => {
  expect((await api.call("PUT", `/v1/secrets/${name}`, { json })).status).toBe(400);
});

it("the command takes a value by standard input, and lists names", async () => {
  const value = newSecret();
  values.push(value);
  const cli = async (args: string[], input = ""): Promise<string> => {
    const child = spawn(process.execPath, [BIN, ...args], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, FARLOOM_URL: service.url, FARLOOM_API_KEY: fabric.key },
    });
    child.stdin.end(input);
    let out = "";
    for await (const piece of child.stdout) out += String(piece);
    return out;
  };
  expect(await cli(["secrets", "set", "TOKEN", "--json"], `${value}\n`)).toContain('"TOKEN"');
  const listed = await cli(["secrets", "list"]);
  expect(listed).toMatch(/^TOKEN +\d+ s ago +never +all of yours/m);
  expect((await call(api, "given", "lab")).body).toMatchObject({ result: [digestOf(value), false, false] });
  expect((await ok(api.get("/v1/secrets"))).items[0].lastUsedAt).toBeDefined();
});

it("functions in Python and Node are given it by name, a program by its environment, and the next task nothing", async () => {
  const value = await store(api, "TOKEN");
  for (let i = 0; i < 3; i++)
    expect((await call(api, "given", "lab")).body.result).toEqual([digestOf(value), false, false]);
  expect((await call(api, "node-given", "lab")).body.result).toBe(digestOf(value));
  const { result } = (await call(api, "command", "lab")).body;
  expect(result.stdout).toBe(`${"*".repeat(value.length)}\n${digestOf(value)}  -\n`);
  for (let i = 0; i < 4; i++)
    expect((await call(api, "ungiven", "lab")).body).toMatchObject({
      state: "FAILED",
      error: { type: "LookupError" },
    });
});

it("what a task writes, raises or dies with has stars in its place", async () => {
  const value = await store(api, "TOKEN");
  const stars = "*".repeat(value.length);
  const written = (await call(api, "writes", "lab")).body;
  expect(written.stdout).toBe(`plain ${stars}\n`);
  expect(written.stderr).toMatch(/^base64 \*{30,}[\w=]{0,4}\n$/);
  for (const name of ["raises", "node-raises"]) {
    const { error } = (await call(api, name, "lab")).body;
    expect(error.message).toBe(`with ${stars}`);
    expect(error.traceback).toContain(stars);
  }
  const { error, stdout } = (await call(api, "dies", "lab")).body;
  expect(error.type).toBe("WorkerDied");
  expect(stdout).toBe(`last words ${stars}\n`);
});

it("live output has stars too, wherever it was cut, and after the agent was killed", async () => {
  const value = await store(api, "TOKEN");
  const stars = "*".repeat(value.length);
  const { id } = await ok(api.post("/v1/tasks", { function: ids.drips, endpoint: "lab", args: [1.2, 2] }));
  const whole = `begin ${stars} middle\nagain ${stars}\n`;
  const seen = async (text: string): Promise<void> => {
    const look = async (): Promise<string> => {
      const told = await output(id);
      expect(whole.startsWith(told), told.replaceAll(value, "(the value)")).toBe(true);
      return told;
    };
    await expect.poll(look, { timeout: WAIT_MS }).toContain(text);
  };
  await seen("begin ");
  await seen("middle");
  await agent.kill();
  await agent.restart();
  expect((await task(id)).result).toBe(digestOf(value));
  expect(await output(id)).toBe(whole);
});

it("what waited when the agent was killed is given what there is as it begins, or ends before that", async () => {
  await store(api, "TOKEN");
  await store(api, "GONE");
  const calls = Array.from({ length: 2 }, () => ({ args: [3] }));
  const { ids: first } = await ok(api.post("/v1/tasks", { function: ids.given, endpoint: "lab", calls }));
  await expect.poll(() => state(first[1]), { timeout: WAIT_MS }).toBe("STARTED");
  const { id } = await ok(api.post("/v1/tasks", { function: ids.given, endpoint: "lab" }));
  const { id: without } = await ok(api.post("/v1/tasks", { function: ids.gone, endpoint: "lab" }));
  await expect.poll(() => state(without), { timeout: WAIT_MS }).toBe("LEASED");
  await agent.kill();
  const value = await store(api, "TOKEN");
  await ok(api.delete("/v1/secrets/GONE"));
  await agent.restart();
  expect((await task(id)).result[0]).toBe(digestOf(value));
  expect(await task(without)).toMatchObject({
    state: "FAILED",
    reason: "not_authorised",
    error: { type: "SECRET_MISSING" },
  });
});

it("a secret that is not there is told at the submission", async () => {
  await ok(api.delete("/v1/secrets/TOKEN"));
  const { status, body } = await call(api, "given", "lab");
  expect(status).toBe(409);
  expect(body).toMatchObject({ code: "SECRET_MISSING" });
  expect(body.detail).toContain("farloom secrets set TOKEN");
});

it("a secret stays with its owner's endpoints until another is named", async () => {
  await store(api, "TOKEN");
  const refused = await call(api, "given", "bob/other");
  expect(refused).toMatchObject({ status: 403, body: { code: "SECRET_NOT_FOR_ENDPOINT" } });
  expect(refused.body.detail).toContain("--endpoint bob/other");
  const value = await store(api, "TOKEN", { endpoints: ["bob/other"] });
  expect((await call(api, "given", "bob/other")).body.result[0]).toBe(digestOf(value));
  expect((await call(api, "given", "lab")).body.code).toBe("SECRET_NOT_FOR_ENDPOINT");
});

it("somebody else's function gets the caller's, and only what the call names", async () => {
  await ok(api.call("PUT", "/v1/functions/given/sharing", { json: { visibility: "public" } }));
  await store(api, "TOKEN");
  expect((await call(bob, "me/given", "other")).body.code).toBe("SECRET_NOT_AGREED");
  const agreed = { options: { secrets: ["TOKEN"] } };
  expect((await call(bob, "me/given", "other", agreed)).body.code).toBe("SECRET_MISSING");
  const value = await store(bob, "TOKEN");
  expect((await call(bob, "me/given", "other", agreed)).body.result[0]).toBe(digestOf(value));
});

it("calls on a link are given them as those by REST, and refused as they are", async () => {
  const value = newSecret();
  values.push(value);
  await using mine = new Farloom({ url: service.url, apiKey: fabric.key, endpoint: "lab" });
  await using theirs = new Farloom({ url: service.url, apiKey: bob.credential!, endpoint: "other" });
  await mine.secrets.set("LINKED", value, { endpoints: ["lab"] });
  const { items } = await mine.secrets.list();
  expect(items.find(({ name }) => name === "LINKED")?.endpoints).toEqual(["me/lab"]);
  const code = PYTHON.replaceAll("TOKEN", "LINKED");
  const linked = { name: "linked", runtime: "python", code, entry: "given", secrets: ["LINKED"] } as const;
  const given = await mine.register(linked);
  const plain = await mine.register({ runtime: "python", code: "def plain(x): return x", entry: "plain" });
  const answers = await Promise.all([given.call([]), plain.call([7])]);
  expect(answers).toEqual([[digestOf(value), false, false], 7]);
  await mine.functions.share(given.ref, { visibility: "public" });
  const called = theirs.function("me/linked");
  await expect(called.call([])).rejects.toMatchObject({ code: "SECRET_NOT_AGREED" });
  await theirs.secrets.set("LINKED", value);
  expect(await called.call([], { secrets: ["LINKED"] })).toEqual([digestOf(value), false, false]);
  await mine.secrets.remove("LINKED");
  await expect(given.call([])).rejects.toMatchObject({ code: "SECRET_MISSING" });
});

it("an agent that knows nothing of secrets is told of at the submission", async () => {
  await store(api, "TOKEN");
  const { pool } = fabric.database;
  const forget = "UPDATE endpoint SET agent_info = agent_info - 'secrets' WHERE id = $1";
  const know = `UPDATE endpoint SET agent_info = agent_info || '{"secrets": true}' WHERE id = $1`;
  await pool.query(forget, [agent.endpointId]);
  const reply = await call(api, "given", "lab");
  expect(reply).toMatchObject({ status: 409, body: { code: "SECRETS_UNSUPPORTED" } });
  await pool.query(know, [agent.endpointId]);
});

it("keys without the scope, narrow keys and running tasks get none", async () => {
  await store(api, "TOKEN");
  const keyOf = async (body: object) =>
    fabric.api(service.url, (await ok(api.post("/v1/keys", { label: "test", ...body }))).key);
  const scopes = ["tasks:submit", "tasks:read", "functions:read", "endpoints:read"];
  expect((await call(await keyOf({ scopes }), "given", "lab")).body.code).toBe("SCOPE_MISSING");
  const narrow = await keyOf({ scopes, functions: ["me/given"] });
  expect((await call(narrow, "given", "lab")).body.code).toBe("KEY_NARROW");
  const nested = { args: [ids.given, agent.endpointId], options: { nested: true } };
  expect((await call(api, "submits", "lab", nested)).body.result).toBe("NESTED_SCOPE");
});

it("a row that was moved to another name does not open", async () => {
  const value = await store(api, "TOKEN");
  await store(api, "OTHER");
  const { pool } = fabric.database;
  const { rows } = await pool.query(
    "SELECT s.* FROM secret s JOIN owner w ON w.id = s.owner_id WHERE w.name = 'me' ORDER BY s.name",
  );
  const [other, token] = rows;
  const put = (row: { sealed: Buffer; version: string }) =>
    pool.query("UPDATE secret SET sealed = $1, version = $2 WHERE owner_id = $3 AND name = 'TOKEN'", [
      row.sealed,
      row.version,
      token.owner_id,
    ]);
  await put(other);
  expect((await call(api, "given", "lab")).body.error.type).toBe("SECRET_UNREADABLE");
  await put(token);
  expect((await call(api, "given", "lab")).body.result[0]).toBe(digestOf(value));
});

it("what an older key sealed is sealed under the first one at the start", async () => {
  const { rows } = await fabric.database.pool.query("SELECT * FROM secret WHERE owner_id = $1", [CAROL]);
  const file = join(fabric.home, "first-key-alone");
  writeFileSync(file, readFileSync(keysFile(), "utf8").split("\n", 1)[0]!);
  const keys = await SecretKeys.load(fabric.home, file);
  expect(rows[0].key_id).toBe(keys.sealingId);
  expect(keys.open(rows[0].key_id, rows[0].sealed, aboutCarols())?.toString()).toBe(carols);
});

it("no row, no file and no line of a log has any of the values, in plain or in base64", async () => {
  expect(values.length).toBeGreaterThan(10);
  const forms = values.flatMap((value) => {
    const base64 = Buffer.from(value).toString("base64").slice(0, -4);
    return [value, base64, Buffer.from(value).toString("hex"), Buffer.from(base64).toString("hex")];
  });
  const { pool } = fabric.database;
  const { rows: tables } = await pool.query<{ name: string }>(
    "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) AS name FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
  );
  const places: [string, string][] = [];
  for (const { name } of tables) {
    const { rows } = await pool.query<{ row: string }>(`SELECT x::text AS row FROM ${name} x`);
    places.push([name, rows.map(({ row }) => row).join("\n")]);
  }
  const logs = [service, agent, bobs].map(({ lines }) => lines.join("\n"));
  places.push(["logs", logs.join("\n")]);
  for (const path of filesBelow(fabric.home)) places.push([path, readFileSync(path, "latin1")]);
  expect(places.length).toBeGreaterThan(30);
  const found = places.filter(([, text]) => forms.some((form) => text.includes(form)));
  expect(found.map(([where]) => where)).toEqual([]);
  // The look finds what is there: names are.
  expect(places.some(([, text]) => text.includes("TOKEN"))).toBe(true);
});

function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true, encoding: "utf8" })
    .map((name) => join(dir, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
}
