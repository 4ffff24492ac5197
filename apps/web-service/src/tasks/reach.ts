/**
 * Which of its owner's tasks a principal sees: all of them, or, with a narrow key, those that the key could have
 * submitted. A running task's own token asks for nothing else than what the task submitted, or is refused.
 */
import { type IdKey, keyToUuid, uuidToKey } from "@farloom/protocol";
import type { FunctionRegistry } from "../functions/registry.js";
import { reachesEndpoint, reachesFunction } from "../identity/narrow.js";
import type { NestedTokens } from "../identity/nested.js";
import type { Principal } from "../identity/principal.js";
import type { TenantPool } from "../store/tenant-pool.js";

/** What of a task says whether a narrow key reaches it. */
export interface ReachedTask {
  readonly endpoint_id: string;
  readonly function_key: number;
}

export class TaskReach {
  readonly #tenants: TenantPool;
  readonly #functions: FunctionRegistry;
  readonly #nested: NestedTokens;

  constructor(tenants: TenantPool, functions: FunctionRegistry, nested: NestedTokens) {
    this.#tenants = tenants;
    this.#functions = functions;
    this.#nested = nested;
  }

  /** Those of `keys` that the principal may name; it is not said that they exist. @throws FarloomError NESTED_SCOPE */
  async within(principal: Principal, keys: readonly IdKey[]): Promise<IdKey[]> {
    await this.#nested.requireTasks(principal, keys);
    if (principal.narrow === undefined || keys.length === 0) return [...keys];
    const { rows } = await this.#tenants.query<ReachedTask & { id: string }>(principal.ownerId, {
      name: "tasks-within",
      text: "SELECT id, endpoint_id, function_key FROM task WHERE id = ANY($1::uuid[]) AND owner_id = $2",
      values: [keys.map(keyToUuid), principal.ownerId],
    });
    return (await this.filter(principal, rows)).map((row) => uuidToKey(row.id)!);
  }

  /** Those of the owner's rows that the principal sees. */
  async filter<T extends ReachedTask>(principal: Principal, rows: readonly T[]): Promise<T[]> {
    const { narrow } = principal;
    if (narrow === undefined) return [...rows];
    const seen: T[] = [];
    for (const row of rows) {
      if (!reachesEndpoint(narrow, uuidToKey(row.endpoint_id)!)) continue;
      const fn = narrow.functions && (await this.#functions.byKey(row.function_key));
      if (fn === undefined ? narrow.functions === undefined : reachesFunction(narrow, fn)) seen.push(row);
    }
    return seen;
  }
}
