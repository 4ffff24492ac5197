/**
 * Why a task is not running yet, in one sentence: facts in, code and sentence out. Pure. The codes are a closed list, in
 * the order in which they are looked for: what holds a task back however all the rest stands comes first.
 */
import type { NodeCapacity } from "../frames/frames.js";
import type { Resources } from "../functions/definition.js";
import type { BlockWait, EndpointReport } from "./report.js";

/** What each code means; docs/waiting.md says the same, and a test holds the two together. */
export const WAIT_CODES = {
  delayed: "its caller asked for a delay, which is not over",
  backoff: "an attempt failed, and the wait before the next is not over",
  endpoint_never_connected: "no agent has ever connected for the endpoint",
  endpoint_away: "the endpoint's agent is not connected",
  endpoint_draining: "the agent is stopping: it takes nothing new",
  nothing_fits: "the function needs more than any node of the endpoint has",
  node_starting: "no node is there yet: a block has begun, and its nodes are on their way",
  block_pending: "no node is there yet: the batch system has not begun a block",
  node_away: "the connection to the nodes is lost; they may come back",
  block_failed: "the endpoint's blocks fail, and none of its nodes is there",
  block_asked: "no node is there yet: a block is being asked for",
  no_worker_free: "every worker is busy, or other tasks come first",
  about_to_begin: "the endpoint has it, and a worker is being made ready for it",
} as const;
export type WaitCode = keyof typeof WAIT_CODES;

/** Where a task stands and what is known of its endpoint. Times in milliseconds since 1970, by the service's clock. */
export interface WaitFacts {
  readonly nowMs: number;
  readonly attempt: number;
  /** Until when a delay or backoff lasts. */
  readonly notBeforeMs?: number | undefined;
  readonly endpoint: {
    readonly connected: boolean;
    /** False: its agent never was. */
    readonly wasConnected: boolean;
    readonly awaySinceMs?: number | undefined;
  };
  /** Whether the agent has it. */
  readonly leased: boolean;
  /** How many tasks wait before it; undefined where this replica cannot tell. */
  readonly before?: number | undefined;
  readonly needs?: Resources | undefined;
  /** What the agent told last, and when that came. */
  readonly report?: EndpointReport | undefined;
  readonly reportedAtMs?: number | undefined;
}

export interface Why {
  readonly code: WaitCode;
  /** For people. */
  readonly sentence: string;
  /** Since when; until when; when a block is expected to begin. */
  readonly sinceMs?: number | undefined;
  readonly untilMs?: number | undefined;
  readonly estimatedStartMs?: number | undefined;
}

/** Explains the wait of a task that has not begun. */
export function whyWaiting(facts: WaitFacts): Why {
  const { nowMs, notBeforeMs, endpoint, report, reportedAtMs = nowMs } = facts;
  if (notBeforeMs !== undefined && notBeforeMs > nowMs) {
    const until = time(notBeforeMs);
    return facts.attempt > 1
      ? {
          code: "backoff",
          untilMs: notBeforeMs,
          sentence: `Attempt ${facts.attempt} begins after its backoff, at ${until}.`,
        }
      : { code: "delayed", untilMs: notBeforeMs, sentence: `It waits for its delay until ${until}.` };
  }
  if (!endpoint.connected) return away(endpoint);
  if (report?.draining) {
    return {
      code: "endpoint_draining",
      sentence:
        "The endpoint's agent is stopping and takes nothing new. The task is kept and goes on when it is back.",
    };
  }
  const lacking = report?.capacities && facts.needs && lacks(facts.needs, report.capacities);
  if (lacking) {
    return {
      code: "nothing_fits",
      sentence: `Its function needs ${lacking.needed}, and no node of the endpoint has that: the most is ${lacking.most}.`,
    };
  }
  if (report?.provider !== undefined && report.nodes === 0)
    return blocks(report, report.provider, reportedAtMs);
  return behind(facts);
}

function away({ wasConnected, awaySinceMs }: WaitFacts["endpoint"]): Why {
  if (!wasConnected) {
    return {
      code: "endpoint_never_connected",
      sentence: "The endpoint's agent has never connected. Start it: farloom endpoint start.",
    };
  }
  const since = awaySinceMs === undefined ? "" : ` since ${time(awaySinceMs)}`;
  return {
    code: "endpoint_away",
    sinceMs: awaySinceMs,
    sentence: `The endpoint's agent is away${since}. The task is kept and goes on when it is back.`,
  };
}

function blocks(report: EndpointReport, provider: string, reportedAtMs: number): Why {
  const { blocks: waiting = [], failure } = report;
  if (waiting.some(({ state }) => state === "running"))
    return {
      code: "node_starting",
      sentence: "A block of the endpoint has begun, and its nodes are on their way.",
    };
  const pending = waiting.filter(({ state }) => state === "pending" || state === "unknown");
  // The one that begins first is the one that matters.
  pending.sort((a, b) => (a.startsInMs ?? Infinity) - (b.startsInMs ?? Infinity));
  if (pending[0] !== undefined) return pendingBlock(pending[0], provider, reportedAtMs);
  if (waiting.some(({ state }) => state === "away")) {
    return {
      code: "node_away",
      sentence:
        "The agent has lost the connection to the endpoint's nodes. The task goes on when they are back, or others come.",
    };
  }
  if (failure !== undefined) {
    const untilMs = reportedAtMs + failure.retryInMs;
    return {
      code: "block_failed",
      untilMs,
      sentence: `The endpoint has no node, and its last block failed: ${ended(failure.message)} Another is asked for at ${time(untilMs)}.`,
    };
  }
  return {
    code: "block_asked",
    sentence: `The endpoint has no node yet: a block is being asked for (${provider}).`,
  };
}

function pendingBlock({ reason, detail, startsInMs }: BlockWait, provider: string, atMs: number): Why {
  const estimatedStartMs = startsInMs === undefined ? undefined : atMs + startsInMs;
  const who = NAMES[provider] ?? `the provider ${provider}`;
  const what = detail ?? reason;
  const says = what === undefined ? `${who} has not begun it` : `${who} says: ${what}`;
  const when = estimatedStartMs === undefined ? "" : `, and expects it to begin at ${time(estimatedStartMs)}`;
  return {
    code: "block_pending",
    estimatedStartMs,
    sentence: `No block of the endpoint has begun yet; ${says}${when}.`,
  };
}

/** How people call the batch systems. */
const NAMES: Readonly<Record<string, string>> = { slurm: "Slurm" };

function behind({ before, leased, report }: WaitFacts): Why {
  const busy = report?.places === undefined ? "" : `, as all ${report.places} have work`;
  const isFull = report?.places !== undefined && report.handed + report.queued >= report.places;
  if (leased && before === 0 && !isFull) {
    return {
      code: "about_to_begin",
      sentence: "The endpoint has it, and a worker is being made ready for it.",
    };
  }
  const ahead =
    before === undefined
      ? ""
      : before === 0
        ? "; it is the next"
        : `; ${before === 1 ? "1 task waits" : `${before} tasks wait`} before it`;
  return {
    code: "no_worker_free",
    sentence: `No worker of the endpoint is free${isFull ? busy : ""}${ahead}.`,
  };
}

/** What is needed and nowhere there is, or undefined where some node can hold it. */
function lacks(
  needs: Resources,
  capacities: readonly NodeCapacity[],
): { readonly needed: string; readonly most: string } | undefined {
  const { cores = 1, memoryMb = 0, gpus = 0 } = needs;
  if (capacities.length === 0) return undefined;
  const fits = capacities.some(
    (node) =>
      cores <= (node.cores ?? node.places) && memoryMb <= (node.memoryMb ?? 0) && gpus <= (node.gpus ?? 0),
  );
  if (fits) return undefined;
  const most = (pick: (node: NodeCapacity) => number): number => Math.max(...capacities.map(pick));
  const mostOf = {
    cores: most((node) => node.cores ?? node.places),
    memoryMb: most((node) => node.memoryMb ?? 0),
    gpus: most((node) => node.gpus ?? 0),
  };
  const wanted = { cores, memoryMb, gpus };
  const units = { cores: "cores", memoryMb: "MB of memory", gpus: "GPUs" };
  const keys = (["gpus", "cores", "memoryMb"] as const).filter((key) => wanted[key] > mostOf[key]);
  // Each by itself is somewhere, and all of them together nowhere.
  const named =
    keys.length > 0 ? keys : (["gpus", "cores", "memoryMb"] as const).filter((k) => wanted[k] > 0);
  const say = (of: typeof wanted): string => named.map((key) => `${of[key]} ${units[key]}`).join(" and ");
  return {
    needed: say(wanted),
    most: keys.length > 0 ? say(mostOf) : `${say(mostOf)}, on different nodes`,
  };
}

function ended(message: string): string {
  return /[.!?]$/.test(message) ? message : `${message}.`;
}

function time(ms: number): string {
  return new Date(ms).toISOString();
}
