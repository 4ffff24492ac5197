/**
 * Group commit: whatever gathered while the last statements ran goes into the next one. At most `lanes` run at
 * a time, so that one commit's wait for the disk overlaps the next statement's work.
 *
 *   G1  A unit is settled exactly once, after its statement has committed or has failed for good.
 *   G2  A failure of the connection, or of PostgreSQL as a whole, is retried with the same units until it ends
 *       or the service closes: units wait, nothing is dropped.
 *   G2a Where the statement was certainly not carried out, and its caller would rather hear so than wait (`refuse`), its
 *       units are settled with the error. Not after an attempt of which nobody knows what became.
 *   G3  A failure that the data itself causes is narrowed down by halves to the unit that causes it.
 */
import type { Logger } from "pino";
import { isCertain, isPassing } from "./pg-errors.js";

export interface Unit {
  /** How many rows it stands for. */
  readonly size: number;
  settle(error: Error | undefined): void;
}

export interface GroupCommitOptions<T extends Unit> {
  readonly name: string;
  readonly lanes: number;
  /** Rows in one statement. */
  readonly maxRows: number;
  readonly log: Logger;
  /** Runs one statement for all of them; settling is the caller's. */
  readonly run: (units: T[]) => Promise<void>;
  /** Failures that pass, but are told at once (G2a). Default: none. */
  readonly refuse?: (error: Error) => boolean;
}

export class GroupCommit<T extends Unit> {
  readonly #options: GroupCommitOptions<T>;
  #waiting: T[] = [];
  #rows = 0;
  #running = 0;
  #scheduled = false;
  #closed = false;
  #idle: (() => void)[] = [];

  constructor(options: GroupCommitOptions<T>) {
    this.#options = options;
  }

  /** Rows not yet in a statement. */
  get waitingRows(): number {
    return this.#rows;
  }

  add(unit: T): void {
    this.#waiting.push(unit);
    this.#rows += unit.size;
    this.#schedule();
  }

  /** Resolves when nothing waits and nothing runs. */
  async idle(): Promise<void> {
    if (this.#waiting.length === 0 && this.#running === 0) return;
    await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Gives up on retries; what is still waiting is settled with an error. */
  close(): void {
    this.#closed = true;
  }

  #schedule(): void {
    if (this.#scheduled || this.#running >= this.#options.lanes) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      while (this.#waiting.length > 0 && this.#running < this.#options.lanes) this.#start(this.#take());
    });
  }

  #take(): T[] {
    let rows = 0;
    let n = 0;
    while (n < this.#waiting.length && (n === 0 || rows + this.#waiting[n]!.size <= this.#options.maxRows)) {
      rows += this.#waiting[n++]!.size;
    }
    this.#rows -= rows;
    return this.#waiting.splice(0, n);
  }

  #start(units: T[]): void {
    this.#running++;
    void this.#commit(units).finally(() => {
      this.#running--;
      if (this.#waiting.length > 0) this.#schedule();
      else if (this.#running === 0) {
        for (const resolve of this.#idle.splice(0)) resolve();
      }
    });
  }

  async #commit(units: T[]): Promise<void> {
    let certain = true;
    for (let delayMs = 20; ; delayMs = Math.min(1000, delayMs * 2)) {
      try {
        await this.#options.run(units);
        for (const unit of units) unit.settle(undefined);
        return;
      } catch (cause) {
        const error = cause as Error;
        if (certain && this.#options.refuse?.(error)) {
          this.#options.log.warn({ err: error, statement: this.#options.name }, "a write is refused");
          for (const unit of units) unit.settle(error);
          return;
        }
        certain &&= isCertain(error);
        if (isPassing(error) && !this.#closed) {
          this.#options.log.warn(
            { err: error, statement: this.#options.name, units: units.length },
            "retrying a write",
          );
          await new Promise((resolve) => setTimeout(resolve, delayMs * (0.5 + Math.random())));
          continue;
        }
        if (units.length > 1 && !this.#closed) {
          const half = units.length >>> 1;
          await this.#commit(units.slice(0, half));
          await this.#commit(units.slice(half));
          return;
        }
        this.#options.log.error({ err: error, statement: this.#options.name }, "a write failed for good");
        for (const unit of units) unit.settle(error);
        return;
      }
    }
  }
}
