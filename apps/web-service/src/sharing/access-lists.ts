/** Who may do what with an endpoint: its list of entries, each of one person or one team, and the functions it runs. */
import { FarloomError } from "@farloom/protocol";
import type { EndpointGrant } from "../endpoints/registry.js";
import type { PrismaClient } from "../generated/prisma/client.js";
import type { AccessEpoch } from "../store/access-epoch.js";
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
  readonly #epoch: AccessEpoch;

  constructor(prisma: PrismaClient, epoch: AccessEpoch) {
    this.#prisma = prisma;
    this.#epoch = epoch;
  }

  async list({ id }: EndpointGrant): Promise<NamedEntry[]> {
    const rows = await this.#prisma.endpointAccess.findMany({
      where: { endpointId: id },
      orderBy: [{ isTeam: "asc" }, { subjectId: "asc" }],
      take: MAX_ACCESS_ENTRIES,
    });
    const idsOf = (isTeam: boolean): string[] =>
      rows.flatMap((r) => (r.isTeam === isTeam ? [r.subjectId] : []));
    const people = await this.#prisma.owner.findMany({ where: { id: { in: idsOf(false) } } });
    const teams = await this.#prisma.team.findMany({
      where: { id: { in: idsOf(true) } },
      include: { owner: { select: { name: true } } },
    });
    const names = new Map([
      ...people.map((person) => [person.id, person.name] as const),
      ...teams.map((team) => [team.id, `${team.owner.name}/${team.name}`] as const),
    ]);
    return rows.map((row) => ({ ...row, subject: names.get(row.subjectId) ?? row.subjectId }));
  }

  /**
   * Sets the one entry of a person or team; one that says nothing goes. Only the owner gives or takes `manage`.
   * @throws FarloomError ACCESS_DENIED, REQUEST_INVALID (too many)
   */
  async set(endpoint: EndpointGrant, entry: AccessEntry): Promise<void> {
    const { subjectId, isTeam, allow, deny } = entry;
    const key = { endpointId_subjectId: { endpointId: endpoint.id, subjectId } };
    const before = await this.#prisma.endpointAccess.findUnique({ where: key });
    const touchesManage = [allow, deny, before?.allow, before?.deny].includes(LEVELS.manage);
    if (touchesManage && endpoint.level < LEVELS.own) {
      throw new FarloomError("ACCESS_DENIED", {
        what: `the endpoint ${endpoint.ownerName}/${endpoint.name}`,
        action: "say who manages it",
      });
    }
    if (allow === 0 && deny === 0) {
      await this.#prisma.endpointAccess.deleteMany({ where: { endpointId: endpoint.id, subjectId } });
    } else {
      const count = await this.#prisma.endpointAccess.count({ where: { endpointId: endpoint.id } });
      if (!before && count >= MAX_ACCESS_ENTRIES)
        throw new FarloomError("REQUEST_INVALID", {
          detail: `an endpoint has at most ${MAX_ACCESS_ENTRIES} entries`,
        });
      const data = { isTeam, allow, deny, changedAt: new Date() };
      await this.#prisma.endpointAccess.upsert({
        where: key,
        create: { endpointId: endpoint.id, subjectId, ...data },
        update: data,
      });
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

  async allowedFunctions({ id }: EndpointGrant): Promise<string[]> {
    const row = await this.#prisma.endpoint.findFirst({
      where: { id, deletedAt: null },
      select: { allowFunctions: true },
    });
    return row?.allowFunctions ?? [];
  }
}
