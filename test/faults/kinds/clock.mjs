/**
 * Faults of clocks: the wall clock of a process jumps by up to a day, forwards or back, and returns. libfaketime gives
 * each process that the fabric starts with it a clock of its own, read from a file; monotonic clocks stay true, as
 * they do where an operator sets the time.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { setClock } from "../topology/machine.mjs";

/** @typedef {import("./kinds.mjs").Kind} Kind */

const JUMPS = ["+24h", "-24h", "+1h", "-1h", "+90s", "-90s"];

/** @type {Kind[]} */
export const CLOCK_KINDS = ["service", "agent"].map((role) => ({
  name: `clock.${role}`,
  needs: (shape) => (shape.clocks ? undefined : "no libfaketime"),
  plan: (random, shape) => ({
    touches: [`clock ${role}`],
    member: `${role}-${(role === "service" ? shape.services : shape.agents) - 1}`,
    offset: random.pick(JUMPS),
    ms: random.int(2_000, 8_000),
  }),
  async run(fabric, { member, offset, ms }) {
    const file = fabric.clockFile(member);
    setClock(file, offset);
    await sleep(ms);
    setClock(file, "+0");
  },
}));
