/**
 * How an endpoint stands, as its agent tells it (P32): what it has room for, what of its blocks has not begun and why.
 * Written for a service that explains a wait (why.ts), never for deciding anything. `readReport` is the edge: what it
 * gives is bounded and of these shapes, whatever an agent sent.
 */
import type { NodeCapacity } from "../frames/frames.js";

/**
 * A block that no node of is here: asked for, waiting in a batch system, not known to it now, begun with its nodes on
 * their way, or away, as the connection to its nodes is lost.
 */
export interface BlockWait {
  readonly state: (typeof STATES)[number];
  /** The batch system's word for why: `Resources`, `Priority`. */
  readonly reason?: string | undefined;
  /** The provider's own words. */
  readonly detail?: string | undefined;
  /** Until the batch system expects it to begin, when the report was made; in milliseconds. */
  readonly startsInMs?: number | undefined;
}

export interface EndpointReport {
  /** It takes nothing new. */
  readonly draining: boolean;
  /** Tasks that no node has yet, and tasks that nodes have. */
  readonly queued: number;
  readonly handed: number;
  /** Nodes that are connected, and the places that they have together where they say it. */
  readonly nodes: number;
  readonly places?: number | undefined;
  /**
   * What nodes have for tasks, each kind once; absent where one takes whatever comes. A task that none of these can hold
   * never runs there, unless other nodes come.
   */
  readonly capacities?: readonly NodeCapacity[] | undefined;
  /** Where nodes come from, if from blocks. */
  readonly provider?: string | undefined;
  readonly blocks?: readonly BlockWait[] | undefined;
  /** Why the last block failed, and until the next is asked for; absent once one has begun. */
  readonly failure?: { readonly message: string; readonly retryInMs: number } | undefined;
}

const STATES = ["asked", "pending", "unknown", "running", "away"] as const;
/** Blocks and kinds of nodes in one report. */
const MAX_BLOCKS = 8;
const MAX_CAPACITIES = 8;
const MAX_TEXT = 300;

/** What an agent sent, as a report: unknown fields go, texts and lists are cut to their bounds. */
export function readReport(value: Readonly<Record<string, unknown>>): EndpointReport {
  const { capacities, blocks, failure } = value;
  const failed = isMap(failure) ? failure : undefined;
  return {
    draining: value.draining === true,
    queued: count(value.queued) ?? 0,
    handed: count(value.handed) ?? 0,
    nodes: count(value.nodes) ?? 0,
    places: count(value.places),
    capacities: Array.isArray(capacities)
      ? capacities.slice(0, MAX_CAPACITIES).filter(isMap).map(capacityOf)
      : undefined,
    provider: text(value.provider),
    blocks: Array.isArray(blocks) ? blocks.slice(0, MAX_BLOCKS).filter(isMap).map(blockOf) : undefined,
    failure: failed && { message: text(failed.message) ?? "", retryInMs: count(failed.retryInMs) ?? 0 },
  };
}

/** Cuts what is sent to the bounds that `readReport` keeps. */
export function boundReport(report: EndpointReport): Record<string, unknown> {
  return readReport(report as unknown as Record<string, unknown>) as unknown as Record<string, unknown>;
}

function capacityOf(value: Readonly<Record<string, unknown>>): NodeCapacity {
  return {
    places: count(value.places) ?? 1,
    cores: count(value.cores),
    memoryMb: count(value.memoryMb),
    gpus: count(value.gpus),
  };
}

function blockOf(value: Readonly<Record<string, unknown>>): BlockWait {
  return {
    state: STATES.find((state) => state === value.state) ?? "unknown",
    reason: text(value.reason),
    detail: text(value.detail),
    startsInMs: count(value.startsInMs),
  };
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value);
}

function count(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value.slice(0, MAX_TEXT) : undefined;
}
