/** Who may do what with an endpoint: its list of entries, each of one person or one team, and the functions it runs. */
import { FarloomError } from "@farloom/protocol";
import type { EndpointGrant } from "../endpoints/registry.js";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { TenantPool } from "../store/tenant-pool.js";
import { LEVELS } from "./levels.js";

/** Entries of one endpoint. */
export const MAX_ACCESS_ENTRIES = 1_000;

export interface AccessEntry {
  readonly subjectId: string;
  readonly isTeam: boolean;
  readonly allow: number;
  readonly deny: number;
}

/** As it is shown: with the person's name, or the team's as owner/name. */
export interface NamedEntry extends AccessEntry {
  readonly subject: string;
}

export class AccessLists {
  readonly #prisma: PrismaClient;
  readonly #tenants: TenantPool;
  readonly #epoch: AccessEpoch;

  /** @param prisma for what whoever manages an endpoint changes of its row */
  constructor(prisma: PrismaClient, tenants: TenantPool, epoch: AccessEpoch) {
    this.#prisma = prisma;
    this.#tenants = tenants;
    this.#epoch = epoch;
  }

  /** For somebody who manages the endpoint. */
  async list(personId: string, { id }: EndpointGrant): Promise<NamedEntry[]> {
    const { rows } = await this.#tenants.query<NamedEntry>(personId, {
      text: `SELECT subject_id AS "subjectId", is_team AS "isTeam", allow, deny, coalesce(CASE WHEN is_team
               THEN farloom_team_name(subject_id) ELSE farloom_person_name(subject_id) END, subject_id::text) AS subject
             FROM endpoint_access WHERE endpoint_id = $1 ORDER BY is_team, subject_id LIMIT $2`,
      values: [id, MAX_ACCESS_ENTRIES],
    });
    return rows;
  }

  /**
   * Sets the one entry of a person or team; one that says nothing goes. Only the owner gives or takes `manage`.
   * @throws FarloomError ACCESS_DENIED, REQUEST_INVALID (too many)
   */
  async set(personId: string, endpoint: EndpointGrant, entry: AccessEntry): Promise<void> {
    const { subjectId, isTeam, allow, deny } = entry;
    const query = (text: string, ...more: unknown[]) =>
      this.#tenants.query<{ allow: number; deny: number }>(personId, {
        text,
        values: [endpoint.id, ...more],
      });
    const { rows } = await query(
      "SELECT allow, deny FROM endpoint_access WHERE endpoint_id = $1 AND subject_id = $2",
      subjectId,
    );
    const before = rows[0];
    const touchesManage = [allow, deny, before?.allow, before?.deny].includes(LEVELS.manage);
    if (touchesManage && endpoint.level < LEVELS.own) {
      throw new FarloomError("ACCESS_DENIED", {
        what: `the endpoint ${endpoint.ownerName}/${endpoint.name}`,
        action: "say who manages it",
      });
    }
    if (allow === 0 && deny === 0) {
      await query("DELETE FROM endpoint_access WHERE endpoint_id = $1 AND subject_id = $2", subjectId);
    } else {
      const { rowCount } = await query("SELECT 1 FROM endpoint_access WHERE endpoint_id = $1");
      if (!before && (rowCount ?? 0) >= MAX_ACCESS_ENTRIES)
        throw new FarloomError("REQUEST_INVALID", {
          detail: `an endpoint has at most ${MAX_ACCESS_ENTRIES} entries`,
        });
      await query(
        `INSERT INTO endpoint_access (endpoint_id, subject_id, is_team, allow, deny) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (endpoint_id, subject_id) DO UPDATE SET is_team = $3, allow = $4, deny = $5, changed_at = now()`,
        subjectId,
        isTeam,
        allow,
        deny,
      );
    }
    this.#epoch.changed();
  }

  /** The functions that the endpoint runs: ids or patterns; none: all. */
  async allowFunctions(endpoint: EndpointGrant, functions: readonly string[]): Promise<void> {
    await this.#prisma.endpoint.updateMany({
      where: { id: endpoint.id, deletedAt: null },
      data: { allowFunctions: [...functions] },
    });
    this.#epoch.changed();
  }

  async allowedFunctions(personId: string, { id }: EndpointGrant): Promise<string[]> {
    const { rows } = await this.#tenants.query<{ functions: string[] | null }>(personId, {
      text: "SELECT allow_functions AS functions FROM endpoint WHERE id = $1 AND deleted_at IS NULL",
      values: [id],
    });
    return rows[0]?.functions ?? [];
  }
}
