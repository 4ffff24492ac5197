import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { decodeFrame, encodeFrame } from "./codec/codec.js";
import { FRAMES_DOWN, FRAMES_UP, type Frame } from "./frames/frames.js";

interface Vector {
  readonly name: string;
  readonly hex: string;
  readonly frame: unknown;
}

const vectors = JSON.parse(
  readFileSync(new URL("../vectors/frames.json", import.meta.url), "utf8"),
) as Vector[];
const kinds = new Set([...FRAMES_DOWN.worker, ...FRAMES_UP.node]);

function revive(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(revive);
  if (typeof value !== "object" || value === null) return value;
  if ("$bin" in value) return Buffer.from(value.$bin as string, "hex");
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, revive(v)]));
}

describe("golden vectors, shared with the Python worker's tests", () => {
  it.each(vectors)("$name: encodes to these bytes, and decodes to this frame", ({ hex, frame }) => {
    const expected = revive(frame) as Frame;
    expect(encodeFrame(expected).toString("hex")).toBe(hex);
    const decoded = decodeFrame(Buffer.from(hex, "hex"), kinds);
    expect(decoded).toEqual({ ok: true, frame: expected });
  });

  it("cover every frame that a worker sends or receives in earnest", () => {
    const seen = new Set(vectors.map((vector) => (vector.frame as Frame).t));
    for (const kind of [
      "hello",
      "welcome",
      "functions",
      "tasks",
      "results",
      "mark",
      "credit",
      "cancel",
      "returned",
      "bye",
    ]) {
      expect(seen).toContain(kind);
    }
  });
});
