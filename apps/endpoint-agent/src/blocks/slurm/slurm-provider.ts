/**
 * The provider of Slurm: a block is one job.
 *
 * 1. A block's job is named `farloom-<endpoint>-<block>`, which no other job ever is. So a submission that nobody
 *    answered is looked for before it is repeated, and a block is found again by whoever knows its id.
 * 2. Never two jobs for one block: a repeated submission waits for its twin (`--dependency=singleton`), and of twins that
 *    are seen all but the first are cancelled.
 * 3. One squeue for all blocks, every ten seconds at most, but after an event (`SharedLook`).
 * 4. A controller that does not answer makes blocks unknown, never ended. A job that squeue does not know is asked for by
 *    its number and in accounting before it counts as over.
 * 5. A cancel that could not be placed is remembered, and placed when the controller is back.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { blockLog, withLastWords } from "../block-log.js";
import type { BlockRequest, BlockStatus, Provider } from "../provider.js";
import { SharedLook } from "../shared-look.js";
import { BlockRecords, isBlockId, type SlurmBlock } from "./block-records.js";
import { describeJob, isOver } from "./job-status.js";
import { accountedJob, type JobRow, lookAtQueue, type QueueLook, showJob } from "./queue.js";
import { sbatchArguments } from "./sbatch-arguments.js";
import { runSlurm, SlurmError, type SlurmFailure, slurmEnvironment } from "./slurm-command.js";
import type { SlurmOptions } from "./slurm-options.js";

export interface SlurmProviderOptions {
  /** In the names of jobs: 1 to 64 ASCII letters, digits and -. */
  readonly endpointId: string;
  readonly options: SlurmOptions;
  /** Folder of the blocks' logs, which compute nodes see. Made where it is missing. */
  readonly logDir: string;
  readonly log: Logger;
  /** Environment of Slurm's programs and of blocks. Default: the agent's own. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Between two looks at the queue. Default 10,000. */
  readonly lookEveryMs?: number;
  /** How long sbatch may take before its fate counts as unclear. Default 30,000. */
  readonly sbatchLimitMs?: number;
  /** How long the job of an unclear submission is searched for, from a controller that answers. Default 20,000. */
  readonly searchMs?: number;
}

/** The least that the users of a cluster owe its controller. */
const LOOK_EVERY_MS = 10_000;
/** Many events of one cause (a rack is gone) are one look. */
const LOOK_GAP_MS = 1_000;
/** A controller that is slow to take a submission shows it in the queue this much later, at most. */
const SETTLE_MS = 2_000;
/** Longer than a controller's restart: an unclear submission whose job nobody has seen by then was not taken. */
const SEARCH_MS = 20_000;
const SBATCH_LIMIT_MS = 30_000;

type Answered = Extract<QueueLook, { ok: true }>;

export class SlurmProvider implements Provider {
  readonly name = "slurm";
  readonly #options: SlurmProviderOptions;
  readonly #prefix: string;
  readonly #env: Record<string, string>;
  readonly #look: SharedLook<QueueLook>;
  readonly #blocks: BlockRecords;
  readonly #searchMs: number;
  #tidied: { readonly look: Answered; readonly done: Promise<void> } | undefined;

  constructor(options: SlurmProviderOptions) {
    if (!/^[A-Za-z0-9-]{1,64}$/.test(options.endpointId)) {
      throw new Error(`'${options.endpointId}' cannot stand in the name of a job`);
    }
    this.#options = options;
    this.#prefix = `farloom-${options.endpointId}-`;
    this.#env = slurmEnvironment(options.env ?? process.env);
    this.#blocks = new BlockRecords(this.#prefix);
    this.#searchMs = options.searchMs ?? SEARCH_MS;
    this.#look = new SharedLook({
      look: () => lookAtQueue(this.#prefix, this.#env),
      maxAgeMs: options.lookEveryMs ?? LOOK_EVERY_MS,
      minGapMs: LOOK_GAP_MS,
    });
    mkdirSync(options.logDir, { recursive: true, mode: 0o700 });
  }

  /**
   * Resolves once Slurm has the job, or nobody can tell whether it has: then `status` says `unknown` until the controller
   * answers. Rejects with a `SlurmError` where there is no job.
   */
  async submit(request: BlockRequest): Promise<string> {
    const block = this.#blocks.add(request.id ?? randomBytes(6).toString("hex"));
    const { name } = block;
    const { logDir, options } = this.#options;
    const args = sbatchArguments({ name, logDir, request, options });
    const first = await this.#sbatch(block, args);
    if (first === undefined) return block.id;
    if (first.kind !== "unclear") {
      this.#blocks.remove(block);
      throw new SlurmError(first);
    }
    this.#options.log.warn(
      { block: block.id, reason: first.message },
      "sbatch was not answered; looking for the job",
    );
    if (!(await this.#isAbsent(block))) return block.id;
    // What sets two dependencies is refused; a dependency of the user's own comes first, and twins are cancelled anyway (2).
    const isFree = !options.schedulerOptions.some((option) => option.startsWith("--dependency"));
    const again = await this.#sbatch(block, isFree ? ["--dependency=singleton", ...args] : args);
    if (again === undefined) return block.id;
    if (again.kind === "refused") {
      // The first may still come, and is then a job that nobody waits for.
      block.final = { id: block.id, state: "failed", detail: again.message };
      throw new SlurmError(again);
    }
    return block.id;
  }

  async status(ids: readonly string[], fresh = false): Promise<readonly BlockStatus[]> {
    const blocks = ids.map((id) => this.#blocks.get(id));
    if (blocks.every(({ final }) => final !== undefined)) return blocks.map(({ final }) => final!);
    const look = await this.#look.get(fresh);
    if (look.ok) await this.#tidy(look);
    return Promise.all(blocks.map((block) => this.#statusOf(block, look)));
  }

  async cancel(ids: readonly string[]): Promise<void> {
    const open = ids.map((id) => this.#blocks.get(id)).filter(({ final }) => final === undefined);
    if (open.length === 0) return;
    for (const block of open) block.wantsCancel = true;
    const known = open.flatMap(({ jobId }) => jobId ?? []);
    if (known.length < open.length) {
      // By name, as the number is not known: what is there is cancelled with the look.
      const look = await this.#look.get(true);
      if (!look.ok) throw new SlurmError(look.failure);
      await this.#tidy(look);
    }
    const failure = await this.#scancel(known);
    if (failure !== undefined) throw new SlurmError(failure);
  }

  async list(): Promise<readonly BlockStatus[]> {
    const look = await this.#look.get(true);
    if (!look.ok) throw new SlurmError(look.failure);
    const names = [...look.rows.keys()].filter((name) => look.rows.get(name)!.some((row) => !isOver(row)));
    return this.status(names.map((name) => name.slice(this.#prefix.length)));
  }

  /** Undefined: placed, and the block knows its job. */
  async #sbatch(block: SlurmBlock, args: readonly string[]): Promise<SlurmFailure | undefined> {
    const limitMs = this.#options.sbatchLimitMs ?? SBATCH_LIMIT_MS;
    const answer = await runSlurm("sbatch", args, { env: this.#env, limitMs });
    block.askedAtMs = performance.now();
    if (!answer.ok) {
      block.isUnclear ||= answer.failure.kind === "unclear";
      return answer.failure;
    }
    const jobId = /^(\d+)(?:;|$)/m.exec(answer.output.trim())?.[1];
    if (jobId === undefined) {
      block.isUnclear = true;
      return { kind: "unclear", message: `sbatch printed no job number: ${answer.output.slice(0, 200)}` };
    }
    this.#options.log.info({ block: block.id, job: jobId }, "block submitted");
    block.jobId = jobId;
    return undefined;
  }

  /**
   * Whether it is certain that an unclear submission made no job (1): two looks have not seen it, as a slow controller may
   * show it late.
   */
  async #isAbsent(block: SlurmBlock): Promise<boolean> {
    const giveUpAtMs = performance.now() + this.#searchMs;
    for (let absent = 0; absent < 2; ) {
      const look = await this.#look.get(true);
      if (look.ok) {
        await this.#tidy(look);
        if (look.rows.has(block.name)) return false;
        absent++;
      }
      if (performance.now() > giveUpAtMs) return false;
      await sleep(SETTLE_MS);
    }
    return true;
  }

  /** After each look, once: jobs become known, and those that nobody wants are cancelled (2, 5). */
  #tidy(look: Answered): Promise<void> {
    if (this.#tidied?.look !== look) this.#tidied = { look, done: this.#cancelUnwanted(look) };
    return this.#tidied.done;
  }

  async #cancelUnwanted(look: Answered): Promise<void> {
    const unwanted: string[] = [];
    for (const block of this.#blocks.all()) {
      const live = (look.rows.get(block.name) ?? []).filter((row) => !isOver(row));
      // The first of twins: job numbers rise.
      const own = block.jobId ?? firstOf(look.rows.get(block.name) ?? [])?.jobId;
      block.jobId = own;
      for (const { jobId, state } of live) {
        const isWanted = jobId === own && !block.wantsCancel && block.final === undefined;
        if (!isWanted && state !== "COMPLETING") unwanted.push(jobId);
      }
    }
    if (unwanted.length === 0) return;
    this.#options.log.info({ jobs: unwanted }, "cancelling jobs that nobody waits for");
    await this.#scancel(unwanted);
  }

  async #scancel(jobIds: readonly string[]): Promise<SlurmFailure | undefined> {
    if (jobIds.length === 0) return undefined;
    const answer = await runSlurm("scancel", jobIds, { env: this.#env });
    this.#look.forget();
    // scancel is content with jobs that are over; what it refuses now, it refuses for ever.
    return answer.ok || answer.failure.kind === "refused" ? undefined : answer.failure;
  }

  async #statusOf(block: SlurmBlock, look: QueueLook): Promise<BlockStatus> {
    if (block.final !== undefined) return block.final;
    const { id } = block;
    if (!look.ok) return unknown(block, look.failure);
    const rows = look.rows.get(block.name) ?? [];
    const row = rows.find(({ jobId }) => jobId === block.jobId) ?? firstOf(rows);
    if (row !== undefined) return this.#settle(block, row);
    if (block.askedAtMs >= look.askedAtMs && block.jobId !== undefined) {
      // Younger than the look.
      return { id, state: "pending", jobId: block.jobId, detail: `Slurm has taken it as job ${block.jobId}` };
    }
    return this.#lookUp(block, look);
  }

  /** The queue knows nothing of the block (4). */
  async #lookUp(block: SlurmBlock, look: Answered): Promise<BlockStatus> {
    const { id, jobId, name } = block;
    if (!isBlockId(id)) return { id, state: "unknown", detail: "no block on Slurm has such an id" };
    if (jobId !== undefined) {
      const shown = await showJob(jobId, this.#env);
      if (shown.found === "failure") return unknown(block, shown.failure);
      if (shown.found === "job") return this.#settle(block, shown.row);
    }
    const accounted = await accountedJob(name, this.#env);
    if (accounted.found === "failure") return unknown(block, accounted.failure);
    // Accounting goes on calling a job running that a controller has lost with its memory.
    if (accounted.found === "job" && isOver(accounted.row)) return this.#settle(block, accounted.row);
    if (jobId === undefined && look.askedAtMs - block.askedAtMs < this.#searchMs) {
      return { id, state: "unknown", detail: `Slurm knows no job named ${name} yet` };
    }
    block.final = goneForGood(block);
    return block.final;
  }

  #settle(block: SlurmBlock, row: JobRow): BlockStatus {
    block.jobId = row.jobId;
    const status = describeJob(block.id, row);
    if (!isOver(row)) return status;
    const log = blockLog(this.#options.logDir, block.name);
    block.final =
      status.state === "failed" ? { ...status, detail: withLastWords(status.detail!, log) } : status;
    return block.final;
  }
}

function firstOf(rows: readonly JobRow[]): JobRow | undefined {
  return rows.toSorted((a, b) => Number(a.jobId) - Number(b.jobId))[0];
}

/** The controller answers, has had the time to show the job, and knows of none; nor does accounting. */
function goneForGood({ id, name, jobId, isUnclear }: SlurmBlock): BlockStatus {
  if (jobId !== undefined) {
    const detail = `Slurm no longer knows job ${jobId}, so it is over; how it ended is not recorded`;
    return { id, state: "ended", jobId, detail };
  }
  if (isUnclear) {
    const detail = "sbatch was not answered, and Slurm has no such job: it was not submitted";
    return { id, state: "failed", detail };
  }
  const detail = `Slurm knows no job named ${name}: it is over, or never was submitted; nothing of it is recorded`;
  return { id, state: "ended", detail };
}

function unknown({ id, jobId }: SlurmBlock, { message }: SlurmFailure): BlockStatus {
  const detail = `Slurm cannot be asked now: ${message}`;
  return { id, state: "unknown", detail, ...(jobId === undefined ? {} : { jobId }) };
}
