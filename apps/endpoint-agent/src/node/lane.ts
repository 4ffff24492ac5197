/**
 * A lane: the tasks that one program can run (an interpreter, Node, commands), and the workers that are that
 * program. It starts workers as they are wanted and replaces those that die; where the program does not come
 * up, it says why, and waits longer before each new try.
 */
import type { Logger } from "pino";
import { Fifo } from "./fifo.js";
import type { GearNeed } from "./gear/ledger.js";
import type { NodeTask } from "./node-task.js";
import type { Death, Worker, WorkerProgram } from "./worker.js";

/** Wait before a new try after a failed start; doubled for each further one, with jitter. */
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;
/** After this many failed starts in a row, what waits in the lane is told why, and fails. */
const STARTS_BEFORE_FAILING = 2;

/** Why the lane's program cannot run tasks. */
export interface LaneTrouble {
  readonly reason: "runtime_missing" | "environment";
  readonly type: string;
  readonly message: string;
  readonly stderr: string | undefined;
}

export interface LaneOptions {
  readonly name: string;
  readonly program: WorkerProgram;
  /** What each of its workers has for itself. */
  readonly need: GearNeed;
  readonly log: Logger;
  /** Starts a process, or has no room for one now; the lane only decides when. */
  readonly startWorker: (lane: Lane) => Worker | undefined;
  /** Whether the disk, and not the program, is what keeps workers from starting: then what waits goes on waiting. */
  readonly isDiskFull: () => boolean;
  /** What waits here cannot run. */
  readonly onTrouble: (lane: Lane, trouble: LaneTrouble) => void;
}

export class Lane {
  readonly name: string;
  readonly program: WorkerProgram;
  readonly need: GearNeed;
  readonly queue = new Fifo<NodeTask>();
  readonly workers = new Set<Worker>();
  readonly #options: LaneOptions;
  #failures = 0;
  #retry: NodeJS.Timeout | undefined;
  #wanted = 0;
  #closed = false;

  constructor(options: LaneOptions) {
    this.name = options.name;
    this.program = options.program;
    this.need = options.need;
    this.#options = options;
  }

  /** Workers that hold tasks. */
  get active(): number {
    let n = 0;
    for (const worker of this.workers) if (worker.held.length > 0) n++;
    return n;
  }

  /** Workers that were not asked to end. */
  get usable(): number {
    let n = 0;
    for (const worker of this.workers) if (!worker.retired) n++;
    return n;
  }

  get hasUsable(): boolean {
    for (const worker of this.workers) if (!worker.retired) return true;
    return false;
  }

  /** A start failed, and the next try has not come. */
  get isBackingOff(): boolean {
    return this.#retry !== undefined;
  }

  /** It has no tasks and no workers, and is about to start none. */
  get isUnused(): boolean {
    return this.queue.length === 0 && this.workers.size === 0 && !this.isBackingOff;
  }

  /** Asks one of its workers to end, and wants no other in its place. */
  retire(worker: Worker): void {
    this.#wanted = Math.max(0, this.usable - 1);
    worker.retire();
  }

  /** Sees to it that there are `wanted` workers, now or after the backoff. */
  want(wanted: number): void {
    this.#wanted = wanted;
    this.#fill();
  }

  add(worker: Worker): void {
    worker.lane = this;
    this.workers.add(worker);
  }

  ready(): void {
    this.#failures = 0;
  }

  /** A worker's process ended; `refill`: whether another takes its place without being asked. */
  lost(worker: Worker, death: Death): void {
    this.workers.delete(worker);
    if (!death.atStart) {
      this.#fill();
      return;
    }
    this.#failures++;
    const trouble = describe(this.program, death);
    this.#options.log.warn(
      { lane: this.name, worker: worker.name, failures: this.#failures, detail: trouble.message },
      "a worker did not start",
    );
    const isHopeless = death.spawnError || this.#failures >= STARTS_BEFORE_FAILING;
    if (this.#ready() === 0 && isHopeless && !this.#options.isDiskFull()) {
      this.#options.onTrouble(this, trouble);
    }
    // With nothing waiting there is no reason to try: the next task will.
    if (this.queue.length === 0) {
      this.#wanted = 0;
      return;
    }
    this.#backOff();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
  }

  #ready(): number {
    let n = 0;
    for (const worker of this.workers) if (worker.phase === "ready") n++;
    return n;
  }

  #fill(): void {
    if (this.#closed || this.#retry) return;
    // After failures one try at a time: a program that is broken is not started eightfold.
    const most = this.#failures > 0 ? Math.min(1, this.#wanted) : this.#wanted;
    while (this.workers.size < most) {
      try {
        const worker = this.#options.startWorker(this);
        // Room comes with the end of another worker, and then the dispatcher asks again.
        if (worker === undefined) return;
        this.add(worker);
      } catch (error) {
        // Its folder or its record cannot be written: a full disk, mostly. Nothing that waits is to blame.
        this.#failures++;
        this.#options.log.warn(
          { err: error, lane: this.name },
          "a worker cannot be started; it is tried again",
        );
        this.#backOff();
        return;
      }
    }
  }

  #backOff(): void {
    if (this.#retry || this.#closed) return;
    const waitMs = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (this.#failures - 1));
    this.#retry = setTimeout(
      () => {
        this.#retry = undefined;
        this.#fill();
      },
      waitMs * (0.75 + Math.random() / 2),
    );
  }
}

function describe(program: WorkerProgram, death: Death): LaneTrouble {
  if (death.spawnError) {
    const missing = death.spawnError.code === "ENOENT";
    return {
      reason: "runtime_missing",
      type: missing ? "RuntimeMissing" : "RuntimeUnusable",
      message: missing
        ? `the endpoint has no program ${program.command}. Install it, or correct its path in the endpoint's configuration`
        : `the program ${program.command} cannot be started: ${death.spawnError.message}`,
      stderr: undefined,
    };
  }
  const how = death.signal
    ? `was ended by ${death.signal}`
    : `ended with exit code ${death.exitCode ?? "unknown"}`;
  return {
    reason: "environment",
    type: "WorkerStartFailed",
    message: `the ${program.runtime} worker (${program.command}) ${how} before it was ready; its standard error says why`,
    stderr: death.output.stderr,
  };
}
