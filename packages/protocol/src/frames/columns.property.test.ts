/** Batches as columns: what goes in comes out, whatever it is; whatever comes from a peer, nothing throws. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeFrame, encodeFrame } from "../codec/codec.js";
import { keyAt } from "../ids.js";
import {
  buildResults,
  buildTasks,
  byteOf,
  durationToWire,
  durationUsOf,
  endOf,
  functionIndexOf,
  type ResultItem,
  startOf,
  type TaskItem,
  u32Of,
} from "./columns.js";
import { FRAMES_DOWN, FRAMES_UP } from "./frames.js";

const key = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((b) => Buffer.from(b).toString("latin1"));
const u32 = fc.oneof(fc.nat({ max: 5 }), fc.integer({ min: 0, max: 0xffffffff }));
/** Bytes somewhere in a larger buffer, as they come from a socket. */
const slice = fc
  .tuple(fc.uint8Array({ maxLength: 40 }), fc.nat({ max: 7 }), fc.nat({ max: 7 }))
  .map(([b, before, after]) => ({
    source: Buffer.concat([Buffer.alloc(before, 1), b, Buffer.alloc(after, 2)]),
    start: before,
    end: before + b.length,
  }));
const duration = fc.oneof(fc.nat({ max: 1e6 }), fc.integer({ min: 0, max: 2 ** 46 }));
const text = fc.string({ maxLength: 20 });
/** Any name of a map but the one that the codec keeps from every prototype (codec.test.ts has that rule). */
const name = text.filter((s) => s !== "__proto__");

const task = fc
  .record({
    key,
    codec: fc.constantFrom(1, 2, 3, 129, 131),
    attempt: u32,
    options: fc.option(
      fc.record(
        {
          timeoutMs: fc.nat(),
          retries: fc.nat({ max: 100 }),
          cwd: text,
          env: fc.dictionary(name, text, { maxKeys: 3 }),
        },
        { requiredKeys: [] },
      ),
      { nil: undefined },
    ),
    fn: fc.nat({ max: 3 }),
  })
  .chain((item) => slice.map((at): TaskItem & { fn: number } => ({ ...item, ...at })));

const result = fc
  .record({
    key,
    codec: fc.constantFrom(1, 2, 3, 130),
    attempt: u32,
    state: fc.integer({ min: 1, max: 5 }),
    reason: fc.nat({ max: 20 }),
    queueUs: duration,
    runUs: duration,
    cpuUs: duration,
    peakKb: u32,
    detail: fc.option(fc.record({ stdout: text, exitCode: fc.nat({ max: 255 }) }, { requiredKeys: [] }), {
      nil: undefined,
    }),
  })
  .chain((item) => slice.map((at): ResultItem => ({ ...item, ...at })));

const tasks = fc.array(task, { minLength: 1, maxLength: 30 });
const results = fc.array(result, { minLength: 1, maxLength: 30 });
const digest = (fn: number): Buffer => Buffer.alloc(32, fn);
const bytesOf = (item: { source: Buffer; start: number; end: number }): Buffer =>
  item.source.subarray(item.start, item.end);
/** The empty prototype of a decoded map is of no concern. */
const plain = (value: unknown): unknown => (value === undefined ? undefined : { ...(value as object) });

describe("a batch of tasks", () => {
  it("gives back every item from the wire as it was", () => {
    fc.assert(
      fc.property(tasks, fc.nat({ max: 5 }), (items, skip) => {
        const from = skip % items.length;
        const n = items.length - from;
        const decoded = decodeFrame(
          encodeFrame(buildTasks(items, from, n, (item) => digest(item.fn))),
          FRAMES_DOWN.agent,
        );
        if (!decoded.ok || decoded.frame.t !== "tasks")
          throw new Error(decoded.ok ? "another frame" : decoded.reason);
        const { frame } = decoded;
        for (let i = 0; i < n; i++) {
          const item = items[from + i]!;
          expect(keyAt(frame.ids, 16 * i)).toBe(item.key);
          expect(byteOf(frame.codecs, i)).toBe(item.codec);
          expect(u32Of(frame.attempts, i, 1)).toBe(item.attempt);
          expect(frame.fns[functionIndexOf(frame, i)]!.equals(digest(item.fn))).toBe(true);
          expect(
            frame.args.subarray(startOf(frame.ends, i), endOf(frame.ends, i)).equals(bytesOf(item)),
          ).toBe(true);
          expect(plain(frame.opts?.[i])).toEqual(plain(item.options));
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("a batch of results", () => {
  it("gives back every item from the wire as it was, durations to the millisecond above 2^31 microseconds", () => {
    fc.assert(
      fc.property(results, (items) => {
        const decoded = decodeFrame(encodeFrame(buildResults(items, 0, items.length)), FRAMES_UP.service);
        if (!decoded.ok || decoded.frame.t !== "results")
          throw new Error(decoded.ok ? "another frame" : decoded.reason);
        const { frame } = decoded;
        for (const [i, item] of items.entries()) {
          expect(keyAt(frame.ids, 16 * i)).toBe(item.key);
          expect(byteOf(frame.codecs, i)).toBe(item.codec);
          expect(byteOf(frame.states, i)).toBe(item.state);
          expect(byteOf(frame.reasons, i)).toBe(item.reason);
          expect(u32Of(frame.attempts, i, 1)).toBe(item.attempt);
          expect(u32Of(frame.peakKb, i)).toBe(item.peakKb);
          for (const name of ["queueUs", "runUs", "cpuUs"] as const)
            expect(durationUsOf(frame[name], i)).toBe(asWire(item[name]));
          expect(
            frame.data.subarray(startOf(frame.ends, i), endOf(frame.ends, i)).equals(bytesOf(item)),
          ).toBe(true);
          expect(plain(frame.detail?.[i])).toEqual(plain(item.detail));
        }
      }),
      { numRuns: 500 },
    );
  });

  it("is refused, or has columns that fit, after any damage: bytes changed, cut off, doubled or moved", () => {
    const damage = fc.record({
      kind: fc.constantFrom("flip", "cut", "double", "move"),
      at: fc.nat(),
      n: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(results, fc.array(damage, { minLength: 1, maxLength: 4 }), (items, damages) => {
        let bytes = encodeFrame(buildResults(items, 0, items.length));
        for (const { kind, at, n } of damages) {
          const where = at % Math.max(1, bytes.length);
          if (kind === "flip" && bytes.length > 0) bytes[where]! ^= n;
          else if (kind === "cut") bytes = bytes.subarray(0, where);
          else if (kind === "double") bytes = Buffer.concat([bytes.subarray(0, where), bytes]);
          else bytes = Buffer.concat([bytes.subarray(where), bytes.subarray(0, where)]);
        }
        const decoded = decodeFrame(Buffer.from(bytes), FRAMES_UP.service);
        if (!decoded.ok || decoded.frame.t !== "results") return;
        const { n, ids, ends, data, states } = decoded.frame;
        expect(ids.length).toBe(16 * n);
        expect(ends.length).toBe(4 * n);
        expect(endOf(ends, n - 1)).toBe(data.length);
        for (let i = 0; i < n; i++) {
          expect(startOf(ends, i)).toBeLessThanOrEqual(endOf(ends, i));
          expect(byteOf(states, i)).toSatisfy((state: number) => state >= 1 && state <= 5);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

function asWire(us: number): number {
  const column = Buffer.alloc(4);
  column.writeUInt32LE(durationToWire(us));
  const back = us < 2 ** 31 ? us : Math.min(Math.round(us / 1000), 0x7fffffff) * 1000;
  expect(durationUsOf(column, 0)).toBe(back);
  return back;
}
