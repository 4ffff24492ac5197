/** Tells somebody at a terminal why the call that they wait for does not run yet, and again when that has changed. */
import type { TaskHandle } from "@farloom/sdk";
import type { Output } from "./output.js";

/** Most calls are over by then. */
const FIRST_MS = 3_000;
/** A person asks no faster; nothing tells of a change. */
const AGAIN_MS = 5_000;

export class WaitNotes {
  readonly #handle: TaskHandle;
  readonly #output: Output;
  readonly #stop = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #said: string | undefined;

  /** Silent where standard error is no terminal. */
  constructor(handle: TaskHandle, output: Output, active = process.stderr.isTTY === true) {
    this.#handle = handle;
    this.#output = output;
    if (active && !output.json) this.#later(FIRST_MS);
  }

  stop(): void {
    this.#stop.abort();
    clearTimeout(this.#timer);
  }

  #later(ms: number): void {
    this.#timer = setTimeout(() => void this.#ask(), ms);
    this.#timer.unref();
  }

  async #ask(): Promise<void> {
    const { signal } = this.#stop;
    // What cannot be asked now, the call itself will tell.
    const waiting = await this.#handle.why({ signal }).catch(() => undefined);
    if (signal.aborted) return;
    if (waiting !== undefined && waiting.message !== this.#said) {
      this.#said = waiting.message;
      this.#output.note(waiting.message);
    }
    if (this.#handle.state === "QUEUED") this.#later(AGAIN_MS);
  }
}
