/**
 * A service's statements on their way to the store and back. Running and hearing of it are two events: a page may
 * be older than a commit when it comes, and a reply may be lost, after which a write is tried again (group-commit.ts)
 * and anything else fails.
 */
import type { Random } from "./random.js";
import type { Store } from "./store.js";

interface Statement {
  readonly run: (store: Store) => unknown;
  readonly settle: (result: unknown) => void;
  /** What to do where it failed; without it, it is tried again. */
  readonly failed: (() => void) | undefined;
  ran: { readonly result: unknown } | undefined;
}

/** Statements of a service that are under way at the same time. */
const LANES = 3;

export class Statements {
  #all: Statement[] = [];

  get size(): number {
    return this.#all.length;
  }

  /** A write, or a read that may be repeated. */
  add<T>(run: (store: Store) => T, settle: (result: T) => void, failed?: () => void): void {
    this.#all.push({ run, settle: settle as (result: unknown) => void, failed, ran: undefined });
  }

  /** Runs one that is due; `fault`: its reply may be lost, or it may not be run at all. */
  run(store: Store, random: Random, fault: boolean): boolean {
    const due = this.#all.slice(0, LANES).filter((s) => s.ran === undefined);
    const statement = random.pick(due);
    if (!statement) return false;
    if (fault && random.once(2)) return this.#fail(statement);
    const result = statement.run(store);
    if (fault) return this.#fail(statement);
    statement.ran = { result };
    return true;
  }

  /** A reply comes. */
  reply(random: Random): boolean {
    const statement = random.pick(this.#all.filter((s) => s.ran !== undefined));
    if (!statement) return false;
    this.#all.splice(this.#all.indexOf(statement), 1);
    statement.settle(statement.ran!.result);
    return true;
  }

  #fail(statement: Statement): boolean {
    if (statement.failed) {
      this.#all.splice(this.#all.indexOf(statement), 1);
      statement.failed();
    }
    return true;
  }
}
