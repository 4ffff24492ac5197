/**
 * A task's own token: with it a running function submits tasks, and sees what it submitted. Everything that it submits
 * lies in one group, whose id follows from the task's; so the group is the scope, and nothing has to be remembered.
 *
 *   1. It is made for the agent that leases the task, and only where whoever submitted the task asked for it.
 *   2. It holds while the task is open under the attempt that it was made for: that is looked up at every use.
 *   3. It reaches the task's endpoint and the task's group, and nothing else of the owner's.
 */
import { createHash } from "node:crypto";
import { FarloomError, type IdKey, keyAt, keyToUuid, newBatchId, uuidToKey } from "@farloom/protocol";
import type { JWTPayload } from "jose";
import type pg from "pg";
import type { AgentLeases, AgentPrincipal, NestedGrant, Principal, Scope } from "./principal.js";
import { requireLeased, requireScope } from "./principal.js";
import type { Tokens } from "./tokens.js";

/** What a nested token allows within its group; and what one must be allowed to ask for such a token. */
export const NESTED_SCOPES: readonly Scope[] = [
  "functions:write",
  "endpoints:read",
  "tasks:read",
  "tasks:submit",
  "tasks:cancel",
];
/** Functions that it registers are named so: no bare name of the owner's comes to mean another function. */
const NAME_PREFIX = "nested.";
const MAX_NAME_CHARS = 128;

/** What the agent hands to the worker. */
export interface NestedToken {
  readonly token: string;
  readonly expiresInMs: number;
  readonly endpoint: string;
  readonly group: string;
}

/** A task's options ask for a token: whoever submits it must be allowed what that allows. @throws FarloomError SCOPE_MISSING, KEY_NARROW */
export function requireNesting(
  principal: Principal,
  options: { readonly nested?: boolean } | undefined,
): void {
  if (options?.nested !== true) return;
  // Its token registers and submits functions that nobody has named to the key.
  if (principal.narrow !== undefined)
    throw new FarloomError("KEY_NARROW", { action: "asking for a task's own token (nested)" });
  for (const scope of NESTED_SCOPES) requireScope(principal, scope);
}

/** The group of what a task submits: every replica means the same one. */
export function nestedGroupOf(taskKey: IdKey): IdKey {
  const id = keyToUuid(taskKey);
  const random = createHash("sha256").update(`nested group of ${id}`).digest().subarray(0, 10);
  return keyAt(newBatchId(Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16), random));
}

/** The grant in verified claims; undefined where they are none. */
export function nestedGrantOf({ parent, attempt, endpoint }: JWTPayload): NestedGrant | undefined {
  if (typeof parent !== "string" || typeof attempt !== "number" || typeof endpoint !== "string")
    return undefined;
  const taskKey = uuidToKey(parent);
  const endpointKey = uuidToKey(endpoint);
  if (taskKey === undefined || endpointKey === undefined) return undefined;
  const groupKey = nestedGroupOf(taskKey);
  return {
    taskId: parent,
    attempt,
    endpointId: endpoint,
    endpointKey,
    groupId: keyToUuid(groupKey),
    groupKey,
  };
}

export class NestedTokens {
  readonly #pool: pg.Pool;
  readonly #tokens: Tokens;

  constructor(pool: pg.Pool, tokens: Tokens) {
    this.#pool = pool;
    this.#tokens = tokens;
  }

  /**
   * For the agent that leases the task (P43).
   * @throws FarloomError TASK_NOT_FOUND, NESTED_NOT_ASKED, NESTED_ENDED, LEASE_UNKNOWN
   */
  async issue(agent: AgentPrincipal, taskId: string, leases: AgentLeases): Promise<NestedToken> {
    const { rows } = await this.#pool.query<{
      attempt: number;
      owner_id: string;
      nested: boolean;
      open: boolean;
      left_ms: number | null;
    }>({
      name: "nested-issue",
      text: `SELECT t.attempt, t.owner_id, coalesce((t.options ->> 'nested')::boolean, false) AS nested, o.task_id IS NULL AS open,
               (extract(epoch FROM t.deadline_at - now()) * 1000)::float8 AS left_ms
             FROM task t LEFT JOIN outcome o ON o.task_id = t.id
             WHERE t.id = $1 AND t.endpoint_id = $2`,
      values: [taskId, agent.endpointId],
    });
    if (rows[0]?.nested === false) throw new FarloomError("NESTED_NOT_ASKED", { id: taskId });
    if (rows[0]?.open === false) throw new FarloomError("NESTED_ENDED", { id: taskId });
    const row = await requireLeased(leases, agent, taskId, rows[0]);
    const { endpointId } = agent;
    const claims = { parent: taskId, attempt: row.attempt, endpoint: endpointId };
    const grant = nestedGrantOf(claims)!;
    // It acts for whoever submitted the task, who need not be the endpoint's owner.
    await this.#makeGroup(row.owner_id, grant);
    const { token, expiresInMs } = await this.#tokens.sign(
      "nested",
      row.owner_id,
      claims,
      row.left_ms === null ? undefined : Math.max(1000, row.left_ms),
    );
    return { token, expiresInMs, endpoint: endpointId, group: grant.groupId };
  }

  /** Refuses where the task is over, runs under another attempt (2), or its submitter's account is disabled. @throws FarloomError NESTED_ENDED */
  async requireOpen({ taskId, attempt }: NestedGrant): Promise<void> {
    const { rowCount } = await this.#pool.query({
      name: "nested-open",
      text: `SELECT 1 FROM task t JOIN owner w ON w.id = t.owner_id AND w.disabled_at IS NULL
             WHERE t.id = $1 AND t.attempt = $2
             AND NOT EXISTS (SELECT 1 FROM outcome o WHERE o.task_id = t.id)`,
      values: [taskId, attempt],
    });
    if (rowCount === 0) throw new FarloomError("NESTED_ENDED", { id: taskId });
  }

  /**
   * Refuses where one of the tasks is the owner's, but not what the grant's task submitted. What has no row yet is for
   * whoever looks it up: it is on its way, or there is none. @throws FarloomError NESTED_SCOPE
   */
  async requireTasks(principal: Principal, keys: readonly IdKey[]): Promise<void> {
    const { nested, ownerId } = principal;
    if (nested === undefined || keys.length === 0) return;
    const { rows } = await this.#pool.query<{ id: string }>({
      name: "nested-tasks",
      text: "SELECT id FROM task WHERE id = ANY($1::uuid[]) AND owner_id = $2 AND group_id <> $3 LIMIT 1",
      values: [keys.map(keyToUuid), ownerId, nested.groupId],
    });
    if (rows[0])
      throw new FarloomError("NESTED_SCOPE", { detail: `task ${rows[0].id} is none that it submitted` });
  }

  async #makeGroup(ownerId: string, { groupId, taskId }: NestedGrant): Promise<void> {
    const { rows } = await this.#pool.query<{ owner_id: string }>({
      name: "nested-group",
      text: `WITH made AS (INSERT INTO task_group (id, owner_id, name) VALUES ($1, $2, $3)
               ON CONFLICT (id) DO NOTHING RETURNING owner_id)
             SELECT owner_id FROM made UNION ALL SELECT owner_id FROM task_group WHERE id = $1`,
      values: [groupId, ownerId, `nested in ${taskId}`],
    });
    // Somebody else's would be an id that was guessed; a concurrent insert of our own is seen by neither half.
    if (rows[0] !== undefined && rows[0].owner_id !== ownerId)
      throw new FarloomError("GROUP_NOT_FOUND", { id: groupId });
  }
}

/** Where a principal may submit to (3). @throws FarloomError NESTED_SCOPE */
export function requireEndpoint({ nested }: Principal, endpointKey: IdKey): void {
  if (nested !== undefined && nested.endpointKey !== endpointKey)
    throw new FarloomError("NESTED_SCOPE", {
      detail: `it runs at endpoint ${nested.endpointId}, and this is another`,
    });
}

/** Which group a principal may name (3). @throws FarloomError NESTED_SCOPE */
export function requireGroup({ nested }: Principal, groupKey: IdKey | undefined): void {
  if (nested !== undefined && nested.groupKey !== groupKey)
    throw new FarloomError("NESTED_SCOPE", { detail: `its tasks are in group ${nested.groupId}` });
}

/** The name under which a principal's function is registered. */
export function functionNameFor({ nested }: Principal, name: string): string {
  return nested === undefined ? name : `${NAME_PREFIX}${name}`.slice(0, MAX_NAME_CHARS);
}
