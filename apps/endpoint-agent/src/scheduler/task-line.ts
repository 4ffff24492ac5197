/** Tasks of one demand, in the order in which they are handed out. What left the line out of turn is stepped over. */
import type { HeldTask } from "./held-task.js";
import type { Demand } from "./node-state.js";

export class TaskLine {
  readonly demand: Demand | undefined;
  /** How many of the line are still queued. */
  queued = 0;
  #items: HeldTask[] = [];
  #head = 0;

  constructor(demand: Demand | undefined) {
    this.demand = demand;
  }

  /** The task at the front, or undefined where none is queued. */
  peek(): HeldTask | undefined {
    while (this.#head < this.#items.length) {
      const task = this.#items[this.#head]!;
      if (task.state === "queued") return task;
      this.#head++;
    }
    this.#items.length = 0;
    this.#head = 0;
    return undefined;
  }

  /** Takes the task off that `peek` gave. */
  shift(): void {
    this.#head++;
    if (this.#head > 1024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
  }

  push(task: HeldTask): void {
    this.#items.push(task);
  }

  /** In front of all that are here. */
  unshift(tasks: readonly HeldTask[]): void {
    this.#items = [...tasks, ...this.#items.slice(this.#head)];
    this.#head = 0;
  }
}
