/**
 * The life of a task, as a pure machine: an event in, the next state and the effects out.
 *
 *     QUEUED ─► LEASED ─► STARTED ─► SUCCEEDED | FAILED | CANCELLED | TIMED_OUT | LOST
 *       ▲          │          │
 *       └──────────┴──────────┘ back to QUEUED, with attempt + 1 if it had or may have started
 *
 * QUEUED   entered by submit, by `returned`, by a retry; left by lease or cancel. Waits for an agent's credit,
 *          or, where it is delayed, for its time.
 * LEASED   entered when its owner sends it to an agent's session; left by start, by a result, by `returned`.
 *          Waits for the agent's scheduler. A broken connection does not end a lease: the agent's journal
 *          speaks at its next hello.
 * STARTED  entered when the agent says so (only for tasks that live longer than about a second; short ones go
 *          from LEASED to their end). Waits for the worker.
 * Terminal states have no way out; an event that meets one is late, and has no effect.
 *
 * Invariants
 *   M1  A terminal state is never left.
 *   M2  `attempt` never falls, and rises only when a task that had or may have started is queued again.
 *   M3  In mode at_most_once a task that had or may have started is never queued again, but by retries that
 *       its owner asked for.
 *   M4  A cancel of what has not been sent is final at once; of what has been sent, a request.
 *   M5  Losses are counted apart from failures of the function, and use up no retries: the third death of a worker
 *       ends a task as poisoned, the tenth loss of its agent as LOST.
 */
import type { OpenState, Reason, TaskState, TerminalState } from "./outcome.js";

export type Mode = "at_most_once" | "at_least_once";

/** What the machine knows of a task. */
export interface TaskFacts {
  readonly state: TaskState;
  readonly attempt: number;
  readonly mode: Mode;
  /** Retries that remain for failures of the function itself. */
  readonly retriesLeft: number;
  /** How many workers have died while they ran it, before this event. */
  readonly losses: number;
  /** How often its agent, or node, was lost while it had or may have started, before this event. */
  readonly agentLosses: number;
  readonly cancelRequested: boolean;
}

export type TaskEvent =
  | { readonly kind: "lease" }
  | { readonly kind: "start" }
  /** It did not start where it was sent, and will not. */
  | { readonly kind: "returned" }
  /** The function gave its result. */
  | { readonly kind: "succeeded" }
  /** The function failed, or could not be run. */
  | { readonly kind: "failed"; readonly reason: Reason }
  | { readonly kind: "timed_out"; readonly reason: Reason }
  /** The agent confirms that it will not run, or was stopped. */
  | { readonly kind: "cancelled" }
  /** Worker, node or agent went away; `started`: it had, or may have, started. */
  | { readonly kind: "lost"; readonly started: boolean; readonly reason: Reason }
  | { readonly kind: "cancel" };

export type TaskEffect =
  /** Write the terminal state. */
  | { readonly do: "finish"; readonly state: TerminalState; readonly reason: Reason }
  /** Put it in the queue again, at once; with another attempt where `loss` says whose loss is to be counted. */
  | { readonly do: "requeue"; readonly attempt: number; readonly loss?: "worker" | "agent" }
  /** Write the new attempt, and queue it after its backoff. */
  | { readonly do: "retry"; readonly attempt: number }
  /** Ask the agent to stop it. */
  | { readonly do: "request_cancel" };

export interface Step {
  readonly state: TaskState;
  readonly effects: readonly TaskEffect[];
}

const OPEN: readonly TaskState[] = ["QUEUED", "LEASED", "STARTED"];
const SENT: readonly TaskState[] = ["LEASED", "STARTED"];

/**
 * From where each event may come. `start` and results are allowed from QUEUED too: after a restart the owner
 * knows only what PostgreSQL says until the agent has spoken.
 */
export const TRANSITIONS: Readonly<Record<TaskEvent["kind"], readonly TaskState[]>> = {
  lease: ["QUEUED"],
  start: OPEN,
  returned: OPEN,
  succeeded: OPEN,
  failed: OPEN,
  timed_out: OPEN,
  cancelled: OPEN,
  lost: SENT,
  cancel: OPEN,
};

/** The worker's death that ends a task in mode at_least_once: a third would hardly be chance (M5). */
export const MAX_WORKER_LOSSES = 3;
/** The loss of an agent that ends it: these are no fault of the task, but they are no way to run for ever either (M5). */
export const MAX_AGENT_LOSSES = 10;

/** Whether the reason names the death of a worker, and not a failure of the function. */
export function isWorkerLoss(reason: Reason): boolean {
  return reason === "worker_died" || reason === "out_of_memory";
}

/** Failures that a retry cannot mend: the same call fails the same way, or its time is over. */
const PERMANENT: ReadonlySet<Reason> = new Set<Reason>([
  "function_invalid",
  "arguments_invalid",
  "result_invalid",
  "result_too_large",
  "not_authorised",
  "endpoint_deleted",
  "function_deleted",
  "runtime_missing",
  "poisoned",
  "queue_time_limit",
  "deadline",
]);

/** Whether a failure for this reason may be tried again, where the task has retries left. */
export function isRetryableReason(reason: Reason): boolean {
  return !PERMANENT.has(reason);
}

export function isTerminal(state: TaskState): state is TerminalState {
  return !OPEN.includes(state);
}

/** Thrown by `step` for an event that cannot happen in a state: a bug, not an expected failure. */
export class IllegalTransition extends Error {
  override readonly name = "IllegalTransition";
  constructor(facts: TaskFacts, event: TaskEvent) {
    super(
      `event ${event.kind} cannot come in state ${facts.state} (attempt ${facts.attempt}, mode ${facts.mode})`,
    );
  }
}

const NONE: readonly TaskEffect[] = [];

/** One step of a task's life. Pure: the caller carries the effects out. */
export function step(facts: TaskFacts, event: TaskEvent): Step {
  if (isTerminal(facts.state)) return { state: facts.state, effects: NONE }; // M1
  if (!TRANSITIONS[event.kind].includes(facts.state)) throw new IllegalTransition(facts, event);

  switch (event.kind) {
    case "lease":
      return { state: "LEASED", effects: NONE };
    case "start":
      return { state: "STARTED", effects: NONE };
    case "succeeded":
      return finish("SUCCEEDED", "none");
    case "cancelled":
      return finish("CANCELLED", "cancelled_by_user");
    case "returned":
      if (facts.cancelRequested) return finish("CANCELLED", "cancelled_by_user");
      return { state: "QUEUED", effects: [{ do: "requeue", attempt: facts.attempt }] };
    case "cancel":
      if (facts.state === "QUEUED") return finish("CANCELLED", "cancelled_by_user"); // M4
      return { state: facts.state, effects: [{ do: "request_cancel" }] };
    case "failed":
      return failOrRetry(facts, "FAILED", event.reason);
    case "timed_out":
      return failOrRetry(facts, "TIMED_OUT", event.reason);
    case "lost":
      if (facts.cancelRequested) return finish("CANCELLED", "cancelled_by_user");
      if (!event.started) return { state: "QUEUED", effects: [{ do: "requeue", attempt: facts.attempt }] };
      return lose(facts, event.reason);
  }
}

/** It had, or may have, started. The worker's death is a named failure; the loss of whoever could have named it is LOST. */
function lose(facts: TaskFacts, reason: Reason): Step {
  const byAgent = reason === "agent_lost";
  const last = byAgent ? facts.agentLosses + 1 >= MAX_AGENT_LOSSES : facts.losses + 1 >= MAX_WORKER_LOSSES;
  if (facts.mode === "at_least_once" && !last) {
    const loss = byAgent ? "agent" : "worker";
    return { state: "QUEUED", effects: [{ do: "requeue", attempt: facts.attempt + 1, loss }] };
  }
  if (byAgent) return finish("LOST", reason);
  return finish("FAILED", facts.mode === "at_least_once" ? "poisoned" : reason); // M3, M5
}

function failOrRetry(facts: TaskFacts, state: "FAILED" | "TIMED_OUT", reason: Reason): Step {
  if (facts.retriesLeft > 0 && !facts.cancelRequested && isRetryableReason(reason)) {
    return { state: "QUEUED", effects: [{ do: "retry", attempt: facts.attempt + 1 }] };
  }
  return finish(state, reason);
}

function finish(state: TerminalState, reason: Reason): Step {
  return { state, effects: [{ do: "finish", state, reason }] };
}

export type { OpenState };
