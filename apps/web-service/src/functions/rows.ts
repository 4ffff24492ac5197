/**
 * What a person is shown of registered functions, and changes of their own: every statement says whose rows it wants, and
 * runs behind the wall (store/tenant-pool.ts), which shows one's own and what is shared with one, whatever it says.
 */
import { sharedWith } from "../sharing/visible-functions.js";
import type { TenantPool } from "../store/tenant-pool.js";
import type { StoredDefinition } from "./definition-input.js";

/** A whole row, with its owner's name. */
export interface FunctionRow {
  readonly key: number;
  readonly ownerId: string;
  readonly ownerName: string;
  readonly digest: Buffer;
  readonly name: string;
  readonly version: number;
  readonly description: string;
  readonly definition: StoredDefinition;
  readonly code: Buffer;
  readonly createdAt: Date;
  readonly deletedAt: Date | null;
}

/** In lists, without code and definition; `visibility` and `team` (owner/name) where it is one's own. */
export interface ListedRow extends Omit<FunctionRow, "definition" | "code" | "deletedAt"> {
  readonly runtime: string;
  readonly visibility: number;
  readonly team: string | null;
}

const LISTED = `f.key, f.owner_id AS "ownerId", farloom_person_name(f.owner_id) AS "ownerName", f.digest, f.name, f.version,
  f.description, f.created_at AS "createdAt"`;
const WHOLE = `SELECT ${LISTED}, f.definition, f.code, f.deleted_at AS "deletedAt" FROM function f WHERE f.deleted_at IS NULL`;
/** The version that was registered last, or the one that is named. */
const NEWEST = "ORDER BY f.created_at DESC, f.version DESC LIMIT 1";

export class FunctionRows {
  readonly #tenants: TenantPool;

  constructor(tenants: TenantPool) {
    this.#tenants = tenants;
  }

  /** One's own of that digest, or else one that is shared; of several the newest. */
  async ofDigest(personId: string, digest: Buffer): Promise<FunctionRow | undefined> {
    const values = [personId, digest];
    const one = async (name: string, of: string): Promise<FunctionRow | undefined> => {
      const text = `${WHOLE} AND f.digest = $2 AND ${of} ORDER BY f.key DESC LIMIT 1`;
      return (await this.#tenants.query<FunctionRow>(personId, { name, text, values })).rows[0];
    };
    return (
      (await one("function-own-digest", "f.owner_id = $1")) ??
      (await one("function-shared-digest", sharedWith(1)))
    );
  }

  async ownByName(
    personId: string,
    name: string,
    version: number | undefined,
  ): Promise<FunctionRow | undefined> {
    const { rows } = await this.#tenants.query<FunctionRow>(personId, {
      name: "function-own-name",
      text: `${WHOLE} AND f.owner_id = $1 AND f.name = $2 AND ($3::int4 IS NULL OR f.version = $3) ${NEWEST}`,
      values: [personId, name, version],
    });
    return rows[0];
  }

  async sharedByName(
    personId: string,
    { owner, name, version }: { owner: string; name: string; version: number | undefined },
  ): Promise<FunctionRow | undefined> {
    const { rows } = await this.#tenants.query<FunctionRow>(personId, {
      name: "function-shared-name",
      text: `${WHOLE} AND f.owner_id = farloom_person_id($4) AND f.name = $2 AND ($3::int4 IS NULL OR f.version = $3)
             AND ${sharedWith(1)} ${NEWEST}`,
      values: [personId, name, version, owner],
    });
    return rows[0];
  }

  /** One's own of that name and digest, the newest version first; they differ in what they say of themselves. */
  async same(personId: string, name: string, digest: Buffer): Promise<FunctionRow[]> {
    const { rows } = await this.#tenants.query<FunctionRow>(personId, {
      text: `${WHOLE} AND f.owner_id = $1 AND f.name = $2 AND f.digest = $3 ORDER BY f.version DESC`,
      values: [personId, name, digest],
    });
    return rows;
  }

  /** Makes it what the bare name means, where it is not; whether anything changed. */
  async makeNewest(personId: string, { key, name }: FunctionRow): Promise<boolean> {
    const { rowCount } = await this.#tenants.query(personId, {
      // Later than the newest, whatever the clock of the replica that made that one says.
      text: `UPDATE function f SET created_at = greatest(clock_timestamp(), newer.at + interval '1 millisecond')
             FROM (SELECT max(n.created_at) AS at FROM function n
                   WHERE n.owner_id = $1 AND n.name = $3 AND n.deleted_at IS NULL) AS newer
             WHERE f.key = $2 AND f.owner_id = $1 AND newer.at > f.created_at`,
      values: [personId, key, name],
    });
    return rowCount === 1;
  }

  /** One's own and what is shared with one's teams, where `isPublic` what everybody may use; newest first. */
  async list(
    personId: string,
    of: { text: string | undefined; before: number | undefined; limit: number; isPublic: boolean },
  ): Promise<ListedRow[]> {
    const { rows } = await this.#tenants.query<ListedRow>(personId, {
      name: "functions-of",
      text: `SELECT ${LISTED}, f.runtime, f.visibility, CASE WHEN f.owner_id = $1 THEN farloom_team_name(f.team_id) END AS team
             FROM function f WHERE f.deleted_at IS NULL
             AND (f.owner_id = $1 OR ${sharedWith(1)} AND ($2::boolean OR f.visibility <> 2))
             AND ($3::text IS NULL OR f.name ILIKE $3 OR f.description ILIKE $3) AND ($4::int4 IS NULL OR f.key < $4)
             ORDER BY f.key DESC LIMIT $5`,
      values: [
        personId,
        of.isPublic,
        of.text === undefined ? undefined : `%${of.text}%`,
        of.before,
        of.limit,
      ],
    });
    return rows;
  }

  /** Who else may use one's own. */
  async sharing(
    personId: string,
    key: number,
  ): Promise<{ visibility: number; team: string | null } | undefined> {
    const { rows } = await this.#tenants.query<{ visibility: number; team: string | null }>(personId, {
      text: `SELECT visibility, farloom_team_name(team_id) AS team FROM function WHERE key = $2 AND owner_id = $1`,
      values: [personId, key],
    });
    return rows[0];
  }

  async share(personId: string, key: number, visibility: number, teamId: string | undefined): Promise<void> {
    await this.#tenants.query(personId, {
      text: "UPDATE function SET visibility = $3, team_id = $4 WHERE key = $2 AND owner_id = $1",
      values: [personId, key, visibility, teamId],
    });
  }

  async remove(personId: string, key: number): Promise<void> {
    await this.#tenants.query(personId, {
      text: "UPDATE function SET deleted_at = now() WHERE key = $2 AND owner_id = $1",
      values: [personId, key],
    });
  }
}
