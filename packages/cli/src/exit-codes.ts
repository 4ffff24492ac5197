/**
 * Exit codes, stable: scripts rely on them. README.md beside this package has this table.
 *
 *     0 done                      4 not authenticated, or the key lacks a scope
 *     1 a task failed, or a       5 the service cannot be reached
 *       check of doctor did       6 a task was cancelled, timed out or was lost
 *     2 wrong usage               7 it conflicts with what is there (exists, runs already)
 *     3 there is no such thing   70 a bug, or the service's own failure
 */
import { FarloomError } from "@farloom/protocol";
import { TaskCancelledError, TaskError, TaskLostError, TaskTimedOutError } from "@farloom/sdk";

export const OK = 0;
export const FAILED = 1;
export const USAGE = 2;
export const NOT_FOUND = 3;
export const NOT_AUTHENTICATED = 4;
export const UNREACHABLE = 5;
export const NOT_FINISHED = 6;
export const CONFLICT = 7;
export const INTERNAL = 70;

/** An error of the command line itself, with what to do about it. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly exitCode: number;
  readonly hint: string | undefined;

  constructor(message: string, exitCode: number, hint?: string) {
    super(message);
    this.exitCode = exitCode;
    this.hint = hint;
  }
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof CliError) return error.exitCode;
  if (error instanceof TaskCancelledError || error instanceof TaskTimedOutError) return NOT_FINISHED;
  if (error instanceof TaskLostError) return NOT_FINISHED;
  if (error instanceof TaskError) return FAILED;
  if (!(error instanceof FarloomError)) return isUserFileError(error) ? USAGE : INTERNAL;
  if (error.code === "SERVICE_UNREACHABLE") return UNREACHABLE;
  if (error.code === "SETTING_MISSING")
    return error.message.startsWith("The API key") ? NOT_AUTHENTICATED : USAGE;
  if (error.status === 404 || error.status === 410) return NOT_FOUND;
  if (error.status === 401 || error.status === 403) return NOT_AUTHENTICATED;
  if (error.status === 409 || error.status === 412) return CONFLICT;
  if (error.status >= 500 || error.status === 429) return error.code === "INTERNAL" ? INTERNAL : UNREACHABLE;
  return error.status === 200 ? FAILED : USAGE;
}

/** A file that the user named is missing or may not be read. */
export function isUserFileError(error: unknown): error is NodeJS.ErrnoException {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === "ENOENT" || code === "EACCES" || code === "EISDIR";
}
