/**
 * The lines of an agent's own audit. A line is one record: what the agent did in one turn of its event loop, chained to
 * the record before as audit/chain.ts says (A1, A2).
 *
 *     {"at":"2026-01-01T00:00:00.000Z","entries":[…],"hash":"…","previous":"…","seq":7}
 *
 *   R1  A line is the canonical JSON of its record: another spelling of the same record counts as changed.
 *   R2  The hash is over the one before and the canonical JSON of `at`, `entries` and `seq`.
 *   R3  Old records are removed by whole files, and a later record says up to which (`audit.dropped`): a chain that
 *       begins anywhere else has lost its beginning.
 */
import { canonicalJson } from "../functions/definition.js";
import { AUDIT_GENESIS, ChainVerifier, chainHash } from "./chain.js";

/** What happened: `what`, e.g. `task.started`, and texts and numbers about it. `ids` are task ids, 32 hexadecimal digits each. */
export interface AgentAuditEntry {
  readonly what: string;
  readonly [field: string]: string | number | boolean | undefined;
}

export interface AgentAuditRecord {
  readonly seq: number;
  /** RFC 3339, UTC, by the machine's own clock. */
  readonly at: string;
  readonly entries: readonly AgentAuditEntry[];
  readonly previous: string;
  readonly hash: string;
}

/** A record's line, without its end, and its hash. `entries` are canonical JSON, one text for each. */
export function agentAuditLine(
  after: { readonly seq: number; readonly hash: string },
  at: string,
  entries: readonly string[],
): { readonly line: string; readonly hash: string } {
  const seq = after.seq + 1;
  const body = `{"at":"${at}","entries":[${entries.join(",")}]`;
  const hash = chainHash(after.hash, `${body},"seq":${seq}}`);
  return { line: `${body},"hash":"${hash}","previous":"${after.hash}","seq":${seq}}`, hash };
}

/** The record of a line; undefined where it is none, or not in its one spelling (R1). */
export function parseAgentAuditLine(line: string): AgentAuditRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { seq, at, entries, previous, hash } = value as Partial<AgentAuditRecord>;
  const isRecord =
    Number.isSafeInteger(seq) &&
    typeof at === "string" &&
    Array.isArray(entries) &&
    entries.every((entry) => typeof (entry as AgentAuditEntry | null)?.what === "string") &&
    [previous, hash].every((text) => typeof text === "string" && /^[0-9a-f]{64}$/.test(text));
  return isRecord && canonicalJson(value) === line ? (value as AgentAuditRecord) : undefined;
}

/** The hash that a record must have (R2). */
export function agentAuditHash({ at, entries, seq, previous }: AgentAuditRecord): string {
  return chainHash(previous, canonicalJson({ at, entries, seq }));
}

/** Recomputes an agent's chain, line by line, over all its files. */
export class AgentAuditVerifier {
  #chain: ChainVerifier | undefined;
  /** What the first record follows; undefined before it has come. */
  #begin: { readonly seq: number; readonly hash: string } | undefined;
  #isBeginTold = false;

  /** The last record that held. */
  get head(): { readonly seq: number; readonly hash: string } {
    return this.#chain?.head ?? { seq: 0, hash: AUDIT_GENESIS };
  }

  /** The number of the first record; 1 where nothing was removed. */
  get from(): number {
    return (this.#begin?.seq ?? 0) + 1;
  }

  /** Whether the chain begins at its beginning, or where it says that it was shortened (R3). */
  get isFromBeginning(): boolean {
    return this.#begin === undefined || this.#isBeginTold;
  }

  /** Why the chain breaks at this line, or its record. */
  add(line: string): { readonly record: AgentAuditRecord } | { readonly why: string } {
    const record = parseAgentAuditLine(line);
    if (record === undefined)
      return { why: `the line after entry ${this.head.seq} is no record as the agent writes them` };
    if (this.#chain === undefined) {
      this.#begin = { seq: record.seq - 1, hash: record.previous };
      this.#isBeginTold = record.seq === 1 && record.previous === AUDIT_GENESIS;
      this.#chain = new ChainVerifier(this.#begin);
    }
    const why = this.#chain.follow(record, agentAuditHash(record));
    if (why !== undefined) return { why };
    for (const { what, through, hash } of record.entries)
      if (what === "audit.dropped" && through === this.#begin?.seq && hash === this.#begin?.hash)
        this.#isBeginTold = true;
    return { record };
  }
}
