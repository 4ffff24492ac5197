/**
 * From committed outcomes to deliveries that wait, beside the road: what was committed here is told here, a moment later and
 * many at once. Tasks of people without webhooks cost a look into a map, and of nobody with webhooks nothing at all.
 *
 *   R1  Nothing that was committed is left out. A row says up to when this replica has told what it committed; of a replica
 *       that is not seen any more, another reads the outcomes since then. Memory that was full is made good the same way.
 *   R2  That row rises only over what must have committed (SETTLED_MS) and was told, and not over the last end of a group
 *       that was not looked at yet.
 *   R3  The same event has the same id, whoever finds it: reading too much tells nothing twice.
 */
import { type IdKey, keyToUuid } from "@farloom/protocol";
import type { Pool } from "pg";
import type { Logger } from "pino";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { Clock } from "../store/database-clock.js";
import { LruMap } from "../support/lru-map.js";
import { groupDeliveries, taskDeliveries, type Wish } from "./events.js";
import { GroupEnds } from "./group-ends.js";
import {
  addDeliveries,
  eachEndedSince,
  endedTasks,
  forgetReplicas,
  leftBehind,
  PAGE,
  readWishes,
  SETTLED_MS,
  settle,
} from "./outbox.js";

/** Ended tasks that wait to be looked at; beyond, they are read from PostgreSQL later. */
const MAX_PENDING = 100_000;
/** Groups of people without webhooks, so that their tasks are passed by. */
const MAX_UNWATCHED = 50_000;
/** Until what failed is tried again. */
const AGAIN_MS = 1_000;
/** A replica that has not been seen for so long is gone, and nothing that it sent commits any more. */
const LEAST_SILENT_MS = 60_000;

export interface RecorderDeps {
  readonly pool: Pool;
  readonly log: Logger;
  readonly clock: Clock;
  readonly epoch: AccessEpoch;
  readonly replicaId: string;
  /** What links begin with. */
  readonly base: string;
  /** Between two beats. */
  readonly beatMs: number;
  readonly onAdded: () => void;
}

export class Recorder {
  readonly #deps: RecorderDeps;
  readonly #pending = new Map<IdKey, IdKey>();
  readonly #unwatched = new LruMap<IdKey, true>(MAX_UNWATCHED);
  readonly #groups: GroupEnds;
  #wishes = new Map<string, Wish[]>();
  #loads = 0;
  #isStale = false;
  /** Ends were left out of memory (R1). */
  #hasGap = false;
  #running: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #settledMs = 0;
  #closed = false;

  private constructor(deps: RecorderDeps) {
    this.#deps = deps;
    this.#groups = new GroupEnds(() => this.#wake());
    deps.epoch.onChange(() => {
      this.#isStale = true;
      this.#wake();
    });
  }

  /** Resolves once it knows who wants to be told: before anything is committed. */
  static async start(deps: RecorderDeps): Promise<Recorder> {
    const recorder = new Recorder(deps);
    await recorder.#load();
    recorder.#settledMs = deps.clock.nowMs();
    await settle(deps.pool, deps.replicaId, recorder.#settledMs);
    return recorder;
  }

  /** These tasks have ended, and their outcomes were committed here. Called for every outcome: it must cost nothing. */
  ended(items: readonly { readonly key: IdKey; readonly groupKey: IdKey }[]): void {
    if (this.#wishes.size === 0 && !this.#isStale) return;
    for (const { key, groupKey } of items) {
      if (this.#unwatched.peek(groupKey)) continue;
      if (this.#pending.size >= MAX_PENDING) {
        this.#hasGap = true;
        break;
      }
      this.#pending.set(key, groupKey);
    }
    if (this.#pending.size > 0) this.#wake();
  }

  /** Says that this replica lives and how far it is, and does what others have left behind. */
  async beat(): Promise<void> {
    const { pool, replicaId, clock, beatMs, log } = this.#deps;
    const nowMs = clock.nowMs();
    await this.#idle();
    if (this.#pending.size === 0) {
      if (this.#hasGap) {
        this.#hasGap = false;
        await this.#read(this.#settledMs, [...this.#wishes.keys()]).catch((error) => {
          this.#hasGap = true;
          throw error;
        });
      }
      this.#settledMs = Math.max(this.#settledMs, Math.min(nowMs, this.#groups.oldestMs) - SETTLED_MS); // R2
    }
    await settle(pool, replicaId, this.#settledMs);
    const left = await leftBehind(pool, Math.max(LEAST_SILENT_MS, 4 * beatMs));
    if (left.length === 0) return;
    log.info({ replicas: left.length }, "telling webhooks of what a replica that is gone may have left");
    await this.#read(Math.min(...left.map(({ atMs }) => atMs)), [...this.#wishes.keys()]);
    await forgetReplicas(
      pool,
      left.map((one) => one.replicaId),
    );
  }

  /** Tells what is in hand. Where it could, nothing is left behind; else another replica, or the next start, reads it. */
  async close(): Promise<void> {
    const { pool, replicaId } = this.#deps;
    this.#groups.close();
    await this.#idle();
    this.#closed = true;
    clearTimeout(this.#timer);
    if (this.#pending.size === 0 && !this.#hasGap && this.#groups.size === 0)
      await forgetReplicas(pool, [replicaId]);
  }

  #wake(): void {
    if (this.#closed || this.#running || this.#timer) return;
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      const isLeft = this.#pending.size > 0 || this.#isStale || this.#groups.isDue;
      // What is left failed, and is tried again.
      if (isLeft && !this.#closed) {
        this.#timer = setTimeout(() => {
          this.#timer = undefined;
          this.#wake();
        }, AGAIN_MS);
        this.#timer.unref();
      }
    });
  }

  /** Resolves when what is in hand was tried. */
  async #idle(): Promise<void> {
    this.#wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    try {
      // What gathers in this turn of the event loop goes together.
      await new Promise((resolve) => setImmediate(resolve));
      while (this.#pending.size > 0 || this.#isStale || this.#groups.isDue) {
        if (this.#isStale) await this.#load();
        await this.#tellTasks();
        await this.#tellGroups();
      }
    } catch (err) {
      this.#deps.log.warn({ err }, "webhooks could not be told yet of what has ended; trying again");
    }
  }

  async #tellTasks(): Promise<void> {
    const page = [...this.#pending].slice(0, PAGE);
    if (page.length === 0) return;
    const loads = this.#loads;
    const watched = await this.#record(page.map(([key]) => keyToUuid(key)));
    for (const [key, groupKey] of page) {
      this.#pending.delete(key);
      if (!watched.has(keyToUuid(groupKey)) && loads === this.#loads) this.#unwatched.set(groupKey, true);
    }
  }

  async #tellGroups(): Promise<void> {
    const { pool, base } = this.#deps;
    for (let group = this.#groups.take(); group !== undefined; group = this.#groups.take()) {
      try {
        const ended = await this.#groups.look(pool, group);
        if (ended) await this.#add(groupDeliveries(this.#wishes.get(ended.ownerId) ?? [], ended, base));
        this.#groups.told(group);
      } catch (error) {
        this.#groups.again(group);
        throw error;
      }
    }
  }

  /** Turns the ends of these tasks into deliveries; returns the groups that belong to somebody with webhooks. */
  async #record(ids: string[]): Promise<Set<string>> {
    const { pool, clock, base } = this.#deps;
    const tasks = await endedTasks(pool, ids, [...this.#wishes.keys()]);
    const wishesOf = (ownerId: string): Wish[] => this.#wishes.get(ownerId) ?? [];
    await this.#add(tasks.flatMap((task) => taskDeliveries(wishesOf(task.ownerId), task, base)));
    for (const { ownerId, groupId } of tasks) {
      if (!wishesOf(ownerId).some(({ events }) => events.includes("group.done"))) continue;
      if (!this.#groups.ended({ id: groupId, ownerId }, clock.nowMs())) this.#hasGap = true;
    }
    return new Set(tasks.map(({ groupId }) => groupId));
  }

  async #add(deliveries: Parameters<typeof addDeliveries>[1]): Promise<void> {
    if ((await addDeliveries(this.#deps.pool, deliveries)) > 0) this.#deps.onAdded();
  }

  #read(atMs: number, ownerIds: readonly string[]): Promise<void> {
    return eachEndedSince(this.#deps.pool, { atMs, ownerIds }, async (ids) => void (await this.#record(ids)));
  }

  /** Who wants to be told. What ended here since somebody began to, and before it was heard, is read. */
  async #load(): Promise<void> {
    this.#isStale = false;
    try {
      const known = new Set([...this.#wishes.values()].flat().map(stamp));
      const wishes = await readWishes(this.#deps.pool);
      const byOwner = new Map<string, Wish[]>();
      for (const wish of wishes) byOwner.set(wish.ownerId, [...(byOwner.get(wish.ownerId) ?? []), wish]);
      this.#wishes = byOwner;
      this.#loads++;
      this.#unwatched.clear();
      const news = wishes.filter((wish) => !known.has(stamp(wish)));
      if (news.length === 0 || this.#loads === 1) return;
      const ownerIds = [...new Set(news.map(({ ownerId }) => ownerId))];
      await this.#read(Math.min(...news.map(({ activeSinceMs }) => activeSinceMs)), ownerIds);
    } catch (error) {
      this.#isStale = true;
      throw error;
    }
  }
}

const stamp = ({ id, activeSinceMs }: Wish): string => `${id} ${activeSinceMs}`;
