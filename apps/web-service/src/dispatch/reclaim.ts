/**
 * Reclaim: the leases of an agent that stays away lapse. Whoever observes (every replica does, and a restarted service
 * begins anew) counts for how long an endpoint has been without owner, and after `reclaimMs` its leased tasks end or run
 * again, as their mode says.
 *
 *   R1  Time away is counted on this process's monotonic clock, in steps that PostgreSQL has confirmed: what passes
 *       while this process is stopped, or PostgreSQL is away, counts as one step, as no agent could have come back.
 *       No wall clock has a say.
 *   R2  What lapses is written under the epoch that was observed: where the agent has come back since, it matches
 *       nothing.
 *   R3  Of an endpoint whose owner was killed only those tasks are known to have started whose start was told. Of the
 *       others nothing is assumed until the agent speaks.
 *   R4  What is queued stays queued.
 *   R5  A loss is counted once, whoever sees it: what is at a later attempt than the agent had has been lost already.
 */
import type { IdKey } from "@farloom/protocol";
import { planted } from "@farloom/protocol/testing";
import type { Pool } from "pg";
import type { Logger } from "pino";
import {
  type AwayEndpoint,
  attemptIn,
  awayEndpoints,
  clearLeases,
  readLeases,
  startedOrUnwanted,
} from "../store/endpoint-leases.js";
import type { EndHow } from "./cancels.js";
import { CANCELLED } from "./cancels.js";
import { EndpointQueue, MAX_LEASED } from "./endpoint-queue.js";
import type { Lost } from "./handover.js";

/** Where an agent has not said anything else: a local block. */
const DEFAULT_RECLAIM_MS = 60_000;
const TICK_MS = 1_000;
/** A look that takes long is taken less often, but not less than every MOST_TICK_MS. */
const REST_FACTOR = 5;
const MOST_TICK_MS = 5_000;
/** A replica whose heartbeat is older owns nothing (hint-bus.ts writes one every 5 s). */
const GONE_MS = 20_000;

export interface ReclaimDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly lose: (queue: EndpointQueue, lost: Lost) => Promise<void>;
  readonly end: (keys: readonly IdKey[], how: EndHow) => Promise<void>;
  readonly isOwned: (endpointKey: IdKey) => boolean;
  /** For tests. */
  readonly tickMs?: number;
}

interface Away {
  readonly epoch: number;
  countedMs: number;
  lapsed: boolean;
}

export class Reclaim {
  readonly #deps: ReclaimDeps;
  readonly #tickMs: number;
  /** At most one for each endpoint that is away and may have tasks. */
  readonly #away = new Map<IdKey, Away>();
  #lookedAtMs = performance.now();
  /** How far apart this look and the one before were meant to be. */
  #plannedMs = TICK_MS;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor(deps: ReclaimDeps) {
    this.#deps = deps;
    this.#tickMs = deps.tickMs ?? TICK_MS;
    this.#plan(this.#tickMs);
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#running;
  }

  /** How many endpoints are being watched. */
  get watched(): number {
    return this.#away.size;
  }

  /** One look: counts the time of who is away, and lets lapse what is due. */
  async look(): Promise<void> {
    const { pool, isOwned } = this.#deps;
    const byDay = planted("lease-by-wall-clock");
    const startedAtMs = byDay ? Date.now() : performance.now();
    const passedMs = startedAtMs - this.#lookedAtMs;
    const stepMs = byDay ? passedMs : Math.min(passedMs, 2 * this.#plannedMs); // R1
    this.#lookedAtMs = startedAtMs;
    const found = (await awayEndpoints(pool, GONE_MS)).filter((one) => !isOwned(one.endpointKey));
    const here = new Set(found.map((one) => one.endpointKey));
    for (const key of this.#away.keys()) if (!here.has(key)) this.#away.delete(key);
    for (const endpoint of found) {
      const known = this.#away.get(endpoint.endpointKey);
      if (known?.epoch !== endpoint.epoch) {
        this.#away.set(endpoint.endpointKey, { epoch: endpoint.epoch, countedMs: 0, lapsed: false });
        continue;
      }
      known.countedMs += stepMs;
      const reclaimMs = endpoint.reclaimMs ?? DEFAULT_RECLAIM_MS;
      if (reclaimMs > 0 && known.countedMs >= reclaimMs) await this.#lapse(endpoint, known);
    }
  }

  async #lapse({ endpointKey, epoch, told }: AwayEndpoint, away: Away): Promise<void> {
    const { pool, log } = this.#deps;
    try {
      const queue = new EndpointQueue(endpointKey, { epoch, floorSeq: 0 });
      const leases = told ? await readLeases(pool, endpointKey, epoch) : undefined;
      const lost = new Map<IdKey, number | undefined>();
      if (leases)
        for (const key of [...leases.accepted, ...leases.sent]) lost.set(key, attemptIn(leases, key));
      if (!leases?.whole) {
        const { started, unwanted } = await startedOrUnwanted(pool, endpointKey, MAX_LEASED); // R3
        for (const key of started) if (!lost.has(key)) lost.set(key, undefined);
        // Somebody wants these cancelled, and nobody is left who could say whether they run.
        const rest = unwanted.filter((key) => !lost.has(key));
        await this.#deps.end(rest, { ...CANCELLED, confirmed: false });
      }
      if (!away.lapsed && lost.size > 0) {
        log.warn(
          { endpoint: queue.endpointId, epoch, tasks: lost.size },
          "an agent stays away: its leases lapse",
        );
      }
      away.lapsed = true;
      await this.#deps.lose(queue, lost); // R2
      if (told) await clearLeases(pool, endpointKey, epoch);
    } catch (err) {
      // Another owner, or PostgreSQL is away: the next look sees.
      log.info({ err }, "leases that were to lapse did not");
    }
  }

  #plan(delayMs: number): void {
    this.#plannedMs = delayMs;
    this.#timer = setTimeout(() => {
      const startedAtMs = performance.now();
      this.#running = this.look()
        .catch((err) => this.#deps.log.warn({ err }, "who is away could not be seen"))
        .then(() => {
          const tookMs = performance.now() - startedAtMs;
          if (this.#timer) this.#plan(Math.max(this.#tickMs, Math.min(MOST_TICK_MS, REST_FACTOR * tookMs)));
        });
    }, delayMs);
    this.#timer.unref();
  }
}
