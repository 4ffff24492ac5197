/**
 * The sweep is the truth: slowly, and whatever hints were lost, it finds open tasks that the owner does not hold
 * and outcomes that nobody has told. It also raises each endpoint's floor, so that the next owner reads little.
 *
 * What it must look at behind a cursor is bounded: an INSERT that drew its numbers before the cursor passed must
 * have committed within two sweeps, as statements are limited to STATEMENT_TIMEOUT_MS.
 */
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { Deliver } from "../deliver/deliver.js";
import { raiseFloor } from "../store/ownership.js";
import type { Dispatch } from "./dispatch.js";
import type { EndpointQueue } from "./endpoint-queue.js";

/** With other replicas about, whose hints may be lost. */
const SWEEP_MS = 15_000;
/** Alone, only what nobody foresees is to be found. */
const SWEEP_ALONE_MS = 60_000;
/** Of every statement of the hot path; shorter than a sweep. */
export const STATEMENT_TIMEOUT_MS = 14_000;

export interface SweepDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly dispatch: Dispatch;
  readonly deliver: Deliver;
}

export class Sweep {
  readonly #deps: SweepDeps;
  /** The cursor of each queue one and two sweeps ago. */
  readonly #cursors = new WeakMap<EndpointQueue, [number, number]>();
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
    const { dispatch, deliver, pool, log } = this.#deps;
    for (const queue of dispatch.queues()) {
      const [one, two] = this.#cursors.get(queue) ?? [queue.cursor, queue.cursor];
      if (!queue.backlog) {
        const found = queue.cursor > two ? await dispatch.rescan(queue, two) : 0;
        if (found > 0)
          log.warn({ endpoint: queue.endpointId, found }, "the sweep found tasks that nobody had told of");
        dispatch.wake(queue);
      }
      const floor = Math.min(queue.floor(), two);
      if (floor > queue.raisedFloor) {
        await raiseFloor(pool, queue.endpointKey, queue.epoch, floor);
        queue.raisedFloor = floor;
      }
      this.#cursors.set(queue, [queue.cursor, one]);
    }
    await deliver.sweep(3 * SWEEP_MS);
  }

  #plan(): void {
    this.#timer = setTimeout(
      () => {
        this.#running = this.run()
          .catch((err) => this.#deps.log.warn({ err }, "a sweep failed; the next one does its work"))
          .then(() => {
            if (this.#timer) this.#plan();
          });
      },
      this.#alone ? SWEEP_ALONE_MS : SWEEP_MS,
    );
    this.#timer.unref();
  }
}
