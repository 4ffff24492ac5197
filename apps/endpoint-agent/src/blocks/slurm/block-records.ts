/** What a Slurm provider keeps of its blocks, while the agent runs. */
import type { BlockStatus } from "../provider.js";

export interface SlurmBlock {
  readonly id: string;
  /** Of its job. */
  readonly name: string;
  /** Once it is known. */
  jobId: string | undefined;
  /** When sbatch last ended for this block, or it became known here; on the monotonic clock. */
  askedAtMs: number;
  /** Whether a submission may have been taken without an answer. */
  isUnclear: boolean;
  /** Whether somebody cancelled it: its job is to go whenever it is seen. */
  wantsCancel: boolean;
  /** Once it is over: a block that has ended never changes again. */
  final: BlockStatus | undefined;
}

/** Blocks that are over are kept to answer for them; more than this an agent has in months. */
const MOST_OVER = 4096;

/** Whether it can stand in the name of a job. */
export function isBlockId(id: string): boolean {
  return /^[A-Za-z0-9]{1,32}$/.test(id);
}

export class BlockRecords {
  readonly #prefix: string;
  readonly #blocks = new Map<string, SlurmBlock>();

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /** A block that is about to be submitted. Throws where the id is no id, or was used. */
  add(id: string): SlurmBlock {
    if (!isBlockId(id)) throw new Error(`'${id}' cannot be the id of a block`);
    if (this.#blocks.has(id)) throw new Error(`block ${id} was submitted already`);
    return this.get(id);
  }

  /** The block of that id; one that is not known here was submitted by an earlier process of this agent. */
  get(id: string): SlurmBlock {
    const known = this.#blocks.get(id);
    if (known !== undefined) return known;
    const block: SlurmBlock = {
      id,
      name: this.#prefix + id,
      jobId: undefined,
      askedAtMs: performance.now(),
      isUnclear: false,
      wantsCancel: false,
      final: undefined,
    };
    this.#blocks.set(id, block);
    this.#forgetOldest();
    return block;
  }

  remove(block: SlurmBlock): void {
    this.#blocks.delete(block.id);
  }

  all(): IterableIterator<SlurmBlock> {
    return this.#blocks.values();
  }

  #forgetOldest(): void {
    if (this.#blocks.size <= MOST_OVER) return;
    for (const [id, { final }] of this.#blocks) {
      if (final === undefined) continue;
      this.#blocks.delete(id);
      return;
    }
  }
}
