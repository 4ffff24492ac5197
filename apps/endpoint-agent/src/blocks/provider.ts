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
  /**
   * The block's id, 1 to 32 ASCII letters and digits, never used twice. Whoever writes it down before `submit` can ask
   * `status` for a block whose `submit` was cut short. Absent: the provider makes one.
   */
  readonly id?: string;
  /** How many nodes the block has. */
  readonly nodes: number;
  /** Tasks that each node runs at the same time. */
  readonly workersPerNode: number;
  /** The block's time limit; absent: none. */
  readonly walltimeMs?: number;
  /**
   * Program and arguments that start a node, the same for every block. Each node runs it with one argument more: the
   * path where that node finds the parameters. A local block runs nothing.
   */
  readonly command: readonly string[];
  /** A file that its owner alone may read, made by the caller: everything of a block that is not the same for all. */
  readonly parametersFile: string;
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
  /** The batch system's word for why: `Resources`, `Priority`, `TimeLimit`. */
  readonly reason?: string;
  /** What the batch system calls the block. */
  readonly jobId?: string;
  /** Names of its nodes, once it has them. */
  readonly nodes?: readonly string[];
  /** When it is expected to begin: milliseconds since 1970, by the batch system's clock. For people. */
  readonly estimatedStartMs?: number;
  /** How often the batch system has begun it anew; absent: never. */
  readonly restarts?: number;
}

export interface Provider {
  /** As in the configuration: `local`, `slurm`. */
  readonly name: string;
  submit(request: BlockRequest): Promise<string>;
  /**
   * One status for each id, in the order of the ids. What it says may be some seconds old, so that asking often costs
   * nothing; `fresh` looks anew, and is for when something has happened (a node is gone).
   */
  status(ids: readonly string[], fresh?: boolean): Promise<readonly BlockStatus[]>;
  cancel(ids: readonly string[]): Promise<void>;
  /** The blocks of this endpoint that are not over, whoever submitted them. Absent: none outlives its agent. */
  list?(): Promise<readonly BlockStatus[]>;
}
