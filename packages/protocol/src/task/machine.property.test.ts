/** The task machine against a model of its own: each rule of the state diagram written as one line of a table. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  IllegalTransition,
  isRetryableReason,
  isTerminal,
  isWorkerLoss,
  MAX_AGENT_LOSSES,
  MAX_WORKER_LOSSES,
  type Step,
  step,
  type TaskEvent,
  type TaskFacts,
} from "./machine.js";
import { OPEN_STATES, REASONS, type Reason, type TaskState, TERMINAL_STATES } from "./outcome.js";

const reason = fc.constantFrom(...(Object.keys(REASONS) as Reason[]));
const lossReason = fc.constantFrom<Reason>("worker_died", "out_of_memory", "agent_lost");
const event: fc.Arbitrary<TaskEvent> = fc.oneof(
  fc
    .constantFrom("lease", "start", "returned", "succeeded", "cancelled", "cancel")
    .map((kind) => ({ kind }) as TaskEvent),
  fc.record({ kind: fc.constantFrom("failed", "timed_out"), reason }) as fc.Arbitrary<TaskEvent>,
  fc.record({
    kind: fc.constant("lost"),
    started: fc.boolean(),
    reason: lossReason,
  }) as fc.Arbitrary<TaskEvent>,
);
const facts: fc.Arbitrary<TaskFacts> = fc.record({
  state: fc.constantFrom<TaskState>(...OPEN_STATES, ...(Object.keys(TERMINAL_STATES) as TaskState[])),
  attempt: fc.integer({ min: 1, max: 20 }),
  mode: fc.constantFrom("at_most_once", "at_least_once"),
  retriesLeft: fc.nat({ max: 2 }),
  losses: fc.nat({ max: MAX_WORKER_LOSSES }),
  agentLosses: fc.nat({ max: MAX_AGENT_LOSSES }),
  cancelRequested: fc.boolean(),
});

type Rule = readonly [
  when: (f: TaskFacts, e: TaskEvent) => boolean,
  then: (f: TaskFacts, e: TaskEvent) => Step,
];

const end = (state: keyof typeof TERMINAL_STATES, why: Reason): Step => ({
  state,
  effects: [{ do: "finish", state, reason: why }],
});
const reasonOf = (e: TaskEvent): Reason => ("reason" in e ? e.reason : "none");
const hasRun = (e: TaskEvent): boolean => e.kind === "lost" && e.started;
const isLast = (f: TaskFacts, e: TaskEvent): boolean =>
  f.mode === "at_most_once" ||
  (reasonOf(e) === "agent_lost" ? f.agentLosses + 1 >= MAX_AGENT_LOSSES : f.losses + 1 >= MAX_WORKER_LOSSES);

/** The first that fits holds. */
const RULES: readonly Rule[] = [
  [(f) => isTerminal(f.state), (f) => ({ state: f.state, effects: [] })],
  [(_, e) => e.kind === "lease", () => ({ state: "LEASED", effects: [] })],
  [(_, e) => e.kind === "start", () => ({ state: "STARTED", effects: [] })],
  [(_, e) => e.kind === "succeeded", () => end("SUCCEEDED", "none")],
  [(_, e) => e.kind === "cancelled", () => end("CANCELLED", "cancelled_by_user")],
  [(f, e) => e.kind === "cancel" && f.state === "QUEUED", () => end("CANCELLED", "cancelled_by_user")],
  [(_, e) => e.kind === "cancel", (f) => ({ state: f.state, effects: [{ do: "request_cancel" }] })],
  [
    (f, e) => f.cancelRequested && (e.kind === "returned" || e.kind === "lost"),
    () => end("CANCELLED", "cancelled_by_user"),
  ],
  [
    (_, e) => e.kind === "returned" || (e.kind === "lost" && !hasRun(e)),
    (f) => ({ state: "QUEUED", effects: [{ do: "requeue", attempt: f.attempt }] }),
  ],
  [
    (f, e) =>
      (e.kind === "failed" || e.kind === "timed_out") &&
      !f.cancelRequested &&
      f.retriesLeft > 0 &&
      isRetryableReason(reasonOf(e)),
    (f) => ({ state: "QUEUED", effects: [{ do: "retry", attempt: f.attempt + 1 }] }),
  ],
  [(_, e) => e.kind === "failed", (_, e) => end("FAILED", reasonOf(e))],
  [(_, e) => e.kind === "timed_out", (_, e) => end("TIMED_OUT", reasonOf(e))],
  [
    (f, e) => !isLast(f, e),
    (f, e) => ({
      state: "QUEUED",
      effects: [
        { do: "requeue", attempt: f.attempt + 1, loss: isWorkerLoss(reasonOf(e)) ? "worker" : "agent" },
      ],
    }),
  ],
  [(_, e) => reasonOf(e) === "agent_lost", () => end("LOST", "agent_lost")],
  [(f) => f.mode === "at_least_once", () => end("FAILED", "poisoned")],
  [() => true, (_, e) => end("FAILED", reasonOf(e))],
];

/** A lease is of what waits, and only what was sent can be lost. */
function isLegal(f: TaskFacts, e: TaskEvent): boolean {
  if (isTerminal(f.state)) return true;
  if (e.kind === "lease") return f.state === "QUEUED";
  return e.kind !== "lost" || f.state !== "QUEUED";
}

describe("the task machine, against its model", () => {
  it("takes the step that the model takes, or refuses what the model refuses, from every state", () => {
    fc.assert(
      fc.property(facts, event, (f, e) => {
        if (!isLegal(f, e)) expect(() => step(f, e)).toThrow(IllegalTransition);
        else expect(step(f, e)).toEqual(RULES.find(([when]) => when(f, e))![1](f, e));
      }),
      { numRuns: 20_000 },
    );
  });

  it("changes nothing that it is given, and says the same twice", () => {
    fc.assert(
      fc.property(facts, event, (f, e) => {
        fc.pre(isLegal(f, e));
        const before = structuredClone([f, e]);
        const first = step(Object.freeze({ ...f }), Object.freeze({ ...e }));
        expect(step(f, e)).toEqual(first);
        expect([f, e]).toEqual(before);
      }),
    );
  });

  it("finishes in exactly the steps that enter a terminal state, and with that state (M1)", () => {
    fc.assert(
      fc.property(facts, event, (f, e) => {
        fc.pre(isLegal(f, e));
        const { state, effects } = step(f, e);
        const finished = effects.filter((effect) => effect.do === "finish");
        expect(finished.length).toBe(isTerminal(state) && !isTerminal(f.state) ? 1 : 0);
        for (const effect of finished) expect(effect).toMatchObject({ state });
        expect(effects.length).toBeLessThanOrEqual(1);
      }),
      { numRuns: 5000 },
    );
  });

  it("never queues again what may have started in mode at_most_once, but by a retry (M2, M3)", () => {
    fc.assert(
      fc.property(facts, event, (f, e) => {
        fc.pre(isLegal(f, e));
        for (const effect of step(f, e).effects) {
          if (effect.do === "requeue" && f.mode === "at_most_once") expect(effect.attempt).toBe(f.attempt);
          if (effect.do === "requeue" && hasRun(e)) expect(effect.attempt).toBe(f.attempt + 1);
          if (effect.do === "retry") expect(f.retriesLeft).toBeGreaterThan(0);
        }
      }),
      { numRuns: 5000 },
    );
  });

  it("lets nothing run again once its cancel was asked for (M4)", () => {
    fc.assert(
      fc.property(facts, event, (f, e) => {
        fc.pre(isLegal(f, e) && f.cancelRequested && e.kind !== "lease" && e.kind !== "start");
        for (const effect of step(f, e).effects) expect(effect.do).not.toMatch(/requeue|retry/);
      }),
      { numRuns: 5000 },
    );
  });
});
