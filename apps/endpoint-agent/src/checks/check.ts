/** One thing that was looked at, what was found, and what to do where it is not as it should be. */
export interface Check {
  readonly name: string;
  /** `skip`: it is not here, or could not be looked at because something above failed. */
  readonly state: "ok" | "warning" | "failed" | "skip";
  readonly detail: string;
  /** What to do. A failed check always has one. */
  readonly cure?: string;
  /** What was found, for programs: only with `--json`. */
  readonly facts?: unknown;
}

const MARKS = { ok: "✓", warning: "!", failed: "✗", skip: "-" } as const;

/** A line for each check, and its cure below it. */
export function checkLines(checks: readonly Check[]): string {
  return checks
    .map(
      ({ name, state, detail, cure }) =>
        `${MARKS[state]} ${name}: ${detail}${cure ? `\n    → ${cure}` : ""}\n`,
    )
    .join("");
}

export function isFailed(checks: readonly Check[]): boolean {
  return checks.some((check) => check.state === "failed");
}

export type Environment = Readonly<Record<string, string | undefined>>;
