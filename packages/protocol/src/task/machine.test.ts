import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  IllegalTransition,
  isTerminal,
  type Mode,
  step,
  type TaskEvent,
  type TaskFacts,
  TRANSITIONS,
} from "./machine.js";
import { OPEN_STATES, REASONS, type Reason, type TaskState, TERMINAL_STATES } from "./outcome.js";

const STATES: TaskState[] = [...OPEN_STATES, ...(Object.keys(TERMINAL_STATES) as TaskState[])];
const reasons = fc.constantFrom(...(Object.keys(REASONS) as Reason[]));
const events: fc.Arbitrary<TaskEvent> = fc.oneof(
  fc.constantFrom<TaskEvent>(
    { kind: "lease" },
    { kind: "start" },
    { kind: "returned" },
    { kind: "succeeded" },
    { kind: "cancelled" },
    { kind: "cancel" },
  ),
  reasons.map((reason) => ({ kind: "failed", reason }) as const),
  reasons.map((reason) => ({ kind: "timed_out", reason }) as const),
  fc.record({
    kind: fc.constant("lost" as const),
    started: fc.boolean(),
    reason: fc.constantFrom<Reason>("worker_died", "agent_lost", "out_of_memory"),
  }),
);

describe("the task machine", () => {
  it("never leaves a terminal state (M1)", () => {
    fc.assert(
      fc.property(fc.constantFrom(...STATES.filter(isTerminal)), events, (state, event) => {
        const facts: TaskFacts = {
          state,
          attempt: 1,
          mode: "at_most_once",
          retriesLeft: 5,
          lossesLeft: 5,
          cancelRequested: false,
        };
        expect(step(facts, event)).toEqual({ state, effects: [] });
      }),
    );
  });

  it("refuses, with its history, what the table does not allow", () => {
    for (const kind of ["lease", "lost"] as const) {
      for (const state of OPEN_STATES) {
        if (TRANSITIONS[kind].includes(state)) continue;
        const facts: TaskFacts = {
          state,
          attempt: 3,
          mode: "at_most_once",
          retriesLeft: 0,
          lossesLeft: 0,
          cancelRequested: false,
        };
        const event: TaskEvent = kind === "lease" ? { kind } : { kind, started: true, reason: "agent_lost" };
        expect(() => step(facts, event)).toThrow(IllegalTransition);
        expect(() => step(facts, event)).toThrow(/attempt 3/);
      }
    }
  });

  it("over any history: one end, attempts that only rise, and at_most_once never starts twice but by retries (M1–M3)", () => {
    const modes = fc.constantFrom<Mode>("at_most_once", "at_least_once");
    fc.assert(
      fc.property(
        modes,
        fc.nat({ max: 3 }),
        fc.array(events, { maxLength: 60 }),
        (mode, retries, history) => {
          let state: TaskState = "QUEUED";
          let attempt = 1;
          let starts = 0;
          let retried = 0;
          let finishes = 0;
          let cancelRequested = false;
          for (const event of history) {
            const facts: TaskFacts = {
              state,
              attempt,
              mode,
              retriesLeft: Math.max(0, retries - (attempt - 1)),
              lossesLeft: Math.max(0, 3 - (attempt - 1)),
              cancelRequested,
            };
            if (!isTerminal(state) && !TRANSITIONS[event.kind].includes(state)) continue;
            if (event.kind === "start" && state !== "STARTED") starts++;
            if (event.kind === "cancel") cancelRequested = true;
            const next = step(facts, event);
            for (const effect of next.effects) {
              if (effect.do === "finish") finishes++;
              if (effect.do === "retry" || effect.do === "requeue") {
                expect(effect.attempt).toBeGreaterThanOrEqual(attempt);
                expect(effect.attempt).toBeLessThanOrEqual(attempt + 1);
                if (effect.do === "retry") retried++;
                if (effect.do === "requeue" && effect.attempt === attempt) starts = Math.max(0, starts - 1); // had not started
                attempt = effect.attempt;
              }
            }
            state = next.state;
          }
          expect(finishes).toBe(isTerminal(state) ? 1 : 0);
          if (mode === "at_most_once") expect(attempt - 1).toBe(retried);
          expect(attempt).toBeLessThanOrEqual(1 + Math.max(3, retries));
        },
      ),
      { numRuns: 2000 },
    );
  });

  it("cancels what was not sent at once, and asks for the rest (M4)", () => {
    const facts: TaskFacts = {
      state: "QUEUED",
      attempt: 1,
      mode: "at_most_once",
      retriesLeft: 0,
      lossesLeft: 0,
      cancelRequested: false,
    };
    expect(step(facts, { kind: "cancel" }).state).toBe("CANCELLED");
    expect(step({ ...facts, state: "LEASED" }, { kind: "cancel" })).toEqual({
      state: "LEASED",
      effects: [{ do: "request_cancel" }],
    });
    expect(step({ ...facts, state: "LEASED", cancelRequested: true }, { kind: "returned" }).state).toBe(
      "CANCELLED",
    );
  });

  it("does not try again what fails the same way every time", () => {
    const facts: TaskFacts = {
      state: "LEASED",
      attempt: 1,
      mode: "at_least_once",
      retriesLeft: 5,
      lossesLeft: 5,
      cancelRequested: false,
    };
    expect(step(facts, { kind: "failed", reason: "function_invalid" }).state).toBe("FAILED");
    expect(step(facts, { kind: "failed", reason: "user_error" }).effects).toEqual([
      { do: "retry", attempt: 2 },
    ]);
  });

  it("names a worker's death a failure, and an agent's a loss", () => {
    const facts: TaskFacts = {
      state: "STARTED",
      attempt: 1,
      mode: "at_most_once",
      retriesLeft: 0,
      lossesLeft: 3,
      cancelRequested: false,
    };
    expect(step(facts, { kind: "lost", started: true, reason: "worker_died" }).state).toBe("FAILED");
    expect(step(facts, { kind: "lost", started: true, reason: "agent_lost" }).state).toBe("LOST");
    expect(
      step({ ...facts, mode: "at_least_once" }, { kind: "lost", started: true, reason: "agent_lost" }).state,
    ).toBe("QUEUED");
  });
});
