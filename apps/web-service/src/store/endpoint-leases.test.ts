import { TaskIdAllocator } from "@farloom/protocol";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { attemptIn, decodeLeases, encodeLeases, type Leases, NO_LEASES } from "./endpoint-leases.js";

const ids = new TaskIdAllocator();
const keys = fc.nat({ max: 5 }).map((n) => Array.from({ length: n }, () => ids.next()));
const leases: fc.Arbitrary<Leases> = fc
  .record({
    accepted: keys,
    sent: keys,
    whole: fc.boolean(),
    attempt: fc.integer({ min: 2, max: 0xffffffff }),
  })
  .map(({ accepted, sent, whole, attempt }) => ({
    accepted: new Set(accepted),
    sent: new Set(sent),
    attempts: new Map([...accepted.slice(1), ...sent.slice(1)].map((key) => [key, attempt])),
    whole,
  }));

describe("the record of what an agent had", () => {
  it("is read as it was written, each task with its attempt", () => {
    fc.assert(
      fc.property(leases, (written) => {
        const read = decodeLeases(encodeLeases(written));
        expect([...read.accepted]).toEqual([...written.accepted]);
        expect([...read.sent]).toEqual([...written.sent]);
        expect(read.whole).toBe(written.whole);
        for (const key of [...written.accepted, ...written.sent])
          expect(attemptIn(read, key)).toBe(attemptIn(written, key));
      }),
    );
  });

  it("of nothing is as short as PostgreSQL takes for nothing (awayEndpoints)", () => {
    expect(encodeLeases(NO_LEASES)).toHaveLength(16);
  });

  it("of an older service, which told of no attempts, says that they are unknown", () => {
    const key = ids.next();
    const read = decodeLeases(Buffer.from(key + "\0".repeat(16), "latin1"));
    expect(read.accepted.has(key)).toBe(true);
    expect(attemptIn(read, key)).toBeUndefined();
  });

  it("is understood by an older service, which knew two runs: it finds the same tasks", () => {
    const [one, two] = [ids.next(), ids.next()];
    const bytes = encodeLeases({
      accepted: new Set([one]),
      sent: new Set([two]),
      attempts: new Map([[one, 3]]),
      whole: true,
    });
    const runs = bytes.toString("latin1").split("\0".repeat(16));
    expect(runs.slice(0, 2)).toEqual([one, two]);
    expect(bytes.length % 16).toBe(0);
  });
});
