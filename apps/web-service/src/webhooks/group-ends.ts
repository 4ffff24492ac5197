/**
 * Groups of which something has ended, until it is known whether all of it has. Looked at once they are quiet: a group whose
 * tasks come one after the other ends once, not after each.
 */
import type { Pool } from "pg";
import { defaultGroupId } from "../tasks/groups.js";
import type { EndedGroup } from "./events.js";
import { endedGroup, firstOpen } from "./outbox.js";

/** Nothing of the group has ended for so long. */
export const QUIET_MS = 1_000;
/** Counting a large group takes a while; between two counts of one lies this many times as long. */
const REST_FACTOR = 20;
const MAX_GROUPS = 10_000;
/** After a look that failed, or where the next is due already. */
const LEAST_TIMER_MS = 200;

export interface GroupEnd {
  readonly id: string;
  readonly ownerId: string;
  /** When the last of its tasks was heard of, by PostgreSQL's clock. */
  readonly lastMs: number;
  /** When it is looked at, on the monotonic clock. */
  readonly dueMs: number;
  /** Before this task all have ended, but for such as commit late; the count looks at them too. */
  readonly fromSeq: string;
}

export class GroupEnds {
  readonly #groups = new Map<string, GroupEnd>();
  /** Taken, and not known yet. */
  readonly #looking = new Set<GroupEnd>();
  /** Where groups that were looked at go on. */
  readonly #seen = new Map<string, { readonly fromSeq: string; readonly notBeforeMs: number }>();
  readonly #onDue: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(onDue: () => void) {
    this.#onDue = onDue;
  }

  get size(): number {
    return this.#groups.size + this.#looking.size;
  }

  /** The oldest last end of those that were not looked at, by PostgreSQL's clock. */
  get oldestMs(): number {
    let oldest = Number.POSITIVE_INFINITY;
    for (const { lastMs } of [...this.#groups.values(), ...this.#looking]) oldest = Math.min(oldest, lastMs);
    return oldest;
  }

  get isDue(): boolean {
    const nowMs = performance.now();
    for (const { dueMs } of this.#groups.values()) if (dueMs <= nowMs) return true;
    return false;
  }

  /** A task of the group has ended. False where there is no room to remember it. */
  ended({ id, ownerId }: { id: string; ownerId: string }, lastMs: number): boolean {
    // Single calls that named no group share one, which is never done.
    if (id === defaultGroupId(ownerId)) return true;
    const known = this.#groups.get(id);
    if (!known && this.#groups.size >= MAX_GROUPS) return false;
    const { fromSeq, notBeforeMs } = this.#seen.get(id) ?? { fromSeq: known?.fromSeq ?? "0", notBeforeMs: 0 };
    const dueMs = Math.max(performance.now() + QUIET_MS, notBeforeMs);
    this.#groups.set(id, { id, ownerId, lastMs, dueMs, fromSeq });
    // One that was planned before is due before.
    if (!this.#timer) this.#plan();
    return true;
  }

  /** One that is quiet; to be given back with `told` or `again`. */
  take(): GroupEnd | undefined {
    const nowMs = performance.now();
    for (const group of this.#groups.values()) {
      if (group.dueMs > nowMs) continue;
      this.#groups.delete(group.id);
      this.#looking.add(group);
      return group;
    }
    return undefined;
  }

  told(group: GroupEnd): void {
    this.#looking.delete(group);
  }

  /** It could not be looked at. */
  again(group: GroupEnd): void {
    this.#looking.delete(group);
    if (!this.#groups.has(group.id)) this.#groups.set(group.id, group);
  }

  /** The group where all of it has ended. */
  async look(pool: Pool, group: GroupEnd): Promise<EndedGroup | undefined> {
    const beganMs = performance.now();
    const open = await firstOpen(pool, group.id, group.fromSeq);
    const ended = open === undefined ? await endedGroup(pool, group.ownerId, group.id) : undefined;
    const nowMs = performance.now();
    this.#seen.delete(group.id);
    if (this.#seen.size >= MAX_GROUPS) this.#seen.clear();
    const fromSeq = open ?? (ended ? ended.lastSeq : "0");
    this.#seen.set(group.id, { fromSeq, notBeforeMs: nowMs + REST_FACTOR * (nowMs - beganMs) });
    return ended;
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #plan(): void {
    let soonestMs = Number.POSITIVE_INFINITY;
    for (const { dueMs } of this.#groups.values()) soonestMs = Math.min(soonestMs, dueMs);
    if (soonestMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#onDue();
        this.#plan();
      },
      Math.max(LEAST_TIMER_MS, soonestMs - performance.now()),
    );
    this.#timer.unref();
  }
}
