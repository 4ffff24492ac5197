/**
 * Reading tasks: one by one, in batches, in lists, in counts. Rows say what is final; for an open task the owner
 * of its queue is asked for the live state. Everything is read within one owner, twice: each statement says whose tasks,
 * and PostgreSQL shows it no others.
 *
 * Hand-written SQL, since this is asked as often as tasks are submitted: one statement brings the task, its outcome
 * and the names of its function and endpoint.
 */
import {
  type IdKey,
  keyToUuid,
  type OpenState,
  type OutcomeDetail,
  type Resources,
  stateName,
  type TaskState,
  TERMINAL_STATES,
  type TerminalState,
  uuidToKey,
  type Why,
  whyWaiting,
} from "@farloom/protocol";
import type { TenantPool } from "../store/tenant-pool.js";
import type { TaskDispatch } from "./ports.js";
import { waitFacts } from "./why-waiting.js";

/** A task with what is known of it; `result` and `detail` only where they were asked for. */
export interface TaskRow {
  id: string;
  seq: string;
  endpoint_id: string;
  function_key: number;
  group_id: string;
  attempt: number;
  submitted_at: Date;
  not_before: Date | null;
  cancel_requested_at: Date | null;
  started_at: Date | null;
  function_owner: string | null;
  function_name: string | null;
  function_version: number | null;
  function_digest: Buffer | null;
  endpoint_name: string | null;
  endpoint_connected_at: Date | null;
  endpoint_disconnected_at: Date | null;
  endpoint_deleted_at: Date | null;
  /** Null while the task is open; then all of these are. */
  state: number | null;
  reason: number;
  outcome_attempt: number;
  codec: number;
  queue_us: number;
  run_us: number;
  cpu_us: number;
  peak_kb: number;
  finished_at: Date;
  result_bytes: number;
  error: OutcomeDetail["error"] | null;
  result?: Buffer;
  /** Of an open task alone: what its function needs, and what its endpoint's owner wrote of how that stands. */
  needs?: Resources | null;
  endpoint_report?: Record<string, unknown> | null;
  endpoint_reported_at?: Date | null;
  function_runtime?: string | null;
  /** The worker's seal over the result, as it lies in the row. */
  result_sha256?: Buffer | null;
  detail?: OutcomeDetail | null;
}

export interface ListFilter {
  readonly states?: readonly TaskState[] | undefined;
  readonly endpointId?: string | undefined;
  readonly functionKey?: number | undefined;
  readonly groupId?: string | undefined;
  readonly cursor?: number | undefined;
  readonly limit: number;
}

/** Tasks of a group by state; the open ones are told apart only where they are few enough to ask for. */
export interface GroupCounts {
  total: number;
  open: number;
  states: Partial<Record<TaskState, number>>;
}

/** Rows looked at for one page of a list by live state, before the page is cut short with a cursor. */
const MAX_SCANNED_ROWS = 20_000;
/** Open tasks of a group that are asked for their live states. */
const MAX_LIVE_COUNTED = 10_000;

const COLUMNS = `
  t.id, t.seq, t.endpoint_id, t.function_key, t.group_id, t.attempt, t.submitted_at, t.not_before, t.cancel_requested_at, t.started_at,
  n.function_owner, n.function_name, n.function_version, n.function_digest,
  n.endpoint_name, n.endpoint_connected_at, n.endpoint_disconnected_at, n.endpoint_deleted_at,
  o.state, o.reason, o.attempt AS outcome_attempt, o.codec, o.queue_us, o.run_us, o.cpu_us, o.peak_kb, o.finished_at,
  octet_length(o.result) AS result_bytes`;
const FROM = `
  FROM task t
  LEFT JOIN outcome o ON o.task_id = t.id
  LEFT JOIN task_names n ON n.task_id = t.id`;
const ALONG_INDEX = `SELECT set_config(name, 'off', true)
  FROM unnest(ARRAY['enable_sort', 'enable_bitmapscan', 'enable_hashjoin', 'enable_mergejoin', 'enable_seqscan']) AS name`;
/** The traceback is for whoever reads one task; the pickled exception for clients on a link. */
const LIGHT = `SELECT ${COLUMNS}, (o.detail -> 'error') - 'traceback' - 'data' AS error ${FROM}`;
const WHOLE = `SELECT ${COLUMNS}, (o.detail -> 'error') - 'data' AS error, o.detail, o.result, o.result_sha256,
  n.function_runtime, CASE WHEN o.state IS NULL THEN n.function_resources END AS needs,
  CASE WHEN o.state IS NULL THEN n.endpoint_report END AS endpoint_report, n.endpoint_reported_at ${FROM}`;

export class TaskReader {
  readonly #tenants: TenantPool;
  readonly #dispatch: TaskDispatch;

  constructor(tenants: TenantPool, dispatch: TaskDispatch) {
    this.#tenants = tenants;
    this.#dispatch = dispatch;
  }

  /** The owner's tasks of these ids, in no particular order; what is not the owner's is left out. */
  async read(ownerId: string, keys: readonly IdKey[], whole: boolean): Promise<TaskRow[]> {
    const { rows } = await this.#tenants.query<TaskRow>(ownerId, {
      name: whole ? "task-read-whole" : "task-read-light",
      text: `${whole ? WHOLE : LIGHT} WHERE t.owner_id = $1 AND t.id = ANY($2::uuid[])`,
      values: [ownerId, keys.map(keyToUuid)],
    });
    return rows;
  }

  /** The newest first. A page may be shorter than its limit, even empty, and still have a cursor. */
  async list(
    ownerId: string,
    filter: ListFilter,
  ): Promise<{ rows: TaskRow[]; nextCursor: string | undefined }> {
    const wanted = filter.states;
    const openWanted = wanted?.filter((s) => !(s in TERMINAL_STATES)) as OpenState[] | undefined;
    // Live states are not in the rows, so a list by one of them reads on until the page is full.
    const byLiveState = openWanted !== undefined && openWanted.length > 0 && openWanted.length < 3;
    const found: TaskRow[] = [];
    let cursor = filter.cursor;
    for (let scanned = 0; scanned < MAX_SCANNED_ROWS; ) {
      const pageSize = byLiveState ? 1_000 : filter.limit + 1;
      const rows = await this.#page(ownerId, { ...filter, cursor, limit: pageSize });
      scanned += rows.length;
      for (const row of rows) {
        if (found.length === filter.limit) return { rows: found, nextCursor: found.at(-1)!.seq };
        cursor = Number(row.seq);
        if (!byLiveState || wanted!.includes(this.stateOf(row))) found.push(row);
      }
      if (rows.length < pageSize) return { rows: found, nextCursor: undefined };
    }
    return { rows: found, nextCursor: String(cursor) };
  }

  /** Undefined where the owner has no task in that group. */
  async countGroup(ownerId: string, groupId: string): Promise<GroupCounts | undefined> {
    const { rows } = await this.#tenants.query<{ state: number | null; n: string }>(ownerId, {
      name: "task-count-group",
      text: `SELECT o.state, count(*) AS n FROM task t LEFT JOIN outcome o ON o.task_id = t.id
             WHERE t.group_id = $1 AND t.owner_id = $2 GROUP BY o.state`,
      values: [groupId, ownerId],
    });
    if (rows.length === 0) return undefined;
    const counts: GroupCounts = { total: 0, open: 0, states: {} };
    for (const row of rows) {
      counts.total += Number(row.n);
      if (row.state === null) counts.open = Number(row.n);
      else counts.states[stateName(row.state) as TerminalState] = Number(row.n);
    }
    if (counts.open > 0 && counts.open <= MAX_LIVE_COUNTED) {
      const open = await this.openOfGroup(ownerId, groupId, MAX_LIVE_COUNTED);
      for (const { key, endpointKey } of open) {
        const state = this.#dispatch.liveState(endpointKey, key);
        counts.states[state] = (counts.states[state] ?? 0) + 1;
      }
    }
    return counts;
  }

  /** The group's open tasks, oldest first, at most `limit`. */
  async openOfGroup(
    ownerId: string,
    groupId: string,
    limit: number,
    afterSeq = 0,
  ): Promise<{ key: IdKey; endpointKey: IdKey; seq: number }[]> {
    const { rows } = await this.#tenants.query<{ id: string; endpoint_id: string; seq: string }>(ownerId, {
      name: "task-open-of-group",
      text: `SELECT t.id, t.endpoint_id, t.seq FROM task t
             WHERE t.group_id = $1 AND t.owner_id = $2 AND t.seq > $4
               AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)
             ORDER BY t.seq LIMIT $3`,
      values: [groupId, ownerId, limit, afterSeq],
    });
    return rows.map((r) => ({
      key: uuidToKey(r.id)!,
      endpointKey: uuidToKey(r.endpoint_id)!,
      seq: Number(r.seq),
    }));
  }

  /** How many of the tasks with ids from `first` to `last` the owner has: whether a submission was committed. */
  async countRange(ownerId: string, first: IdKey, last: IdKey): Promise<number> {
    const { rows } = await this.#tenants.query<{ n: string }>(ownerId, {
      name: "task-count-range",
      text: "SELECT count(*) AS n FROM task WHERE owner_id = $1 AND id BETWEEN $2 AND $3",
      values: [ownerId, keyToUuid(first), keyToUuid(last)],
    });
    return Number(rows[0]!.n);
  }

  /** Terminal as the row says, else as the owner of the queue knows it. */
  stateOf(row: TaskRow): TaskState {
    if (row.state !== null) return stateName(row.state)!;
    const live = this.#dispatch.liveState(uuidToKey(row.endpoint_id)!, uuidToKey(row.id)!);
    // Another replica may own the queue; what it wrote behind tells at least this much.
    return live === "QUEUED" && row.started_at !== null ? "STARTED" : live;
  }

  /** How far an open task says that it is; only the owner of its queue knows. */
  progressOf(row: TaskRow): { done: number; total?: number } | undefined {
    return this.#dispatch.liveProgress(uuidToKey(row.endpoint_id)!, uuidToKey(row.id)!);
  }

  /** Whether the endpoint's agent is there, as far as this replica can tell. */
  endpointConnected(row: TaskRow): boolean {
    const live = this.#dispatch.endpointStatus(row.endpoint_id);
    if (live) return live.connected;
    const { endpoint_connected_at: on, endpoint_disconnected_at: off } = row;
    return on !== null && (off === null || off < on);
  }

  /** Why an open task that has not begun waits. */
  whyOf(row: TaskRow, state: TaskState): Why {
    const known = { leased: state === "LEASED", connected: this.endpointConnected(row) };
    return whyWaiting(waitFacts(this.#dispatch, row, known));
  }

  async #page(ownerId: string, filter: ListFilter): Promise<TaskRow[]> {
    const values: unknown[] = [ownerId];
    const where = ["t.owner_id = $1"];
    const and = (condition: string, value: unknown): void => {
      values.push(value);
      where.push(condition.replace("?", `$${values.length}`));
    };
    if (filter.cursor !== undefined) and("t.seq < ?", filter.cursor);
    if (filter.endpointId !== undefined) and("t.endpoint_id = ?", filter.endpointId);
    if (filter.functionKey !== undefined) and("t.function_key = ?", filter.functionKey);
    if (filter.groupId !== undefined) and("t.group_id = ?", filter.groupId);
    if (filter.states !== undefined) {
      const terminal = filter.states.flatMap((s) =>
        s in TERMINAL_STATES ? [TERMINAL_STATES[s as TerminalState]] : [],
      );
      const open = terminal.length < filter.states.length ? " OR o.state IS NULL" : "";
      and(`(o.state = ANY(?::smallint[])${open})`, terminal);
    }
    values.push(filter.limit);
    const text = `${LIGHT} WHERE ${where.join(" AND ")} ORDER BY t.seq DESC LIMIT $${values.length}`;
    return this.#alongIndex(ownerId, text, values);
  }

  /**
   * Runs a page's query along the index, newest first, whatever the statistics of a table that has just grown a
   * thousandfold say: the plan that they suggest reads and sorts all that the owner has.
   */
  #alongIndex(ownerId: string, text: string, values: unknown[]): Promise<TaskRow[]> {
    return this.#tenants.reading(ownerId, async (client) => {
      await client.query(ALONG_INDEX);
      return (await client.query<TaskRow>(text, values)).rows;
    });
  }
}
