/**
 * One node as the scheduler sees it: its credit, what it was handed, and what is free on it. Pure counting.
 *
 *   N1  A node never gets more than its credit (P9).
 *   N2  Tasks with needs together never have more cores, memory or GPUs of a node than it declared, and beside them
 *       run only as many others as it has places and cores for.
 *   N3  A node that is kept for a task over whole nodes (S9) gets nothing else.
 *
 * A node that declares nothing takes every task within its credit: what a function needs is then no more than a wish.
 * Of GPUs the shares are counted that the node divides them into. Tasks without needs count one place each, and where no other is there, credit alone bounds them:
 * a node asks for a little more than it has places, so that none of them waits for the next task.
 */
import { Credit, type NodeCapacity, type Resources } from "@farloom/protocol";
import { gpuSlotsOf } from "../gpu-slots.js";
import type { HeldTask } from "./held-task.js";

/** What a task needs of a node, where it is more than one place; with `nodes`, of each of them. */
export interface Demand {
  readonly cores: number;
  readonly memoryMb: number;
  readonly gpus: number;
  /** Whole nodes of one block; 0: a part of a node. */
  readonly nodes: number;
}

/** The demand of a function's resources; undefined where one place is enough. */
export function demandOf(resources: Resources): Demand | undefined {
  const { memoryMb = 0, gpus = 0, nodes = 0 } = resources;
  const cores = Math.max(1, resources.cores ?? 1);
  if (nodes > 0) return { cores: cores * ranksPerNode(resources), memoryMb, gpus, nodes };
  return cores <= 1 && memoryMb <= 0 && gpus <= 0 ? undefined : { cores, memoryMb, gpus, nodes };
}

/** Of a call over whole nodes: the most that one of them has. */
export function ranksPerNode({ nodes = 1, ranks, ranksPerNode }: Resources): number {
  return ranksPerNode ?? Math.ceil((ranks ?? nodes) / nodes);
}

export class NodeState {
  readonly name: string;
  readonly credit = new Credit();
  readonly capacity: NodeCapacity | undefined;
  /** It gives back what has not started, and gets nothing more. */
  draining = false;
  /** Kept for a task that nothing else lets in; for one round of handing out. */
  reserved = false;
  /** Kept by a task over whole nodes that runs (N3). */
  isKept = false;
  /** It was asked to give something back, and has not answered. */
  recalling = false;
  #long = 0;
  #plain = 0;
  #needy = 0;
  #cores = 0;
  #memoryMb = 0;
  #gpuSlots = 0;

  constructor(name: string, capacity: NodeCapacity | undefined) {
    this.name = name;
    this.capacity = capacity;
  }

  /** Tasks that it was handed and that have no outcome. */
  get handed(): number {
    return this.#plain + this.#needy;
  }

  /** How many tasks of this demand it may be handed now. */
  room(demand: Demand | undefined): number {
    if (this.draining || this.reserved || this.isKept) return 0; // N3
    const credit = this.credit.room; // N1
    const { capacity } = this;
    if (demand !== undefined && this.#mustAnswer(demand)) return credit;
    if (capacity === undefined || (demand === undefined && this.#needy === 0)) return credit;
    const places = capacity.places - this.handed;
    const cores = (capacity.cores ?? capacity.places) - this.#cores - this.#plain;
    if (demand === undefined) return Math.max(0, Math.min(credit, places, cores)); // N2
    let most = Math.min(credit, places, Math.floor(cores / demand.cores));
    if (demand.memoryMb > 0)
      most = Math.min(most, Math.floor(((capacity.memoryMb ?? 0) - this.#memoryMb) / demand.memoryMb));
    const gpuSlots = this.#slotsOf(demand);
    if (gpuSlots > 0) most = Math.min(most, Math.floor((this.#allSlots - this.#gpuSlots) / gpuSlots));
    return Math.max(0, most);
  }

  /** Whether a task of this demand fits where nothing else runs. */
  couldTake(demand: Demand): boolean {
    const { capacity } = this;
    if (this.draining) return false;
    if (capacity === undefined) return true;
    return (
      demand.cores <= (capacity.cores ?? capacity.places) &&
      demand.memoryMb <= (capacity.memoryMb ?? 0) &&
      this.#slotsOf(demand) <= this.#allSlots
    );
  }

  /** Whether it has all of itself for a task over whole nodes, and would have a part of them in it. */
  isFreeFor(demand: Demand): boolean {
    if (this.reserved || this.credit.room <= 0) return false;
    if (this.#mustAnswer(demand)) return true;
    return this.handed === 0 && !this.isKept && this.couldTake(demand);
  }

  /** It can never run this, and no other node will come: so it says so. */
  #mustAnswer(demand: Demand): boolean {
    if (this.capacity?.alone !== true || this.draining) return false;
    return demand.nodes > 1 || !this.couldTake(demand);
  }

  get #allSlots(): number {
    return (this.capacity?.gpus ?? 0) * (this.capacity?.gpuSlots ?? 1);
  }

  #slotsOf(demand: Demand): number {
    return gpuSlotsOf(demand.gpus, this.capacity?.gpuSlots ?? 1);
  }

  /** Places where nothing runs; none where the node does not say how many it has. */
  get freePlaces(): number {
    return this.capacity === undefined || this.draining || this.isKept
      ? 0
      : Math.max(0, this.capacity.places - this.handed);
  }

  /** Tasks that wait in it, and are known to wait long: one that runs has been told of. */
  get waiting(): number {
    if (this.capacity === undefined || this.#long === 0 || this.recalling) return 0;
    return Math.max(0, this.handed - this.capacity.places);
  }

  add(task: HeldTask): void {
    this.#count(task, 1);
    if (task.running) this.#long++;
  }

  remove(task: HeldTask): void {
    this.#count(task, -1);
    if (task.running) this.#long--;
  }

  /** It runs one of its tasks, which is a long one. */
  started(): void {
    this.#long++;
  }

  #count({ demand }: HeldTask, by: 1 | -1): void {
    if (demand === undefined) {
      this.#plain += by;
      return;
    }
    this.#needy += by;
    this.#cores += by * demand.cores;
    this.#memoryMb += by * demand.memoryMb;
    this.#gpuSlots += by * this.#slotsOf(demand);
  }
}
