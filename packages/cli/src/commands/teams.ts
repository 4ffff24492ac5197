/** `farloom teams`: people who are given access together. */
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { ago } from "../values.js";

export function addTeams(program: Command, { output }: Context): void {
  const teams = program.command("teams").alias("team").description("people who are given access together");

  teams
    .command("create <name>")
    .description("make a team; you are its first member")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const team = await farloom.teams.create(name, { signal });
        output.result(team, () => `Team ${output.style("bold", `${team.owner}/${team.name}`)} is there.`);
      }),
    );

  teams
    .command("list")
    .description("the teams that you made or are in")
    .action((_options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { items } = await farloom.teams.list({ signal });
        output.list(
          items,
          ["TEAM", "MADE"],
          (team) => [`${team.owner}/${team.name}`, ago(team.createdAt)],
          "No teams. Make one: farloom teams create NAME",
        );
      }),
    );

  teams
    .command("show <team>")
    .description("a team and its members, by name or owner/name")
    .action((team: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const found = await farloom.teams.get(team, { signal });
        output.result(found, () =>
          output.table(["MEMBER", "SINCE"], found.members?.map((m) => [m.name, ago(m.addedAt)]) ?? []),
        );
      }),
    );

  teams
    .command("add <team> <person>")
    .description("take somebody in")
    .action((team: string, person: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.teams.add(team, person, { signal });
        output.result({ team, added: person }, () => `${person} is in ${team}.`);
      }),
    );

  teams
    .command("remove <team> <person>")
    .description("take somebody out")
    .action((team: string, person: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.teams.remove(team, person, { signal });
        output.result({ team, removed: person }, () => `${person} is in ${team} no more.`);
      }),
    );

  teams
    .command("delete <team>")
    .description("delete a team; what was shared with it is so no more")
    .action((team: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.teams.delete(team, { signal });
        output.result({ deleted: team }, () => `Deleted ${team}.`);
      }),
    );
}
