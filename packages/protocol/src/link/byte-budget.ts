/** So many bytes in a second, and at most that many at once: for what may be left out, and must not crowd out the rest. */
export class ByteBudget {
  readonly #bytesPerS: number;
  readonly #now: () => number;
  #room: number;
  #filledAtMs: number;

  /** `now`: monotonic milliseconds. */
  constructor(bytesPerS: number, now: () => number = () => performance.now()) {
    this.#bytesPerS = this.#room = bytesPerS;
    this.#now = now;
    this.#filledAtMs = now();
  }

  /** Takes the bytes, or says that there is no room for them now. */
  take(bytes: number): boolean {
    const now = this.#now();
    const gained = ((now - this.#filledAtMs) / 1000) * this.#bytesPerS;
    this.#room = Math.min(this.#bytesPerS, this.#room + gained);
    this.#filledAtMs = now;
    if (bytes > this.#room) return false;
    this.#room -= bytes;
    return true;
  }
}
