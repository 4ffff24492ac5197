/** A client of the simulated world: keeps what is not durable, sends it again, and waits for outcomes by id (P11, P16). */
import { type IdKey, keysToColumn, Outbox } from "@farloom/protocol";
import type { Oracle, TaskSpec } from "./oracle.js";
import type { End, Message, Wire } from "./wire.js";

export class Client {
  readonly known = new Set<IdKey>();
  wire: Wire | undefined;
  readonly #oracle: Oracle;
  readonly #outbox = new Outbox<TaskSpec>();
  /** Submissions made while there was no connection. */
  #unsent: TaskSpec[] = [];
  readonly #waits = new Set<IdKey>();

  constructor(oracle: Oracle) {
    this.#oracle = oracle;
  }

  get isContent(): boolean {
    return this.#waits.size === 0 && this.#outbox.size === 0 && this.#unsent.length === 0;
  }

  dial(connect: (end: End) => Wire): void {
    const wire = connect({
      receive: (message) => {
        if (this.wire === wire) this.#receive(message);
      },
      closed: () => {
        if (this.wire === wire) this.wire = undefined;
      },
    });
    this.wire = wire;
    const again = this.#outbox.restart();
    wire.sendUp({ t: "wait", keys: [...this.#waits] });
    this.#send(again, true);
    this.#send(this.#unsent.splice(0), false);
  }

  submit(specs: readonly TaskSpec[]): void {
    for (const spec of specs) {
      this.#oracle.know(spec);
      this.known.add(spec.key);
      this.#waits.add(spec.key);
    }
    if (this.wire) this.#send(specs, false);
    else this.#unsent.push(...specs);
  }

  cancel(key: IdKey): void {
    this.wire?.sendUp({ t: "cancel", ids: keysToColumn([key]) });
  }

  #send(specs: readonly TaskSpec[], again: boolean): void {
    if (specs.length === 0) return;
    this.wire!.sendUp({ t: "submit", specs, again });
    for (const spec of specs) this.#outbox.push(spec);
  }

  #receive(message: Message): void {
    if (message.t === "mark") {
      const released = this.#outbox.mark(message);
      if ("bad" in released) throw new Error(released.bad);
      for (const spec of released) this.#oracle.acknowledged(spec.key);
    } else if (message.t === "outcomes")
      for (const { key, ...outcome } of message.items) {
        this.#oracle.told(key, outcome);
        this.#waits.delete(key);
      }
  }
}
