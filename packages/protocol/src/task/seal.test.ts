import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeFrame, encodeFrame } from "../codec/codec.js";
import { buildResults, buildTasks } from "../frames/columns.js";
import { FRAMES_DOWN, FRAMES_UP, type TasksFrame } from "../frames/frames.js";
import { keyAt, keysToColumn } from "../ids.js";
import { epochOfFence, fenceFor, fenceOf, hasSeal, sealHolds, writeFence, writeSeal } from "./seal.js";

const keys = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => keyAt(Buffer.from(bytes)));

describe("a seal", () => {
  it("is SHA-256 of the task's id and the bytes, wherever they lie and however long they are (P25)", () => {
    fc.assert(
      fc.property(keys, fc.uint8Array({ maxLength: 9000 }), fc.nat(20), (key, bytes, pad) => {
        const source = Buffer.concat([Buffer.alloc(pad, 7), Buffer.from(bytes), Buffer.alloc(3, 9)]);
        const seals = Buffer.alloc(96);
        writeSeal(seals, 32, key, source, pad, pad + bytes.length);
        const wanted = createHash("sha256").update(key, "latin1").update(bytes).digest();
        expect(seals.subarray(32, 64)).toEqual(wanted);
        expect(sealHolds(seals, 32, key, source, pad, pad + bytes.length)).toBe(true);
      }),
    );
  });

  it("does not hold for other bytes, nor for the same bytes of another task", () => {
    const seals = Buffer.alloc(32);
    const bytes = Buffer.from("[[1],{}]");
    writeSeal(seals, 0, "0123456789abcdef", bytes);
    expect(sealHolds(seals, 0, "0123456789abcdef", Buffer.from("[[2],{}]"))).toBe(false);
    expect(sealHolds(seals, 0, "0123456789abcdeX", bytes)).toBe(false);
    expect(sealHolds(seals, 0, "0123456789abcdef", bytes, 0, 7)).toBe(false);
  });

  it("of zeroes, or of no column, is none: there is nothing to check", () => {
    const bytes = Buffer.from("1");
    expect(hasSeal(Buffer.alloc(32))).toBe(false);
    expect(hasSeal(undefined)).toBe(false);
    expect(sealHolds(Buffer.alloc(64), 32, "0123456789abcdef", bytes)).toBe(true);
    expect(sealHolds(undefined, 0, "0123456789abcdef", bytes)).toBe(true);
  });
});

describe("a fence", () => {
  it("rises with the epoch and with the attempt, and is exact on the wire (P26)", () => {
    const epochs = fc.integer({ min: 0, max: 0x7fffffff });
    const attempts = fc.integer({ min: 1, max: 0xffffffff });
    fc.assert(
      fc.property(epochs, attempts, epochs, attempts, (e1, a1, e2, a2) => {
        const one = fenceFor(e1, a1);
        const column = Buffer.alloc(16);
        writeFence(column, 1, one);
        expect(fenceOf(column, 1)).toBe(one);
        expect(Number(column.readBigUInt64LE(8))).toBe(one);
        expect(epochOfFence(one)).toBe(e1);
        if (e1 < e2) expect(one).toBeLessThan(fenceFor(e2, a2));
        else if (e1 === e2 && a1 < a2) expect(one).toBeLessThanOrEqual(fenceFor(e2, a2));
      }),
    );
    expect(fenceOf(undefined, 3)).toBe(0);
    expect(fenceOf(9, 3)).toBe(9);
  });
});

const task = (n: number, more: object = {}) => ({
  key: String.fromCharCode(n).repeat(16),
  source: Buffer.from(`[${n}]`),
  start: 0,
  end: 2 + String(n).length,
  codec: 1,
  attempt: 1,
  options: undefined,
  ...more,
});
const digest = Buffer.alloc(32, 7);
const build = (items: ReturnType<typeof task>[]): TasksFrame =>
  buildTasks(items, 0, items.length, () => digest);
const result = (n: number, more: object = {}) => ({
  ...task(n),
  state: 1,
  reason: 0,
  queueUs: 0,
  runUs: 0,
  cpuUs: 0,
  peakKb: 0,
  detail: undefined,
  ...more,
});

describe("batches", () => {
  it("carry seals in one column, zeroes for what has none, wherever each lay before", () => {
    fc.assert(
      fc.property(
        fc.array(fc.option(fc.nat(5), { nil: undefined }), { minLength: 1, maxLength: 20 }),
        (places) => {
          const source = Buffer.from(Array.from({ length: 32 * 6 }, (_, i) => i + 1));
          const items = places.map((place, i) =>
            task(i, place === undefined ? {} : { seals: source, sealAt: 32 * place }),
          );
          const { seals } = build(items);
          if (places.every((place) => place === undefined)) expect(seals).toBeUndefined();
          else {
            expect(seals).toEqual(
              Buffer.concat(
                places.map((place) =>
                  place === undefined ? Buffer.alloc(32) : source.subarray(32 * place, 32 * place + 32),
                ),
              ),
            );
          }
        },
      ),
    );
  });

  it("carry one fence for all where it is the same, a column where not, and nothing where there is none", () => {
    const fence = fenceFor(3, 1);
    expect(build([task(1), task(2)])).not.toHaveProperty("fences");
    expect(build([task(1, { fence }), task(2, { fence })]).fences).toBe(fence);
    const { fences } = build([task(1), task(2, { fence: fenceFor(3, 2) })]);
    expect([fenceOf(fences, 0), fenceOf(fences, 1)]).toEqual([0, fenceFor(3, 2)]);
    const up = buildResults([result(1, { fence }), result(2)], 0, 2);
    expect([fenceOf(up.fences, 0), fenceOf(up.fences, 1)]).toEqual([fence, 0]);
  });

  it("with columns of the wrong length, or fences beyond 2^53, are refused (P3)", () => {
    const good = build([
      task(1, { fence: fenceFor(2 ** 31 - 1, 9), seals: Buffer.alloc(32, 1), sealAt: 0 }),
      task(2),
    ]);
    const check = (frame: TasksFrame) => decodeFrame(encodeFrame(frame), FRAMES_DOWN.agent);
    expect(check(good)).toEqual({ ok: true, frame: good });
    expect(check({ ...good, seals: Buffer.alloc(63) })).toMatchObject({ code: "FRAME_INVALID" });
    expect(check({ ...good, fences: Buffer.alloc(15) })).toMatchObject({ code: "FRAME_INVALID" });
    expect(check({ ...good, fences: Buffer.alloc(16, 255) })).toMatchObject({ code: "FRAME_INVALID" });
    const up = buildResults([result(1)], 0, 1);
    expect(decodeFrame(encodeFrame({ ...up, seals: Buffer.alloc(1) }), FRAMES_UP.service).ok).toBe(false);
    expect(decodeFrame(encodeFrame({ ...up, fences: Buffer.alloc(1) }), FRAMES_UP.service).ok).toBe(false);
  });
});

describe("an agent's hello", () => {
  const hello = {
    t: "hello" as const,
    role: "agent" as const,
    versions: [1],
    caps: [],
    software: "test",
    held: keysToColumn(["a".repeat(16), "b".repeat(16)]),
  };
  const check = (more: object) => decodeFrame(encodeFrame({ ...hello, ...more }), FRAMES_UP.service);

  it("may say under which attempt and fence it holds what it holds, its boot and its reclaim time (P15)", () => {
    const more = { heldAttempts: Buffer.alloc(8), heldFences: Buffer.alloc(16), bootId: "b", reclaimMs: 0 };
    expect(check(more)).toEqual({ ok: true, frame: { ...hello, ...more } });
    expect(check({}).ok).toBe(true);
  });

  it("is refused where the columns do not fit", () => {
    const wrong = [
      { heldAttempts: Buffer.alloc(4) },
      { heldFences: Buffer.alloc(8) },
      { bootId: "b".repeat(101) },
      { reclaimMs: -1 },
    ];
    for (const bad of wrong) expect(check(bad)).toMatchObject({ code: "FRAME_INVALID" });
  });
});
