/**
 * Runs Slurm's programs: an argument vector, no shell, a time limit, a bound on what they print. What went wrong is a
 * value with its kind.
 *
 * Slurm's programs end with status 1 whatever the cause, so the kind is read from their messages, in `kindOf` alone. They
 * are not translated, and where none is known the kind is the careful one.
 */
import { type ExecFileException, execFile } from "node:child_process";

/**
 * - `refused`: Slurm answered, and said no; the same again will be refused again
 * - `away`: the controller could not be reached; nothing was placed
 * - `unclear`: the request may have been taken
 * - `missing`: there is no Slurm here, or it is not configured
 */
export type SlurmFailureKind = "refused" | "away" | "unclear" | "missing";

/** What went wrong, in Slurm's words. */
export interface SlurmFailure {
  readonly kind: SlurmFailureKind;
  readonly message: string;
}

export type SlurmAnswer =
  | { readonly ok: true; readonly output: string }
  | { readonly ok: false; readonly failure: SlurmFailure };

/** An expected failure that leaves a provider's verb. */
export class SlurmError extends Error {
  override readonly name = "SlurmError";
  readonly kind: SlurmFailureKind;

  constructor({ kind, message }: SlurmFailure) {
    super(message);
    this.kind = kind;
  }
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** The whole of a busy user's queue fits: 100,000 jobs. */
const MOST_OUTPUT_BYTES = 32 * 1024 * 1024;

/** Slurm itself gives up after 10 s of silence (MessageTimeout), and some sites wait longer. */
export const COMMAND_LIMIT_MS = 30_000;

/** Runs one program of Slurm to its end. Never rejects. */
export function runSlurm(
  program: string,
  args: readonly string[],
  options: { readonly env: Environment; readonly limitMs?: number },
): Promise<SlurmAnswer> {
  return new Promise((resolve) => {
    const limitMs = options.limitMs ?? COMMAND_LIMIT_MS;
    const settings = {
      // The agent's own folder may be gone; this one never is.
      cwd: "/",
      env: { ...options.env },
      timeout: limitMs,
      killSignal: "SIGKILL",
      maxBuffer: MOST_OUTPUT_BYTES,
    } as const;
    const child = execFile(program, args, settings, (error, stdout, stderr) => {
      if (error === null) resolve({ ok: true, output: stdout });
      else resolve({ ok: false, failure: failureOf(program, error, stderr, limitMs) });
    });
    child.stdin?.end();
  });
}

function failureOf(program: string, error: ExecFileException, stderr: string, limitMs: number): SlurmFailure {
  if (error.code === "ENOENT" || error.code === "EACCES") {
    const message = `${program} cannot be run: Slurm's programs are not on the PATH of this machine. Start the agent on a login node`;
    return { kind: "missing", message };
  }
  const words = stderr.trim().slice(-2000);
  if (error.killed || error.signal) {
    const message = `${program} gave no answer within ${limitMs / 1000} s${words && `: ${words}`}`;
    return { kind: "unclear", message };
  }
  return { kind: kindOf(words), message: words || `${program} ended with status ${String(error.code)}` };
}

/** What a message of Slurm means for the request. */
function kindOf(message: string): SlurmFailureKind {
  // No connection was made, so nothing was sent.
  if (/\(connect failure\)|Communication connection failure|standby mode|[Mm]unge/.test(message))
    return "away";
  if (/Could not establish a configuration source|Unable to process configuration/.test(message))
    return "missing";
  // Something was sent, or may have been, and no answer came back.
  const broken =
    /Socket timed out|Zero Bytes|\((?:send|receive|shutdown) failure\)|Message (?:send|receive) failure|shutdown failure|temporarily unable|Connection (?:reset|timed out|refused)|Protocol authentication|[Mm]unge|Unspecified error|Unexpected message|timed out/;
  return broken.test(message) || message === "" ? "unclear" : "refused";
}

/**
 * The environment of Slurm's programs, which a job inherits: the agent's own without what belongs to the agent, to a job
 * that the agent may itself be part of, or would change what the programs do.
 */
export function slurmEnvironment(env: Environment): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value === undefined || (OTHERS.test(name) && name !== "SLURM_CONF")) continue;
    kept[name] = value;
  }
  return kept;
}

const OTHERS = /^(?:FARLOOM|SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SCANCEL|SACCT|SCONTROL|SALLOC)_/;
