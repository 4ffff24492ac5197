/**
 * Which groups have tasks whose outcomes another replica may commit, and what has been told of them lately: what the
 * sweep needs in order to ask for little and to tell nothing twice.
 *
 * Bounds: the groups used last, and as many outcomes told as MAX_TOLD. Beyond, a client may hear of an
 * outcome twice, and knows it by its id.
 */
import type { IdKey } from "@farloom/protocol";
import { LruMap } from "../support/lru-map.js";

const MAX_GROUPS = 100_000;
/** In one generation. */
const MAX_TOLD = 250_000;
/** A generation spans a third of what the sweep looks back, so the last four cover all of it. */
const GENERATIONS = 4;

interface Trail {
  readonly endpoints: Set<IdKey>;
  foreign: boolean;
}

export class Trails {
  readonly #groups = new LruMap<IdKey, Trail>(MAX_GROUPS);
  /** The newest first. */
  #told: Set<IdKey>[] = [new Set()];
  #turnedAtMs = 0;

  /** Tasks of the group went to the endpoint, whose queue is here or not. */
  submitted(groupKey: IdKey, endpointKey: IdKey, ownedHere: boolean): void {
    const trail = this.#trail(groupKey);
    trail.endpoints.add(endpointKey);
    if (!ownedHere) trail.foreign = true;
  }

  /** Nothing is known of where the group's tasks are. */
  unknown(groupKey: IdKey): void {
    this.#trail(groupKey).foreign = true;
  }

  /** The endpoint's agent is gone from here: it may be elsewhere. */
  endpointLeft(endpointKey: IdKey): void {
    for (const trail of this.#groups.values()) if (trail.endpoints.has(endpointKey)) trail.foreign = true;
  }

  /** Those of `groupKeys` whose outcomes may come from elsewhere. */
  foreign(groupKeys: Iterable<IdKey>): IdKey[] {
    return [...groupKeys].filter((key) => this.#groups.peek(key)?.foreign);
  }

  /** Remembers that an outcome of the group was told, where it matters. */
  tell(groupKey: IdKey, key: IdKey): void {
    const newest = this.#told[0]!;
    if (this.#groups.peek(groupKey)?.foreign && newest.size < MAX_TOLD) newest.add(key);
  }

  wasTold(key: IdKey): boolean {
    return this.#told.some((generation) => generation.has(key));
  }

  /** A sweep that looked back so far is over; `nowMs` on a monotonic clock. */
  turn(lookbackMs: number, nowMs = performance.now()): void {
    if (nowMs - this.#turnedAtMs < lookbackMs / (GENERATIONS - 1)) return;
    this.#turnedAtMs = nowMs;
    this.#told = [new Set(), ...this.#told.slice(0, GENERATIONS - 1)];
  }

  #trail(groupKey: IdKey): Trail {
    let trail = this.#groups.get(groupKey);
    if (!trail) {
      trail = { endpoints: new Set(), foreign: false };
      this.#groups.set(groupKey, trail);
    }
    return trail;
  }
}
