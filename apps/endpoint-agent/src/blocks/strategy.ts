/**
 * How many blocks there should be: pure numbers in, a decision out. No clock, no chance, no I/O.
 *
 *   S1  Never more than `max` blocks, and never fewer than `min` but while they cannot be had.
 *   S2  Blocks are asked for as soon as the work needs them, one for each that is missing; those that wait in a batch
 *       system's queue count as there, so that nothing is asked for twice.
 *   S3  A block is let go only where it is not needed and has had nothing to do for `idleMs`: work that comes in bursts
 *       finds its blocks, and blocks do not come and go with every task. One that waits in a queue is withdrawn where
 *       it has not been needed for as long.
 *   S4  After blocks that failed at once, the next is asked for after a wait that doubles, and alone.
 */

export interface StrategyLimits {
  readonly minBlocks: number;
  /** Blocks to begin with, before anything is known of the work. */
  readonly initBlocks: number;
  readonly maxBlocks: number;
  /** Tasks that a block runs at the same time. */
  readonly placesPerBlock: number;
  /** Places wanted for each task that waits or runs: 1 one each; 0.5 one for two; 0 never more than one block. */
  readonly parallelism: number;
  readonly idleMs: number;
}

/** A block that is there or asked for, and not to end. */
export interface BlockView {
  readonly id: string;
  readonly state: "pending" | "running";
  /** For how long it has had nothing to do; undefined where it has, and while it is pending. */
  readonly idleMs: number | undefined;
}

export interface Situation {
  /** Places that the waiting tasks would fill. */
  readonly queuedPlaces: number;
  /** Tasks at the nodes. */
  readonly handed: number;
  /** In the order in which they were asked for. */
  readonly blocks: readonly BlockView[];
  /** The agent has just begun: its initial blocks are not all there, and there was no work yet. */
  readonly isFirst: boolean;
  /** For how long there have been more blocks than are wanted; 0 where there are not. */
  readonly surplusMs: number;
  /** Blocks in a row that failed at once. */
  readonly failures: number;
  /** Until the next may be asked for. */
  readonly retryInMs: number;
}

export interface Decision {
  /** How many blocks to ask for. */
  readonly submit: number;
  /** Which to let go. */
  readonly release: readonly string[];
  /** How many the work needs, for people and for `surplusMs`. */
  readonly wanted: number;
}

export function decide(limits: StrategyLimits, situation: Situation): Decision {
  const { blocks, failures, retryInMs } = situation;
  const wanted = wantedBlocks(limits, situation);
  const missing = wanted - blocks.length;
  if (missing > 0) {
    const submit = retryInMs > 0 ? 0 : failures > 0 ? 1 : missing; // S2, S4
    return { submit, release: [], wanted };
  }
  return { submit: 0, release: surplus(limits, situation, -missing), wanted };
}

function wantedBlocks(limits: StrategyLimits, { queuedPlaces, handed, isFirst }: Situation): number {
  const { minBlocks, initBlocks, maxBlocks, placesPerBlock, parallelism } = limits;
  const work = queuedPlaces + handed;
  const needed = work === 0 ? 0 : Math.max(1, Math.ceil((work * parallelism) / placesPerBlock));
  return Math.min(maxBlocks, Math.max(minBlocks, needed, isFirst ? initBlocks : 0)); // S1
}

/** S3: first those that wait in vain, the newest first; then those that have been idle longest. */
function surplus(
  { idleMs: patienceMs }: StrategyLimits,
  { blocks, surplusMs }: Situation,
  count: number,
): string[] {
  const pending =
    surplusMs >= patienceMs ? blocks.filter((block) => block.state === "pending").reverse() : [];
  const idle = blocks
    .filter((block) => block.state === "running" && (block.idleMs ?? -1) >= patienceMs)
    .sort((a, b) => b.idleMs! - a.idleMs!);
  return [...pending, ...idle].slice(0, count).map((block) => block.id);
}

/** The first wait after a block that failed at once. */
const FIRST_RETRY_MS = 5_000;
/** The longest: a partition that is down for a night costs a try every five minutes. */
const MOST_RETRY_MS = 300_000;

/** How long to wait after so many failures in a row. `random` is from 0 to 1, so that many agents do not come at once. */
export function retryAfterMs(failures: number, random: number): number {
  if (failures === 0) return 0;
  const most = Math.min(MOST_RETRY_MS, FIRST_RETRY_MS * 2 ** (failures - 1));
  return most / 2 + (random * most) / 2;
}
