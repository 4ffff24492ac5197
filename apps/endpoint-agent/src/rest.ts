/**
 * What the agent does when its work has ended: it gives memory back. Under load V8 lets the young generation grow
 * to tens of megabytes, and collects too rarely afterwards to shrink it again, as an idle agent allocates nothing.
 * Two full collections some seconds after the last task cost about 20 ms each that nobody waits for; a young
 * generation that is small from the start would cost every batch its throughput instead. It takes two, as V8
 * shrinks it only where little was allocated since the collection before.
 *
 * A timer runs only from the first piece of work to the second collection after the last; an idle agent has none.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Without work for this long, the agent rests: longer than the five seconds over which V8 averages allocation. */
const QUIET_MS = 6_000;
const COLLECTIONS = 2;

export class Rest {
  readonly #onRest: () => void;
  #stirred = false;
  #collections = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(onRest: () => void = collectGarbage) {
    this.#onRest = onRest;
  }

  /** There is work. */
  stir(): void {
    this.#stirred = true;
    if (this.#timer === undefined) this.#wait();
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #wait(): void {
    if (this.#stirred) this.#collections = 0;
    this.#stirred = false;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (!this.#stirred) {
        this.#onRest();
        this.#collections++;
      }
      if (this.#stirred || this.#collections < COLLECTIONS) this.#wait();
    }, QUIET_MS);
    this.#timer.unref();
  }
}

/** Made once: the function outlives the flag, and a context for each collection would be garbage itself. */
let collect: (() => void) | undefined;

function collectGarbage(): void {
  if (collect === undefined) {
    setFlagsFromString("--expose-gc");
    collect = runInNewContext("gc") as () => void;
    setFlagsFromString("--no-expose-gc");
  }
  collect();
}
