/**
 * The rules, each a function of what is known: it yields what violates it. README.md says them in words; the
 * guarantee behind each is in docs/guarantees.md.
 *
 * A rule claims only what the two sources can carry: where one is silent (a task id that the worker did not tell, a
 * client that died before it wrote down an answer), nothing follows.
 */

/** Losses of an agent, and deaths of a worker, after which a task that may run again ends all the same. */
const MAX_AGENT_LOSSES = 10;
const MAX_DEATHS = 3;
/** Reading a clock and writing a line take time. */
const SLACK_NS = 50e6;

/** @typedef {import("./history-index.mjs").Index} Index */
/** @typedef {import("./history-index.mjs").TaskFacts} TaskFacts */
/** @typedef {{task?: string | undefined, nonce?: string | undefined, text: string}} Finding */

const startsOf = (facts) => facts.traces.filter(({ what }) => what === "start");

/** @type {Record<string, (index: Index) => Iterable<Finding>>} */
export const RULES = {
  *lost(index) {
    if (!index.wasAudited) return;
    for (const facts of acknowledged(index)) {
      const [open] = facts.open;
      const [missing] = facts.missing;
      if (open) yield of(facts, `acknowledged, and ${open.state} after quiet`);
      else if (missing) yield of(facts, `acknowledged, and the service knows no such task`);
      else if (facts.told.length === 0) yield of(facts, "acknowledged, and nobody ever told its end");
    }
  },

  *changed(index) {
    for (const facts of index.tasks.values()) {
      const [first, ...rest] = facts.told;
      for (const other of rest) {
        const field = ["state", "reason", "attempt", "result"].find((name) =>
          differ(first[name], other[name]),
        );
        if (field) {
          yield of(
            facts,
            `told ${field} ${first[field]} by ${first.via}, then ${other[field]} by ${other.via}`,
          );
          break;
        }
      }
    }
  },

  *swapped(index) {
    for (const facts of index.tasks.values()) {
      for (const told of facts.told) {
        const { value, says } = told;
        if (facts.nonce === undefined) continue;
        if (value !== undefined && value.nonce !== facts.nonce)
          yield of(facts, `its result says ${value.nonce}`);
        else if (facts.submit?.sha && value !== undefined && value.sha !== facts.submit.sha)
          yield of(facts, `ran with a payload ${value.sha}, was given ${facts.submit.sha}`);
        else if (says !== undefined && says !== facts.nonce) yield of(facts, `its error says ${says}`);
        else continue;
        break;
      }
      if (facts.leaks.length > 0) yield of(facts, "a stranger could read it");
    }
    for (const [nonce, traces] of index.tracesOf) {
      const ids = new Set(traces.map(({ task }) => task).filter((task) => task !== "-"));
      const known = index.tasksOfNonce.get(nonce);
      if (ids.size > 1) yield { nonce, text: `ran under ${[...ids].join(" and ")}` };
      else if (known !== undefined && ids.size === 1 && !known.has([...ids][0]))
        yield { nonce, text: `ran as ${[...ids][0]}, is ${[...known].join(", ")}` };
    }
  },

  *"started-twice"(index) {
    for (const facts of index.tasks.values()) {
      if (facts.submit === undefined || facts.damaged) continue;
      const starts = startsOf(facts);
      const allowed =
        facts.submit.mode === "at_least_once" ? Number.POSITIVE_INFINITY : 1 + facts.submit.retries;
      if (starts.length > allowed) yield of(facts, `${starts.length} starts, at most ${allowed} allowed`);
      const attempts = starts.map(({ attempt }) => attempt).filter((attempt) => attempt > 0);
      const twice = attempts.find((attempt, i) => attempts.indexOf(attempt) !== i);
      if (twice !== undefined) yield of(facts, `attempt ${twice} started more than once`);
    }
  },

  *fence(index) {
    for (const facts of index.tasks.values()) {
      if (facts.damaged) continue;
      const starts = startsOf(facts).filter(({ fence }) => fence > 0);
      for (let i = 1; i < starts.length; i++) {
        if (starts[i].fence > starts[i - 1].fence) continue;
        yield of(facts, `a start with fence ${starts[i].fence} after one with ${starts[i - 1].fence}`);
        break;
      }
    }
  },

  // An attempt begins only once the one before it can end the task no more.
  *stale(index) {
    for (const facts of index.tasks.values()) {
      const [told] = facts.told;
      if (facts.damaged || !(told?.attempt > 0)) continue;
      const later = startsOf(facts).find(({ attempt }) => attempt > told.attempt);
      if (later)
        yield of(
          facts,
          `${told.state} in attempt ${told.attempt}, though attempt ${later.attempt} had started`,
        );
    }
  },

  *"from-nothing"(index) {
    for (const facts of index.tasks.values()) {
      const [told] = facts.told;
      if (told === undefined || facts.nonce === undefined) continue;
      const isOf = ({ attempt }) => attempt === 0 || !(told.attempt > 0) || attempt === told.attempt;
      const has = (what) => facts.traces.some((trace) => trace.what === what && isOf(trace));
      if (told.state === "SUCCEEDED" && !(has("start") && has("end")))
        yield of(facts, `SUCCEEDED in attempt ${told.attempt} without its evidence`);
      else if (told.state === "FAILED" && told.reason === "user_error" && !has("start"))
        yield of(facts, `failed in attempt ${told.attempt}, which never started`);
    }
  },

  *"after-cancel"(index) {
    for (const facts of index.tasks.values()) {
      const cancelled = facts.told.filter(({ state }) => state === "CANCELLED");
      if (!cancelled.some(({ confirmed }) => confirmed === true)) continue;
      const late = facts.traces.find(({ at }) => at > cancelled[0].at + SLACK_NS);
      if (late)
        yield of(
          facts,
          `${late.what} of process ${late.pid} ${msAfter(late, cancelled[0])} after its confirmed cancel was told`,
        );
    }
  },

  *"after-end"(index) {
    for (const facts of index.tasks.values()) {
      const told = facts.told.find(endsItsProcess);
      if (told === undefined || !(told.attempt > 0)) continue;
      const late = facts.traces.find(
        ({ at, attempt }) => attempt === told.attempt && at > told.at + SLACK_NS,
      );
      if (late)
        yield of(
          facts,
          `${late.what} of attempt ${late.attempt} ${msAfter(late, told)} after ${told.state} was told`,
        );
    }
  },

  *"unstarted-ran"(index) {
    for (const facts of index.tasks.values()) {
      const told = facts.told.find(
        ({ state, reason }) => state === "TIMED_OUT" && reason === "queue_time_limit",
      );
      const isOnce = facts.submit?.mode === "at_most_once" && facts.submit.retries === 0;
      if (told && isOnce && startsOf(facts).length > 0)
        yield of(facts, "its time in the queue was over, and it ran");
    }
  },

  *idempotency(index) {
    for (const [nonce, ids] of index.tasksOfNonce) {
      if (ids.size > 1) yield { nonce, text: `one submission, ${ids.size} tasks: ${[...ids].join(", ")}` };
    }
  },

  *"refused-ran"(index) {
    for (const [nonce, refusals] of index.refused) {
      const final = refusals.find((refusal) => refusal.final);
      const ids = index.tasksOfNonce.get(nonce) ?? [];
      const isTaken = [...ids].some((id) => index.tasks.get(id).acked.length > 0);
      const trace = (index.tracesOf.get(nonce) ?? [])[0];
      if (final && !isTaken && trace) yield { nonce, text: `refused for ever (${final.code}), and it ran` };
    }
  },

  *"lost-early"(index) {
    const { reclaimMs } = index.settings;
    if (!(reclaimMs > 0)) return;
    for (const facts of index.tasks.values()) {
      const told = facts.told.find(({ state, reason }) => state === "LOST" && reason === "agent_lost");
      if (told === undefined || facts.submit === undefined || facts.damaged) continue;
      // Only what a service let lapse is unconfirmed; an agent that lost its workers says so at once, and may.
      if (!facts.told.some(({ confirmed }) => confirmed === false)) continue;
      const lifeMs = (told.at - facts.submit.at) / 1e6;
      if (lifeMs < reclaimMs)
        yield of(
          facts,
          `LOST ${Math.round(lifeMs)} ms after its submission, with a reclaim time of ${reclaimMs} ms`,
        );
    }
  },

  *bounded(index) {
    for (const facts of index.tasks.values()) {
      if (facts.submit === undefined) continue;
      const most = 1 + facts.submit.retries + MAX_DEATHS + MAX_AGENT_LOSSES;
      const starts = startsOf(facts).length;
      if (starts > most) yield of(facts, `${starts} starts, at most ${most} with every retry and loss`);
    }
  },

  *poisoned(index) {
    for (const facts of index.tasks.values()) {
      const told = facts.told.find(({ reason }) => reason === "poisoned");
      if (told === undefined) continue;
      const deaths = startsOf(facts).length - facts.traces.filter(({ what }) => what === "end").length;
      if (deaths < MAX_DEATHS) yield of(facts, `poisoned after ${deaths} starts without an end`);
    }
  },

  *left(index) {
    for (const { ev, what } of index.run) if (ev === "left") yield { text: what };
  },
};

/** @param {Index} index */
function* acknowledged(index) {
  for (const facts of index.tasks.values()) if (facts.acked.length > 0) yield facts;
}

/** Ends that are told only once nothing of that attempt runs any more. */
function endsItsProcess({ state, reason }) {
  return (
    state === "SUCCEEDED" ||
    (state === "FAILED" && reason === "user_error") ||
    (state === "TIMED_OUT" && reason === "run_time_limit")
  );
}

/** Zero and nothing at all are no statements. */
function differ(a, b) {
  return a !== undefined && b !== undefined && a !== 0 && b !== 0 && a !== b;
}

function msAfter(late, told) {
  return `${Math.round((late.at - told.at) / 1e6)} ms`;
}

/** @param {TaskFacts} facts @returns {Finding} */
function of({ task, nonce, submit }, text) {
  const what = submit === undefined ? "" : ` (${submit.recipe ?? submit.fn}, ${submit.mode})`;
  return { task, nonce, text: `${text}${what}` };
}
