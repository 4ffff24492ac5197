/**
 * What somebody may do with an endpoint. The levels are in order, and each includes those below it:
 *
 *   view     sees the endpoint and its state
 *   invoke   submits tasks to it
 *   manage   says who else may view and invoke, and which functions it runs; sees nobody's arguments and results
 *   own      all of it; nobody is given this, and nobody takes it away
 *
 *   L1  Entries add up: the highest level that any of them allows.
 *   L2  Deny wins: the lowest level that any of them denies is out of reach, and so is every level above it.
 */
export const LEVELS = { none: 0, view: 1, invoke: 2, manage: 3, own: 4 } as const;
export type Level = (typeof LEVELS)[keyof typeof LEVELS];
/** The levels that entries speak of, by name. */
export const GIVEN_LEVELS = ["view", "invoke", "manage"] as const;
export type GivenLevel = (typeof GIVEN_LEVELS)[number];

/** The same as L1 and L2 in SQL, over the rows of a GROUP BY with `allow` and `deny`. */
export const LEVEL_SQL =
  "greatest(0, least(coalesce(max(a.allow), 0), coalesce(min(nullif(a.deny, 0)), 4) - 1))";

/** How a level is called. */
export function levelName(level: number): string {
  return Object.entries(LEVELS).find(([, n]) => n === level)?.[0] ?? "none";
}
