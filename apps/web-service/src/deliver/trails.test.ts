import { TaskIdAllocator } from "@farloom/protocol";
import { describe, expect, it } from "vitest";
import { Trails } from "./trails.js";

const ids = new TaskIdAllocator();
const [group, endpoint, task] = [ids.next(), ids.next(), ids.next()];

describe("trails of groups", () => {
  it("call a group foreign once one of its tasks may be elsewhere, and for good", () => {
    const trails = new Trails();
    trails.submitted(group, endpoint, true);
    expect(trails.foreign([group])).toEqual([]);
    trails.submitted(group, endpoint, false);
    trails.submitted(group, endpoint, true);
    expect(trails.foreign([group])).toEqual([group]);
  });

  it("call it foreign when its endpoint has left, and when nothing is known", () => {
    const trails = new Trails();
    const other = ids.next();
    trails.submitted(group, endpoint, true);
    trails.endpointLeft(ids.next());
    expect(trails.foreign([group])).toEqual([]);
    trails.endpointLeft(endpoint);
    trails.unknown(other);
    expect(trails.foreign([group, other])).toEqual([group, other]);
  });

  it("remember what was told of foreign groups for as long as a sweep looks back, however often it sweeps", () => {
    const trails = new Trails();
    trails.tell(group, task);
    expect(trails.wasTold(task)).toBe(false);
    trails.unknown(group);
    trails.turn(45_000, 100_000);
    trails.tell(group, task);
    for (let nowMs = 101_000; nowMs <= 145_000; nowMs += 1000) {
      trails.turn(45_000, nowMs);
      expect(trails.wasTold(task)).toBe(true);
    }
    trails.turn(45_000, 161_000);
    expect(trails.wasTold(task)).toBe(false);
  });
});
