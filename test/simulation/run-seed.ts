/** One schedule, from its seed. */
import { type Bugs, NO_BUGS } from "./bugs.js";
import { Violation } from "./oracle.js";
import { World } from "./world.js";

/** Runs the schedule of a seed; what is wrong comes back as one line that says how to see it again. */
export function runSeed(seed: number, bugs: Bugs = NO_BUGS): string | undefined {
  const world = new World(seed, bugs);
  try {
    world.run();
    return undefined;
  } catch (error) {
    const why = error instanceof Violation ? error.message : `${(error as Error).stack}`;
    return `${why} — repeat with FARLOOM_SIM_SEED=${seed} npx vitest run --project unit test/simulation`;
  }
}
