/**
 * What the routes ask of the stations below them on a task's road (intake, dispatch, deliver), as narrow
 * interfaces: the api knows these and nothing behind them.
 */
import type { IdKey, TaskOptions } from "@farloom/protocol";
import type { EndpointRecord } from "../endpoints/registry.js";
import type { FunctionRecord } from "../functions/registry.js";
import type { Principal } from "../identity/principal.js";
import type { Reported } from "./why-waiting.js";

/** One call to be made. */
export interface SubmitItem {
  readonly fn: FunctionRecord;
  /** Opaque bytes, at most MAX_INLINE_BYTES; a reference where the codec says so. */
  readonly args: Buffer;
  readonly codec: number;
  readonly options?: TaskOptions;
}

export interface TaskIntake {
  /**
   * Commits the tasks and resolves with their ids in order: task i is task i of `batchId`. The same batch id
   * again is the same tasks. Throws a FarloomError where none of them was taken.
   */
  submit(
    principal: Principal,
    endpoint: EndpointRecord,
    groupId: IdKey,
    items: SubmitItem[],
    batchId: Buffer,
  ): Promise<IdKey[]>;
}

export interface TaskDispatch {
  /** What the owner of the queue knows of an open task; QUEUED where this replica knows nothing of it. */
  liveState(endpointKey: IdKey, taskKey: IdKey): "QUEUED" | "LEASED" | "STARTED";
  /** How far an open task says that it is, as far as this replica knows. */
  liveProgress(endpointKey: IdKey, taskKey: IdKey): { done: number; total?: number } | undefined;
  /** How many tasks wait before this one at its endpoint; undefined where this replica does not have it in hand. */
  waitingBefore(endpointKey: IdKey, taskKey: IdKey): number | undefined;
  /** What the endpoint's agent told last of how it stands; undefined where this replica has not heard it. */
  reportOf(endpointKey: IdKey): Reported | undefined;
  /** Records the wish and passes it on; what had not been sent is CANCELLED when this resolves. */
  cancel(keys: IdKey[]): Promise<void>;
  /** Undefined where this replica does not own the endpoint's queue. */
  endpointStatus(
    endpointId: string,
  ): { readonly connected: boolean; readonly queued: number; readonly leased: number } | undefined;
  /** The endpoint is gone: its connection is cut, its open tasks end with endpoint_deleted. */
  endpointDeleted?(endpointId: string): Promise<void>;
}

export interface TaskOutputNews {
  /** Resolves when there is more output of this task, or the signal says so. Ask before reading: nothing is missed then. */
  next(key: IdKey, signal: AbortSignal): Promise<void>;
}

export interface TaskDeliver {
  /**
   * Resolves when all have outcomes, when time is up, or when the signal aborts; outcomes that were there before the
   * call count. Rejects only where the database cannot be asked.
   */
  waitFor(keys: IdKey[], timeoutMs: number, signal: AbortSignal): Promise<void>;
}
