/**
 * Who has which GPUs and cores of a node. Pure counting.
 *
 *   G1  A device's slots, and a core, have one owner at a time: a worker, from its start until nothing of it is left.
 *   G2  A share of a GPU lies on one device; whole GPUs are devices of which nobody has a slot.
 *   G3  Shares go where least is free, so that whole devices stay whole.
 */

/** What one worker needs for itself. 0: none of it. */
export interface GearNeed {
  /** Slots of a device; more than one device has: whole devices. */
  readonly gpuSlots: number;
  /** Cores that it is pinned to. */
  readonly cores: number;
  /** A limit for its memory; not counted here, as the agent counts it (N2). */
  readonly memoryMb: number;
}

/** What one worker has for itself. */
export interface Gear {
  /** Devices, and how many slots of each. */
  readonly gpus: readonly string[];
  readonly gpuSlots: number;
  /** How many slots a device had then. */
  readonly slotsOf: number;
  readonly cores: readonly number[];
  readonly memoryMb: number;
}

export const NO_NEED: GearNeed = Object.freeze({ gpuSlots: 0, cores: 0, memoryMb: 0 });

export class GearLedger {
  readonly #slots: number;
  /** By device: slots that nobody has. */
  readonly #gpus: Map<string, number>;
  readonly #cores: Set<number>;
  readonly #known: ReadonlySet<number>;

  constructor(devices: readonly string[], slots: number, cores: readonly number[]) {
    this.#slots = slots;
    this.#gpus = new Map(devices.map((id) => [id, slots]));
    this.#cores = new Set(cores);
    this.#known = new Set(cores);
  }

  /** The same, to try things out on. */
  copy(): GearLedger {
    const copy = new GearLedger([], this.#slots, [...this.#known]);
    for (const core of this.#known) if (!this.#cores.has(core)) copy.#cores.delete(core);
    for (const [id, free] of this.#gpus) copy.#gpus.set(id, free);
    return copy;
  }

  /** What stands in the way of one more worker; undefined: nothing does. */
  shortOf(need: GearNeed): "gpus" | "cores" | undefined {
    if (this.#pick(need.gpuSlots) === undefined) return "gpus";
    return need.cores > this.#cores.size ? "cores" : undefined;
  }

  /** Hands out (G1), or undefined where there is not enough. */
  take(need: GearNeed): Gear | undefined {
    const gpus = this.#pick(need.gpuSlots);
    if (gpus === undefined || need.cores > this.#cores.size) return undefined;
    const gpuSlots = Math.min(need.gpuSlots, this.#slots);
    for (const id of gpus) this.#gpus.set(id, this.#gpus.get(id)! - gpuSlots);
    const cores = [...this.#cores].sort((a, b) => a - b).slice(0, need.cores);
    for (const core of cores) this.#cores.delete(core);
    return { gpus, gpuSlots, slotsOf: this.#slots, cores, memoryMb: need.memoryMb };
  }

  /** What an earlier agent handed out: counted, as far as it is known here. */
  occupy(gear: Gear): void {
    this.#move(gear, -1);
    for (const core of gear.cores) this.#cores.delete(core);
  }

  /** The worker is gone. */
  give(gear: Gear): void {
    this.#move(gear, 1);
    for (const core of gear.cores) if (this.#known.has(core)) this.#cores.add(core);
  }

  /** Where the number of slots was another one then, as many as make the same share, rounded up. */
  #move(gear: Gear, by: 1 | -1): void {
    const slots = Math.ceil((gear.gpuSlots * this.#slots) / gear.slotsOf);
    for (const id of gear.gpus) {
      const free = this.#gpus.get(id);
      if (free !== undefined) this.#gpus.set(id, free + by * slots);
    }
  }

  /** Devices for so many slots (G2, G3). */
  #pick(slots: number): string[] | undefined {
    if (slots === 0) return [];
    const [one, whole] = [slots < this.#slots, Math.ceil(slots / this.#slots)];
    const fitting = [...this.#gpus].filter(([, free]) => free >= (one ? slots : this.#slots));
    if (one) fitting.sort(([, a], [, b]) => a - b);
    return fitting.length < whole ? undefined : fitting.slice(0, whole).map(([id]) => id);
  }
}
