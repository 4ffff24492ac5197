/**
 * Gathers what comes during one turn of the event loop and hands it over once, after the turn's input has been
 * read. Nothing waits on a timer to fill a batch.
 */
export class TurnBatch<T> {
  #items: T[] = [];
  #scheduled = false;
  readonly #flush: (items: T[]) => void;

  constructor(flush: (items: T[]) => void) {
    this.#flush = flush;
  }

  get size(): number {
    return this.#items.length;
  }

  add(item: T): void {
    this.#items.push(item);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.flushNow());
  }

  /** Hands over now what is there. */
  flushNow(): void {
    this.#scheduled = false;
    if (this.#items.length === 0) return;
    const items = this.#items;
    this.#items = [];
    this.#flush(items);
  }
}
