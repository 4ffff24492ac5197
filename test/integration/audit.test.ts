/**
 * The audit log: one entry for each change, with who, what, on what, from where and what came of it; nothing secret in
 * it; a chain that nobody changes unseen, whether many write at once, in the database or in an exported file.
 */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type AuditEntry, AuditVerifier } from "@farloom/protocol";
import fastify from "fastify";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { AuditLog } from "../../apps/web-service/src/audit/log.js";
import { recordRequests } from "../../apps/web-service/src/audit/record-requests.js";
import { makeEchoEndpoint } from "../support/echo-agent.js";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import { LinkClient } from "../support/link-client.js";
import type { RestClient } from "../support/rest-client.js";

const START_MS = 90_000;
const CLI = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");

let fabric: Fabric;
let a: ServiceProcess;
let b: ServiceProcess;
let api: RestClient;
let ann: RestClient;

beforeAll(async () => {
  fabric = await Fabric.open();
  a = await fabric.service();
  b = await fabric.service();
  api = fabric.api(a.url);
  ann = fabric.api(a.url, await fabric.keyOf(a.url, "ann"));
}, START_MS);
afterAll(() => fabric?.close(), START_MS);

async function entries(who = api): Promise<AuditEntry[]> {
  const all: AuditEntry[] = [];
  for (let cursor = ""; ; ) {
    const { status, body } = await who.get(`/v1/audit?limit=7${cursor}`);
    expect(status).toBe(200);
    all.push(...body.items);
    if (body.nextCursor === undefined) return all;
    cursor = `&cursor=${body.nextCursor}`;
  }
}
const last = async (): Promise<AuditEntry> => (await api.get("/v1/audit?order=desc&limit=1")).body.items[0];
const put = (who: RestClient, path: string, json: object) => who.call("PUT", path, { json });

function farloom(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const env = { PATH: process.env.PATH, HOME: fabric.home, FARLOOM_URL: a.url, FARLOOM_API_KEY: fabric.key };
  const child = spawn(process.execPath, [CLI, ...args], { env });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, stdout, stderr })));
}
const verdict = async (...args: string[]) => {
  const ran = await farloom("audit", "verify", "--json", ...args);
  return { ...ran, ...JSON.parse(ran.stdout || "{}") };
};

describe("a change", () => {
  it("has an entry when its reply comes, that says who, what, on what, from where and what came of it", async () => {
    const me = (await ann.get("/v1/me")).body;
    const by = { ownerId: me.ownerId, actor: "ann", credential: me.keyId, origin: "127.0.0.1" };
    const made = (await ann.post("/v1/endpoints", { name: "lab" })).body;
    expect(await last()).toMatchObject({
      ...by,
      action: "endpoints.create",
      target: made.id,
      status: 201,
      code: "",
    });
    const detail = { person: "me", allow: "invoke" };
    await put(ann, "/v1/endpoints/lab/access", detail);
    const entry = await last();
    expect(entry).toMatchObject({ ...by, action: "endpoints.access", target: "lab", status: 200 });
    expect(JSON.parse(entry.detail)).toEqual(detail);
    const key = (await ann.post("/v1/keys", { label: "x", functions: ["f"] })).body;
    expect(await last()).toMatchObject({ ...by, action: "keys.create", target: key.id });
    await ann.delete(`/v1/keys/${key.id}`);
    expect(await last()).toMatchObject({ ...by, action: "keys.revoke", target: key.id, status: 204 });
    expect((await ann.post("/v1/endpoints", { name: "lab" })).status).toBe(409);
    expect(await last()).toMatchObject({
      action: "endpoints.create",
      target: "lab",
      status: 409,
      code: "ENDPOINT_EXISTS",
    });
    expect((await ann.delete("/v1/endpoints/none")).status).toBe(404);
    expect(await last()).toMatchObject({ ...by, action: "endpoints.delete", code: "ENDPOINT_NOT_FOUND" });
    await makeEchoEndpoint(ann, "enrolled");
    expect(await last()).toMatchObject({ action: "endpoints.enroll", actor: "", status: 200 });
  });

  it("on a link too; what only reads, what is not understood and what nobody known is refused has none", async () => {
    const client = await LinkClient.connect(a.url, ann.credential!);
    client.cancel(["\0".repeat(16)]);
    await expect.poll(async () => (await last()).action, { timeout: 10_000 }).toBe("tasks.cancel");
    await client.close();
    const { seq } = await last();
    await ann.get("/v1/endpoints");
    await ann.post("/v1/tasks/status", { ids: ["00000000-0000-7000-8000-000000000000"] });
    await ann.post("/v1/endpoints", { name: "a b" });
    await fabric.api(a.url, "fl_0000000000000000_x").post("/v1/endpoints", { name: "x" });
    await fabric.api(a.url, "").post("/v1/endpoints/enroll", { code: "fle_x", publicKey: "A".repeat(43) });
    expect((await last()).seq).toBe(seq);
  });

  it("tells no secret and no payload", async () => {
    const made = (await ann.post("/v1/endpoints", { name: "secretive" })).body;
    const key = (await ann.post("/v1/keys", { label: "x" })).body.key as string;
    const code = "def f():\n    return 'a payload of mine'\n";
    await ann.post("/v1/functions", { name: "f", runtime: "python", entry: "f", code });
    const { rows } = await fabric.database.pool.query("SELECT * FROM audit_entry");
    const text = JSON.stringify(rows) + JSON.stringify(await entries());
    for (const secret of [
      key,
      key.slice(-43),
      made.enrolmentCode,
      "a payload of mine",
      fabric.key.slice(-43),
    ]) {
      expect(text).not.toContain(secret);
    }
  });

  it("is told to administrators, and to others as far as their own account did it", async () => {
    const own = await entries(ann);
    expect(new Set(own.map((entry) => entry.actor))).toEqual(new Set(["ann"]));
    expect((await ann.get("/v1/audit")).body.whole).toBe(false);
    expect((await entries()).length).toBeGreaterThan(own.length);
    const blind = (await ann.post("/v1/keys", { label: "x", scopes: ["tasks:read"] })).body.key;
    expect((await fabric.api(a.url, blind).get("/v1/audit")).body.code).toBe("SCOPE_MISSING");
  });

  it("cannot be left out of a route by mistake: start-up fails", async () => {
    const app = fastify({ logger: false });
    recordRequests(app, {} as AuditLog);
    expect(() => app.post("/v1/forgotten", () => "hello")).toThrow(
      /does not say what it is called in the audit log/,
    );
    await app.close();
  });
});

describe("the chain", () => {
  it("is one, however many write at both replicas at once", async () => {
    const before = (await last()).seq;
    const replies = await Promise.all(
      Array.from({ length: 60 }, (_, i) =>
        fabric.api(i % 2 === 0 ? a.url : b.url, ann.credential).post("/v1/teams", { name: `team-${i}` }),
      ),
    );
    expect(new Set(replies.map((reply) => reply.status))).toEqual(new Set([201]));
    const verifier = new AuditVerifier();
    for (const entry of await entries()) expect(verifier.add(entry)).toBeUndefined();
    expect(verifier.head.seq).toBe(before + 60);
    const found = await verdict();
    expect(found).toMatchObject({ code: 0, whole: true, head: `${verifier.head.seq}:${verifier.head.hash}` });
    expect(await verdict("--head", found.head)).toMatchObject({ code: 0, whole: true });
  });

  it("is not changed in the database, by no statement", async () => {
    const { pool } = fabric.database;
    for (const statement of [
      "UPDATE audit_entry SET actor = 'eve'",
      "DELETE FROM audit_entry",
      "TRUNCATE audit_entry",
    ]) {
      await expect(pool.query(statement), statement).rejects.toThrow("append-only");
    }
  });

  it("shows what is changed in an exported file, and where", async () => {
    const file = join(fabric.home, "audit.jsonl");
    expect(await farloom("audit", "export", file)).toMatchObject({ code: 0 });
    expect((await farloom("audit", "export", file)).code, "what is there is not written over").not.toBe(0);
    expect(await verdict("--file", file)).toMatchObject({ code: 0, whole: true });
    const lines = readFileSync(file, "utf8").trim().split("\n");
    const tampered = async (change: (lines: string[]) => string[], ...args: string[]) => {
      writeFileSync(file, `${change([...lines]).join("\n")}\n`);
      return verdict("--file", file, ...args);
    };
    const changed = await tampered((all) =>
      all.with(4, all[4]!.replace('"ann"', '"eve"').replace('"me"', '"eve"')),
    );
    expect(changed).toMatchObject({
      code: 1,
      whole: false,
      why: expect.stringContaining("entry 5 was changed"),
    });
    expect(await tampered((all) => all.toSpliced(2, 1))).toMatchObject({
      code: 1,
      why: expect.stringContaining("entry 4 follows entry 2"),
    });
    expect(await tampered((all) => all.toSpliced(3, 0, all[2]!))).toMatchObject({ code: 1, whole: false });
    const { seq, hash } = JSON.parse(lines.at(-1)!) as AuditEntry;
    const cut = await tampered((all) => all.slice(0, -1), "--head", `${seq}:${hash}`);
    expect(cut).toMatchObject({ code: 1, why: expect.stringContaining("its end was cut off") });
  });

  it("shows what somebody changes past the trigger, to whoever asks the service", async () => {
    const { pool } = fabric.database;
    await pool.query("ALTER TABLE audit_entry DISABLE TRIGGER audit_is_final");
    await pool.query("UPDATE audit_entry SET actor = 'eve' WHERE seq = 3");
    await pool.query("ALTER TABLE audit_entry ENABLE TRIGGER audit_is_final");
    expect(await verdict()).toMatchObject({
      code: 1,
      whole: false,
      why: expect.stringContaining("entry 3 was changed"),
    });
  });
});
