/**
 * Teams: people who are given access together. Whoever makes one is its owner, its first member, and the only one who
 * changes it; its members see it, and for everybody else it does not exist.
 */
import { FarloomError, isUuid } from "@farloom/protocol";
import { v7 as uuidv7 } from "uuid";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { Principal } from "../identity/principal.js";
import type { AccessEpoch } from "../store/access-epoch.js";
import type { TenantPool } from "../store/tenant-pool.js";

/** People in one team. */
export const MAX_TEAM_MEMBERS = 10_000;
/** Teams that one person makes. */
export const MAX_TEAMS = 1_000;

export interface TeamRow {
  readonly id: string;
  readonly name: string;
  readonly ownerId: string;
  readonly ownerName: string;
  readonly createdAt: Date;
}

const SEEN = `SELECT t.id, t.name, t.owner_id AS "ownerId", farloom_person_name(t.owner_id) AS "ownerName",
    t.created_at AS "createdAt" FROM team t
  WHERE (t.owner_id = $1 OR EXISTS (SELECT 1 FROM team_member m WHERE m.team_id = t.id AND m.person_id = $1))`;

export class Teams {
  readonly #prisma: PrismaClient;
  readonly #tenants: TenantPool;
  readonly #epoch: AccessEpoch;

  /** @param prisma for new ones */
  constructor(prisma: PrismaClient, tenants: TenantPool, epoch: AccessEpoch) {
    this.#prisma = prisma;
    this.#tenants = tenants;
    this.#epoch = epoch;
  }

  /** @throws FarloomError TEAM_EXISTS, REQUEST_INVALID (too many) */
  async create(principal: Principal, name: string): Promise<TeamRow> {
    const { ownerId, ownerName } = principal;
    if ((await this.#prisma.team.count({ where: { ownerId } })) >= MAX_TEAMS)
      throw new FarloomError("REQUEST_INVALID", { detail: `one person makes at most ${MAX_TEAMS} teams` });
    try {
      const data = { id: uuidv7(), ownerId, name, members: { create: { personId: ownerId } } };
      const team = await this.#prisma.team.create({ data });
      this.#epoch.changed();
      return { ...team, ownerName };
    } catch (error) {
      if ((error as { code?: string }).code === "P2002") throw new FarloomError("TEAM_EXISTS", { name });
      throw error;
    }
  }

  /** Those that the person made or is in, at most 1,000. */
  async list(personId: string): Promise<TeamRow[]> {
    const { rows } = await this.#tenants.query<TeamRow>(personId, {
      text: `${SEEN} ORDER BY t.name, t.id LIMIT 1000`,
      values: [personId],
    });
    return rows;
  }

  /** By id, by name (one's own), or by owner/name. @throws FarloomError TEAM_NOT_FOUND */
  async resolve(principal: Principal, ref: string): Promise<TeamRow> {
    const { ownerId, ownerName } = principal;
    const [owner, name] = ref.includes("/") ? ref.split("/", 2) : [ownerName, ref];
    const { rows } = await this.#tenants.query<TeamRow>(
      ownerId,
      isUuid(ref)
        ? { text: `${SEEN} AND t.id = $2`, values: [ownerId, ref] }
        : {
            text: `${SEEN} AND t.owner_id = farloom_person_id($2) AND t.name = $3`,
            values: [ownerId, owner, name],
          },
    );
    if (!rows[0]) throw new FarloomError("TEAM_NOT_FOUND", { id: ref.slice(0, 200) });
    return rows[0];
  }

  /** The names of its members, at most MAX_TEAM_MEMBERS, for one of them or its owner. */
  async members(personId: string, team: TeamRow): Promise<{ name: string; addedAt: Date }[]> {
    const { rows } = await this.#tenants.query<{ name: string; addedAt: Date }>(personId, {
      text: `SELECT farloom_person_name(person_id) AS name, added_at AS "addedAt" FROM team_member
             WHERE team_id = $1 ORDER BY name LIMIT $2`,
      values: [team.id, MAX_TEAM_MEMBERS],
    });
    return rows;
  }

  /** Into a team of one's own. @throws FarloomError PERSON_NOT_FOUND, REQUEST_INVALID (too many) */
  async add(ownerId: string, team: TeamRow, person: string): Promise<void> {
    const personId = await this.personId(ownerId, person);
    const { rows } = await this.#tenants.query<{ n: number }>(ownerId, {
      text: "SELECT count(*)::int4 AS n FROM team_member WHERE team_id = $1",
      values: [team.id],
    });
    if (rows[0]!.n >= MAX_TEAM_MEMBERS)
      throw new FarloomError("REQUEST_INVALID", { detail: `a team has at most ${MAX_TEAM_MEMBERS} members` });
    await this.#tenants.query(ownerId, {
      text: "INSERT INTO team_member (team_id, person_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
      values: [team.id, personId],
    });
    this.#epoch.changed();
  }

  /** Out of a team of one's own. @throws FarloomError PERSON_NOT_FOUND where the person is no member. */
  async takeOut(ownerId: string, team: TeamRow, person: string): Promise<void> {
    const { rowCount } = await this.#tenants.query(ownerId, {
      text: "DELETE FROM team_member WHERE team_id = $1 AND person_id = farloom_person_id($2)",
      values: [team.id, person],
    });
    if (rowCount === 0) throw new FarloomError("PERSON_NOT_FOUND", { name: person.slice(0, 100) });
    this.#epoch.changed();
  }

  /** What was shared with it is shared with nobody any more: a trigger sees to that. */
  async remove(ownerId: string, team: TeamRow): Promise<void> {
    await this.#tenants.query(ownerId, {
      text: "DELETE FROM team WHERE id = $2 AND owner_id = $1",
      values: [ownerId, team.id],
    });
    this.#epoch.changed();
  }

  /** Anybody may ask whether there is somebody of that name. @throws FarloomError PERSON_NOT_FOUND */
  async personId(askerId: string, name: string): Promise<string> {
    const { rows } = await this.#tenants.query<{ id: string | null }>(askerId, {
      text: "SELECT farloom_person_id($1) AS id",
      values: [name],
    });
    const id = rows[0]!.id;
    if (id === null) throw new FarloomError("PERSON_NOT_FOUND", { name: name.slice(0, 100) });
    return id;
  }
}

/** Only whoever made it changes it; its members are told so. @throws FarloomError ACCESS_DENIED */
export function requireTeamOwner(principal: Principal, team: TeamRow): void {
  if (team.ownerId !== principal.ownerId)
    throw new FarloomError("ACCESS_DENIED", {
      what: `the team ${team.ownerName}/${team.name}`,
      action: "change it",
    });
}
