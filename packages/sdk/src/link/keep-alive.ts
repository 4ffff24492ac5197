/**
 * Whether this client keeps the process alive. It does while something is not durable yet or a result is awaited;
 * otherwise its socket and timers are unref'd, so that a program ends without closing its client.
 */
export interface Refable {
  ref(): unknown;
  unref(): unknown;
}

export class KeepAlive {
  #holds = 0;
  #idle: (() => void)[] = [];
  readonly #handles = new Set<Refable>();

  get held(): boolean {
    return this.#holds > 0;
  }

  hold(n = 1): void {
    this.#holds += n;
    if (this.#holds === n) for (const handle of this.#handles) handle.ref();
  }

  release(n = 1): void {
    if (n === 0) return;
    this.#holds -= n;
    if (this.#holds > 0) return;
    for (const handle of this.#handles) handle.unref();
    const idle = this.#idle;
    this.#idle = [];
    for (const wake of idle) wake();
  }

  /** Resolves when nothing holds any more. */
  async idle(): Promise<void> {
    if (this.#holds > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** The handle follows the holds until it is let go. */
  attach(handle: Refable): void {
    this.#handles.add(handle);
    if (this.#holds > 0) handle.ref();
    else handle.unref();
  }

  detach(handle: Refable): void {
    this.#handles.delete(handle);
  }
}
