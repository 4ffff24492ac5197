// The disk thread as it is built, on real folders: the machine's own, and one in memory where the page cache cannot
// be gone around.
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { Disk } from "./disk.js";
import { Staging } from "./staging.js";

const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

function start(parent = tmpdir()) {
  const root = mkdtempSync(join(parent, "farloom-disk-"));
  undo.push(() => rmSync(root, { recursive: true }));
  const staging = new Staging();
  const disk = new Disk({ root, shared: staging.shared });
  undo.push(() => disk.close());
  const write = async (
    bytes: Buffer,
    hex = sha256(bytes),
    path = join(root, "owner", hex.slice(0, 2), hex),
  ) => {
    const slot = staging.take(bytes.length)!;
    bytes.copy(slot.memory);
    const { offset } = slot;
    try {
      return await disk.run({ kind: "write", offset, sizeBytes: bytes.length, hex, path });
    } finally {
      staging.release(slot);
    }
  };
  const read = (hex: string): Buffer => readFileSync(join(root, "owner", hex.slice(0, 2), hex));
  return { root, staging, disk, write, read, temps: () => readdirSync(join(root, "tmp")) };
}

describe.each([tmpdir(), "/dev/shm"].filter(existsSync))("the disk thread in %s", (parent) => {
  it("writes files of any size, byte for byte, many at once", async () => {
    const { write, read, temps } = start(parent);
    const sizes = [0, 1, 4095, 4096, 4097, 32_768, 65_537, 100_000, 1_000_000, 4 * 1024 * 1024];
    const files = sizes.map((n) => randomBytes(n));
    expect(await Promise.all(files.map((bytes) => write(bytes)))).toEqual(sizes.map(() => undefined));
    for (const bytes of files) expect(read(sha256(bytes)).equals(bytes)).toBe(true);
    expect(temps()).toEqual([]);
  });
});

describe("the disk thread", () => {
  it("keeps nothing of bytes that are not what was announced, and says what they are", async () => {
    const { root, write, temps } = start();
    const bytes = randomBytes(100_000);
    expect(await write(bytes, "0".repeat(64))).toBe(sha256(bytes));
    expect(temps()).toEqual([]);
    expect(readdirSync(root)).toEqual(["tmp"]);
  });

  it("fails one job of a list alone (D3)", async () => {
    const { root, write, read, temps } = start();
    writeFileSync(join(root, "file"), "in the way of a folder");
    const good = randomBytes(70_000);
    const bad = randomBytes(70_000);
    const path = join(root, "file", "aa", sha256(bad));
    const [first, second, third] = await Promise.allSettled([
      write(good),
      write(bad, sha256(bad), path),
      write(randomBytes(50_000)),
    ]);
    expect([first!.status, second!.status, third!.status]).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(read(sha256(good)).equals(good)).toBe(true);
    expect(temps()).toEqual([]);
  });

  it("gives a streamed file its name, and reads one back", async () => {
    const { root, staging, disk, write, temps } = start();
    await write(randomBytes(10));
    const bytes = randomBytes(200_000);
    const temp = join(root, "tmp", "streamed");
    const path = join(root, "owner", "ab", "name");
    writeFileSync(temp, bytes);
    await disk.run({ kind: "settle", temp, path });
    expect(temps()).toEqual([]);
    const slot = staging.take(bytes.length)!;
    await disk.run({ kind: "read", offset: slot.offset, sizeBytes: bytes.length, path });
    expect(slot.memory.subarray(0, bytes.length).equals(bytes)).toBe(true);
    await expect(
      disk.run({ kind: "read", offset: slot.offset, sizeBytes: bytes.length + 1, path }),
    ).rejects.toThrow("shorter");
  });

  it("sweeps what a killed process left half-written, and not what is being written", async () => {
    const { root, write, temps } = start();
    await write(randomBytes(10));
    const second = new Disk({ root, shared: new Staging().shared });
    undo.push(() => second.close());
    writeFileSync(join(root, "tmp", "abandoned"), "x");
    utimesSync(join(root, "tmp", "abandoned"), 0, 0);
    writeFileSync(join(root, "tmp", "young"), "x");
    await second.run({
      kind: "settle",
      temp: join(root, "tmp", "young"),
      path: join(root, "owner", "young"),
    });
    expect(temps()).toEqual([]);
  });

  it("refuses what comes after its end", async () => {
    const { disk, write } = start();
    await write(randomBytes(10));
    await disk.close();
    await expect(write(randomBytes(10))).rejects.toThrow("stopping");
  });
});
