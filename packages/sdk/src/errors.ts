/**
 * Errors a caller sees. FarloomError is the catalogue's; the TaskErrors below it say how a task ended. What the
 * service said of itself (problem documents, `refused`, `refuse`) keeps the service's words.
 */
import {
  ERRORS,
  type ErrorCode,
  FarloomError,
  isRetryable,
  type OutcomeDetail,
  type Reason,
  type TerminalState,
} from "@farloom/protocol";

/** How a task ended, for its error. */
export interface TaskEnd {
  readonly taskId: string;
  readonly state: TerminalState;
  readonly reason: Reason;
  readonly detail: OutcomeDetail | undefined;
}

/** A task that did not succeed. */
export class TaskError extends FarloomError {
  override readonly name: string = "TaskError";
  readonly taskId: string;
  readonly state: TerminalState;
  readonly reason: Reason;
  /** What the function wrote, as far as it was kept (tail of 64 KiB). */
  readonly stdout: string | undefined;
  readonly stderr: string | undefined;

  constructor(code: ErrorCode, end: TaskEnd, message: string, cause?: unknown) {
    super(code, {}, cause === undefined ? {} : { cause });
    this.message = message;
    this.taskId = end.taskId;
    this.state = end.state;
    this.reason = end.reason;
    this.stdout = end.detail?.stdout;
    this.stderr = end.detail?.stderr;
  }
}

/** The function raised, or could not be run. */
export class TaskFailedError extends TaskError {
  override readonly name: string = "TaskFailedError";
  /** The exception's type on the other side, e.g. `ValueError`. */
  readonly remoteType: string | undefined;
  readonly remoteMessage: string | undefined;
  readonly remoteTraceback: string | undefined;
  readonly exitCode: number | undefined;

  constructor(end: TaskEnd, code: ErrorCode = "TASK_FAILED", message = failureMessage(end)) {
    super(code, end, message);
    this.remoteType = end.detail?.error?.type;
    this.remoteMessage = end.detail?.error?.message;
    this.remoteTraceback = end.detail?.error?.traceback;
    this.exitCode = end.detail?.exitCode;
  }
}

/** The worker process ended while it ran the task. */
export class WorkerDiedError extends TaskFailedError {
  override readonly name: string = "WorkerDiedError";

  constructor(end: TaskEnd) {
    super(end, "WORKER_DIED", workerDiedMessage(end));
  }
}

export class TaskTimedOutError extends TaskError {
  override readonly name: string = "TaskTimedOutError";

  constructor(end: TaskEnd) {
    super("TASK_TIMED_OUT", end, `The task reached its time limit (${words(end.reason)}).`);
  }
}

export class TaskCancelledError extends TaskError {
  override readonly name: string = "TaskCancelledError";

  constructor(end: TaskEnd, cause?: unknown) {
    super("TASK_CANCELLED", end, ERRORS.TASK_CANCELLED.message, cause);
  }
}

/** The task had, or may have, started when its agent was lost; it was not run again. */
export class TaskLostError extends TaskError {
  override readonly name: string = "TaskLostError";

  constructor(end: TaskEnd) {
    super("TASK_LOST", end, ERRORS.TASK_LOST.message);
  }
}

/** The error that a task's end is to its caller. Not for SUCCEEDED. */
export function taskError(end: TaskEnd, cause?: unknown): TaskError {
  switch (end.state) {
    case "CANCELLED":
      return new TaskCancelledError(end, cause);
    case "TIMED_OUT":
      return new TaskTimedOutError(end);
    case "LOST":
      return end.reason === "worker_died" ? new WorkerDiedError(end) : new TaskLostError(end);
    case "FAILED":
    case "SUCCEEDED":
      return end.reason === "worker_died" || end.reason === "poisoned" || end.reason === "out_of_memory"
        ? new WorkerDiedError(end)
        : new TaskFailedError(end);
  }
}

function failureMessage({ reason, detail }: TaskEnd): string {
  const error = detail?.error;
  if (error === undefined) {
    const exit = detail?.exitCode === undefined ? "" : ` with exit code ${detail.exitCode}`;
    return `The task failed${exit} (${words(reason)}).`;
  }
  if (reason === "user_error" || reason === "none")
    return `The function raised ${error.type}: ${error.message}`;
  return error.message;
}

function workerDiedMessage({ reason, detail }: TaskEnd): string {
  const how =
    detail?.error?.message ??
    (detail?.signal
      ? `by ${detail.signal}`
      : detail?.exitCode === undefined
        ? words(reason)
        : `exit code ${detail.exitCode}`);
  return `The worker process ended while it ran the task: ${how.replace(/\.$/, "")}.`;
}

function words(reason: Reason): string {
  return reason.replaceAll("_", " ");
}

/** What the other side said was wrong, in its own words. Unknown codes keep their retryability as told. */
export function remoteError(
  code: string,
  message: string,
  options: { retryAfterMs?: number | undefined; status?: number; retryable?: boolean } = {},
): FarloomError {
  const known = code in ERRORS;
  const error = new FarloomError(
    known ? (code as ErrorCode) : "INTERNAL",
    {},
    options.retryAfterMs === undefined ? {} : { retryAfterMs: options.retryAfterMs },
  );
  error.message = message || error.message;
  if (!known) {
    const told = { code, status: options.status ?? 500, retryable: options.retryable ?? false };
    Object.assign(error, told);
  }
  return error;
}

/** Whether the same request may succeed later. The one place where the client decides that. */
export function mayRetry(error: unknown): boolean {
  return error instanceof FarloomError && (error.retryable || isRetryable(error.code));
}
