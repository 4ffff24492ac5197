/**
 * How far a task is kept apart from the machine that it runs on, and from other tasks. Each level has what the levels
 * before it have; an endpoint runs all its workers at one of them, and says which. A function may name the least that
 * it wants (P36).
 *
 *   none        a process of the endpoint's user; secrets that environment variables hold are not handed on
 *   limits      bounded in processes, sizes of files and memory; an environment and a temporary folder of its own; what it
 *               leaves running is ended before the next task
 *   namespaces  sees no process, no file and no network but those that it is given; one submitter for each worker
 *   container   the same, with the files of an image instead of the machine's
 *   user        in namespaces, and as another user of the machine than the endpoint's
 */
export const ISOLATION_LEVELS = ["none", "limits", "namespaces", "container", "user"] as const;
export type IsolationLevel = (typeof ISOLATION_LEVELS)[number];

/** Whether a network is there: never, always, or for functions that ask for it (`env.network`). */
export type NetworkPolicy = boolean | "functions";

/** What an agent says of itself, in its hello. */
export interface IsolationInfo {
  /** The level that its workers run at. */
  level: IsolationLevel;
  /** All that its machine can do, as it has tried. */
  offers: IsolationLevel[];
  network: NetworkPolicy;
}

export function isIsolationLevel(value: unknown): value is IsolationLevel {
  return ISOLATION_LEVELS.includes(value as IsolationLevel);
}

/** Whether a place at level `have` is good enough for what wants `wanted`. What says nothing is at `none`, or wants it. */
export function isolationSuffices(have: unknown, wanted: unknown): boolean {
  if (wanted === undefined || wanted === null || wanted === "none") return true;
  // A wanted level that this version does not know is met by nothing.
  return (
    isIsolationLevel(wanted) &&
    ISOLATION_LEVELS.indexOf(have as IsolationLevel) >= ISOLATION_LEVELS.indexOf(wanted)
  );
}
