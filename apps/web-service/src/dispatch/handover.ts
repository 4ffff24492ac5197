/**
 * From one connection of an endpoint's agent to the next: what the agent had when the last one ended, and what of that
 * must count as started when it comes back.
 *
 *   H1  At its end a connection leaves a record of its leases, in PostgreSQL; the next owner reads it. A newer
 *       connection on another replica makes the older owner stop and leave its record at once, and waits for it: until
 *       then it sends nothing, so that no task is at two agents.
 *   H2  An agent on the same boot lists in its hello all that its journal has. What it does not list never arrived, or
 *       was given back: it is queued again. But where the older connection was still alive, another agent may be
 *       behind it: what that one had accepted may have started.
 *   H3  After another boot the journal may lack its last words: whatever had been sent, is not listed and has no result
 *       may have started.
 *   H4  Where an owner ended without a record (killed) and the boot is another one, as many of the first open tasks as
 *       the agent was ready to hold may have started, and those whose start was told.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { IdKey } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import {
  attemptIn,
  firstOpen,
  type Leases,
  lastSeq,
  NO_LEASES,
  readLeases,
  settleLeases,
  startedOrUnwanted,
  UNKNOWN_LEASES,
  writeDeparture,
} from "../store/endpoint-leases.js";
import { type Claim, isReplicaConnected } from "../store/ownership.js";
import { type EndpointQueue, MAX_LEASED } from "./endpoint-queue.js";

/** How long the record of another replica is waited for. Longer than an owner sends without having seen its epoch. */
const FAREWELL_MS = 4_000;
/** A replica that has no connection to PostgreSQL at three looks in a row has been killed. */
const LOOK_MS = 600;
const LOOKS = 3;
/** The window of an agent whose window is not known (H4). */
const UNKNOWN_WINDOW = 4_096;

export interface HandoverDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly replicaId: string;
}

/** What the agent says of itself in its hello. */
export interface Arrival {
  readonly claim: Claim;
  readonly bootId: string | undefined;
}

interface Departure {
  readonly epoch: number;
  readonly leases: Leases;
}

/** Lost tasks, each with the attempt that is lost; undefined: whichever it is at. */
export type Lost = ReadonlyMap<IdKey, number | undefined>;

/** What the agent had, and whether the connection before was still alive (H2). */
export interface Before {
  readonly leases: Leases;
  readonly replaced: boolean;
}

export class Handover {
  readonly #deps: HandoverDeps;
  /** Records that are not written yet. */
  readonly #departing = new Map<IdKey, Departure>();
  readonly #writing = new Set<Promise<void>>();
  #closed = false;

  constructor(deps: HandoverDeps) {
    this.#deps = deps;
  }

  /** Leaves the record of a connection that has ended (H1). Call it before the queue is closed. */
  depart(endpointKey: IdKey, departure: Departure): void {
    this.#departing.set(endpointKey, departure);
    const writing = this.#write(endpointKey, departure).finally(() => {
      this.#writing.delete(writing);
      if (this.#departing.get(endpointKey) === departure) this.#departing.delete(endpointKey);
    });
    this.#writing.add(writing);
  }

  /** Resolves when every record is written. */
  async idle(): Promise<void> {
    while (this.#writing.size > 0) await Promise.all(this.#writing);
  }

  close(): void {
    this.#closed = true;
  }

  /** What the agent had before this claim. `older`: of this replica, if it owned the endpoint until now. */
  async before(endpointKey: IdKey, claim: Claim, older: Departure | undefined): Promise<Before> {
    const epoch = claim.epoch - 1;
    const replaced = claim.before.replicaId !== undefined;
    if (older?.epoch === epoch) return { leases: older.leases, replaced: true };
    const departing = this.#departing.get(endpointKey);
    if (departing?.epoch === epoch) return { leases: departing.leases, replaced: false };
    if (epoch === 0) return { leases: NO_LEASES, replaced: false };
    const told = await readLeases(this.#deps.pool, endpointKey, epoch);
    if (told !== undefined) return { leases: told, replaced };
    const other = claim.before.replicaId;
    if (other === undefined) return { leases: NO_LEASES, replaced: false };
    if (other === this.#deps.replicaId) return { leases: UNKNOWN_LEASES, replaced: false };
    return { leases: await this.#farewell(endpointKey, epoch, other), replaced };
  }

  /** The tasks that may have started where nobody can tell any more (H2, H3, H4), and at which attempt if that is known. */
  async lost(queue: EndpointQueue, { claim, bootId }: Arrival, before: Before): Promise<Lost> {
    const { listed, answered } = queue.opening!;
    const { accepted, sent, whole } = before.leases;
    const rebooted =
      claim.before.bootId !== undefined && bootId !== undefined && claim.before.bootId !== bootId;
    const gone = (key: IdKey): boolean => !listed.has(key) && !answered.has(key);
    const lost = new Map<IdKey, number | undefined>();
    const note = (key: IdKey): unknown => gone(key) && lost.set(key, attemptIn(before.leases, key));
    if (rebooted || before.replaced) accepted.forEach(note);
    if (rebooted) sent.forEach(note);
    if (rebooted && !whole) {
      const { pool } = this.#deps;
      const limit = Math.min(claim.before.window || UNKNOWN_WINDOW, MAX_LEASED);
      const except = [...listed, ...answered];
      const first = await firstOpen(pool, queue.endpointKey, { lastSeq: queue.lastSeqBefore, limit, except });
      const { started } = await startedOrUnwanted(pool, queue.endpointKey, MAX_LEASED);
      for (const key of [...first, ...started]) if (gone(key) && !lost.has(key)) lost.set(key, undefined);
    }
    return lost;
  }

  /** From here on this connection counts. */
  async settle(queue: EndpointQueue, { claim, bootId }: Arrival, window: number): Promise<void> {
    await settleLeases(this.#deps.pool, {
      endpointKey: queue.endpointKey,
      epoch: claim.epoch,
      bootId,
      window,
    });
  }

  /** The last number of a task before this connection: nothing later can have been sent before it. */
  lastSeq(): Promise<number> {
    return lastSeq(this.#deps.pool);
  }

  /** The record of another replica that owned the endpoint a moment ago (H1). */
  async #farewell(endpointKey: IdKey, epoch: number, replicaId: string): Promise<Leases> {
    const startedAt = performance.now();
    let lookedAt = Number.NEGATIVE_INFINITY;
    let absent = 0;
    while (performance.now() - startedAt < FAREWELL_MS) {
      const told = await readLeases(this.#deps.pool, endpointKey, epoch);
      if (told !== undefined) return told;
      if (performance.now() - lookedAt >= LOOK_MS) {
        lookedAt = performance.now();
        absent = (await isReplicaConnected(this.#deps.pool, replicaId)) ? 0 : absent + 1;
        if (absent >= LOOKS) break;
      }
      await sleep(50);
    }
    return UNKNOWN_LEASES;
  }

  async #write(endpointKey: IdKey, { epoch, leases }: Departure): Promise<void> {
    for (let delayMs = 50; ; delayMs = Math.min(2_000, delayMs * 2)) {
      try {
        await writeDeparture(this.#deps.pool, { endpointKey, epoch, leases });
        return;
      } catch (err) {
        this.#deps.log.warn({ err }, "what an agent had at its end could not be written; trying again");
        if (this.#closed) return;
        await sleep(delayMs * (0.5 + Math.random()));
      }
    }
  }
}
