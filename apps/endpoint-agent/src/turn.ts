/**
 * When the engine flushes: at the end of a turn of the event loop, right behind the node's own batch, or, for
 * what nobody waits for, some milliseconds later along with whatever is urgent by then. No timer runs while
 * there is nothing to do.
 */

/** Marks and forgotten results go along with what is urgent, or alone after this. */
const LAZY_MS = 20;
/** How soon a flush that could not write the journal is tried again. */
const RETRY_MS = 1000;

export class Turn {
  readonly #flush: (lazyToo: boolean) => void;
  #immediate: NodeJS.Immediate | undefined;
  #microtask = false;
  #lazy: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;

  constructor(flush: (lazyToo: boolean) => void) {
    this.#flush = flush;
  }

  /** At the turn's end, after all sockets have been read. */
  atEnd(): void {
    this.#immediate ??= setImmediate(() => this.#flush(false));
  }

  /** Behind what is being delivered right now, which has gathered a turn already. */
  soon(): void {
    if (this.#microtask) return;
    this.#microtask = true;
    queueMicrotask(() => this.#flush(false));
  }

  lazily(): void {
    this.#lazy ??= setTimeout(() => {
      this.#lazy = undefined;
      this.#flush(true);
    }, LAZY_MS);
  }

  again(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#flush(true);
    }, RETRY_MS);
  }

  /** A flush begins: what called for it is served. */
  begins(): void {
    clearImmediate(this.#immediate);
    this.#immediate = undefined;
    this.#microtask = false;
  }

  close(): void {
    this.begins();
    clearTimeout(this.#lazy);
    clearTimeout(this.#retry);
  }
}
