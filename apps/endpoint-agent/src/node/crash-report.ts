/**
 * What a crashed Python interpreter wrote of itself: its faulthandler puts the fatal error and the Python traceback at
 * the end of the task's standard error.
 */

const BEGIN = "Fatal Python error: ";
/** As of a traceback that a function raised. */
const MAX_TRACEBACK_BYTES = 16 * 1024;

export interface CrashReport {
  /** E.g. `Fatal Python error: Segmentation fault`. */
  readonly message: string;
  /** What had been written before it. */
  readonly before: string;
  /** The report without the worker's own frames. */
  readonly traceback: string;
}

/** Undefined where there is no such report. */
export function crashReport(stderr: string | undefined): CrashReport | undefined {
  if (stderr === undefined) return undefined;
  const at = stderr.lastIndexOf(BEGIN);
  if (at < 0 || (at > 0 && stderr[at - 1] !== "\n")) return undefined;
  const lines = stderr.slice(at, at + MAX_TRACEBACK_BYTES).split("\n");
  const told = lines.filter((line) => !/^ {2}File ".*\bfarloom_worker\.py"|^Extension modules: /.test(line));
  const message = lines[0]!.trim().slice(0, 300);
  return { message, before: stderr.slice(0, at), traceback: `${told.join("\n").trimEnd()}\n` };
}
