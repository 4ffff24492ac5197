// What happens later, or again and again: the map of this folder.
//
//   queues.ts     BullMQ on Redis or on PostgreSQL, one queue for each kind of job
//   release.ts    delays and backoffs: makes waiting tasks runnable when their time has come
//   retention.ts  deletes what has been kept long enough
//
// Nothing here is on a task's road, and nothing is lost with the jobs: at start and every sweep interval they are
// made again from PostgreSQL. The sweep is a timer, as nothing tells that a backend has lost its memory.
import { setTimeout as sleep } from "node:timers/promises";
import { type JobKind, openQueues } from "./queues.js";
import {
  type ReleaseDeps,
  type ReleaseJob,
  rebuildJobs,
  releaseJobs,
  releaseOverdue,
  runRelease,
} from "./release.js";
import { type RetentionDeps, type RetentionLimits, runRetention } from "./retention.js";

export interface BackgroundDeps extends ReleaseDeps, RetentionDeps {
  /** The database of `pool`; the job queues open a few connections of their own. */
  readonly databaseUrl: string;
}

export interface BackgroundOptions extends Partial<Omit<RetentionLimits, "retentionMs">> {
  /** Jobs live in this Redis; without it, in PostgreSQL. Deployments that share one take different `/N` databases. */
  readonly redisUrl?: string | undefined;
  readonly retentionMs: number;
  /** How late a task can be released when its job was lost. Default 15 s. */
  readonly sweepIntervalMs?: number;
  /** How often retention runs, in one replica of all. Default 10 min. */
  readonly retentionIntervalMs?: number;
}

export interface Background {
  /**
   * Has tasks, whose rows say `not_before` already (now, by PostgreSQL's clock, plus the delay), released in time.
   * Never throws and never takes long: if no job can be made, the sweep releases them.
   */
  scheduleRelease(taskIds: readonly string[], delayMs: number): Promise<void>;
  /** Releases what is overdue and makes all jobs again; also done at start and at every sweep. */
  rebuild(): Promise<void>;
  /** Stops; what is under way gets a few seconds. Idempotent. */
  close(): Promise<void>;
}

const DAY_MS = 86_400_000;
const DEFAULTS = {
  sweepIntervalMs: 15_000,
  retentionIntervalMs: 600_000,
  payloadGraceMs: DAY_MS,
  idempotencyMs: DAY_MS,
  tombstoneMs: 90 * DAY_MS,
};
/** Jobs are made for what is due within this many sweep intervals: a sweep that fails is made good by the next. */
const HORIZON_SWEEPS = 3;

/** Starts the workers and the sweep of this replica. */
export async function createBackground(
  deps: BackgroundDeps,
  options: BackgroundOptions,
): Promise<Background> {
  const log = deps.log.child({ part: "background" });
  const settings = { ...DEFAULTS, ...options };
  const horizonMs = settings.sweepIntervalMs * HORIZON_SWEEPS;
  const stop = new AbortController();
  const inner = { ...deps, log };

  const queues = await openQueues({ redisUrl: settings.redisUrl, databaseUrl: deps.databaseUrl, log });
  const release: JobKind<ReleaseJob> = queues.open("release", (job) => runRelease(inner, release, job));
  const retention = queues.open("retention", async () => {
    await runRetention(inner, settings, stop.signal);
  });

  async function rebuild(): Promise<void> {
    await releaseOverdue(inner);
    await rebuildJobs(inner, release, horizonMs);
    await retention.repeat(settings.retentionIntervalMs, {});
  }

  async function sweep(): Promise<void> {
    while (!stop.signal.aborted) {
      await rebuild().catch((error) => log.warn({ err: error }, "the sweep of delayed tasks failed"));
      // Jittered, so that replicas do not sweep in step.
      const waitMs = settings.sweepIntervalMs * (0.8 + 0.4 * Math.random());
      await sleep(waitMs, undefined, { signal: stop.signal, ref: false }).catch(() => {});
    }
  }
  const sweeping = sweep();

  let closing: Promise<void> | undefined;
  return {
    async scheduleRelease(taskIds, delayMs) {
      // Beyond the horizon the row alone waits, and a sweep makes the job in time.
      if (taskIds.length === 0 || delayMs > horizonMs || stop.signal.aborted) return;
      await release.add(releaseJobs(taskIds, delayMs));
    },
    rebuild,
    close() {
      closing ??= (async () => {
        stop.abort();
        await queues.close();
        await sweeping;
      })();
      return closing;
    },
  };
}
