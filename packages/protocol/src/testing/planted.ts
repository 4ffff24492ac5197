/**
 * Planted bugs: the mistakes that the guarantees exclude, each behind a switch, so that the fault campaign can show
 * that it would see them. For tests alone: FARLOOM_PLANT=name[,name] is refused unless FARLOOM_TEST_ONLY=1 is set
 * too, and says so on standard error at every start.
 */

/** Every planted bug, and the rule it breaks. */
export const PLANTED_BUGS = {
  "acknowledge-before-commit": "A1: the durable mark and the 202 come before the INSERT",
  "outcome-without-fence": "one outcome: the statement asks neither epoch nor attempt",
  "no-attempt-check": "no swap: a result of an older attempt is taken for the newer one",
  "journal-without-write": "A2: the agent acknowledges what its journal has not written",
  "forget-before-ack": "A5: the agent forgets a result when it has sent it",
  "mark-before-commit": "A5: the service marks results durable before their outcomes are committed",
  "lease-by-wall-clock": "leases lapse by the observer's monotonic clock, not by the time of day",
  "retry-at-most-once": "at_most_once never starts twice: its worker's death is retried",
  "started-after-handover": "A3: the journal says started after the worker has the task",
  "notify-is-truth": "hints may be lost: the sweep is off and hints are dropped",
  "resubmit-new-id": "P11: after a cut the client submits the same task under a new id",
  "outcome-overwritten": "one outcome: a later result replaces the one that stands",
  "results-swapped": "no swap: two results that are written together change places",
  "cancel-confirmed-unkilled": "cancel: said to be confirmed while the process runs on",
  "requeue-held-on-reconnect": "P15: what the agent lists as held is sent to it again, as a new attempt",
  "idempotency-ignored": "an Idempotency-Key makes one submission of many",
  "outbox-drops-results": "P11: unacknowledged results are dropped in a new session",
  "attempt-not-raised": "at_least_once: another attempt keeps the number of the one before",
  "replay-skips-last-segment": "the journal's newest segment is not replayed",
  "payload-digest-unchecked": "digests are checked at both ends",
} as const;

export type PlantedBug = keyof typeof PLANTED_BUGS;

const active: ReadonlySet<string> = readSwitch();

/** Whether this bug is planted in this process. */
export const planted: (name: PlantedBug) => boolean =
  active.size === 0 ? () => false : (name) => active.has(name);

function readSwitch(): ReadonlySet<string> {
  const env = typeof process === "undefined" ? {} : process.env;
  const names = (env.FARLOOM_PLANT ?? "").split(",").filter((name) => name !== "");
  if (names.length === 0) return new Set();
  const unknown = names.find((name) => !Object.hasOwn(PLANTED_BUGS, name));
  if (unknown !== undefined) throw new Error(`FARLOOM_PLANT names ${unknown}, which is no planted bug`);
  if (env.FARLOOM_TEST_ONLY !== "1") {
    throw new Error("FARLOOM_PLANT breaks Farloom on purpose, and is refused without FARLOOM_TEST_ONLY=1");
  }
  process.stderr.write(
    `\n*** FARLOOM_PLANT=${names.join(",")}: this process breaks its promises ON PURPOSE. For tests alone. ***\n\n`,
  );
  return new Set(names);
}
