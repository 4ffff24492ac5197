/** The rows of the hot path, as the statements beside this file take and give them. Ids are latin1 keys. */
import type { IdKey, OutcomeDetail, SealPlace, Slice, TaskOptions } from "@farloom/protocol";

/** A task to insert. */
export interface NewTask extends Slice, SealPlace {
  readonly key: IdKey;
  readonly ownerKey: IdKey;
  readonly endpointKey: IdKey;
  readonly functionKey: number;
  readonly groupKey: IdKey;
  readonly codec: number;
  readonly options: TaskOptions | undefined;
}

/** A terminal state to insert, with the lease it was reached under. */
export interface NewOutcome extends Slice, SealPlace {
  readonly key: IdKey;
  readonly endpointKey: IdKey;
  /** The owner epoch under which the result came. */
  readonly epoch: number;
  readonly attempt: number;
  readonly state: number;
  readonly reason: number;
  readonly codec: number;
  readonly queueUs: number;
  readonly runUs: number;
  readonly cpuUs: number;
  readonly peakKb: number;
  readonly detail: OutcomeDetail | undefined;
}

/** An open task as a page of an endpoint's queue gives it. */
export interface OpenTask {
  readonly key: IdKey;
  readonly seq: number;
  readonly ownerKey: IdKey;
  readonly functionKey: number;
  readonly groupKey: IdKey;
  readonly args: Buffer;
  /** The caller's seal over the arguments, where there is one. */
  readonly seal: Buffer | undefined;
  readonly codec: number;
  readonly attempt: number;
  readonly options: TaskOptions | undefined;
  readonly cancelRequested: boolean;
  /** It waits for a delay or a backoff. */
  readonly waiting: boolean;
  /** As the column has them (rewrite-tasks.ts). */
  readonly losses: number;
  /** What is left of its time in the queue, and of its life, by PostgreSQL's clock when it was read; undefined: no limit. */
  readonly queueLeftMs: number | undefined;
  readonly lifeLeftMs: number | undefined;
}
