// Payload files over REST: whole, verified, on disk, and nobody else's.
import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FakeAgent } from "../support/fake-agent.js";
import { RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
let agent: FakeAgent;
beforeAll(async () => {
  rest = await startRestService();
  agent = await FakeAgent.start(rest.api, "laptop", () => undefined);
});
afterAll(async () => {
  await agent.close();
  await rest.close();
});

const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const put = (digest: string, raw: Buffer | ReadableStream, client = rest.api) =>
  client.call("PUT", `/v1/payloads/${digest}`, {
    raw,
    headers: { "content-type": "application/octet-stream" },
  });
const leftovers = async () => (await readdir(join(rest.stateDir, "payloads", "tmp"))).length;
const pathOf = async (digest: string) => {
  const { ownerId } = (await rest.api.get("/v1/me")).body;
  return join(rest.stateDir, "payloads", ownerId, digest.slice(0, 2), digest);
};
/** An upload that stops half-way and stays open. */
const halfSent = (sizeBytes: number) => {
  const headers = { authorization: `Bearer ${rest.key}`, "content-length": String(sizeBytes) };
  const url = `${rest.url}/v1/payloads/${sha256(randomBytes(8))}`;
  const upload = request(url, { method: "PUT", headers });
  upload.on("error", () => {});
  upload.write(Buffer.alloc(sizeBytes >>> 1));
  return upload;
};
const stream = (chunks: Buffer[]) =>
  new ReadableStream({
    async pull(controller) {
      const chunk = chunks.shift();
      if (chunk) controller.enqueue(chunk);
      else controller.close();
    },
  });

describe("a payload", () => {
  it("is stored once, read whole, asked for, and kept under its digest on disk", async () => {
    const bytes = randomBytes(3_000_000);
    const digest = sha256(bytes);
    expect((await rest.api.call("HEAD", `/v1/payloads/${digest}`)).status).toBe(404);
    expect(await put(digest, bytes)).toMatchObject({ status: 201, body: { digest, sizeBytes: 3_000_000 } });
    expect((await put(digest, bytes)).status).toBe(200);
    const got = await rest.api.get(`/v1/payloads/${digest}`);
    expect(got.body.equals(bytes)).toBe(true);
    const head = await rest.api.call("HEAD", `/v1/payloads/${digest}`);
    expect(head.status).toBe(200);
    expect(head.headers.get("content-length")).toBe("3000000");
    expect(head.headers.get("etag")).toBe(`"${digest}"`);
    const { ownerId } = (await rest.api.get("/v1/me")).body;
    const path = join(rest.stateDir, "payloads", ownerId, digest.slice(0, 2), digest);
    expect((await stat(path)).size).toBe(3_000_000);
    expect((await stat(path)).mode & 0o077).toBe(0);
    expect(await leftovers()).toBe(0);
  });

  it("may be empty, of unknown length, and of any type", async () => {
    const empty = sha256(Buffer.alloc(0));
    expect((await put(empty, Buffer.alloc(0))).status).toBe(201);
    expect((await rest.api.get(`/v1/payloads/${empty}`)).body).toBeUndefined();
    const chunks = Array.from({ length: 30 }, () => randomBytes(10_000));
    const digest = sha256(Buffer.concat(chunks));
    expect((await put(digest, stream([...chunks]))).status).toBe(201);
    const json = Buffer.from('{"not":"parsed"');
    const reply = await rest.api.call("PUT", `/v1/payloads/${sha256(json)}`, {
      raw: json,
      headers: { "content-type": "application/json" },
    });
    expect(reply.status).toBe(201);
  });

  it("is refused where its bytes are others, and nothing is kept", async () => {
    const bytes = randomBytes(500_000);
    const wrong = sha256(randomBytes(8));
    const reply = await put(wrong, bytes);
    expect(reply).toMatchObject({ status: 422, body: { code: "PAYLOAD_MISMATCH" } });
    expect(reply.body.detail).toContain(sha256(bytes));
    expect((await rest.api.get(`/v1/payloads/${wrong}`)).status).toBe(404);
    expect(await leftovers()).toBe(0);
  });

  it("is refused above 1 GiB before a byte is read", async () => {
    const status = await new Promise<number>((resolve, reject) => {
      const headers = { authorization: `Bearer ${rest.key}`, "content-length": String(1024 ** 3 + 1) };
      const upload = request(
        `${rest.url}/v1/payloads/${"0".repeat(64)}`,
        { method: "PUT", headers },
        (response) => {
          resolve(response.statusCode!);
          upload.destroy();
        },
      );
      upload.on("error", reject);
      upload.flushHeaders();
    });
    expect(status).toBe(413);
  });

  it("that breaks off half-way leaves nothing", async () => {
    const bytes = randomBytes(1_000_000);
    const digest = sha256(bytes);
    await new Promise<void>((resolve) => {
      const headers = { authorization: `Bearer ${rest.key}`, "content-length": String(bytes.length) };
      const upload = request(`${rest.url}/v1/payloads/${digest}`, { method: "PUT", headers });
      upload.on("error", () => resolve());
      upload.on("close", () => resolve());
      upload.write(bytes.subarray(0, 600_000), () => setTimeout(() => upload.destroy(), 100));
    });
    await expect.poll(leftovers).toBe(0);
    expect((await rest.api.get(`/v1/payloads/${digest}`)).status).toBe(404);
    expect((await put(digest, bytes)).status).toBe(201);
  });

  it("is whole where many store the same at once", async () => {
    const bytes = randomBytes(400_000);
    const digest = sha256(bytes);
    const replies = await Promise.all(Array.from({ length: 12 }, () => put(digest, bytes)));
    expect(replies.map((r) => r.status).sort()).toEqual([...Array(11).fill(200), 201]);
    expect((await rest.api.get(`/v1/payloads/${digest}`)).body.equals(bytes)).toBe(true);
    expect(await leftovers()).toBe(0);
  });

  it("is read in ranges", async () => {
    const bytes = Buffer.from("0123456789");
    const digest = sha256(bytes);
    await put(digest, bytes);
    const range = (value: string) => rest.api.get(`/v1/payloads/${digest}`, { headers: { range: value } });
    for (const [value, part, contentRange] of [
      ["bytes=2-4", "234", "bytes 2-4/10"],
      ["bytes=7-", "789", "bytes 7-9/10"],
      ["bytes=-3", "789", "bytes 7-9/10"],
      ["bytes=5-100", "56789", "bytes 5-9/10"],
      ["bytes=-100", "0123456789", "bytes 0-9/10"],
    ] as const) {
      const reply = await range(value);
      expect({ status: reply.status, part: reply.body.toString() }, value).toEqual({ status: 206, part });
      expect(reply.headers.get("content-range"), value).toBe(contentRange);
    }
    for (const value of ["bytes=10-", "bytes=4-2", "bytes=-0"]) {
      const reply = await range(value);
      expect(reply, value).toMatchObject({ status: 416, body: { code: "RANGE_INVALID" } });
      expect(reply.headers.get("content-range")).toBe("bytes */10");
    }
    for (const value of ["bytes=0-1,3-4", "lines=1-2", "nonsense"])
      expect((await range(value)).status, value).toBe(200);
  });

  it("is its owner's and his agents', and nobody else's", async () => {
    const bytes = randomBytes(1_000);
    const digest = sha256(bytes);
    const stranger = new RestClient(
      rest.url,
      (await rest.api.post("/v1/keys", { label: "s", owner: "stranger" })).body.key,
    );
    const asAgent = new RestClient(rest.url, agent.token);
    expect((await put(digest, bytes, asAgent)).status).toBe(201);
    expect((await rest.api.get(`/v1/payloads/${digest}`)).status).toBe(200);
    expect((await stranger.get(`/v1/payloads/${digest}`)).status).toBe(404);
    expect((await stranger.call("HEAD", `/v1/payloads/${digest}`)).status).toBe(404);
    expect((await put(digest, bytes, stranger)).status, "he has to send it himself").toBe(201);
  });

  it("whose file was lost is not there", async () => {
    const bytes = randomBytes(1_000);
    const digest = sha256(bytes);
    await put(digest, bytes);
    const { ownerId } = (await rest.api.get("/v1/me")).body;
    await rm(join(rest.stateDir, "payloads", ownerId, digest.slice(0, 2), digest));
    expect((await rest.api.get(`/v1/payloads/${digest}`)).body.code).toBe("PAYLOAD_NOT_FOUND");
  });

  it("whose file was lost is stored again by the next who sends it", async () => {
    const bytes = randomBytes(100_000);
    const digest = sha256(bytes);
    await put(digest, bytes);
    await rm(await pathOf(digest));
    expect((await put(digest, bytes)).status).toBe(200);
    expect((await rest.api.get(`/v1/payloads/${digest}`)).body.equals(bytes)).toBe(true);
  });

  it("is nobody's before its row is there, and its row comes after its file", async () => {
    const bytes = randomBytes(100_000);
    const digest = sha256(bytes);
    const blocker = await rest.database.pool.connect();
    try {
      // As long as this lasts nobody can add a row, and everybody can read.
      await blocker.query("BEGIN");
      await blocker.query("LOCK TABLE payload IN SHARE ROW EXCLUSIVE MODE");
      let answered = false;
      const reply = put(digest, bytes).finally(() => {
        answered = true;
      });
      const path = await pathOf(digest);
      await expect
        .poll(() =>
          stat(path).then(
            (file) => file.size,
            () => 0,
          ),
        )
        .toBe(100_000);
      expect((await rest.api.get(`/v1/payloads/${digest}`)).status).toBe(404);
      expect(answered).toBe(false);
      await blocker.query("ROLLBACK");
      expect((await reply).status).toBe(201);
    } finally {
      blocker.release();
    }
    expect((await rest.api.get(`/v1/payloads/${digest}`)).body.equals(bytes)).toBe(true);
  });

  it("has no row where its file could not be stored", async () => {
    const bytes = randomBytes(100_000);
    const digest = sha256(bytes);
    const folder = join(await pathOf(digest), "..");
    await rm(folder, { recursive: true, force: true });
    await mkdir(join(folder, ".."), { recursive: true });
    await writeFile(folder, "in the way");
    expect((await put(digest, bytes)).status).toBe(500);
    const { rowCount } = await rest.database.pool.query("SELECT FROM payload WHERE digest = $1", [
      Buffer.from(digest, "hex"),
    ]);
    expect(rowCount).toBe(0);
    expect((await rest.api.get(`/v1/payloads/${digest}`)).status).toBe(404);
    expect(await leftovers()).toBe(0);
    await rm(folder);
    expect((await put(digest, bytes)).status).toBe(201);
  });

  it("is itself however many others pass through the same memory", async () => {
    const files = Array.from({ length: 60 }, (_, i) => randomBytes(i % 3 === 0 ? 3_000_000 : 900_000));
    await Promise.all(files.map((bytes) => put(sha256(bytes), bytes)));
    const got = await Promise.all(files.map((bytes) => rest.api.get(`/v1/payloads/${sha256(bytes)}`)));
    got.forEach((reply, i) => {
      expect(sha256(reply.body), `file ${i}`).toBe(sha256(files[i]!));
    });
  });

  it("goes through a file, not through memory, where it is large or memory is taken", async () => {
    const large = halfSent(5_000_000);
    await expect.poll(leftovers).toBe(1);
    const slow = Array.from({ length: 7 }, () => halfSent(3_000_000));
    await expect.poll(leftovers).toBe(2);
    const bytes = randomBytes(3_500_000);
    expect((await put(sha256(bytes), bytes)).status).toBe(201);
    for (const upload of [large, ...slow]) upload.destroy();
    await expect.poll(leftovers).toBe(0);
    expect((await rest.api.get(`/v1/payloads/${sha256(bytes)}`)).body.equals(bytes)).toBe(true);
  });

  it("has a digest of 64 digits in its path, and no other path", async () => {
    for (const digest of ["x", "0".repeat(63), "G".repeat(64), "..%2f..%2fetc", "A".repeat(64)]) {
      expect((await rest.api.get(`/v1/payloads/${digest}`)).status, digest).toBe(400);
    }
  });
});
