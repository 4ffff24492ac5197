import { describe, expect, it } from "vitest";
import {
  columnToKeys,
  isUuid,
  keysToColumn,
  keyToUuid,
  newBatchId,
  TaskIdAllocator,
  uuidToKey,
  writeTaskId,
} from "./ids.js";
import { MAX_BATCH_INDEX } from "./limits.js";

describe("task ids", () => {
  it("are version 8 UUIDs that survive every form", () => {
    const key = new TaskIdAllocator().next();
    const uuid = keyToUuid(key);
    expect(isUuid(uuid)).toBe(true);
    expect(uuid[14]).toBe("8");
    expect(uuidToKey(uuid)).toBe(key);
    expect(columnToKeys(keysToColumn([key, key]))).toEqual([key, key]);
    expect(uuidToKey("not-a-uuid")).toBeUndefined();
  });

  it("differ within a batch, up to its last index, and begin a new batch after it", () => {
    const batch = newBatchId();
    const id = Buffer.alloc(16);
    const seen = new Set<string>();
    for (const index of [0, 1, 255, 256, 65_535, 65_536, MAX_BATCH_INDEX - 1]) {
      writeTaskId(id, batch, index, 0);
      expect(id.subarray(0, 13).equals(batch.subarray(0, 13))).toBe(true);
      seen.add(id.toString("hex"));
    }
    expect(seen.size).toBe(7);
  });

  it("rise with time, so that a B-tree grows at its right edge", () => {
    const early = newBatchId(1_700_000_000_000);
    const late = newBatchId(1_700_000_000_001);
    expect(Buffer.compare(early, late)).toBe(-1);
  });

  it("can be derived, so that a repetition makes the same ones", () => {
    const random = Buffer.alloc(10, 9);
    expect(newBatchId(5, random).equals(newBatchId(5, random))).toBe(true);
  });
});
