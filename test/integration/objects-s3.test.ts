// Objects in S3: the same as in a folder, against a real server (skipped where moto_server is not installed).
import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError, resolveConfig } from "../../apps/web-service/src/config.js";
import { ObjectRows } from "../../apps/web-service/src/objects/rows.js";
import { S3Backend } from "../../apps/web-service/src/objects/s3.js";
import { sweepObjects } from "../../apps/web-service/src/objects/sweep.js";
import { TenantPool } from "../../apps/web-service/src/store/tenant-pool.js";
import { type RestService, startRestService } from "../support/rest-service.js";
import { s3Available, startS3, type TestS3 } from "../support/s3.js";

const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

describe.skipIf(!s3Available)("an object in S3", () => {
  let s3: TestS3;
  let rest: RestService;
  beforeAll(async () => {
    s3 = await startS3();
    rest = await startRestService({ s3: s3.settings });
  });
  afterAll(async () => {
    await rest.close();
    await s3.stop();
  });
  const put = (key: string, raw: Buffer | ReadableStream, headers: Record<string, string> = {}) =>
    rest.api.call("PUT", `/v1/objects/b/${encodeURIComponent(key)}`, { raw, headers });
  const get = (key: string, headers: Record<string, string> = {}) =>
    rest.api.get(`/v1/objects/b/${encodeURIComponent(key)}`, { headers });

  it("is put, read, read in ranges, replaced and deleted, and its blobs lie under random ids", async () => {
    const bytes = randomBytes(100_000);
    expect((await put("some/key", bytes)).body).toMatchObject({ digest: sha256(bytes), sizeBytes: 100_000 });
    expect((await get("some/key")).body.equals(bytes)).toBe(true);
    const part = await get("some/key", { range: "bytes=10-19" });
    expect([part.status, part.body.equals(bytes.subarray(10, 20))]).toEqual([206, true]);
    expect((await get("some/key", { range: "bytes=100000-" })).status).toBe(416);
    const [key] = await s3.keys();
    expect(key).toMatch(/^farloom\/([0-9a-f]{2})\/\1[0-9a-f-]{34}$/);
    expect((await put("some/key", Buffer.from("new"))).status).toBe(200);
    expect((await s3.keys()).includes(key!)).toBe(false);
    expect((await get("some/key")).body.toString()).toBe("new");
    expect((await put("empty", Buffer.alloc(0))).status).toBe(201);
    expect((await get("empty")).headers.get("content-length")).toBe("0");
    for (const name of ["some/key", "empty"])
      expect((await rest.api.delete(`/v1/objects/b/${encodeURIComponent(name)}`)).status).toBe(204);
    expect(await s3.keys()).toEqual([]);
  });

  it("goes in parts where it is large, of known length or not", async () => {
    const bytes = randomBytes(30_000_000);
    expect((await put("large", bytes, { "content-sha256": sha256(bytes) })).status).toBe(201);
    expect(sha256((await get("large")).body)).toBe(sha256(bytes));
    const tail = await get("large", { range: "bytes=-1000" });
    expect(tail.body.equals(bytes.subarray(-1000))).toBe(true);
    const chunks = Array.from({ length: 20 }, (_, i) => bytes.subarray(i * 1_500_000, (i + 1) * 1_500_000));
    const stream = new ReadableStream({
      pull: (controller) => {
        const chunk = chunks.shift();
        if (chunk) controller.enqueue(chunk);
        else controller.close();
      },
    });
    expect((await put("streamed", stream)).body.digest).toBe(sha256(bytes));
    expect(await s3.unfinished()).toBe(0);
  });

  it("that breaks off, or is not what was announced, leaves nothing in S3", async () => {
    const before = await s3.keys();
    const wrong = await put("wrong", randomBytes(1_000), { "content-sha256": "0".repeat(64) });
    expect(wrong.body.code).toBe("OBJECT_MISMATCH");
    const headers = { authorization: `Bearer ${rest.key}`, "content-length": "40000000" };
    const upload = request(`${rest.url}/v1/objects/b/half`, { method: "PUT", headers });
    upload.on("error", () => {});
    upload.write(randomBytes(20_000_000));
    await expect.poll(() => s3.unfinished(), { timeout: 10_000 }).toBe(1);
    upload.destroy();
    await expect.poll(() => s3.unfinished(), { timeout: 10_000 }).toBe(0);
    expect((await get("half")).status).toBe(404);
    expect((await s3.keys()).sort()).toEqual(before.sort());
  });

  it("is swept where no row has it, and uploads in parts that nobody finished are aborted", async () => {
    const backend = new S3Backend(s3.settings);
    const deps = {
      rows: new ObjectRows(rest.database.pool, new TenantPool(rest.database.pool)),
      backend,
      log: pino({ level: "silent" }),
    };
    await put("kept", Buffer.from("kept"));
    const before = await s3.keys();
    await backend.write(
      "00000000-0000-4000-8000-000000000000",
      (async function* () {
        yield Buffer.from("orphan");
      })(),
    );
    expect(await sweepObjects(deps)).toBe(0);
    expect((await s3.keys()).length).toBe(before.length + 1);
    // By this reckoning everything is old.
    expect(await sweepObjects(deps, -60_000)).toBe(1);
    expect((await s3.keys()).sort()).toEqual(before.sort());
    expect((await get("kept")).body.toString()).toBe("kept");
    await backend.close();
  });

  // Last: there is no S3 afterwards.
  it("is told of as unavailable while S3 is gone, and the rest of the service goes on", async () => {
    await s3.stop();
    for (const reply of [await put("k", Buffer.from("x")), await get("kept")])
      expect(reply).toMatchObject({ status: 503, body: { code: "STORAGE_UNAVAILABLE", retryable: true } });
    expect((await rest.api.call("HEAD", "/v1/objects/b/kept")).status, "which only the row tells").toBe(200);
    expect((await rest.api.get("/health/ready")).status).toBe(200);
  });
});

describe("the settings of S3", () => {
  it("are whole or refused, and none means a folder", () => {
    expect(resolveConfig({}, {}).s3).toBeUndefined();
    const env = { FARLOOM_S3_BUCKET: "b", FARLOOM_S3_ENDPOINT: "http://s3:9000" };
    expect(resolveConfig({}, env).s3).toMatchObject({
      bucket: "b",
      endpoint: "http://s3:9000",
      region: "us-east-1",
      prefix: "farloom/",
    });
    for (const wrong of [
      { FARLOOM_S3_ENDPOINT: "http://s3:9000" },
      { ...env, FARLOOM_S3_ACCESS_KEY_ID: "id" },
      { ...env, FARLOOM_S3_SECRET_ACCESS_KEY: "secret" },
      { ...env, FARLOOM_S3_ENDPOINT: "s3:9000" },
    ])
      expect(() => resolveConfig({}, wrong)).toThrow(ConfigError);
  });
});
