// Objects through the TypeScript SDK and the command line, against a real service.
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { Farloom } from "@farloom/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type RestService, startRestService } from "../support/rest-service.js";
import { TcpProxy } from "../support/tcp-proxy.js";

const CLI = join(import.meta.dirname, "../../packages/cli/bin/farloom.js");

let rest: RestService;
let farloom: Farloom;
let folder: string;
beforeAll(async () => {
  rest = await startRestService();
  farloom = new Farloom({ url: rest.url, apiKey: rest.key });
  folder = mkdtempSync(join(tmpdir(), "farloom-objects-"));
});
afterAll(async () => {
  await farloom.close();
  rmSync(folder, { recursive: true });
  await rest.close();
});

const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const code = (code: string) => expect.objectContaining({ code });

describe("the SDK", () => {
  it("stores and reads text, bytes, streams and files", async () => {
    const { objects } = farloom;
    const bytes = randomBytes(3_000_000);
    const file = join(folder, "in.bin");
    writeFileSync(file, bytes);
    const put = await objects.put("sdk", "text", "größe", {
      contentType: "text/plain",
      metadata: { run: "7" },
    });
    expect(put).toMatchObject({ key: "text", sizeBytes: 7, metadata: { run: "7" } });
    const text = await objects.get("sdk", "text");
    expect(text).toMatchObject({ contentType: "text/plain", metadata: { run: "7" }, digest: put.digest });
    expect(await text.text()).toBe("größe");
    for (const body of [bytes, new Uint8Array(bytes), Readable.from([bytes]), () => Readable.from([bytes])]) {
      expect((await objects.put("sdk", "bytes", body)).digest).toBe(sha256(bytes));
      expect((await (await objects.get("sdk", "bytes")).bytes()).equals(bytes)).toBe(true);
    }
    expect((await objects.putFile("sdk", "file", file)).sizeBytes).toBe(3_000_000);
    await objects.getFile("sdk", "file", join(folder, "out.bin"));
    expect(readFileSync(join(folder, "out.bin")).equals(bytes)).toBe(true);
    expect((await objects.put("sdk", "empty", "")).sizeBytes).toBe(0);
    expect(await (await objects.get("sdk", "empty")).text()).toBe("");
  });

  it("reads ranges, keeps conditions, asks, lists, deletes and signs", async () => {
    const { objects } = farloom;
    const { digest } = await objects.put("ops", "a/1", "0123456789", { ifNoneMatch: "*" });
    await expect(objects.put("ops", "a/1", "x", { ifNoneMatch: "*" })).rejects.toEqual(
      code("PRECONDITION_FAILED"),
    );
    const read = async (range: { start: number; end?: number } | { last: number }) =>
      (await objects.get("ops", "a/1", { range })).text();
    expect([await read({ start: 2, end: 4 }), await read({ start: 7 }), await read({ last: 2 })]).toEqual([
      "234",
      "789",
      "89",
    ]);
    expect((await objects.get("ops", "a/1", { range: { start: 2 } })).sizeBytes).toBe(10);
    await expect(objects.get("ops", "a/1", { range: { start: 10 } })).rejects.toEqual(code("RANGE_INVALID"));
    expect(await objects.head("ops", "a/1")).toMatchObject({ sizeBytes: 10, digest });
    await expect(objects.head("ops", "none")).rejects.toEqual(code("OBJECT_NOT_FOUND"));
    await expect(objects.get("ops", "none")).rejects.toEqual(code("OBJECT_NOT_FOUND"));
    expect([await objects.exists("ops", "a/1"), await objects.exists("ops", "none")]).toEqual([true, false]);
    await objects.put("ops", "a/ü ?#%", "x");
    await objects.put("ops", "b", "x");
    const keys: string[] = [];
    for await (const { key } of objects.all("ops", { limit: 1 })) keys.push(key);
    expect(keys).toEqual(["a/1", "a/ü ?#%", "b"]);
    expect(await objects.list("ops", { delimiter: "/" })).toMatchObject({
      items: [{ key: "b" }],
      prefixes: ["a/"],
    });
    expect(await objects.buckets()).toContain("ops");
    const { token } = await objects.sign({ bucket: "ops", prefix: "a/", methods: ["get"] });
    const guest = new Farloom({ url: rest.url, apiKey: token });
    expect(await (await guest.objects.get("ops", "a/1")).text()).toBe("0123456789");
    await expect(guest.objects.get("ops", "b")).rejects.toEqual(code("OBJECT_ACCESS_DENIED"));
    await guest.close();
    await expect(objects.delete("ops", "a/1", { ifMatch: "0" })).rejects.toEqual(code("PRECONDITION_FAILED"));
    await objects.delete("ops", "a/1", { ifMatch: digest });
    expect(await objects.deleteMany("ops", ["a/ü ?#%", "b", "none"])).toEqual({ deleted: 2 });
    expect(await objects.buckets()).not.toContain("ops");
  });

  it("goes on with a download that was cut, and is not led to other bytes", async () => {
    const bytes = randomBytes(8_000_000);
    await farloom.objects.put("cut", "k", bytes);
    const proxy = await TcpProxy.open([Number(new URL(rest.url).port)]);
    const far = new Farloom({ url: proxy.url, apiKey: rest.key });
    try {
      const whole = await far.objects.get("cut", "k");
      const got: Buffer[] = [];
      let cuts = 0;
      for await (const chunk of whole.body as AsyncIterable<Buffer>) {
        got.push(chunk);
        const size = got.reduce((sum, { length }) => sum + length, 0);
        if (size > (cuts + 1) * 2_000_000 && cuts < 2) {
          cuts++;
          proxy.cut();
        }
      }
      expect([cuts, sha256(Buffer.concat(got))]).toEqual([2, sha256(bytes)]);

      // More than all buffers on its way hold, so that much of it is still to come when it changes.
      await farloom.objects.put("cut", "k", randomBytes(48_000_000));
      const changed = await far.objects.get("cut", "k");
      await expect(
        (async () => {
          let cut = false;
          for await (const _ of changed.body) {
            if (cut) continue;
            cut = true;
            await farloom.objects.put("cut", "k", randomBytes(8_000_000));
            proxy.cut();
          }
        })(),
      ).rejects.toEqual(code("PRECONDITION_FAILED"));
    } finally {
      await far.close();
      await proxy.close();
    }
  });

  it("sends a large file in parts, and after a failure only those that are missing", async () => {
    const { objects } = farloom;
    const bytes = randomBytes(1_000_000);
    const file = join(folder, "large.bin");
    writeFileSync(file, bytes);
    const parts = async () => {
      const keys: string[] = [];
      for await (const { key } of objects.all("parts", { prefix: "k.parts/" })) keys.push(key);
      return keys;
    };
    await objects.put("parts", "k", "old");
    // All parts come; what they become is refused at the very end.
    const refused = objects.putFile("parts", "k", file, { partBytes: 300_000, ifNoneMatch: "*" });
    await expect(refused).rejects.toEqual(code("PRECONDITION_FAILED"));
    const kept = await parts();
    expect(kept).toHaveLength(4);
    await objects.delete("parts", kept[1]!);
    await objects.put("parts", kept[2]!, "damaged");
    const info = await objects.putFile("parts", "k", file, { partBytes: 300_000, metadata: { a: "b" } });
    expect(info).toMatchObject({ digest: sha256(bytes), sizeBytes: 1_000_000, metadata: { a: "b" } });
    expect((await (await objects.get("parts", "k")).bytes()).equals(bytes)).toBe(true);
    expect(await parts()).toEqual([]);
  });

  it("stops sending what is refused, and leaves no part of a file that did not come whole", async () => {
    await farloom.objects.put("refused", "k", "x");
    let sent = 0;
    const endless = new Readable({
      read() {
        sent += 65_536;
        this.push(Buffer.alloc(65_536));
      },
    });
    await expect(farloom.objects.put("refused", "k", endless, { ifNoneMatch: "*" })).rejects.toEqual(
      code("PRECONDITION_FAILED"),
    );
    expect(sent).toBeLessThan(64 * 1024 * 1024);
    await expect(farloom.objects.getFile("refused", "none", join(folder, "none"))).rejects.toEqual(
      code("OBJECT_NOT_FOUND"),
    );
    expect(readdirSync(folder).filter((name) => name.includes("none"))).toEqual([]);
  });

  it("tells a failing source as it failed, and nothing is stored", async () => {
    const failing = new Readable({
      read() {
        this.push("some");
        this.destroy(new Error("the disk is gone"));
      },
    });
    await expect(farloom.objects.put("failing", "k", failing)).rejects.toThrow("the disk is gone");
    expect(await farloom.objects.exists("failing", "k")).toBe(false);
  });
});

describe("farloom objects", () => {
  const run = (args: string[], input = "") =>
    new Promise<{ status: number | null; out: string; err: string }>((resolve) => {
      const child = spawn(process.execPath, [CLI, "objects", ...args], {
        cwd: folder,
        env: {
          PATH: process.env.PATH ?? "",
          HOME: folder,
          FARLOOM_URL: rest.url,
          FARLOOM_API_KEY: rest.key,
          NO_COLOR: "1",
        },
      });
      let out = "";
      let err = "";
      child.stdout.on("data", (text) => {
        out += text;
      });
      child.stderr.on("data", (text) => {
        err += text;
      });
      child.stdin.end(input);
      child.once("close", (status) => resolve({ status, out, err }));
    });

  it("puts, gets, lists, tells and removes", async () => {
    writeFileSync(join(folder, "data.csv"), "1,2\n");
    expect(await run(["put", "data.csv", "cli/in/", "--type", "text/csv", "--meta", "run=7"])).toMatchObject({
      status: 0,
      out: "Stored cli/in/data.csv, 4 bytes.\n",
    });
    expect((await run(["put", "-", "cli/top", "--json"], "from a pipe")).status).toBe(0);
    expect(await run(["put", "-", "cli/top", "--if-absent"], "again")).toMatchObject({ status: 7 });
    expect((await run(["get", "cli/top", "-"])).out).toBe("from a pipe");
    expect((await run(["get", "cli/top", "-", "--range", "0-3"])).out).toBe("from");
    expect((await run(["get", "cli/in/data.csv", "copy.csv"])).status).toBe(0);
    expect(readFileSync(join(folder, "copy.csv"), "utf8")).toBe("1,2\n");
    expect((await run(["ls"])).out).toContain("cli\n");
    expect((await run(["ls", "cli"])).out).toMatch(/in\/[^\n]*\ntop +11/);
    expect(JSON.parse((await run(["ls", "cli/in/", "--json"])).out)).toMatchObject([{ key: "in/data.csv" }]);
    expect((await run(["stat", "cli/in/data.csv"])).out).toMatch(/bytes +4[\s\S]*text\/csv[\s\S]*run +7/);
    const token = (await run(["sign", "cli/top"])).out.trim();
    const reply = await fetch(`${rest.url}/v1/objects/cli/top`, {
      headers: { authorization: `Bearer ${token}` },
    });
    expect(await reply.text()).toBe("from a pipe");
    expect((await run(["rm", "-r", "cli"])).out).toBe("Deleted 2.\n");
    expect((await run(["stat", "cli/top"])).status).toBe(3);
    expect((await run(["stat", "cli"])).status).toBe(2);
  }, 60_000);
});
