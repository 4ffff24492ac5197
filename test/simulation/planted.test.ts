/** Tests of the test: each bug that is planted in the simulated world's wiring must be seen, within some schedules. */
import { describe, expect, it } from "vitest";
import { BUGS } from "./bugs.js";
import { runSeed } from "./run-seed.js";

/** Twice as many as the rarest of them needs. */
const CAUGHT_WITHIN = 30_000;

describe("the simulation sees a planted bug:", () => {
  it.each(BUGS)(
    "%s",
    (bug) => {
      const bugs = new Set([bug]);
      for (let seed = 1; seed <= CAUGHT_WITHIN; seed++) if (runSeed(seed, bugs) !== undefined) return;
      expect.fail(`not seen in ${CAUGHT_WITHIN} schedules`);
    },
    300_000,
  );
});
