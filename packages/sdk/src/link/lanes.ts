/**
 * Tasks that wait to be sent, by where they go: a frame carries one endpoint and one group, so each pair has a
 * queue of its own. Lanes take turns, a frame each. What waits is bounded (MAX_WAITING_*): a program that submits
 * faster than the fabric takes hears OVERLOADED instead of running out of memory; `map` waits by itself.
 */
import { FarloomError, limits } from "@farloom/protocol";
import type { Task } from "../task.js";

/** Submitted and not yet sent: about 500 bytes each. */
export const MAX_WAITING_TASKS = 1_000_000;
export const MAX_WAITING_BYTES = 512 * 1024 * 1024;

/** Of the elements that a frame may have (P2), what options may take; the rest is for the frame's own. */
const MAX_OPTION_ELEMENTS = limits.MAX_FRAME_ELEMENTS - 2 * limits.MAX_BATCH_ITEMS;

export class Lane {
  readonly endpoint: Buffer;
  readonly group: Buffer;
  /** The group as text, for sets. */
  readonly groupKey: string;
  queue: Task[] = [];
  head = 0;

  constructor(endpoint: Buffer, group: Buffer) {
    this.endpoint = endpoint;
    this.group = group;
    this.groupKey = group.toString("latin1");
  }

  get size(): number {
    return this.queue.length - this.head;
  }
}

/** What one frame will carry: items [from, from+n) of `lane.queue`. */
export interface Cut {
  readonly lane: Lane;
  readonly from: number;
  readonly n: number;
  readonly sizeBytes: number;
  /** These may have been submitted before (P11). */
  readonly again: boolean;
}

export class Lanes {
  readonly #lanes = new Map<string, Lane>();
  /** Lanes with something to send, in turn. */
  #ready: Lane[] = [];
  #tasks = 0;
  #bytes = 0;

  get waitingTasks(): number {
    return this.#tasks;
  }
  get waitingBytes(): number {
    return this.#bytes;
  }

  laneOf(endpoint: Buffer, group: Buffer): Lane {
    const name = endpoint.toString("latin1") + group.toString("latin1");
    let lane = this.#lanes.get(name);
    if (lane === undefined) {
      lane = new Lane(endpoint, group);
      this.#lanes.set(name, lane);
    }
    return lane;
  }

  /** Throws OVERLOADED where as much waits as may. */
  checkRoom(): void {
    if (this.#tasks < MAX_WAITING_TASKS && this.#bytes < MAX_WAITING_BYTES) return;
    throw new FarloomError("OVERLOADED", {
      detail: `${this.#tasks} tasks (${this.#bytes} bytes) wait in this client; submit through map, which waits by itself`,
    });
  }

  push(task: Task, lane: Lane): void {
    if (lane.size === 0) this.#ready.push(lane);
    lane.queue.push(task);
    this.#tasks++;
    this.#bytes += task.sizeBytes;
  }

  /** Puts tasks that had been sent in front again, in order. */
  pushFront(tasks: readonly Task[]): void {
    const byLane = new Map<Lane, Task[]>();
    for (const task of tasks) {
      const list = byLane.get(task.lane!);
      if (list) list.push(task);
      else byLane.set(task.lane!, [task]);
      this.#tasks++;
      this.#bytes += task.sizeBytes;
    }
    for (const [lane, list] of byLane) {
      if (lane.size === 0) this.#ready.push(lane);
      lane.queue = [...list, ...lane.queue.slice(lane.head)];
      lane.head = 0;
    }
  }

  /** The next frame's worth within the room that is left, or undefined. One task may overdraw the bytes (P9). */
  next(roomTasks: number, roomBytes: number): Cut | undefined {
    for (;;) {
      const lane = this.#ready[0];
      if (lane === undefined || roomTasks <= 0 || roomBytes <= 0) return undefined;
      this.#dropSettled(lane);
      const { queue, head } = lane;
      const most = Math.min(queue.length - head, roomTasks, limits.MAX_BATCH_ITEMS);
      const mostBytes = Math.min(roomBytes, limits.TARGET_BATCH_BYTES);
      // What was sent before travels apart from what was not: `again` is said of a whole frame (P11).
      const again = most > 0 && queue[head]!.sends > 0;
      let n = 0;
      let sizeBytes = 0;
      let elements = 0;
      while (n < most && (n === 0 || sizeBytes < mostBytes)) {
        const task = queue[head + n]!;
        if (task.isSettled || task.sends > 0 !== again) break;
        elements += task.elements;
        if (elements > MAX_OPTION_ELEMENTS && n > 0) break;
        sizeBytes += task.sizeBytes;
        n++;
      }
      if (n > 0) {
        lane.head += n;
        this.#tasks -= n;
        this.#bytes -= sizeBytes;
      }
      this.#ready.shift();
      if (lane.size > 0) this.#ready.push(lane);
      if (n > 0) return { lane, from: head, n, sizeBytes, again };
      this.compact(lane);
    }
  }

  /** After a cut was sent: lets go of what lies before the head. */
  compact(lane: Lane): void {
    if (lane.size === 0) {
      lane.queue = [];
      lane.head = 0;
      // Groups come and go; an empty lane is made again when it is needed.
      this.#lanes.delete(lane.endpoint.toString("latin1") + lane.groupKey);
    } else if (lane.head > 8192 && lane.head * 2 > lane.queue.length) {
      lane.queue = lane.queue.slice(lane.head);
      lane.head = 0;
    }
  }

  /** A waiting task ended here (cancelled, given up): its bytes no longer count; its place is skipped later. */
  forget(sizeBytes: number): void {
    this.#bytes -= sizeBytes;
  }

  /** Takes out everything. */
  clear(): void {
    // Lanes are held by prepared calls too: they go on, empty.
    for (const lane of this.#ready) {
      lane.queue = [];
      lane.head = 0;
    }
    this.#lanes.clear();
    this.#ready = [];
    this.#tasks = this.#bytes = 0;
  }

  #dropSettled(lane: Lane): void {
    while (lane.size > 0 && lane.queue[lane.head]!.isSettled) {
      lane.head++;
      this.#tasks--;
    }
  }
}
