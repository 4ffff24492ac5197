import { createHash } from "node:crypto";
import {
  CODEC_REFERENCE,
  encodeReference,
  endOf,
  type IdKey,
  keyAt,
  keyToUuid,
  SEAL_BYTES,
  sealHolds,
  startOf,
  writeSeal,
} from "@farloom/protocol";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Farloom } from "./client.js";
import { FakeService, succeeded } from "./testing/fake-service.js";

// The machine may be busy with other tests.
vi.setConfig({ testTimeout: 30_000 });

let fake: FakeService;
let farloom: Farloom;

beforeEach(async () => {
  fake = await FakeService.start();
  farloom = new Farloom({ url: fake.url, apiKey: "k.s", endpoint: "laptop" });
});
afterEach(async () => {
  await farloom.close({ timeoutMs: 0 });
  await fake.close();
});

const sealOf = (key: IdKey, bytes: Buffer): Buffer => {
  const seal = Buffer.alloc(SEAL_BYTES);
  writeSeal(seal, 0, key, bytes);
  return seal;
};
/** Answers the REST request for a result with these bytes, under this seal. */
const overRest = (body: Buffer, seal: (key: IdKey) => Buffer | undefined): { asked: () => number } => {
  let asked = 0;
  fake.rest = (_method, url) => {
    const id = /^\/v1\/tasks\/(.+)\/result$/.exec(url)?.[1];
    if (id === undefined) return undefined;
    asked++;
    const hex = seal([...fake.committed.keys()].find((key) => keyToUuid(key) === id)!)?.toString("hex");
    const headers = { "content-type": "application/json", ...(hex ? { "farloom-seal": hex } : {}) };
    return { status: 200, body, headers };
  };
  return { asked: () => asked };
};

describe("arguments", () => {
  test("travel under a seal over their task's id and their bytes; large ones over their reference (P25)", async () => {
    const fn = farloom.function("f");
    await Promise.all(Array.from({ length: 2000 }, (_, i) => fn.submit([i]).result()));
    await fn.call(["x".repeat(100_000)]);
    let sealed = 0;
    for (const frame of fake.framesOf("tasks")) {
      for (let i = 0; i < frame.n; i++) {
        const [start, end] = [startOf(frame.ends, i), endOf(frame.ends, i)];
        const key = keyAt(frame.ids, 16 * i);
        expect(sealOf(key, frame.args.subarray(start, end))).toEqual(
          frame.seals!.subarray(SEAL_BYTES * i, SEAL_BYTES * (i + 1)),
        );
        expect(sealHolds(frame.seals, SEAL_BYTES * i, key, Buffer.from("other"))).toBe(false);
        sealed++;
      }
    }
    expect(sealed).toBe(2001);
  });

  test("bear the same seal when they are sent again", async () => {
    fake.options.deaf = true;
    const result = farloom.function("f").submit([7]).result();
    await vi.waitFor(() => expect(fake.framesOf("tasks")).toHaveLength(1));
    fake.options.deaf = false;
    fake.cut();
    expect(await result).toBe(7);
    const [first, second] = fake.framesOf("tasks");
    expect(second!.seals).toEqual(first!.seals);
  });
});

describe("a result", () => {
  test("that bears its seal is taken, and so is one without: nothing is asked for over REST", async () => {
    const rest = overRest(Buffer.from("0"), () => undefined);
    expect(await farloom.function("f").call([1])).toBe(1);
    fake.options.seal = sealOf;
    expect(await farloom.function("f").call([2])).toBe(2);
    const large = "y".repeat(100_000);
    expect(await farloom.function("f").call([large])).toBe(large);
    expect(rest.asked()).toBe(0);
  });

  test("that does not bear its seal is fetched once more, and taken from there", async () => {
    fake.options.seal = (key) => sealOf(key, Buffer.from("42"));
    const rest = overRest(Buffer.from("42"), (key) => sealOf(key, Buffer.from("42")));
    const handle = farloom.function("f").submit([41]);
    expect([await handle.result(), await handle.result()]).toEqual([42, 42]);
    expect(rest.asked()).toBe(1);
    const values = await farloom
      .function("f")
      .map([[1], [2], [3]])
      .all();
    expect(values).toEqual([42, 42, 42]);
  });

  test("is RESULT_CORRUPT where it fails over REST as well; in a map that is the item's error", async () => {
    fake.options.seal = (key) => sealOf(key, Buffer.from("42"));
    const rest = overRest(Buffer.from("43"), () => undefined);
    await expect(farloom.function("f").call([41])).rejects.toMatchObject({ code: "RESULT_CORRUPT" });
    expect(rest.asked()).toBe(2);
    const codes: (string | undefined)[] = [];
    for await (const item of farloom
      .function("f")
      .map([[1], [2]])
      .asCompleted())
      codes.push(item.error?.code);
    expect(codes).toEqual(["RESULT_CORRUPT", "RESULT_CORRUPT"]);
  });

  test("in a payload file is RESULT_CORRUPT where the file has not the digest that the reference says", async () => {
    const digest = createHash("sha256").update("good").digest();
    fake.payloads.set(digest.toString("hex"), Buffer.from("evil"));
    fake.options.run = () => ({ ...succeeded(encodeReference(digest, 4)), codec: 1 | CODEC_REFERENCE });
    await expect(farloom.function("f").call([])).rejects.toMatchObject({ code: "RESULT_CORRUPT" });
  });

  test("of a task of another program is checked too, a large one by the reference that it had", async () => {
    const id = "01900000-0000-8000-8001-020304000001";
    const key = Buffer.from(id.replaceAll("-", ""), "hex").toString("latin1");
    const body = Buffer.from(JSON.stringify("z".repeat(70_000)));
    const reference = encodeReference(createHash("sha256").update(body).digest(), body.length);
    let seal = sealOf(key, reference);
    fake.rest = (_method, url) => {
      if (url.startsWith(`/v1/tasks/${id}/result`)) {
        const headers = { "content-type": "application/json", "farloom-seal": seal.toString("hex") };
        return { status: 200, body, headers };
      }
      return url.startsWith(`/v1/tasks/${id}`)
        ? { status: 200, body: { id, state: "SUCCEEDED" } }
        : undefined;
    };
    expect(await farloom.task(id).result()).toBe("z".repeat(70_000));
    seal = sealOf(key, Buffer.from("something else"));
    await expect(farloom.task(id).result()).rejects.toMatchObject({ code: "RESULT_CORRUPT" });
  });
});
