import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ObjectGrant } from "../identity/principal.js";
import { allows } from "./access.js";
import { afterPrefix, objectName } from "./names.js";

describe("a name", () => {
  it("keeps its key's UTF-8", () => {
    expect(objectName("b", "ä/ö").keyBytes).toEqual(Buffer.from("ä/ö", "utf8"));
  });

  it.each([
    ["", "k"],
    ["A", "k"],
    ["-a", "k"],
    ["a/b", "k"],
    ["a\n", "k"],
    ["b", ""],
    ["b", "."],
    ["b", ".."],
    ["b", "a/./b"],
    ["b", "a\u0000b"],
    ["b", "\ud800"],
    ["b", "k".repeat(1_025)],
  ])("of bucket %j and key %j is refused", (bucket, key) => {
    expect(() => objectName(bucket, key)).toThrow(expect.objectContaining({ code: "OBJECT_NAME_INVALID" }));
  });
});

describe("afterPrefix", () => {
  it("is behind all that begins with the prefix and before all others behind it", () => {
    const text = fc.string({ unit: "grapheme", minLength: 1, maxLength: 5 }).filter((t) => t.isWellFormed());
    fc.assert(
      fc.property(text, text, (prefix, other) => {
        const bytes = Buffer.from(prefix);
        const after = afterPrefix(bytes)!;
        expect(Buffer.compare(Buffer.from(prefix + other), after)).toBe(-1);
        const isBehind = Buffer.compare(Buffer.from(other), bytes) > 0 && !other.startsWith(prefix);
        if (isBehind) expect(Buffer.compare(Buffer.from(other), after)).toBeGreaterThanOrEqual(0);
      }),
    );
    expect(afterPrefix(Buffer.alloc(0))).toBeUndefined();
  });
});

describe("a grant", () => {
  const grant = (change: Partial<ObjectGrant>): ObjectGrant => ({
    ownerId: "o",
    keyId: "k",
    bucket: "b",
    prefix: "a/",
    isExact: false,
    methods: new Set(["get", "list"]),
    ...change,
  });

  it.each([
    [{}, "get", "b", "a/1", true],
    [{}, "get", "b", "a/", true],
    [{}, "get", "b", "a", false],
    [{}, "get", "c", "a/1", false],
    [{}, "put", "b", "a/1", false],
    [{}, "list", "b", "", false],
    [{}, "list", "b", "a/b/", true],
    [{ prefix: "" }, "get", "b", "anything", true],
    [{ isExact: true, prefix: "a" }, "get", "b", "a", true],
    [{ isExact: true, prefix: "a" }, "get", "b", "ab", false],
    [{ methods: new Set([]) }, "get", "b", "a/1", false],
  ] as const)("with %j allows %s on %s/%s: %j", (change, method, bucket, key, allowed) => {
    expect(allows(grant(change as Partial<ObjectGrant>), method, { bucket, key })).toBe(allowed);
  });
});
