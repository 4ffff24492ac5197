/** A few crash points of each process, in the mode that they endanger most; `npm run faults -- --crash-points` runs all. */
import { CRASH_POINTS } from "@farloom/protocol/testing";
import { expect, it } from "vitest";
import { POINTS } from "./points.mjs";
import { run } from "./run.mjs";

const LIMIT_MS = 240_000;
/** Behind each acknowledgement, the one place where a mistake would show most. */
const QUICK = [
  "service.intake.after-commit",
  "service.collect.after-commit",
  "agent.journal.after-write",
  "agent.result.journalled",
  "worker.result.stored",
];

it("every crash point has a way to be brought about", () => {
  expect([...POINTS.keys()]).toEqual([...CRASH_POINTS]);
});

it(
  "whoever dies between an act and its acknowledgement loses nothing, and starts nothing twice",
  async () => {
    const { failures, passed } = await run({ only: QUICK, modes: ["at_most_once"], passings: [1], lanes: 3 });
    expect(failures).toEqual([]);
    expect(passed).toBe(QUICK.length);
  },
  LIMIT_MS,
);
