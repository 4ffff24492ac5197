/**
 * One connection of the simulated network: two queues that keep their order, as TCP does. A cut lets some of what
 * was under way arrive; each side learns of it only when it has read that, so a side may be in its next session
 * while the other still reads the last one.
 */
import type { Frame, IdKey } from "@farloom/protocol";
import type { Outcome, TaskSpec } from "./oracle.js";
import type { Random } from "./random.js";

/** What a client link carries beside frames: outcomes and submissions as the simulated client makes them. */
export type Message =
  | Frame
  | { readonly t: "submit"; readonly specs: readonly TaskSpec[]; readonly again: boolean }
  | { readonly t: "wait"; readonly keys: readonly IdKey[] }
  | { readonly t: "outcomes"; readonly items: readonly (Outcome & { readonly key: IdKey })[] };

export interface End {
  receive(message: Message): void;
  closed(): void;
}

class Direction {
  readonly queue: Message[] = [];
  to: End | undefined;
}

export class Wire {
  readonly #down = new Direction();
  readonly #up = new Direction();
  #cut = false;

  /** `lower` is the side that dialled. */
  constructor(upper: End, lower: End) {
    this.#up.to = upper;
    this.#down.to = lower;
  }

  get isCut(): boolean {
    return this.#cut;
  }

  /** Both sides know that it is over. */
  get isOver(): boolean {
    return this.#up.to === undefined && this.#down.to === undefined;
  }

  sendUp(message: Message): void {
    if (!this.#cut) this.#up.queue.push(message);
  }

  sendDown(message: Message): void {
    if (!this.#cut) this.#down.queue.push(message);
  }

  cut(random: Random): void {
    if (this.#cut) return;
    this.#cut = true;
    for (const { queue } of [this.#up, this.#down])
      if (queue.length > 0) queue.length = random.below(queue.length + 1);
  }

  /** One side says goodbye: what it sent before arrives. */
  close(): void {
    this.#cut = true;
  }

  upperDied(random: Random): void {
    this.cut(random);
    this.#up.queue.length = 0;
    this.#up.to = undefined;
  }

  lowerDied(random: Random): void {
    this.cut(random);
    this.#down.queue.length = 0;
    this.#down.to = undefined;
  }

  /** Delivers the next message, or the news of the end; false where there is neither. */
  deliver(up: boolean): boolean {
    const direction = up ? this.#up : this.#down;
    const { to } = direction;
    if (to === undefined) return false;
    const message = direction.queue.shift();
    if (message !== undefined) {
      to.receive(message);
      return true;
    }
    if (!this.#cut) return false;
    direction.to = undefined;
    to.closed();
    return true;
  }
}
