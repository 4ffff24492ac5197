import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { buildResults, buildTasks, durationToWire, durationUsOf, endOf, startOf } from "../frames/columns.js";
import { FRAMES_DOWN, FRAMES_UP, type TasksFrame } from "../frames/frames.js";
import { TaskIdAllocator } from "../ids.js";
import { MAX_FRAME_BYTES } from "../limits.js";
import { decodeBounded, decodeFrame, encodeFrame, encodeValue } from "./codec.js";
import { guardMessagePack } from "./guard.js";
import { LengthPrefixReader, withLength } from "./length-prefix.js";

const LIMITS = { maxBytes: 1 << 20, maxDepth: 16, maxElements: 65_536 };
const digest = Buffer.alloc(32, 7);

function tasks(n: number): TasksFrame {
  const ids = new TaskIdAllocator();
  const items = Array.from({ length: n }, (_, i) => ({
    key: ids.next(),
    source: Buffer.from(`xx[[${i}],{}]`),
    start: 2,
    end: 10 + String(i).length - 1,
    codec: i % 3 === 0 ? 1 : 2,
    attempt: i % 5 === 0 ? 2 : 1,
    options: i === 1 ? { timeoutMs: 5 } : undefined,
  }));
  return buildTasks(items, 0, n, () => digest);
}

describe("decodeFrame", () => {
  it("gives back what was encoded", () => {
    const frame = tasks(20);
    const decoded = decodeFrame(encodeFrame(frame), FRAMES_DOWN.agent);
    expect(decoded.ok).toBe(true);
    if (!decoded.ok || decoded.frame.t !== "tasks") throw new Error("not tasks");
    expect(decoded.frame.ids.equals(frame.ids)).toBe(true);
    const i = 12;
    const args = decoded.frame.args.subarray(startOf(decoded.frame.ends, i), endOf(decoded.frame.ends, i));
    expect(args.toString()).toBe("[[12],{}]");
    expect(decoded.frame.opts?.[1]).toEqual({ timeoutMs: 5 });
  });

  it("never throws, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        decodeFrame(Buffer.from(bytes), FRAMES_DOWN.agent);
      }),
      { numRuns: 5000 },
    );
  });

  it("never throws, and never accepts columns that do not fit, for mutated frames", () => {
    const good = encodeFrame(tasks(5));
    fc.assert(
      fc.property(
        fc.array(fc.record({ at: fc.nat({ max: good.length - 1 }), byte: fc.nat({ max: 255 }) }), {
          minLength: 1,
          maxLength: 6,
        }),
        (edits) => {
          const bytes = Buffer.from(good);
          for (const { at, byte } of edits) bytes[at] = byte;
          const decoded = decodeFrame(bytes, FRAMES_DOWN.agent);
          if (!decoded.ok || decoded.frame.t !== "tasks") return;
          const { n, ids, ends, args } = decoded.frame;
          expect(ids.length).toBe(16 * n);
          expect(ends.length).toBe(4 * n);
          expect(endOf(ends, n - 1)).toBe(args.length);
        },
      ),
      { numRuns: 5000 },
    );
  });

  it("ignores unknown fields, and calls unknown kinds unknown", () => {
    expect(decodeFrame(encodeValue({ t: "ping", n: 1, more: [1, 2] }), FRAMES_UP.service).ok).toBe(true);
    expect(decodeFrame(encodeValue({ t: "teleport" }), FRAMES_UP.service)).toMatchObject({
      code: "FRAME_UNKNOWN",
    });
    expect(decodeFrame(encodeValue({ t: "tasks" }), FRAMES_UP.service)).toMatchObject({
      code: "FRAME_UNKNOWN",
    });
  });

  it("refuses missing fields, wrong types, negative numbers and oversize", () => {
    for (const bad of [
      { t: "ping" },
      { t: "ping", n: "1" },
      { t: "ping", n: -1 },
      { n: 1 },
      [],
      7,
      null,
      "ping",
    ]) {
      expect(decodeFrame(encodeValue(bad), FRAMES_UP.service)).toMatchObject({
        ok: false,
        code: "FRAME_INVALID",
      });
    }
    const large = Buffer.alloc(MAX_FRAME_BYTES + 1);
    expect(decodeFrame(large, FRAMES_UP.service)).toMatchObject({ code: "FRAME_TOO_LARGE" });
  });

  it("does not let a key named __proto__ reach any prototype", () => {
    const bytes = Buffer.concat([
      Buffer.from([0x83, 0xa1, 0x74, 0xa4]),
      Buffer.from("ping"),
      Buffer.from([0xa1, 0x6e, 0x01, 0xa9]),
      Buffer.from("__proto__"),
      Buffer.from([0x81, 0xa1, 0x78, 0x01]),
    ]);
    decodeFrame(bytes, FRAMES_UP.service);
    expect(({} as Record<string, unknown>).x).toBeUndefined();
  });
});

describe("the guard", () => {
  it("accepts what the encoder makes of any plain value within bounds", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 8 }), (value) => {
        expect(guardMessagePack(encodeValue(value), LIMITS)).toBeUndefined();
      }),
    );
  });

  it("refuses depth, element counts, extension types, truncation and trailing bytes before anything is built", () => {
    let deep: unknown = 1;
    for (let i = 0; i < 40; i++) deep = [deep];
    expect(guardMessagePack(encodeValue(deep), LIMITS)).toMatch(/nested/);
    expect(guardMessagePack(Buffer.alloc(200_000, 0x91), LIMITS)).toMatch(/nested/);
    expect(guardMessagePack(Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff]), LIMITS)).toMatch(/elements/);
    expect(guardMessagePack(Buffer.from([0xd4, 1, 1]), LIMITS)).toMatch(/extension/);
    expect(guardMessagePack(Buffer.from([0xc6, 0, 0, 1, 0, 1]), LIMITS)).toMatch(/truncated/);
    expect(guardMessagePack(Buffer.from([1, 1]), LIMITS)).toMatch(/after the end/);
    expect(decodeBounded(Buffer.from([0xc1]), LIMITS)).toMatchObject({ ok: false });
  });
});

describe("durations", () => {
  it("keep microseconds below 2^31 and milliseconds above, for days", () => {
    for (const us of [0, 1, 2 ** 31 - 1]) {
      const column = Buffer.alloc(4);
      column.writeUInt32LE(durationToWire(us));
      expect(durationUsOf(column, 0)).toBe(us);
    }
    const column = Buffer.alloc(4);
    column.writeUInt32LE(durationToWire(12 * 3600 * 1e6 + 1234));
    expect(durationUsOf(column, 0)).toBe(12 * 3600 * 1e6 + 1000);
  });
});

describe("buildResults", () => {
  it("leaves out what is the same for all, and keeps what differs", () => {
    const ids = new TaskIdAllocator();
    const item = (state: number, reason: number) => ({
      key: ids.next(),
      source: Buffer.from("1"),
      start: 0,
      end: 1,
      codec: 1,
      attempt: 1,
      state,
      reason,
      queueUs: 1,
      runUs: 2,
      cpuUs: 3,
      peakKb: 4,
      detail: undefined,
    }); // prettier-ignore
    expect(buildResults([item(1, 0), item(1, 0)], 0, 2)).toMatchObject({ states: 1, codecs: 1 });
    const mixed = buildResults([item(1, 0), item(2, 1)], 0, 2);
    expect(mixed.states).toEqual(Buffer.from([1, 2]));
    expect(mixed.reasons).toEqual(Buffer.from([0, 1]));
    expect(decodeFrame(encodeFrame(mixed), FRAMES_UP.service).ok).toBe(true);
  });
});

describe("LengthPrefixReader", () => {
  it("cuts the same frames from a stream, however it is chopped", () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 60 }),
        (frames, cuts) => {
          const stream = Buffer.concat(frames.map((f) => withLength(Buffer.from(f))));
          const reader = new LengthPrefixReader();
          const out: Buffer[] = [];
          let at = 0;
          for (let i = 0; at < stream.length; i++) {
            const n = cuts[i % cuts.length]!;
            const got = reader.push(stream.subarray(at, at + n));
            if ("bad" in got) throw new Error(got.bad);
            out.push(...got.map((f) => Buffer.from(f)));
            at += n;
          }
          expect(out.map((f) => f.toString("hex"))).toEqual(
            frames.map((f) => Buffer.from(f).toString("hex")),
          );
        },
      ),
    );
  });

  it("refuses a frame that announces more than a frame may have", () => {
    expect(new LengthPrefixReader().push(Buffer.from([0xff, 0, 0, 0]))).toHaveProperty("bad");
  });
});
