/**
 * People's secrets: sealed values by name, that no reply to a person ever has.
 *
 *   S1  What is stored is opened for one purpose: to hand it to the agent that has the task (`deliver`).
 *   S2  A value is bound to its row: whose it is, its name, this setting of it and the endpoints that it may go to. A row
 *       that was changed or moved by hand does not open.
 *   S3  They are those of whoever submitted the task, never of whoever wrote the function.
 */
import { randomUUID } from "node:crypto";
import { FarloomError } from "@farloom/protocol";
import type pg from "pg";
import type { Logger } from "pino";
import { type AgentLeases, type AgentPrincipal, requireLeased } from "../identity/principal.js";
import type { TenantPool } from "../store/tenant-pool.js";
import type { SecretKeys } from "./keys.js";

/** Secrets that one person may have. */
export const MAX_SECRETS_PER_OWNER = 100;
/** Rows that are sealed anew at a time. */
const PAGE = 100;

/** A secret as its owner is shown it. */
export interface SecretInfo {
  readonly name: string;
  /** Ids of the endpoints that it may go to alone; empty: its owner's. */
  readonly endpoints: readonly string[];
  readonly createdAt: Date;
  readonly updatedAt: Date;
  /** To the minute; null: never. */
  readonly lastUsedAt: Date | null;
}

interface SealedRow {
  readonly owner_id: string;
  readonly name: string;
  readonly version: string;
  readonly key_id: string;
  readonly sealed: Buffer;
  readonly endpoints: string[];
}

const INFO = `name, endpoints, created_at AS "createdAt", updated_at AS "updatedAt", last_used_at AS "lastUsedAt"`;

export class SecretStore {
  readonly #pool: pg.Pool;
  readonly #tenants: TenantPool;
  readonly #keys: SecretKeys;
  readonly #log: Logger;

  constructor(pool: pg.Pool, tenants: TenantPool, keys: SecretKeys, log: Logger) {
    this.#pool = pool;
    this.#tenants = tenants;
    this.#keys = keys;
    this.#log = log;
  }

  /** @param endpoints ids; empty: the owner's endpoints. @throws FarloomError QUOTA_EXCEEDED */
  async set(ownerId: string, name: string, value: string, endpoints: readonly string[]): Promise<SecretInfo> {
    const row = { owner_id: ownerId, name, version: randomUUID(), endpoints: [...endpoints] };
    const sealed = this.#keys.seal(Buffer.from(value, "utf8"), aboutOf(row));
    const { rows } = await this.#pool.query<SecretInfo>({
      name: "secret-set",
      text: `INSERT INTO secret (owner_id, name, version, key_id, sealed, endpoints)
             SELECT $1, $2, $3, $4, $5, $6 WHERE EXISTS (SELECT 1 FROM secret WHERE owner_id = $1 AND name = $2)
               OR (SELECT count(*) FROM secret WHERE owner_id = $1) < $7
             ON CONFLICT (owner_id, name) DO UPDATE SET version = excluded.version, key_id = excluded.key_id,
               sealed = excluded.sealed, endpoints = excluded.endpoints, updated_at = now()
             RETURNING ${INFO.replace("name,", "secret.name,")}`,
      values: [
        ownerId,
        name,
        row.version,
        this.#keys.sealingId,
        sealed,
        row.endpoints,
        MAX_SECRETS_PER_OWNER,
      ],
    });
    const limit = MAX_SECRETS_PER_OWNER;
    if (!rows[0]) throw new FarloomError("QUOTA_EXCEEDED", { what: `${limit} secrets`, limit });
    return rows[0];
  }

  /** By name; at most MAX_SECRETS_PER_OWNER, or some more where several replicas took the last ones. */
  async list(ownerId: string): Promise<SecretInfo[]> {
    const { rows } = await this.#tenants.query<SecretInfo & pg.QueryResultRow>(ownerId, {
      name: "secret-list",
      text: `SELECT ${INFO} FROM secret WHERE owner_id = $1 ORDER BY name`,
      values: [ownerId],
    });
    return rows;
  }

  /** @throws FarloomError SECRET_NOT_FOUND */
  async remove(ownerId: string, name: string): Promise<void> {
    const { rowCount } = await this.#pool.query({
      name: "secret-remove",
      text: "DELETE FROM secret WHERE owner_id = $1 AND name = $2",
      values: [ownerId, name],
    });
    if (rowCount === 0) throw new FarloomError("SECRET_NOT_FOUND", { name });
  }

  /**
   * What the task's function is given, for the agent that leases the task (P43): the secrets that the function names and
   * the call was accepted with, as they are now.
   * @throws FarloomError TASK_NOT_FOUND, SECRETS_ENDED, SECRET_MISSING, SECRET_NOT_FOR_ENDPOINT, SECRET_UNREADABLE,
   * LEASE_UNKNOWN
   */
  async deliver(agent: AgentPrincipal, taskId: string, leases: AgentLeases): Promise<Record<string, string>> {
    const { rows } = await this.#pool.query<{
      attempt: number;
      owner_id: string;
      disabled: boolean;
      open: boolean;
      function: string;
      endpoint: string;
      is_own: boolean;
      names: string[] | null;
    }>({
      name: "secret-task",
      text: `SELECT t.attempt, t.owner_id, w.disabled_at IS NOT NULL AS disabled, o.task_id IS NULL AS open,
               fw.name || '/' || f.name AS function, ew.name || '/' || e.name AS endpoint, e.owner_id = t.owner_id AS is_own,
               ARRAY(SELECT jsonb_array_elements_text(f.definition -> 'env' -> 'secrets')
                 INTERSECT SELECT jsonb_array_elements_text(t.options -> 'secrets')) AS names
             FROM task t JOIN function f ON f.key = t.function_key JOIN owner fw ON fw.id = f.owner_id
             JOIN endpoint e ON e.id = t.endpoint_id JOIN owner ew ON ew.id = e.owner_id
             JOIN owner w ON w.id = t.owner_id
             LEFT JOIN outcome o ON o.task_id = t.id
             WHERE t.id = $1 AND t.endpoint_id = $2`,
      values: [taskId, agent.endpointId],
    });
    if (rows[0]?.disabled) throw new FarloomError("TASK_NOT_FOUND", { id: taskId });
    if (rows[0]?.open === false) throw new FarloomError("SECRETS_ENDED", { id: taskId });
    const task = await requireLeased(leases, agent, taskId, rows[0]);
    const names = task.names ?? [];
    const found = await this.#sealed(task.owner_id, names);
    const values: Record<string, string> = {};
    for (const name of names) {
      const row = found.get(name);
      if (!row) throw new FarloomError("SECRET_MISSING", { function: task.function, name });
      requireEndpoint(row, { id: agent.endpointId, ref: task.endpoint, isOwn: task.is_own });
      const value = this.#keys.open(row.key_id, row.sealed, aboutOf(row));
      if (value === undefined) throw new FarloomError("SECRET_UNREADABLE", { name, key: row.key_id });
      values[name] = value.toString("utf8");
    }
    await this.#used(task.owner_id, names);
    return values;
  }

  /** Where each of these secrets may go, of those that there are. */
  async reachOf(ownerId: string, names: readonly string[]): Promise<ReadonlyMap<string, SecretReach>> {
    const { rows } = await this.#pool.query<{ name: string; endpoints: string[] }>({
      name: "secret-reach",
      text: "SELECT name, endpoints FROM secret WHERE owner_id = $1 AND name = ANY($2)",
      values: [ownerId, names],
    });
    return new Map(rows.map((row) => [row.name, row]));
  }

  /** Seals under the first key whatever lies under another, so that the others can go. Returns how many. */
  async sealAnew(): Promise<number> {
    let done = 0;
    let closed = 0;
    let after: readonly string[] = ["00000000-0000-0000-0000-000000000000", ""];
    for (;;) {
      const { rows } = await this.#pool.query<SealedRow>({
        text: `SELECT owner_id, name, version, key_id, sealed, endpoints FROM secret
               WHERE key_id <> $1 AND (owner_id, name) > ($2::uuid, $3) ORDER BY owner_id, name LIMIT $4`,
        values: [this.#keys.sealingId, ...after, PAGE],
      });
      for (const row of rows) {
        const value = this.#keys.open(row.key_id, row.sealed, aboutOf(row));
        if (value === undefined) {
          closed++;
          continue;
        }
        const { rowCount } = await this.#pool.query(
          "UPDATE secret SET key_id = $4, sealed = $5 WHERE owner_id = $1 AND name = $2 AND version = $3",
          [row.owner_id, row.name, row.version, this.#keys.sealingId, this.#keys.seal(value, aboutOf(row))],
        );
        done += rowCount ?? 0;
      }
      const last = rows.at(-1);
      if (!last || rows.length < PAGE) break;
      after = [last.owner_id, last.name];
    }
    if (done > 0)
      this.#log.info({ secrets: done, key: this.#keys.sealingId }, "secrets are under the new key");
    if (closed > 0)
      this.#log.warn({ secrets: closed }, "secrets are sealed under a key that is not in the file");
    return done;
  }

  async #sealed(ownerId: string, names: readonly string[]): Promise<ReadonlyMap<string, SealedRow>> {
    const { rows } = await this.#pool.query<SealedRow>({
      name: "secret-sealed",
      text: `SELECT owner_id, name, version, key_id, sealed, endpoints FROM secret WHERE owner_id = $1 AND name = ANY($2)`,
      values: [ownerId, names],
    });
    return new Map(rows.map((row) => [row.name, row]));
  }

  /** To the minute: a secret that every task has is not written for every task. */
  async #used(ownerId: string, names: readonly string[]): Promise<void> {
    await this.#pool.query({
      name: "secret-used",
      text: `UPDATE secret SET last_used_at = now() WHERE owner_id = $1 AND name = ANY($2)
             AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')`,
      values: [ownerId, names],
    });
  }
}

/** Where a secret may go. */
export interface SecretReach {
  readonly name: string;
  readonly endpoints: readonly string[];
}

/** An endpoint, as a secret's owner sees it. */
export interface SecretPlace {
  readonly id: string;
  /** `owner/name`. */
  readonly ref: string;
  readonly isOwn: boolean;
}

/** Where it names no endpoints, a secret stays with those of its owner. @throws FarloomError SECRET_NOT_FOR_ENDPOINT */
export function requireEndpoint({ name, endpoints }: SecretReach, { id, ref, isOwn }: SecretPlace): void {
  if (endpoints.length === 0 ? isOwn : endpoints.includes(id)) return;
  const why = endpoints.length === 0 ? "that is not yours" : "it is for other endpoints";
  throw new FarloomError("SECRET_NOT_FOR_ENDPOINT", { name, endpoint: ref, why });
}

/** What the seal binds (S2). */
function aboutOf({ owner_id, name, version, endpoints }: Omit<SealedRow, "key_id" | "sealed">): string {
  return JSON.stringify(["farloom secret", owner_id, name, version, endpoints]);
}
