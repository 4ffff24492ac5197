/**
 * What the simulation believes: only evidence of the functions themselves, what clients were told, and what was
 * committed. None of it is read back from the parts under test.
 *
 *   O1  A task has one terminal state, and it never changes: committed once, told as committed.
 *   O2  What was acknowledged to a client ends, and the client gets to know it.
 *   O3  at_most_once: no attempt starts twice, and another attempt begins only for retries that were asked for.
 *   O4  The attempt of a row and the epoch of the endpoint never fall; an outcome is of the row's attempt, and is
 *       written only by the endpoint's owner.
 *   O5  After a confirmed cancel nothing of the task starts, and nothing of it runs.
 *   O6  A result is of the task that it is bound to.
 *   O7  A node is never handed more than it has.
 */
import { type IdKey, TERMINAL_STATES } from "@farloom/protocol";

export interface Outcome {
  readonly state: number;
  readonly reason: number;
  readonly attempt: number;
  readonly data: string;
}

export interface TaskSpec {
  readonly key: IdKey;
  /** What its argument says and its result must repeat. */
  readonly nonce: string;
  readonly atMostOnce: boolean;
  readonly retries: number;
  readonly queueTimeout: boolean;
}

interface Known {
  readonly spec: TaskSpec;
  acknowledged: boolean;
  outcome: Outcome | undefined;
  told: Outcome | undefined;
  /** Starts by attempt. */
  readonly starts: Map<number, number>;
  running: number;
  confirmedCancel: boolean;
  /** The death of a machine took the record of its start: what started then may start again (J3). */
  excused: number;
  attempt: number;
}

/** A rule of the header was broken. */
export class Violation extends Error {
  override readonly name = "Violation";
}

export class Oracle {
  readonly tasks = new Map<IdKey, Known>();
  /** What happened, for the message of a failure. */
  readonly history: string[] = [];
  #epoch = 0;
  starts = 0;

  know(spec: TaskSpec): void {
    this.tasks.set(spec.key, {
      spec,
      acknowledged: false,
      outcome: undefined,
      told: undefined,
      starts: new Map(),
      running: 0,
      confirmedCancel: false,
      excused: 0,
      attempt: 1,
    });
  }

  acknowledged(key: IdKey): void {
    const task = this.#of(key);
    task.acknowledged = true;
    this.history.push(`    ${name(task)} is acknowledged`);
  }

  started(key: IdKey, attempt: number): void {
    const task = this.#of(key);
    this.starts++;
    task.running++;
    this.history.push(`    ${name(task)} starts, attempt ${attempt}`);
    if (task.confirmedCancel) throw new Violation(`O5: ${name(task)} starts after its confirmed cancel`);
    const starts = (task.starts.get(attempt) ?? 0) + 1;
    task.starts.set(attempt, starts);
    let all = 0;
    for (const n of task.starts.values()) all += n;
    const { atMostOnce, retries } = task.spec;
    if (atMostOnce && all > 1 + retries + task.excused)
      throw new Violation(`O3: ${name(task)} starts ${all} times with ${retries} retries`);
    if (starts > 1 + task.excused)
      throw new Violation(`O3: attempt ${attempt} of ${name(task)} starts again`);
  }

  stopped(key: IdKey): void {
    const task = this.#of(key);
    task.running--;
    this.history.push(`    ${name(task)} stops`);
  }

  /** The machine died, and with it the unsynced records of these starts. */
  startForgotten(key: IdKey): void {
    const task = this.#of(key);
    task.excused++;
    this.history.push(`    the start of ${name(task)} is forgotten`);
  }

  /** The agent confirmed a cancel, and that is committed. */
  committed(key: IdKey, outcome: Outcome, by: { readonly epoch: number | undefined }): void {
    const task = this.#of(key);
    this.history.push(
      `    ${name(task)} ends ${outcome.state}/${outcome.reason}, attempt ${outcome.attempt}`,
    );
    if (task.outcome) throw new Violation(`O1: ${name(task)} ends a second time`);
    if (by.epoch !== undefined && by.epoch !== this.#epoch)
      throw new Violation(
        `O4: ${name(task)} ends by epoch ${by.epoch}, and ${this.#epoch} owns the endpoint`,
      );
    if (outcome.attempt !== task.attempt)
      throw new Violation(`O4: ${name(task)} ends by attempt ${outcome.attempt} in attempt ${task.attempt}`);
    if (outcome.state === TERMINAL_STATES.SUCCEEDED && outcome.data !== task.spec.nonce)
      throw new Violation(`O6: ${name(task)} has the result ${outcome.data}`);
    task.outcome = outcome;
    if (outcome.state === TERMINAL_STATES.CANCELLED && by.epoch !== undefined) {
      if (task.running > 0) throw new Violation(`O5: ${name(task)} runs after its confirmed cancel`);
      task.confirmedCancel = true;
    }
  }

  attempt(key: IdKey, attempt: number): void {
    const task = this.#of(key);
    if (attempt < task.attempt) throw new Violation(`O4: the attempt of ${name(task)} falls to ${attempt}`);
    if (task.outcome) throw new Violation(`O1: ${name(task)} gets another attempt after its end`);
    task.attempt = attempt;
    this.history.push(`    ${name(task)} gets attempt ${attempt}`);
  }

  epoch(epoch: number): void {
    if (epoch <= this.#epoch) throw new Violation(`O4: the epoch goes from ${this.#epoch} to ${epoch}`);
    this.#epoch = epoch;
  }

  told(key: IdKey, outcome: Outcome): void {
    const task = this.#of(key);
    if (task.outcome === undefined || !same(task.outcome, outcome))
      throw new Violation(`O1: the client hears of ${name(task)} what is not committed`);
    if (task.told && !same(task.told, outcome)) throw new Violation(`O1: ${name(task)} changes its end`);
    task.told = outcome;
  }

  /** What is in a node's hands of something that it has only so much of. */
  given(now: number, most: number): void {
    if (now > most)
      throw new Violation(`O7: the node was handed ${now} tasks that need a GPU, and has ${most}`);
  }

  /** All is quiet: nothing may be open any more. */
  quiet(): void {
    for (const task of this.tasks.values()) {
      if (task.acknowledged && task.outcome === undefined)
        throw new Violation(`O2: ${name(task)} was acknowledged and never ends`);
      if (task.acknowledged && task.told === undefined)
        throw new Violation(`O2: ${name(task)} ended, and its client is never told`);
      if (task.outcome?.state === TERMINAL_STATES.SUCCEEDED && task.starts.size === 0)
        throw new Violation(`O6: ${name(task)} succeeded and never started`);
    }
  }

  #of(key: IdKey): Known {
    const task = this.tasks.get(key);
    if (!task) throw new Violation(`O6: nobody submitted task ${Buffer.from(key, "latin1").toString("hex")}`);
    return task;
  }
}

function name(task: Known): string {
  return `${task.spec.nonce} (${task.spec.atMostOnce ? "at_most_once" : "at_least_once"})`;
}

function same(a: Outcome, b: Outcome): boolean {
  return a.state === b.state && a.reason === b.reason && a.attempt === b.attempt && a.data === b.data;
}
