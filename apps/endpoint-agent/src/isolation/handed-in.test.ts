import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  buildResults,
  CODEC_REFERENCE,
  encodeReference,
  keyAt,
  REASONS,
  type ResultsFrame,
} from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { resultAt } from "../node/frame-items.js";
import { foreignTask, outcome } from "../node/node-task.js";
import { HandedIn } from "./handed-in.js";

const CORRUPT = "payload_corrupt";
const MISSING = "payload_missing";
const BYTES = Buffer.from("what the function returned ".repeat(100));
const digestOf = (bytes: Buffer): Buffer => createHash("sha256").update(bytes).digest();
const NAME = digestOf(BYTES).toString("hex");

describe("a file that a boxed worker hands in", () => {
  let parent = "";
  let store = "";
  let own = "";
  let handedIn: HandedIn;

  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), "farloom-handed-in-"));
    store = join(parent, "store");
    own = join(parent, "worker.payloads");
    for (const path of [store, own]) mkdirSync(path);
    handedIn = new HandedIn(join(parent, "worker"), store);
  });
  afterEach(() => rmSync(parent, { recursive: true, force: true }));

  const item = (codec: number, source: Buffer) => ({
    ...outcome(foreignTask(keyAt(randomBytes(16)), 0), "SUCCEEDED", "none", undefined),
    codec,
    source,
    end: source.length,
  });
  const referring = (digest = digestOf(BYTES), sizeBytes = BYTES.length) =>
    item(1 | CODEC_REFERENCE, encodeReference(digest, sizeBytes));
  const take = async (result = referring()) => {
    const [checked] = await handedIn.check([result]);
    return checked!.detail?.error === undefined ? "taken" : reasonOf(checked!.reason);
  };
  const stored = () => readdirSync(store);

  it("lies in the store under its digest, and in the worker's folder no more", async () => {
    writeFileSync(join(own, NAME), BYTES);
    expect(await take()).toBe("taken");
    expect(readFileSync(join(store, NAME))).toEqual(BYTES);
    expect(readdirSync(own)).toEqual([]);
  });

  it("is refused where its bytes are not those of the digest or the size that the worker says", async () => {
    writeFileSync(join(own, NAME), Buffer.alloc(BYTES.length));
    const [checked] = await handedIn.check([referring()]);
    expect(checked!.detail!.error!.message).toMatch(
      /the result is refused: its file has SHA-256 .* as it says/,
    );
    expect(reasonOf(checked!.reason)).toBe(CORRUPT);
    expect(checked!.end).toBe(checked!.start);
    writeFileSync(join(own, NAME), Buffer.concat([BYTES, BYTES]));
    expect(await take()).toBe(CORRUPT);
    expect(await take(item(1 | CODEC_REFERENCE, Buffer.from("short")))).toBe(CORRUPT);
    expect(stored()).toEqual([]);
  });

  it("is the agent's own: what a task holds open or has linked changes nothing any more (F1)", async () => {
    writeFileSync(join(own, NAME), BYTES);
    linkSync(join(own, NAME), join(parent, "second"));
    const fd = openSync(join(own, NAME), "r+");
    expect(await take()).toBe("taken");
    writeSync(fd, "changed");
    closeSync(fd);
    writeFileSync(join(parent, "second"), "changed");
    expect(readFileSync(join(store, NAME))).toEqual(BYTES);
  });

  it("replaces nothing by other bytes, and whoever has no bytes gets no result for their digest (F2)", async () => {
    writeFileSync(join(store, NAME), BYTES);
    expect(await take()).toBe(MISSING);
    writeFileSync(join(own, NAME), "false");
    expect(await take(referring(digestOf(BYTES), 5))).toBe(CORRUPT);
    expect(readFileSync(join(store, NAME))).toEqual(BYTES);
  });

  it("is a plain file: links, pipes and folders are refused, whatever lies behind them", async () => {
    writeFileSync(join(parent, "key"), BYTES);
    symlinkSync(join(parent, "key"), join(own, NAME));
    expect(await take()).toBe(MISSING);
    rmSync(join(own, NAME));
    execFileSync("mkfifo", [join(own, NAME)]);
    expect(await take()).toBe(MISSING);
    rmSync(join(own, NAME));
    mkdirSync(join(own, NAME));
    expect(await take()).toBe(MISSING);
    expect(stored()).toEqual([]);
  });

  it("was handed in already where its result comes again, until that is durable (F4)", async () => {
    writeFileSync(join(own, NAME), BYTES);
    expect(await take()).toBe("taken");
    const next = new HandedIn(join(parent, "worker"), store);
    expect((await next.check([referring()]))[0]!.detail).toBeUndefined();
    handedIn.forget();
    await expect.poll(() => readdirSync(parent)).not.toContain("worker.taken");
    expect(await take()).toBe(MISSING);
  });

  it("keeps no result waiting but those behind its own, and each frame's other results are as they were (F3)", async () => {
    const passed: ResultsFrame[] = [];
    const pass = (...items: ReturnType<typeof item>[]) =>
      handedIn.pass(buildResults(items, 0, items.length), (frame) => passed.push(frame));
    const plain = Buffer.from("1");
    pass(item(1, plain));
    expect(passed).toHaveLength(1);
    pass(item(1, plain), referring());
    pass(item(2, plain));
    expect(passed).toHaveLength(1);
    await handedIn.idle();
    expect(passed.map((frame) => resultAt(frame, 0).codec)).toEqual([1, 1, 2]);
    expect(passed[1]!.n).toBe(2);
    expect([0, 1].map((i) => reasonOf(resultAt(passed[1]!, i).reason))).toEqual(["none", MISSING]);
  });
});

function reasonOf(code: number): string | undefined {
  return Object.entries(REASONS).find(([, value]) => value === code)?.[0];
}
