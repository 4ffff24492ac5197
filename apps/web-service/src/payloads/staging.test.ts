import { describe, expect, it } from "vitest";
import { MAX_STAGED_BYTES, type Slot, Staging, wholePages } from "./staging.js";

const hexOf = (n: number): string => n.toString(16).padStart(64, "0");

/** Everything that is free for payloads of this size. */
function takeAll(staging: Staging, sizeBytes: number): Slot[] {
  const slots: Slot[] = [];
  for (let slot = staging.take(sizeBytes); slot; slot = staging.take(sizeBytes)) slots.push(slot);
  return slots;
}

describe("staging memory", () => {
  it("is bounded: what finds no free slot gets none, until one is released", () => {
    const staging = new Staging();
    const slots = takeAll(staging, 1);
    expect(slots.reduce((sum, slot) => sum + slot.memory.length, 0)).toBe(
      (96 * 160 + 24 * 1088 + 6 * 4096) * 1024,
    );
    expect(staging.take(1)).toBeUndefined();
    staging.release(slots[7]!);
    expect(staging.take(1)).toBe(slots[7]);
  });

  it("has no slot for more than MAX_STAGED_BYTES", () => {
    expect(new Staging().take(MAX_STAGED_BYTES + 1)).toBeUndefined();
  });

  it("gives each holder memory of his own, on whole pages", () => {
    const slots = takeAll(new Staging(), 1).sort((a, b) => a.offset - b.offset);
    let end = 0;
    for (const slot of slots) {
      expect(slot.offset).toBe(end);
      expect(slot.offset % 4096).toBe(0);
      expect(wholePages(slot.memory.length)).toBe(slot.memory.length);
      end = slot.offset + slot.memory.length;
    }
  });

  it("finds what was stored a moment ago, until an upload needs its slot", () => {
    const staging = new Staging();
    const slot = staging.take(MAX_STAGED_BYTES)!;
    slot.memory.write("bytes");
    staging.label(slot, hexOf(1));
    staging.release(slot);
    const found = staging.find(hexOf(1))!;
    expect(found.memory.toString("utf8", 0, 5)).toBe("bytes");
    staging.release(found);
    takeAll(staging, MAX_STAGED_BYTES);
    expect(staging.find(hexOf(1))).toBeUndefined();
  });

  it("never gives away a slot that somebody still reads (S1)", () => {
    const staging = new Staging();
    const slot = staging.take(MAX_STAGED_BYTES)!;
    staging.label(slot, hexOf(1));
    staging.find(hexOf(1));
    staging.release(slot);
    expect(takeAll(staging, MAX_STAGED_BYTES)).not.toContain(slot);
    staging.release(slot);
    expect(staging.take(MAX_STAGED_BYTES)).toBe(slot);
  });

  it("lets the payload go first that was not read for longest", () => {
    const staging = new Staging();
    const slots = takeAll(staging, MAX_STAGED_BYTES);
    slots.forEach((slot, i) => {
      staging.label(slot, hexOf(i));
      staging.release(slot);
    });
    staging.release(staging.find(hexOf(0))!);
    expect(staging.take(MAX_STAGED_BYTES)).toBe(slots[1]);
    expect(staging.find(hexOf(0))).toBe(slots[0]);
  });
});
