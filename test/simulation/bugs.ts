/**
 * Bugs that can be planted in the simulated world's own wiring, one at a time: tests of the test. Each breaks one
 * rule of the road in the way that a careless change would.
 */
export const BUGS = [
  "durable to the client before the commit",
  "durable to the agent before the commit",
  "the agent forgets a result when it is sent",
  "a worker forgets a result before the journal has it",
  "tasks go to the node before the journal says started",
  "a task that is sent again runs again",
  "what may have started is queued again",
  "a restart charges nothing to dead workers",
  "no attempt in the statement",
  "no epoch in the statement",
  "a later outcome replaces the first",
  "a retry is not written",
  "an attempt is taken for settled whatever its reply",
  "cancelled before the process is gone",
  "drain gives back what has started",
  "a reconnect forgets what travelled",
  "an unknown result is forgotten at once",
  "the client is told before the commit",
  "a node does not say what it has",
] as const;
export type Bug = (typeof BUGS)[number];
export type Bugs = ReadonlySet<Bug>;
export const NO_BUGS: Bugs = new Set();
