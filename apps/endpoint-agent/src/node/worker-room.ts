/**
 * Room for workers: how many there may be, which GPUs and cores each has for itself, and who makes room for whom.
 *
 *   R1  There are never more workers than MOST_PER_PLACE for each place, whatever their lanes; each has its gear from
 *       its start until nothing of it is left (gear/ledger.ts).
 *   R2  A lane with tasks and no worker that finds no room claims what it lacks, the one whose first task is the oldest
 *       before the others: until it has it, nobody else gets any of that. So small needs do not pass a large one for ever.
 *   R3  For a claim, idle workers of other lanes end, those first that have been idle longest, and no more than it
 *       takes, but for those whose lane has an older task; where that is not enough, busy ones end after what they hold.
 *   R4  A lane that has workers and could use more gets the room of idle workers whose lanes have nothing to do.
 */

import type { Gear, GearNeed } from "./gear/ledger.js";
import { GearLedger } from "./gear/ledger.js";
import type { NodeGear } from "./gear/node-gear.js";
import type { Lane } from "./lane.js";
import type { Worker } from "./worker.js";

/** One that works and one that is kept warm for another environment. */
const MOST_PER_PLACE = 2;
/** On a node of one place: one worker for each runtime. */
const LEAST_MOST = 3;

type Kind = "gpus" | "cores" | "count";

export class WorkerRoom {
  readonly #gear: NodeGear | undefined;
  readonly #ledger: GearLedger;
  readonly #most: number;
  readonly #workers: ReadonlyMap<string, Worker>;
  readonly #claims = new Map<Kind, Lane>();

  /** `places`: how many workers work at the same time. `workers`: those that there are. */
  constructor(gear: NodeGear | undefined, places: number, workers: ReadonlyMap<string, Worker>) {
    this.#gear = gear;
    this.#ledger = gear?.ledger ?? new GearLedger([], 1, []);
    this.#most = Math.max(LEAST_MOST, MOST_PER_PLACE * places);
    this.#workers = workers;
  }

  /** What a new worker of this lane gets, or undefined where it has to wait (R1, R2). */
  admit(lane: Lane): Gear | undefined {
    if (this.#isBarred(lane) || this.#workers.size >= this.#most) return undefined;
    return this.#ledger.take(lane.need);
  }

  /** Another lane claims something of what it would take. */
  #isBarred(lane: Lane): boolean {
    for (const [kind, by] of this.#claims) if (by !== lane && concerns(kind, lane.need)) return true;
    return false;
  }

  /** A worker of an earlier agent has this. */
  occupy(gear: Gear): void {
    this.#ledger.occupy(gear);
  }

  /** Nothing of the worker is left. */
  left(gear: Gear, name: string): void {
    if (this.#gear === undefined) this.#ledger.give(gear);
    else this.#gear.gone(gear, name);
  }

  /** Who has no worker and waits for what (R2), and who ends for that (R3). `hungry`: lanes that have tasks. */
  claim(hungry: readonly Lane[]): void {
    this.#claims.clear();
    const blocked = hungry.filter((lane) => !lane.hasUsable && !lane.isBackingOff);
    if (blocked.length > 1) blocked.sort((a, b) => firstPlace(a) - firstPlace(b));
    for (const lane of blocked) {
      const short = this.#shortOf(lane.need, this.#ledger, this.#workers.size);
      if (short === undefined || this.#claims.has(short)) continue;
      this.#claims.set(short, lane);
      this.#free(lane, true);
    }
  }

  /** Ends the idle workers whose room the lanes that have some could use (R4). */
  grow(hungry: readonly Lane[], places: number): void {
    for (const lane of hungry) {
      const wanted = Math.min(places, lane.queue.length + lane.active);
      if (lane.usable + this.#leaving >= wanted || this.#isBarred(lane)) continue;
      if (this.#shortOf(lane.need, this.#ledger, this.#workers.size) !== undefined) this.#free(lane, false);
    }
  }

  get #leaving(): number {
    let n = 0;
    for (const worker of this.#workers.values()) if (worker.retired) n++;
    return n;
  }

  #shortOf(need: GearNeed, ledger: GearLedger, count: number): Kind | undefined {
    return ledger.shortOf(need) ?? (count >= this.#most ? "count" : undefined);
  }

  #free(lane: Lane, isClaim: boolean): void {
    const leaving = [...this.#workers.values()].filter((worker) => worker.retired);
    // What waits for longer than the claim has its turn before it.
    const mayEnd = ({ lane: of }: Worker): boolean =>
      of !== lane &&
      (of === undefined || of.queue.length === 0 || (isClaim && firstPlace(of) > firstPlace(lane)));
    const idle = [...this.#workers.values()]
      .filter((worker) => worker.isIdle && mayEnd(worker))
      .sort((a, b) => a.headSinceMs - b.headSinceMs);
    const isEnough = (gone: readonly Worker[]): boolean => {
      const ledger = this.#ledger.copy();
      for (const worker of gone) ledger.give(worker.gear);
      return this.#shortOf(lane.need, ledger, this.#workers.size - gone.length) === undefined;
    };
    const busy = [...this.#workers.values()].filter(
      (worker) => worker.held.length > 0 && !worker.retired && worker.lane !== lane,
    );
    for (const worker of fewest(leaving, isClaim ? [...idle, ...busy] : idle, isEnough) ?? []) {
      if (!worker.isIdle) worker.yielding = true;
      else if (worker.lane) worker.lane.retire(worker);
      else worker.retire();
    }
  }
}

/** The first of `candidates` that with `gone` are enough, but for those that it can do without. */
function fewest(
  gone: readonly Worker[],
  candidates: readonly Worker[],
  isEnough: (gone: readonly Worker[]) => boolean,
): Worker[] | undefined {
  let chosen: Worker[] = [];
  for (const worker of candidates) {
    if (isEnough([...gone, ...chosen])) break;
    chosen.push(worker);
  }
  if (!isEnough([...gone, ...chosen])) return undefined;
  for (const worker of chosen.toReversed()) {
    const without = chosen.filter((one) => one !== worker);
    if (isEnough([...gone, ...without])) chosen = without;
  }
  return chosen;
}

function concerns(kind: Kind, need: GearNeed): boolean {
  return kind === "count" || (kind === "gpus" ? need.gpuSlots > 0 : need.cores > 0);
}

/** When the lane's first task came; the less, the longer ago. */
export function firstPlace(lane: Lane): number {
  return lane.queue.peek()?.place ?? 0;
}
