// Objects over REST: named bytes of one owner, whole or not there, in the order of their names.
import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile, utimes, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import fc from "fast-check";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { FolderBackend } from "../../apps/web-service/src/objects/folder.js";
import { ObjectRows } from "../../apps/web-service/src/objects/rows.js";
import { sweepObjects } from "../../apps/web-service/src/objects/sweep.js";
import { TenantPool } from "../../apps/web-service/src/store/tenant-pool.js";
import { type Reply, RestClient } from "../support/rest-client.js";
import { type RestService, startRestService } from "../support/rest-service.js";

let rest: RestService;
let stranger: RestClient;
beforeAll(async () => {
  rest = await startRestService();
  const { body } = await rest.api.post("/v1/keys", { label: "s", owner: "stranger" });
  stranger = new RestClient(rest.url, body.key);
});
afterAll(() => rest.close());

const sha256 = (bytes: Buffer | string) => createHash("sha256").update(bytes).digest("hex");
const path = (bucket: string, key: string) => `/v1/objects/${bucket}/${encodeURIComponent(key)}`;
const put = (
  bucket: string,
  key: string,
  raw: Buffer | string,
  headers: Record<string, string> = {},
  client = rest.api,
) =>
  client.call("PUT", path(bucket, key), {
    raw,
    headers: { "content-type": "application/octet-stream", ...headers },
  });
const get = (bucket: string, key: string, headers: Record<string, string> = {}, client = rest.api) =>
  client.get(path(bucket, key), { headers });
const head = (bucket: string, key: string, client = rest.api) => client.call("HEAD", path(bucket, key));
const list = (bucket: string, query: Record<string, string | number> = {}, client = rest.api) => {
  const texts = Object.entries(query).map(([name, value]) => [name, String(value)] as [string, string]);
  return client.get(`/v1/objects/${bucket}?${new URLSearchParams(texts)}`);
};
const keysOf = ({ body }: Reply): string[] => body.items.map((item: { key: string }) => item.key);
/** Files of blobs, and files that uploads grow. */
const blobs = async () =>
  (await readdir(join(rest.stateDir, "objects"), { recursive: true }).catch(() => [] as string[])).filter(
    (name) => /\/.{36}$/.test(name),
  );
const unfinished = async () => (await blobs()).filter((name) => name.startsWith("tmp/")).length;
let buckets = 0;
const freshBucket = () => `bucket-${buckets++}`;

describe("an object", () => {
  it("is put, read whole, asked for, replaced and deleted, with its type and metadata", async () => {
    const bucket = freshBucket();
    const before = (await blobs()).length;
    const bytes = randomBytes(1_000_000);
    const digest = sha256(bytes);
    const meta = { "content-type": "text/csv", "x-farloom-meta-run": "7", "content-sha256": digest };
    const stored = await put(bucket, "runs/7.csv", bytes, meta);
    expect(stored).toMatchObject({
      status: 201,
      body: {
        bucket,
        key: "runs/7.csv",
        sizeBytes: 1_000_000,
        digest,
        contentType: "text/csv",
        metadata: { run: "7" },
      },
    });
    expect(stored.headers.get("etag")).toBe(`"${digest}"`);
    const got = await get(bucket, "runs/7.csv");
    expect(got.body.equals(bytes)).toBe(true);
    const asked = await head(bucket, "runs/7.csv");
    for (const reply of [got, asked]) {
      expect(reply.status).toBe(200);
      expect(reply.headers.get("content-length")).toBe("1000000");
      expect(reply.headers.get("content-type")).toBe("text/csv");
      expect(reply.headers.get("x-farloom-meta-run")).toBe("7");
      expect(reply.headers.get("etag")).toBe(`"${digest}"`);
      expect(reply.headers.get("accept-ranges")).toBe("bytes");
      expect(Date.parse(reply.headers.get("last-modified")!)).toBeGreaterThan(Date.now() - 60_000);
    }
    expect((await put(bucket, "runs/7.csv", "new")).status).toBe(200);
    expect((await get(bucket, "runs/7.csv")).body.toString()).toBe("new");
    expect((await head(bucket, "runs/7.csv")).headers.get("x-farloom-meta-run")).toBeNull();
    expect((await blobs()).length, "what it was is gone").toBe(before + 1);
    expect((await rest.api.delete(path(bucket, "runs/7.csv"))).status).toBe(204);
    expect(await get(bucket, "runs/7.csv")).toMatchObject({
      status: 404,
      body: { code: "OBJECT_NOT_FOUND" },
    });
    expect((await head(bucket, "runs/7.csv")).status).toBe(404);
    expect((await rest.api.delete(path(bucket, "runs/7.csv"))).status, "again").toBe(204);
    expect((await blobs()).length).toBe(before);
  });

  it("may be empty, and of any type without being parsed", async () => {
    const bucket = freshBucket();
    expect((await put(bucket, "empty", "")).body).toMatchObject({ sizeBytes: 0, digest: sha256("") });
    const got = await get(bucket, "empty");
    expect([got.status, got.headers.get("content-length"), got.body]).toEqual([200, "0", undefined]);
    expect((await put(bucket, "j", '{"not":"parsed"', { "content-type": "application/json" })).status).toBe(
      201,
    );
    expect((await rest.api.call("PUT", path(bucket, "untyped"))).status).toBe(201);
  });

  it("is refused where its bytes are others than announced, and nothing is kept", async () => {
    const bucket = freshBucket();
    const before = (await blobs()).length;
    const reply = await put(bucket, "k", "bytes", { "content-sha256": sha256("others") });
    expect(reply).toMatchObject({ status: 422, body: { code: "OBJECT_MISMATCH" } });
    expect((await put(bucket, "k", "bytes", { "content-sha256": "x" })).status).toBe(400);
    expect((await get(bucket, "k")).status).toBe(404);
    expect((await blobs()).length).toBe(before);
  });

  it("has metadata within its bound", async () => {
    const bucket = freshBucket();
    expect((await put(bucket, "k", "b", { "x-farloom-meta-a": "x".repeat(2_047) })).status).toBe(201);
    expect((await put(bucket, "k", "b", { "x-farloom-meta-a": "x".repeat(2_048) })).status).toBe(400);
    expect((await put(bucket, "k", "b", { "x-farloom-meta-a": "é" })).status).toBe(400);
  });

  it("is refused above 5 GiB before a byte is read", async () => {
    const status = await new Promise<number>((resolve, reject) => {
      const headers = { authorization: `Bearer ${rest.key}`, "content-length": String(5 * 1024 ** 3 + 1) };
      const upload = request(rest.url + path("b", "k"), { method: "PUT", headers }, (response) => {
        resolve(response.statusCode!);
        upload.destroy();
      });
      upload.on("error", reject);
      upload.flushHeaders();
    });
    expect(status).toBe(413);
  });

  it("that breaks off half-way is not there, and leaves nothing", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "old");
    const before = (await blobs()).length;
    const headers = { authorization: `Bearer ${rest.key}`, "content-length": "1000000" };
    const upload = request(rest.url + path(bucket, "k"), { method: "PUT", headers });
    upload.on("error", () => {});
    upload.write(randomBytes(600_000));
    await expect.poll(unfinished).toBe(1);
    upload.destroy();
    await expect.poll(unfinished).toBe(0);
    expect((await get(bucket, "k")).body.toString()).toBe("old");
    expect((await blobs()).length).toBe(before);
  });

  it("whose file is in the way of the disk is told of as our trouble, and has no row", async () => {
    const bucket = freshBucket();
    // Every folder of blobs is a file: none can be stored.
    const broken = await startRestService();
    try {
      await writeFile(join(broken.stateDir, "objects"), "in the way");
      expect((await put(bucket, "k", "x", {}, broken.api)).status).toBe(500);
      expect((await get(bucket, "k", {}, broken.api)).status).toBe(404);
    } finally {
      await broken.close();
    }
  });
});

describe("a range", () => {
  it("of an object is sent alone, and one outside of it is refused", async () => {
    const bucket = freshBucket();
    await put(bucket, "digits", "0123456789");
    for (const [value, part, contentRange] of [
      ["bytes=2-4", "234", "bytes 2-4/10"],
      ["bytes=7-", "789", "bytes 7-9/10"],
      ["bytes=-3", "789", "bytes 7-9/10"],
      ["bytes=5-100", "56789", "bytes 5-9/10"],
    ] as const) {
      const reply = await get(bucket, "digits", { range: value });
      expect({ status: reply.status, part: reply.body.toString() }, value).toEqual({ status: 206, part });
      expect(reply.headers.get("content-range"), value).toBe(contentRange);
      expect(reply.headers.get("content-length"), value).toBe(String(part.length));
    }
    const beyond = await get(bucket, "digits", { range: "bytes=10-" });
    expect(beyond).toMatchObject({ status: 416, body: { code: "RANGE_INVALID" } });
    expect(beyond.headers.get("content-range")).toBe("bytes */10");
    expect((await get(bucket, "digits", { range: "bytes=0-1,3-4" })).status).toBe(200);
  });

  it("with If-Range is sent only of the bytes that it names", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "0123456789");
    const range = "bytes=0-1";
    expect((await get(bucket, "k", { range, "if-range": `"${sha256("0123456789")}"` })).status).toBe(206);
    expect((await get(bucket, "k", { range, "if-range": `"${sha256("others")}"` })).status).toBe(200);
  });
});

describe("a condition", () => {
  it("on reading is answered with 304 or 412", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "bytes");
    const tag = `"${sha256("bytes")}"`;
    const same = await get(bucket, "k", { "if-none-match": tag });
    expect([same.status, same.body, same.headers.get("etag")]).toEqual([304, undefined, tag]);
    expect((await get(bucket, "k", { "if-none-match": '"x"' })).status).toBe(200);
    expect((await get(bucket, "k", { "if-match": tag })).status).toBe(200);
    const failed = await get(bucket, "k", { "if-match": '"x"' });
    expect(failed).toMatchObject({ status: 412, body: { code: "PRECONDITION_FAILED" } });
    expect(failed.body.detail).toContain("If-Match");
    const later = new Date(Date.now() + 60_000).toUTCString();
    expect((await get(bucket, "k", { "if-modified-since": later })).status).toBe(304);
  });

  it("on writing and deleting is heeded, and a refused write changes nothing", async () => {
    const bucket = freshBucket();
    const before = (await blobs()).length;
    expect((await put(bucket, "k", "1", { "if-match": "*" })).status).toBe(412);
    expect((await put(bucket, "k", "1", { "if-none-match": "*" })).status).toBe(201);
    expect((await put(bucket, "k", "2", { "if-none-match": "*" })).status).toBe(412);
    expect((await put(bucket, "k", "2", { "if-match": `"${sha256("0")}"` })).status).toBe(412);
    expect((await get(bucket, "k")).body.toString()).toBe("1");
    expect((await put(bucket, "k", "2", { "if-match": `"${sha256("1")}"` })).status).toBe(200);
    const remove = (tag: string) =>
      rest.api.delete(path(bucket, "k"), { headers: { "if-match": `"${sha256(tag)}"` } });
    expect((await remove("1")).status).toBe(412);
    expect((await remove("2")).status).toBe(204);
    expect((await blobs()).length).toBe(before);
  });

  it("lets one of many creators win, and one of many replacers", async () => {
    const bucket = freshBucket();
    const before = (await blobs()).length;
    const create = await Promise.all(
      Array.from({ length: 16 }, (_, i) => put(bucket, "k", `v${i}`, { "if-none-match": "*" })),
    );
    expect(create.map((r) => r.status).sort()).toEqual([201, ...Array(15).fill(412)]);
    const tag = (await head(bucket, "k")).headers.get("etag")!;
    const replace = await Promise.all(
      Array.from({ length: 16 }, (_, i) => put(bucket, "k", `w${i}`, { "if-match": tag })),
    );
    expect(replace.map((r) => r.status).sort()).toEqual([200, ...Array(15).fill(412)]);
    const winner = replace.findIndex((r) => r.status === 200);
    expect((await get(bucket, "k")).body.toString()).toBe(`w${winner}`);
    expect((await blobs()).length).toBe(before + 1);
  });

  it("is not needed for whole bytes: readers amid writers see one version or another", async () => {
    const bucket = freshBucket();
    const versions = Array.from({ length: 6 }, () => randomBytes(300_000));
    const digests = new Set(versions.map((bytes) => sha256(bytes)));
    await put(bucket, "k", versions[0]!);
    let writing = true;
    const reads = (async () => {
      while (writing) {
        const reply = await get(bucket, "k");
        expect(reply.status).toBe(200);
        expect(digests).toContain(sha256(reply.body));
        expect(reply.headers.get("etag")).toBe(`"${sha256(reply.body)}"`);
      }
    })();
    const writes = Array.from({ length: 30 }, (_, i) => put(bucket, "k", versions[i % 6]!));
    const statuses = (await Promise.all(writes)).map((reply) => reply.status);
    writing = false;
    await reads;
    expect(new Set(statuses)).toEqual(new Set([200]));
  });
});

describe("a name", () => {
  it.each([
    "a/b/c",
    "/leading",
    "trailing/",
    "double//slash",
    "100%",
    "a%2Fb",
    "%2e%2e%2fetc",
    "a b+c&d=e?f#g",
    "..hidden",
    "a...b",
    "räksmörgås/日本/🧬",
    "quote\"'`<>",
    "sign",
    "delete",
    "back\\slash",
    ";semi=colon",
    "{*}",
    "k".repeat(1024),
    "é".repeat(512),
  ])("may be %j", async (key) => {
    const bucket = freshBucket();
    expect(await put(bucket, key, key)).toMatchObject({ status: 201, body: { key } });
    expect((await get(bucket, key)).body.toString()).toBe(key);
    expect(keysOf(await list(bucket))).toEqual([key]);
    expect(keysOf(await list(bucket, { prefix: key }))).toEqual([key]);
    expect((await rest.api.delete(path(bucket, key))).status).toBe(204);
  });

  it("keeps its slashes whether they are percent-encoded or not", async () => {
    const bucket = freshBucket();
    await rest.api.call("PUT", `/v1/objects/${bucket}/a/b%20c/d`, { raw: "x" });
    expect((await get(bucket, "a/b c/d")).body.toString()).toBe("x");
  });

  it("is any text but those refused, and comes back as it was", async () => {
    const bucket = freshBucket();
    const key = fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 60 })
      .filter((text) => text.isWellFormed())
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are refused.
      .filter((text) => !/[\u0000-\u001f\u007f]/.test(text))
      .filter((text) => !text.split("/").some((part) => part === "." || part === ".."));
    await fc.assert(
      fc.asyncProperty(key, async (text) => {
        const reply = await put(bucket, text, text);
        expect([200, 201]).toContain(reply.status);
        expect(reply.body.key).toBe(text);
        expect((await get(bucket, text)).body.toString()).toBe(text);
      }),
      { numRuns: 60 },
    );
  });

  it.each(["../../etc/passwd", "a/../b", "./a", "a/..", "nul\0", "tab\t", "k".repeat(1025), "é".repeat(513)])(
    "may not be %j",
    async (key) => {
      const reply = await put("names", key, "x");
      expect(reply).toMatchObject({ status: 400, body: { code: "OBJECT_NAME_INVALID" } });
      expect((await get("names", key)).status).toBe(400);
      expect(await list("names")).toMatchObject({ status: 200, body: { items: [] } });
    },
  );

  it("has a bucket of plain letters", async () => {
    for (const bucket of ["UPPER", "..%2f..", "a%2fb", "-a", "%00", "x".repeat(64), "ä"]) {
      for (const method of ["PUT", "GET", "DELETE"])
        expect((await rest.api.call(method, `/v1/objects/${bucket}/k`)).status, bucket).toBe(400);
      expect((await rest.api.get(`/v1/objects/${bucket}`)).status, bucket).toBe(400);
    }
  });

  it("never becomes a path: the files have random ids", async () => {
    await put(freshBucket(), "very-telling-name", "x");
    expect((await readdir(rest.stateDir, { recursive: true })).filter((p) => p.includes("telling"))).toEqual(
      [],
    );
  });
});

describe("a list", () => {
  const KEYS = ["a", "a/1", "a/2", "a/b/1", "b", "b/1", "Z", "é", "z/", "🧬", "~"];
  const BY_BYTES = [...KEYS].sort((x, y) => Buffer.compare(Buffer.from(x), Buffer.from(y)));
  let bucket: string;
  beforeAll(async () => {
    bucket = freshBucket();
    for (const key of KEYS) await put(bucket, key, key);
  });

  it("is in the order of the keys' bytes, page by page", async () => {
    expect(keysOf(await list(bucket))).toEqual(BY_BYTES);
    const walked: string[] = [];
    let cursor: string | undefined;
    let pages = 0;
    do {
      const page = await list(bucket, { limit: 3, ...(cursor && { cursor }) });
      expect(keysOf(page).length).toBeLessThanOrEqual(3);
      walked.push(...keysOf(page));
      cursor = page.body.nextCursor;
      pages++;
    } while (cursor !== undefined);
    expect([walked, pages]).toEqual([BY_BYTES, 4]);
  });

  it("with a prefix has only what begins with it", async () => {
    expect(keysOf(await list(bucket, { prefix: "a/" }))).toEqual(["a/1", "a/2", "a/b/1"]);
    expect(keysOf(await list(bucket, { prefix: "nothing" }))).toEqual([]);
    expect((await list(bucket, { prefix: "a/../" })).status).toBe(400);
  });

  it("with a delimiter shows each group once, over pages too", async () => {
    const top = await list(bucket, { delimiter: "/" });
    expect(keysOf(top)).toEqual(BY_BYTES.filter((key) => !key.includes("/")));
    expect(top.body.prefixes).toEqual(["a/", "b/", "z/"]);
    const inner = await list(bucket, { delimiter: "/", prefix: "a/" });
    expect([keysOf(inner), inner.body.prefixes]).toEqual([["a/1", "a/2"], ["a/b/"]]);
    const seen: string[] = [];
    for (let cursor: string | undefined, first = true; first || cursor; first = false) {
      const page = await list(bucket, { delimiter: "/", limit: 1, ...(cursor && { cursor }) });
      seen.push(...keysOf(page), ...page.body.prefixes);
      cursor = page.body.nextCursor;
    }
    expect(seen.sort()).toEqual([...keysOf(top), ...top.body.prefixes].sort());
  });

  it("has at most 1,000 objects, of its caller's bounds otherwise", async () => {
    expect((await list(bucket, { limit: 1_001 })).status).toBe(400);
    expect((await list(bucket, { limit: 0 })).status).toBe(400);
  });

  it("agrees with a plain model, whatever keys, prefix, delimiter and page", async () => {
    const { ownerId } = (await rest.api.get("/v1/me")).body;
    const rows = new ObjectRows(rest.database.pool, new TenantPool(rest.database.pool));
    const text = fc.string({ unit: fc.constantFrom("a", "b", "/", "-", "é"), maxLength: 6 });
    const model = fc.record({
      keys: fc.uniqueArray(
        text.filter((t) => t !== ""),
        { maxLength: 12 },
      ),
      prefix: text,
      delimiter: fc.constantFrom(undefined, "/", "-", "é", "a/"),
      limit: fc.integer({ min: 1, max: 4 }),
    });
    await fc.assert(
      fc.asyncProperty(model, async ({ keys, prefix, delimiter, limit }) => {
        const name = freshBucket();
        await rest.database.pool.query(
          `INSERT INTO object SELECT $1, $2, key, gen_random_uuid(), 0, '', 'x', '{}', now() FROM unnest($3::bytea[]) AS key`,
          [ownerId, name, keys.map((key) => Buffer.from(key))],
        );
        const items = new Set<string>();
        const groups = new Set<string>();
        for (const key of keys.filter((k) => k.startsWith(prefix))) {
          const at = delimiter === undefined ? -1 : key.indexOf(delimiter, prefix.length);
          if (at < 0) items.add(key);
          else groups.add(key.slice(0, at + delimiter!.length));
        }
        const got = { items: [] as string[], groups: [] as string[] };
        for (let from: Buffer | undefined, first = true; first || from; first = false) {
          const page = await rows.list(ownerId, name, {
            prefix: Buffer.from(prefix),
            from,
            delimiter: delimiter === undefined ? undefined : Buffer.from(delimiter),
            limit,
          });
          expect(page.items.length + page.prefixes.length).toBeLessThanOrEqual(limit);
          got.items.push(...page.items.map((row) => row.key));
          got.groups.push(...page.prefixes);
          from = page.next;
        }
        const sorted = (set: Set<string>) =>
          [...set].sort((x, y) => Buffer.compare(Buffer.from(x), Buffer.from(y)));
        expect(got).toEqual({ items: sorted(items), groups: sorted(groups) });
        await rest.database.pool.query("DELETE FROM object WHERE bucket = $1", [name]);
      }),
      { numRuns: 80 },
    );
  });

  it("of buckets names those that have an object; many objects go at once", async () => {
    const name = freshBucket();
    for (const key of ["x", "y", "z"]) await put(name, key, key);
    const names = async () =>
      (await rest.api.get("/v1/objects")).body.items.map((b: { name: string }) => b.name);
    expect(await names()).toContain(name);
    const before = (await blobs()).length;
    const reply = await rest.api.post(`/v1/objects/${name}/delete`, { keys: ["x", "y", "none"] });
    expect(reply.body).toEqual({ deleted: 2 });
    expect(keysOf(await list(name))).toEqual(["z"]);
    expect((await blobs()).length).toBe(before - 2);
    await rest.api.delete(path(name, "z"));
    expect(await names()).not.toContain(name);
  });
});

describe("a composition", () => {
  const compose = (bucket: string, json: object, client = rest.api, headers: Record<string, string> = {}) =>
    client.post(`/v1/objects/${bucket}/compose`, json, { headers });

  it("is one object of others, in their order, which go if asked to", async () => {
    const bucket = freshBucket();
    const parts = [randomBytes(700_000), Buffer.alloc(0), randomBytes(5)];
    for (const [i, part] of parts.entries()) await put(bucket, `p/${i}`, part);
    const whole = Buffer.concat(parts);
    const from = ["p/0", "p/1", "p/2"];
    const wrong = await compose(bucket, { key: "k", from, digest: sha256("others"), removeSources: true });
    expect(wrong.body.code).toBe("OBJECT_MISMATCH");
    const made = await compose(bucket, {
      key: "k",
      from,
      digest: sha256(whole),
      contentType: "x/y",
      metadata: { a: "b" },
    });
    expect(made).toMatchObject({
      status: 201,
      body: { contentType: "x/y", metadata: { a: "b" }, sizeBytes: 700_005 },
    });
    expect((await get(bucket, "k")).body.equals(whole)).toBe(true);
    expect(keysOf(await list(bucket))).toEqual(["k", ...from]);
    const before = (await blobs()).length;
    const twice = await compose(bucket, { key: "k", from: ["k", "k"], removeSources: true });
    expect([twice.status, twice.body.digest]).toEqual([200, sha256(Buffer.concat([whole, whole]))]);
    expect((await compose(bucket, { key: "k", from, removeSources: true })).body.digest).toBe(sha256(whole));
    expect(keysOf(await list(bucket))).toEqual(["k"]);
    expect((await blobs()).length).toBe(before - 3);
  });

  it("needs all its sources, its conditions and the right to each", async () => {
    const bucket = freshBucket();
    await put(bucket, "a", "a");
    expect((await compose(bucket, { key: "k", from: ["a", "none"] })).body.code).toBe("OBJECT_NOT_FOUND");
    expect(
      (await compose(bucket, { key: "a", from: ["a"] }, rest.api, { "if-none-match": "*" })).status,
    ).toBe(412);
    expect((await compose(bucket, { key: "k", from: ["a"] }, stranger)).body.code).toBe("OBJECT_NOT_FOUND");
    const { body } = await rest.api.post("/v1/objects/sign", {
      bucket,
      prefix: "b/",
      methods: ["get", "put"],
    });
    const token = new RestClient(rest.url, body.token);
    expect((await compose(bucket, { key: "b/k", from: ["a"] }, token)).body.code).toBe(
      "OBJECT_ACCESS_DENIED",
    );
    await put(bucket, "b/1", "1", {}, token);
    expect((await compose(bucket, { key: "b/k", from: ["b/1"] }, token)).status).toBe(201);
    const removing = { key: "b/k", from: ["b/1"], removeSources: true };
    expect((await compose(bucket, removing, token)).body.code).toBe("OBJECT_ACCESS_DENIED");
    const writer = await rest.api.post("/v1/keys", { label: "w", scopes: ["objects:write"] });
    expect(
      (await compose(bucket, { key: "k", from: ["a"] }, new RestClient(rest.url, writer.body.key))).status,
    ).toBe(403);
    expect(keysOf(await list(bucket))).toEqual(["a", "b/1", "b/k"]);
  });
});

describe("an owner", () => {
  it("sees and changes nothing of another, under the same names", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "mine");
    expect((await get(bucket, "k", {}, stranger)).status).toBe(404);
    expect((await head(bucket, "k", stranger)).status).toBe(404);
    expect(keysOf(await list(bucket, {}, stranger))).toEqual([]);
    expect((await stranger.get("/v1/objects")).body.items).toEqual([]);
    expect((await stranger.delete(path(bucket, "k"))).status).toBe(204);
    expect((await stranger.post(`/v1/objects/${bucket}/delete`, { keys: ["k"] })).body.deleted).toBe(0);
    expect((await put(bucket, "k", "his", {}, stranger)).status).toBe(201);
    expect((await get(bucket, "k")).body.toString()).toBe("mine");
    expect((await get(bucket, "k", {}, stranger)).body.toString()).toBe("his");
  });

  it("needs the scope for what he does", async () => {
    const reader = await rest.api.post("/v1/keys", { label: "r", scopes: ["objects:read"] });
    const client = new RestClient(rest.url, reader.body.key);
    expect(await put("b", "k", "x", {}, client)).toMatchObject({
      status: 403,
      body: { code: "SCOPE_MISSING" },
    });
    const sign = (methods: string[]) => client.post("/v1/objects/sign", { bucket: "b", key: "k", methods });
    expect((await sign(["put"])).status).toBe(403);
    expect((await sign(["get"])).status).toBe(200);
  });
});

describe("an object token", () => {
  const sign = async (body: object, client = rest.api) => {
    const reply = await client.post("/v1/objects/sign", body);
    expect(reply.status).toBe(200);
    return new RestClient(rest.url, reply.body.token);
  };
  const denied = { status: 403, body: { code: "OBJECT_ACCESS_DENIED" } };

  it("allows its methods on its one key, and nothing else", async () => {
    const bucket = freshBucket();
    await put(bucket, "a", "A");
    await put(bucket, "ab", "AB");
    const token = await sign({ bucket, key: "a", methods: ["get", "head"] });
    expect((await get(bucket, "a", {}, token)).body.toString()).toBe("A");
    expect((await head(bucket, "a", token)).status).toBe(200);
    expect(await get(bucket, "ab", {}, token)).toMatchObject(denied);
    expect(await get(freshBucket(), "a", {}, token)).toMatchObject(denied);
    expect(await put(bucket, "a", "x", {}, token)).toMatchObject(denied);
    expect(await token.delete(path(bucket, "a"))).toMatchObject(denied);
    expect(await list(bucket, {}, token)).toMatchObject(denied);
    for (const other of ["/v1/me", "/v1/tasks", "/v1/objects", "/v1/functions"])
      expect((await token.get(other)).status, other).toBe(401);
    expect((await token.post("/v1/objects/sign", { bucket, key: "a", methods: ["get"] })).status).toBe(401);
    expect((await token.post("/v1/tokens")).status).toBe(401);
  });

  it("for a prefix allows all that begins with it", async () => {
    const bucket = freshBucket();
    const token = await sign({ bucket, prefix: "job/7/", methods: ["put", "list", "delete"] });
    expect((await put(bucket, "job/7/out", "x", {}, token)).status).toBe(201);
    expect(await put(bucket, "job/8/out", "x", {}, token)).toMatchObject(denied);
    expect((await put(bucket, "job/7/../8", "x", {}, token)).status).toBe(400);
    expect(keysOf(await list(bucket, { prefix: "job/7/" }, token))).toEqual(["job/7/out"]);
    expect(await list(bucket, { prefix: "job/" }, token)).toMatchObject(denied);
    const remove = (keys: string[]) => token.post(`/v1/objects/${bucket}/delete`, { keys });
    expect(await remove(["job/7/out", "job/8/out"])).toMatchObject(denied);
    expect((await remove(["job/7/out"])).body).toEqual({ deleted: 1 });
  });

  it("ends with its time", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "x");
    const token = await sign({ bucket, key: "k", methods: ["get"], expiresInSeconds: 1 });
    await expect.poll(async () => (await get(bucket, "k", {}, token)).status, { timeout: 5_000 }).toBe(401);
    expect((await get(bucket, "k", {}, token)).body.code).toBe("TOKEN_EXPIRED");
    const long = { bucket, key: "k", methods: ["get"], expiresInSeconds: 3_601 };
    expect((await rest.api.post("/v1/objects/sign", long)).status).toBe(400);
  });

  it("ends with the key that it was made from, and never outlives it", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "x");
    const { body: made } = await rest.api.post("/v1/keys", { label: "t", scopes: ["objects:read"] });
    const token = await sign({ bucket, prefix: "", methods: ["get"] }, new RestClient(rest.url, made.key));
    expect((await get(bucket, "k", {}, token)).status).toBe(200);
    await rest.api.delete(`/v1/keys/${made.id}`);
    expect((await get(bucket, "k", {}, token)).status).toBe(401);
    const access = (await rest.api.post("/v1/tokens")).body.token;
    const request = { bucket, key: "k", methods: ["get"], expiresInSeconds: 3_600 };
    const short = await new RestClient(rest.url, access).post("/v1/objects/sign", request);
    expect(short.body.expiresInMs).toBeLessThanOrEqual(600_000);
  });

  it("names a key or a prefix, and its path is percent-encoded", async () => {
    const bucket = freshBucket();
    const both = { bucket, key: "k", prefix: "k", methods: ["get"] };
    expect((await rest.api.post("/v1/objects/sign", both)).status).toBe(400);
    expect((await rest.api.post("/v1/objects/sign", { bucket, methods: ["get"] })).status).toBe(400);
    const { body } = await rest.api.post("/v1/objects/sign", { bucket, key: "a b/ü", methods: ["get"] });
    expect(body.path).toBe(`/v1/objects/${bucket}/a%20b/%C3%BC`);
  });
});

describe("uploads", () => {
  const open: ReturnType<typeof request>[] = [];
  afterEach(async () => {
    for (const upload of open.splice(0)) upload.destroy();
    await expect.poll(unfinished).toBe(0);
  });

  it("of one owner beyond the bound are told to come again, and another's are taken", async () => {
    const bucket = freshBucket();
    const headers = { authorization: `Bearer ${rest.key}`, "content-length": "1000000" };
    for (let i = 0; i < 32; i++) {
      const upload = request(rest.url + path(bucket, `k${i}`), { method: "PUT", headers });
      upload.on("error", () => {});
      upload.write("x");
      open.push(upload);
    }
    await expect.poll(unfinished).toBe(32);
    const refused = await put(bucket, "one-more", "x");
    expect(refused).toMatchObject({ status: 503, body: { code: "OVERLOADED", retryable: true } });
    expect(refused.headers.get("retry-after")).toBe("1");
    expect((await put(bucket, "k", "x", {}, stranger)).status).toBe(201);
  });
});

describe("the sweep", () => {
  it("removes blobs and unfinished uploads that nobody has, once they are old, and nothing else", async () => {
    const bucket = freshBucket();
    await put(bucket, "k", "kept");
    const root = join(rest.stateDir, "objects");
    const deps = {
      rows: new ObjectRows(rest.database.pool, new TenantPool(rest.database.pool)),
      backend: new FolderBackend(root),
      log: pino({ level: "silent" }),
    };
    const before = await blobs();
    const orphan = "00000000-0000-4000-8000-000000000000";
    const backend = new FolderBackend(root);
    await backend.write(
      orphan,
      (async function* () {
        yield Buffer.from("x");
      })(),
    );
    const half = join(root, "tmp", "ffffffff-0000-4000-8000-000000000000");
    await writeFile(half, "half");
    expect(await sweepObjects(deps)).toBe(0);
    const old = new Date(Date.now() - 4 * 3_600_000);
    for (const name of await blobs()) await utimes(join(root, name), old, old);
    expect(await sweepObjects(deps)).toBe(2);
    expect((await blobs()).sort()).toEqual(before.sort());
    expect((await get(bucket, "k")).body.toString()).toBe("kept");
    expect(await readFile(half).catch(() => "gone")).toBe("gone");
  });
});
