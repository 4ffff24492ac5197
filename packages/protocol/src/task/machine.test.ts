import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  IllegalTransition,
  isTerminal,
  MAX_AGENT_LOSSES,
  MAX_WORKER_LOSSES,
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
          losses: 0,
          agentLosses: 0,
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
          losses: 0,
          agentLosses: 0,
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
          let losses = 0;
          let agentLosses = 0;
          for (const event of history) {
            const facts: TaskFacts = {
              state,
              attempt,
              mode,
              retriesLeft: Math.max(0, retries - retried),
              losses,
              agentLosses,
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
                else if (effect.loss === "worker") losses++;
                else if (effect.loss === "agent") agentLosses++;
                if (effect.do === "requeue" && effect.attempt === attempt) starts = Math.max(0, starts - 1); // had not started
                attempt = effect.attempt;
              }
            }
            state = next.state;
          }
          expect(finishes).toBe(isTerminal(state) ? 1 : 0);
          if (mode === "at_most_once") expect(attempt - 1).toBe(retried);
          expect(losses).toBeLessThan(MAX_WORKER_LOSSES);
          expect(agentLosses).toBeLessThan(MAX_AGENT_LOSSES);
          expect(attempt).toBe(1 + retried + losses + agentLosses);
          expect(retried).toBeLessThanOrEqual(retries); // M5
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
      losses: 0,
      agentLosses: 0,
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
      losses: 0,
      agentLosses: 0,
      cancelRequested: false,
    };
    expect(step(facts, { kind: "failed", reason: "function_invalid" }).state).toBe("FAILED");
    expect(step(facts, { kind: "failed", reason: "user_error" }).effects).toEqual([
      { do: "retry", attempt: 2 },
    ]);
  });

  it("counts losses apart from failures: the third death of a worker is poison, the tenth loss of an agent the end (M5)", () => {
    const facts: TaskFacts = {
      state: "STARTED",
      attempt: 1,
      mode: "at_least_once",
      retriesLeft: 0,
      losses: 0,
      agentLosses: 0,
      cancelRequested: false,
    };
    const table: [Partial<TaskFacts>, Reason, TaskState, Reason | undefined][] = [
      [{}, "worker_died", "QUEUED", undefined],
      [{ losses: 1, attempt: 2 }, "out_of_memory", "QUEUED", undefined],
      [{ losses: 2, attempt: 3 }, "worker_died", "FAILED", "poisoned"],
      [{ losses: 2, attempt: 3 }, "out_of_memory", "FAILED", "poisoned"],
      [{ losses: 2, attempt: 3 }, "agent_lost", "QUEUED", undefined],
      [{ agentLosses: 9, attempt: 10 }, "agent_lost", "LOST", "agent_lost"],
      [{ agentLosses: 9, attempt: 10 }, "worker_died", "QUEUED", undefined],
      [{ mode: "at_most_once" }, "worker_died", "FAILED", "worker_died"],
      [{ mode: "at_most_once" }, "out_of_memory", "FAILED", "out_of_memory"],
      [{ mode: "at_most_once" }, "agent_lost", "LOST", "agent_lost"],
    ];
    for (const [known, reason, state, end] of table) {
      const attempt = known.attempt ?? 1;
      const next = step({ ...facts, ...known }, { kind: "lost", started: true, reason });
      const loss = reason === "agent_lost" ? "agent" : "worker";
      expect(next).toEqual({
        state,
        effects:
          end === undefined
            ? [{ do: "requeue", attempt: attempt + 1, loss }]
            : [{ do: "finish", state, reason: end }],
      });
    }
  });

  it("tries nothing again whose time is over", () => {
    const facts: TaskFacts = {
      state: "STARTED",
      attempt: 1,
      mode: "at_least_once",
      retriesLeft: 5,
      losses: 0,
      agentLosses: 0,
      cancelRequested: false,
    };
    for (const reason of ["deadline", "queue_time_limit"] as const)
      expect(step(facts, { kind: "timed_out", reason }).state).toBe("TIMED_OUT");
    expect(step(facts, { kind: "timed_out", reason: "run_time_limit" }).state).toBe("QUEUED");
  });

  it("names a worker's death a failure, and an agent's a loss", () => {
    const facts: TaskFacts = {
      state: "STARTED",
      attempt: 1,
      mode: "at_most_once",
      retriesLeft: 0,
      losses: 0,
      agentLosses: 0,
      cancelRequested: false,
    };
    expect(step(facts, { kind: "lost", started: true, reason: "worker_died" }).state).toBe("FAILED");
    expect(step(facts, { kind: "lost", started: true, reason: "agent_lost" }).state).toBe("LOST");
    expect(
      step({ ...facts, mode: "at_least_once" }, { kind: "lost", started: true, reason: "agent_lost" }).state,
    ).toBe("QUEUED");
  });
});
