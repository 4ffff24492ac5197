/** The judge is judged: hand-made histories, each of which breaks one rule, and a clean one that breaks none. */
import { describe, expect, it } from "vitest";
import { check } from "./check.mjs";
import { RULES } from "./rules.mjs";

const MS = 1e6;

interface Trace {
  task: string;
  attempt: number;
  fence: number;
  pid: number;
  what: string;
  nonce: string;
  at: number;
}

/** One run: a clean task of each kind, to be disturbed by a test. */
class Story {
  // biome-ignore lint/suspicious/noExplicitAny: records are JSON of many shapes.
  readonly histories: any[] = [];
  readonly evidence: Trace[] = [];
  // biome-ignore lint/suspicious/noExplicitAny: the same.
  readonly run: any[] = [{ ev: "settings", at: 0, reclaimMs: 20_000 }];

  /** What the client writes before it sends, and the acknowledgement. */
  submitted(nonce: string, more: Record<string, unknown> = {}, acked = true): this {
    const task = `id-${nonce}`;
    const submit = {
      fn: "noop",
      recipe: "single",
      mode: "at_most_once",
      retries: 0,
      endpoint: "e0",
      ...more,
    };
    this.histories.push({ ev: "submit", at: 10 * MS, client: "client-0", nonce, task, ...submit });
    if (acked) this.histories.push({ ev: "acked", at: 20 * MS, client: "client-0", nonce, task });
    return this;
  }

  ran(nonce: string, { attempt = 1, fence = 65_537, at = 30, end = true, task = `id-${nonce}` } = {}): this {
    const trace = { task, attempt, fence, pid: 7, nonce };
    this.evidence.push({ ...trace, what: "start", at: at * MS });
    if (end) this.evidence.push({ ...trace, what: "end", at: (at + 1) * MS });
    return this;
  }

  told(nonce: string, more: Record<string, unknown> = {}): this {
    const value = { nonce, sha: "" };
    const success = more.state === undefined ? { value, result: `r-${nonce}` } : {};
    const told = { state: "SUCCEEDED", reason: "none", attempt: 1, via: "link", ...success, ...more };
    for (const [client, at] of [
      ["client-0", 40],
      ["audit-1", 90_000],
    ] as const)
      this.histories.push({ ev: "told", at: at * MS, client, task: `id-${nonce}`, ...told });
    return this;
  }

  audit(ev: string, nonce: string, more: Record<string, unknown> = {}): this {
    this.histories.push({ ev, at: 90_000 * MS, client: "audit-1", task: `id-${nonce}`, ...more });
    return this;
  }

  /** The rules that it breaks. */
  get broken(): string[] {
    this.evidence.sort((a, b) => a.at - b.at);
    return [...new Set(check(this).violations.map(({ rule }) => rule))];
  }
}

const once = (nonce: string) => new Story().submitted(nonce).ran(nonce).told(nonce);
const late = (nonce: string, at: number): Trace => ({
  task: `id-${nonce}`,
  attempt: 1,
  fence: 65_537,
  pid: 7,
  what: "beat",
  nonce,
  at: at * MS,
});

describe("a clean history breaks no rule", () => {
  it("of one task that ran once", () => expect(once("a").broken).toEqual([]));

  it("of a task that ran again where it may, with a greater fence", () => {
    const story = new Story().submitted("a", { mode: "at_least_once" });
    story
      .ran("a", { end: false })
      .ran("a", { attempt: 2, fence: 131_074, at: 35 })
      .told("a", { attempt: 2, value: { nonce: "a", sha: "" } });
    expect(story.broken).toEqual([]);
  });

  it("of a confirmed cancel, after which nothing stirred", () => {
    const story = new Story().submitted("a").ran("a", { end: false });
    expect(
      story.told("a", { state: "CANCELLED", reason: "cancelled_by_user", confirmed: true }).broken,
    ).toEqual([]);
  });

  it("of a loss that the agent itself told of, soon", () => {
    const story = new Story().submitted("a").ran("a", { end: false });
    expect(story.told("a", { state: "LOST", reason: "agent_lost" }).broken).toEqual([]);
  });

  it("of a cancel that is not confirmed, after which something did", () => {
    const story = new Story().submitted("a").ran("a", { end: false });
    story.evidence.push(late("a", 900));
    expect(
      story.told("a", { state: "CANCELLED", reason: "cancelled_by_user", confirmed: false }).broken,
    ).toEqual([]);
  });

  it("of a submission that was never answered, and ran or did not", () => {
    expect(once("a").submitted("b", {}, false).ran("b").submitted("c", {}, false).broken).toEqual([]);
  });

  it("of a journal that its disk did not keep, for the tasks that were there", () => {
    const story = once("a").ran("a", { at: 35, fence: 131_073, attempt: 1 });
    expect(story.broken).toEqual(["started-twice"]);
    story.run.push({
      ev: "damage",
      agent: "agent-0",
      endpoint: "e0",
      from: 25 * MS,
      to: 38 * MS,
      at: 38 * MS,
    });
    expect(story.broken).toEqual([]);
  });
});

const VIOLATIONS: Record<string, Record<string, () => Story>> = {
  lost: {
    "an acknowledged task that is open after quiet": () =>
      once("a").submitted("b").audit("open", "b", { state: "QUEUED" }),
    "an acknowledged task that nobody knows": () => once("a").submitted("b").audit("missing", "b"),
    "an acknowledged task of which nobody was told anything": () => once("a").submitted("b"),
  },
  changed: {
    "two terminal states": () =>
      once("a").audit("told", "a", { state: "LOST", reason: "agent_lost", attempt: 1 }),
    "two results": () =>
      once("a").audit("told", "a", { state: "SUCCEEDED", reason: "none", attempt: 1, result: "other" }),
  },
  swapped: {
    "the result of another task": () =>
      new Story()
        .submitted("a")
        .ran("a")
        .told("a", { value: { nonce: "b", sha: "" } }),
    "the payload of another task": () =>
      new Story()
        .submitted("a", { sha: "111" })
        .ran("a")
        .told("a", { value: { nonce: "a", sha: "222" } }),
    "the error of another task": () =>
      new Story()
        .submitted("a")
        .ran("a", { end: false })
        .told("a", { state: "FAILED", reason: "user_error", says: "b" }),
    "the id of another task": () => new Story().submitted("a").ran("a", { task: "id-b" }).told("a"),
    "a stranger who could read it": () => once("a").audit("leak", "a"),
  },
  "started-twice": {
    "at_most_once, two starts": () =>
      new Story()
        .submitted("a")
        .ran("a")
        .ran("a", { at: 35, attempt: 2, fence: 131_074 })
        .told("a", { attempt: 2 }),
    "more starts than the retries asked for": () => {
      const story = new Story().submitted("a", { retries: 1 }).told("a", { attempt: 3 });
      for (const n of [1, 2, 3]) story.ran("a", { attempt: n, fence: 65_536 + n, at: 30 + 2 * n });
      return story;
    },
    "one attempt twice, though it may run again": () =>
      new Story()
        .submitted("a", { mode: "at_least_once" })
        .ran("a")
        .ran("a", { at: 35, fence: 131_073 })
        .told("a"),
  },
  fence: {
    "a later start with an older fence": () =>
      new Story()
        .submitted("a", { mode: "at_least_once" })
        .ran("a", { fence: 131_073 })
        .ran("a", { attempt: 2, fence: 65_538, at: 35 })
        .told("a", { attempt: 2 }),
  },
  stale: {
    "an end in an attempt that another had replaced": () =>
      new Story()
        .submitted("a", { mode: "at_least_once" })
        .ran("a")
        .ran("a", { attempt: 2, fence: 131_074, at: 35 })
        .told("a"),
  },
  "from-nothing": {
    "a success that nothing ran for": () => new Story().submitted("a").told("a"),
    "a success of an attempt that did not end": () =>
      new Story().submitted("a").ran("a", { end: false }).told("a"),
    "a failure of a function that never started": () =>
      new Story().submitted("a").told("a", { state: "FAILED", reason: "user_error" }),
  },
  "after-cancel": {
    "evidence after a confirmed cancel": () => {
      const story = new Story().submitted("a").ran("a", { end: false });
      story.evidence.push(late("a", 900));
      return story.told("a", { state: "CANCELLED", reason: "cancelled_by_user", confirmed: true });
    },
  },
  "after-end": {
    "evidence of the attempt after its time limit": () => {
      const story = new Story().submitted("a").ran("a", { end: false });
      story.evidence.push(late("a", 900));
      return story.told("a", { state: "TIMED_OUT", reason: "run_time_limit" });
    },
  },
  "unstarted-ran": {
    "a task whose time in the queue was over": () =>
      new Story()
        .submitted("a")
        .ran("a", { at: 25 })
        .told("a", { state: "TIMED_OUT", reason: "queue_time_limit" }),
  },
  idempotency: {
    "one submission that became two tasks": () => {
      const story = once("a");
      story.histories.push({
        ev: "acked",
        at: 22 * MS,
        client: "client-0",
        nonce: "a",
        task: "id-a2",
        key: "k",
      });
      return story.audit("told", "a2", {
        state: "SUCCEEDED",
        reason: "none",
        attempt: 1,
        value: { nonce: "a" },
      });
    },
  },
  "refused-ran": {
    "a submission that was refused for ever": () => {
      const story = once("a").submitted("b", {}, false).ran("b");
      story.histories.push({
        ev: "refused",
        at: 15 * MS,
        client: "client-0",
        nonce: "b",
        code: "X",
        final: true,
      });
      return story;
    },
  },
  "lost-early": {
    "LOST before the reclaim time": () =>
      new Story().submitted("a").told("a", { state: "LOST", reason: "agent_lost", confirmed: false }),
  },
  bounded: {
    "attempts without end": () => {
      const story = new Story().submitted("a", { mode: "at_least_once" }).told("a", { attempt: 20 });
      for (let n = 1; n <= 20; n++) story.ran("a", { attempt: n, fence: 65_536 + n, at: n });
      return story;
    },
  },
  poisoned: {
    "poisoned after two deaths": () =>
      new Story()
        .submitted("a", { mode: "at_least_once" })
        .ran("a", { end: false })
        .ran("a", { end: false, attempt: 2, fence: 65_538, at: 33 })
        .told("a", { state: "FAILED", reason: "poisoned", attempt: 2 }),
  },
  left: {
    "a process that was left behind": () => {
      const story = once("a");
      story.run.push({ ev: "left", at: 0, what: "process 7: sleep" });
      return story;
    },
  },
};

describe("each rule is broken by", () => {
  for (const [rule, stories] of Object.entries(VIOLATIONS)) {
    for (const [title, story] of Object.entries(stories))
      it(`${rule}: ${title}`, () => expect(story().broken).toEqual([rule]));
  }

  it("at least one history here", () =>
    expect(Object.keys(VIOLATIONS).sort()).toEqual(Object.keys(RULES).sort()));
});

describe("the floor", () => {
  it("is missed by a run in which everything failed", () => {
    const story = new Story().submitted("a").told("a", { state: "FAILED", reason: "environment" });
    const { violations, missed } = check(story, { floor: { acknowledged: 1, succeeded: 0.9 } });
    expect(violations).toEqual([]);
    expect(missed).toHaveLength(1);
  });

  it("is missed by a run in which too little was broken", () => {
    expect(check(once("a"), { floor: { faults: 1 } }).missed).toHaveLength(1);
  });
});
