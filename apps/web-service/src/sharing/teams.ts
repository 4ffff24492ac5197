/**
 * Teams: people who are given access together. Whoever makes one is its owner, its first member, and the only one who
 * changes it; its members see it, and for everybody else it does not exist.
 */
import { FarloomError, isUuid } from "@farloom/protocol";
import { v7 as uuidv7 } from "uuid";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { Principal } from "../identity/principal.js";
import type { AccessEpoch } from "../store/access-epoch.js";

/** People in one team. */
export const MAX_TEAM_MEMBERS = 10_000;
/** Teams that one person makes. */
export const MAX_TEAMS = 1_000;

export interface TeamRow {
  readonly id: string;
  readonly name: string;
  readonly ownerId: string;
  readonly createdAt: Date;
  readonly owner: { readonly name: string };
}
const WITH_OWNER = { owner: { select: { name: true } } } as const;

export class Teams {
  readonly #prisma: PrismaClient;
  readonly #epoch: AccessEpoch;

  constructor(prisma: PrismaClient, epoch: AccessEpoch) {
    this.#prisma = prisma;
    this.#epoch = epoch;
  }

  /** @throws FarloomError TEAM_EXISTS, REQUEST_INVALID (too many) */
  async create(principal: Principal, name: string): Promise<TeamRow> {
    const { ownerId } = principal;
    if ((await this.#prisma.team.count({ where: { ownerId } })) >= MAX_TEAMS)
      throw new FarloomError("REQUEST_INVALID", { detail: `one person makes at most ${MAX_TEAMS} teams` });
    try {
      const data = { id: uuidv7(), ownerId, name, members: { create: { personId: ownerId } } };
      const team = await this.#prisma.team.create({ data, include: WITH_OWNER });
      this.#epoch.changed();
      return team;
    } catch (error) {
      if ((error as { code?: string }).code === "P2002") throw new FarloomError("TEAM_EXISTS", { name });
      throw error;
    }
  }

  /** Those that the person made or is in, at most 1,000. */
  async list(personId: string): Promise<TeamRow[]> {
    return this.#prisma.team.findMany({
      where: { OR: [{ ownerId: personId }, { members: { some: { personId } } }] },
      orderBy: [{ name: "asc" }, { id: "asc" }],
      take: 1_000,
      include: WITH_OWNER,
    });
  }

  /** By id, by name (one's own), or by owner/name. @throws FarloomError TEAM_NOT_FOUND */
  async resolve(principal: Principal, ref: string): Promise<TeamRow> {
    const { ownerId, ownerName } = principal;
    const [owner, name] = ref.includes("/") ? ref.split("/", 2) : [ownerName, ref];
    const team = await this.#prisma.team.findFirst({
      where: {
        ...(isUuid(ref) ? { id: ref } : { name: name!, owner: { name: owner! } }),
        OR: [{ ownerId }, { members: { some: { personId: ownerId } } }],
      },
      include: WITH_OWNER,
    });
    if (!team) throw new FarloomError("TEAM_NOT_FOUND", { id: ref.slice(0, 200) });
    return team;
  }

  /** The names of its members, at most MAX_TEAM_MEMBERS. */
  async members(team: TeamRow): Promise<{ name: string; addedAt: Date }[]> {
    const rows = await this.#prisma.teamMember.findMany({
      where: { teamId: team.id },
      orderBy: { person: { name: "asc" } },
      take: MAX_TEAM_MEMBERS,
      select: { addedAt: true, person: { select: { name: true } } },
    });
    return rows.map(({ addedAt, person }) => ({ name: person.name, addedAt }));
  }

  /** @throws FarloomError PERSON_NOT_FOUND, REQUEST_INVALID (too many) */
  async add(team: TeamRow, person: string): Promise<void> {
    const personId = await this.personId(person);
    if ((await this.#prisma.teamMember.count({ where: { teamId: team.id } })) >= MAX_TEAM_MEMBERS)
      throw new FarloomError("REQUEST_INVALID", { detail: `a team has at most ${MAX_TEAM_MEMBERS} members` });
    await this.#prisma.teamMember.createMany({ data: [{ teamId: team.id, personId }], skipDuplicates: true });
    this.#epoch.changed();
  }

  /** @throws FarloomError PERSON_NOT_FOUND where the person is no member. */
  async takeOut(team: TeamRow, person: string): Promise<void> {
    const where = { teamId: team.id, person: { name: person } };
    const { count } = await this.#prisma.teamMember.deleteMany({ where });
    if (count === 0) throw new FarloomError("PERSON_NOT_FOUND", { name: person.slice(0, 100) });
    this.#epoch.changed();
  }

  /** What was shared with it is shared with nobody any more. */
  async remove(team: TeamRow): Promise<void> {
    const teamId = team.id;
    await this.#prisma.$transaction([
      this.#prisma.function.updateMany({ where: { teamId }, data: { visibility: 0, teamId: null } }),
      this.#prisma.endpointAccess.deleteMany({ where: { subjectId: teamId, isTeam: true } }),
      this.#prisma.team.deleteMany({ where: { id: teamId } }),
    ]);
    this.#epoch.changed();
  }

  /** @throws FarloomError PERSON_NOT_FOUND */
  async personId(name: string): Promise<string> {
    const person = await this.#prisma.owner.findUnique({ where: { name }, select: { id: true } });
    if (!person) throw new FarloomError("PERSON_NOT_FOUND", { name: name.slice(0, 100) });
    return person.id;
  }
}

/** Only whoever made it changes it; its members are told so. @throws FarloomError ACCESS_DENIED */
export function requireTeamOwner(principal: Principal, team: TeamRow): void {
  if (team.ownerId !== principal.ownerId)
    throw new FarloomError("ACCESS_DENIED", {
      what: `the team ${team.owner.name}/${team.name}`,
      action: "change it",
    });
}
