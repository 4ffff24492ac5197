/**
 * The sweep is the truth: slowly, and whatever hints were lost, it finds open tasks that the owner does not hold,
 * cancels that did not reach it, and outcomes that nobody has told. It also raises each endpoint's floor, so that the next owner reads little.
 *
 * What it must look at behind a cursor is bounded (settled-cursor.ts).
 */
import { planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Deliver } from "../deliver/deliver.js";
import { raiseFloor } from "../store/ownership.js";
import type { Dispatch } from "./dispatch.js";
import type { EndpointQueue } from "./endpoint-queue.js";
import { SettledCursor } from "./settled-cursor.js";

/** Alone, only what nobody foresees is to be found: a sweep is this many times rarer. */
const ALONE_FACTOR = 4;
/** Outcomes of other replicas are looked for this far back, whatever the interval. */
const LEAST_LOOKBACK_MS = 45_000;

/** Cancels whose hints were lost are looked for this far back; what is older an owner reads with its pages. */
const CANCEL_LOOKBACK_MS = 3_600_000;

export interface SweepDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly dispatch: Dispatch;
  readonly deliver: Deliver;
  /** With other replicas about, whose hints may be lost. Configuration: sweepMs. */
  readonly sweepMs: number;
}

export class Sweep {
  readonly #deps: SweepDeps;
  readonly #settled = new WeakMap<EndpointQueue, SettledCursor>();
  #alone = true;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(deps: SweepDeps) {
    this.#deps = deps;
    this.#plan();
  }

  setAlone(alone: boolean): void {
    this.#alone = alone;
    clearTimeout(this.#timer);
    this.#plan();
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#running;
  }

  /** One round, now. */
  async run(): Promise<void> {
    if (planted("notify-is-truth")) return;
    const { dispatch, deliver, pool, log } = this.#deps;
    for (const queue of dispatch.queues()) {
      const settled = this.#settledOf(queue);
      const seen = settled.scan(queue.cursor);
      const found = queue.cursor > settled.seq ? await dispatch.rescan(queue, settled.seq) : 0;
      seen();
      if (found > 0)
        log.warn({ endpoint: queue.endpointId, found }, "the sweep found tasks that nobody had told of");
      if (!queue.backlog) dispatch.wake(queue);
      const floor = Math.min(queue.floor(), settled.seq);
      if (floor > queue.raisedFloor) {
        await raiseFloor(pool, queue.endpointKey, queue.epoch, floor);
        queue.raisedFloor = floor;
      }
    }
    await dispatch.cancels.sweep([...dispatch.queues()], CANCEL_LOOKBACK_MS);
    await deliver.sweep(Math.max(LEAST_LOOKBACK_MS, 3 * this.#deps.sweepMs));
  }

  #settledOf(queue: EndpointQueue): SettledCursor {
    const known = this.#settled.get(queue);
    if (known) return known;
    const settled = new SettledCursor(queue.raisedFloor);
    this.#settled.set(queue, settled);
    return settled;
  }

  #plan(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => {
        this.#running = this.run()
          .catch((err) => this.#deps.log.warn({ err }, "a sweep failed; the next one does its work"))
          .then(() => {
            if (this.#timer) this.#plan();
          });
      },
      this.#deps.sweepMs * (this.#alone ? ALONE_FACTOR : 1),
    );
    this.#timer.unref();
  }
}
