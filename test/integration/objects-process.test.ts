// Objects in a service as it is installed: killed amid an upload, fed more than its memory, on a disk that is full.
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Fabric, type ServiceProcess } from "../support/fabric.js";
import type { RestClient } from "../support/rest-client.js";

const MIB = 1024 * 1024;

let fabric: Fabric;
let service: ServiceProcess;
let api: RestClient;
beforeAll(async () => {
  fabric = await Fabric.open();
  service = await fabric.service();
  api = fabric.api(service.url);
});
afterAll(() => fabric.close());

const filesIn = (root: string) => {
  try {
    return (readdirSync(root, { recursive: true }) as string[]).filter((name) => /.{36}$/.test(name));
  } catch {
    return [];
  }
};
const files = () => filesIn(join(fabric.home, "service", "objects"));
/** An upload that has sent a part of what it announced. */
const halfSent = (path: string, bytes: Buffer) => {
  const headers = { authorization: `Bearer ${fabric.key}`, "content-length": String(bytes.length * 2) };
  const upload = request(service.url + path, { method: "PUT", headers });
  upload.on("error", () => {});
  upload.write(bytes);
  return upload;
};

describe("kill -9 amid an upload", () => {
  it("leaves the object as it was, one that is new not there, and the rest of it to the sweep", async () => {
    expect((await api.call("PUT", "/v1/objects/b/old", { raw: "old" })).status).toBe(201);
    const uploads = ["/v1/objects/b/old", "/v1/objects/b/new"].map((path) =>
      halfSent(path, randomBytes(3 * MIB)),
    );
    const unfinished = () => files().filter((name) => name.startsWith("tmp/"));
    await expect.poll(() => unfinished().length, { timeout: 20_000 }).toBe(2);
    await service.kill();
    for (const upload of uploads) upload.destroy();
    await service.restart();
    expect((await api.get("/v1/objects/b/old")).body.toString()).toBe("old");
    expect((await api.get("/v1/objects/b/new")).status).toBe(404);
    expect((await api.get("/v1/objects/b")).body.items).toHaveLength(1);
    expect(unfinished(), "young: they could be another replica's").toHaveLength(2);
    const old = new Date(Date.now() - 4 * 3_600_000);
    for (const name of unfinished()) utimesSync(join(fabric.home, "service", "objects", name), old, old);
    await service.kill();
    await service.restart();
    await expect.poll(() => unfinished().length, { timeout: 20_000 }).toBe(0);
    expect(files()).toHaveLength(1);
  }, 120_000);
});

describe("512 MiB", () => {
  it("stream in and out while the service's memory stays what it was", async () => {
    const peakMib = () =>
      Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${service.pid}/status`, "utf8"))![1]) / 1024;
    // What the runtime needs to warm up is not the upload's.
    await api.call("PUT", "/v1/objects/b/warm", { raw: randomBytes(32 * MIB) });
    await api.get("/v1/objects/b/warm");
    const before = peakMib();
    const block = randomBytes(MIB);
    const sent = createHash("sha256");
    const stream = Readable.from(
      (function* () {
        for (let i = 0; i < 512; i++) {
          block.writeUInt32BE(i);
          const chunk = Buffer.from(block);
          sent.update(chunk);
          yield chunk;
        }
      })(),
    );
    const reply = await api.call("PUT", "/v1/objects/b/large", {
      raw: Readable.toWeb(stream) as ReadableStream,
    });
    const digest = sent.digest("hex");
    expect(reply).toMatchObject({ status: 201, body: { sizeBytes: 512 * MIB, digest } });
    const got = createHash("sha256");
    await new Promise<void>((resolve, reject) => {
      const headers = { authorization: `Bearer ${fabric.key}` };
      const download = request(`${service.url}/v1/objects/b/large`, { headers }, (response) => {
        response.on("data", (chunk: Buffer) => got.update(chunk));
        response.on("end", resolve);
        response.on("error", reject);
      });
      download.on("error", reject);
      download.end();
    });
    expect(got.digest("hex")).toBe(digest);
    expect(peakMib() - before, "MiB more than before").toBeLessThan(96);
    expect((await api.delete("/v1/objects/b/large")).status).toBe(204);
  }, 120_000);
});

/** A file system of 8 MiB, where this machine lets us make one. */
function smallDisk(): { path: string; remove(): void } | undefined {
  const path = mkdtempSync(join(tmpdir(), "farloom-small-"));
  const done = spawnSync("mount", ["-t", "tmpfs", "-o", "size=8m", "none", path]).status === 0;
  const remove = () => {
    if (done) spawnSync("umount", ["-l", path]);
    rmSync(path, { recursive: true, force: true });
  };
  if (done) return { path, remove };
  remove();
  return undefined;
}
const disk = smallDisk();
afterAll(() => disk?.remove());

describe.skipIf(disk === undefined)("a full disk (skipped where no file system can be mounted)", () => {
  it("is told of as such, leaves nothing behind, and takes what fits", async () => {
    const stateDir = join(disk!.path, "state");
    mkdirSync(stateDir);
    const small = await fabric.service({ FARLOOM_STATE_DIR: stateDir });
    const client = fabric.api(small.url);
    const put = (key: string, sizeBytes: number) =>
      client.call("PUT", `/v1/objects/full/${key}`, { raw: randomBytes(sizeBytes) });
    expect((await put("fits", 3 * MIB)).status).toBe(201);
    expect(await put("large", 20 * MIB)).toMatchObject({ status: 507, body: { code: "STORAGE_FULL" } });
    // Its length is not known, so that all of it is on its way when the disk is full.
    const stream = Readable.toWeb(Readable.from(Array.from({ length: 20 }, () => randomBytes(MIB))));
    const streamed = await client.call("PUT", "/v1/objects/full/stream", { raw: stream as ReadableStream });
    expect(streamed).toMatchObject({ status: 507, body: { code: "STORAGE_FULL" } });
    expect(filesIn(join(stateDir, "objects"))).toHaveLength(1);
    expect((await client.get("/v1/objects/full")).body.items).toHaveLength(1);
    expect((await put("fits-too", 3 * MIB)).status).toBe(201);
    expect((await client.get("/v1/objects/full/fits")).body.length).toBe(3 * MIB);
  });
});
