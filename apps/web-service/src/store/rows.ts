/** The rows of the hot path, as the statements beside this file take and give them. Ids are latin1 keys. */
import type { IdKey, OutcomeDetail, Slice, TaskOptions } from "@farloom/protocol";

/** A task to insert. */
export interface NewTask extends Slice {
  readonly key: IdKey;
  readonly ownerKey: IdKey;
  readonly endpointKey: IdKey;
  readonly functionKey: number;
  readonly groupKey: IdKey;
  readonly codec: number;
  readonly options: TaskOptions | undefined;
}

/** A terminal state to insert, with the lease it was reached under. */
export interface NewOutcome extends Slice {
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
  readonly codec: number;
  readonly attempt: number;
  readonly options: TaskOptions | undefined;
  readonly cancelRequested: boolean;
  /** It waits for a delay or a backoff. */
  readonly waiting: boolean;
}
