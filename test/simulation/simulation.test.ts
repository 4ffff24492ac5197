/**
 * Deterministic simulation of the pure parts over random schedules. FARLOOM_SIM_SEED=n runs one schedule and prints
 * its history; FARLOOM_SIM_SCHEDULES=n runs so many, from FARLOOM_SIM_FROM on.
 */
import { describe, expect, it } from "vitest";
import { runSeed } from "./run-seed.js";
import { World } from "./world.js";

const SCHEDULES = Number(process.env.FARLOOM_SIM_SCHEDULES ?? 100_000);
const FROM = Number(process.env.FARLOOM_SIM_FROM ?? 1);
const ONE = process.env.FARLOOM_SIM_SEED;

describe("the pure parts, wired together, under random faults", () => {
  it.runIf(ONE !== undefined)("keep every promise in the schedule that was asked for", () => {
    const world = new World(Number(ONE));
    try {
      world.run();
    } finally {
      process.stderr.write(`${world.history.join("\n")}\n`);
    }
  });

  it.runIf(ONE === undefined)(
    `keep every promise in ${SCHEDULES} schedules`,
    () => {
      for (let seed = FROM; seed < FROM + SCHEDULES; seed++) {
        const failure = runSeed(seed);
        if (failure !== undefined) expect.fail(failure);
      }
    },
    600_000,
  );

  it("are the same whenever the same seed is run", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const [a, b] = [new World(seed), new World(seed)];
      for (const world of [a, b]) world.run();
      expect(b.history).toEqual(a.history);
      expect(b.oracle.starts).toBe(a.oracle.starts);
    }
  });

  it("do work: tasks start, succeed, fail, are cancelled and are lost", () => {
    const states = new Map<number, number>();
    for (let seed = 1; seed <= 2000; seed++) {
      const world = new World(seed);
      world.run();
      for (const { outcome } of world.oracle.tasks.values())
        if (outcome) states.set(outcome.state, (states.get(outcome.state) ?? 0) + 1);
    }
    for (const state of [1, 2, 3, 4, 5]) expect(states.get(state) ?? 0).toBeGreaterThan(5);
    expect(states.get(1)!).toBeGreaterThan(2000);
  }, 120_000);
});
