/**
 * A provider: where blocks come from. Three verbs, the same for this machine and for a batch system.
 *
 * Invariants
 *   1  `submit` returns an id as soon as the request is placed; the block may wait long after that.
 *   2  `status` never guesses: a block that the provider cannot speak of is `unknown`, which is not `ended`.
 *   3  `cancel` is idempotent, and returns when the request to stop is placed; `status` tells when it is over.
 */

/** What is asked for. */
export interface BlockRequest {
  /** How many nodes the block has. */
  readonly nodes: number;
  /** Tasks that each node runs at the same time. */
  readonly workersPerNode: number;
  /** The block's time limit; absent: none. */
  readonly walltimeMs?: number;
}

/**
 * - `pending`: placed, and not begun
 * - `running`: its nodes are there, or starting
 * - `ended`: over, as it should be (cancelled, idle, walltime)
 * - `failed`: over, or never begun, for the reason in `detail`
 * - `unknown`: the provider does not know it, or cannot be asked now
 */
export type BlockState = "pending" | "running" | "ended" | "failed" | "unknown";

export interface BlockStatus {
  readonly id: string;
  readonly state: BlockState;
  /** For people: the provider's own words. */
  readonly detail?: string;
}

export interface Provider {
  /** As in the configuration: `local`, `slurm`. */
  readonly name: string;
  submit(request: BlockRequest): Promise<string>;
  /** One status for each id, in the order of the ids. */
  status(ids: readonly string[]): Promise<readonly BlockStatus[]>;
  cancel(ids: readonly string[]): Promise<void>;
}
