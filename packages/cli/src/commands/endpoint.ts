/** `farloom endpoint`: the service's endpoints, and the agent on this machine. */
import type { AccessLevel, EndpointAccess, EndpointInfo } from "@farloom/sdk";
import { type Command, Option } from "commander";
import { type Context, take, withClient } from "../context.js";
import type { Output } from "../output.js";
import { ago, wholeNumber } from "../values.js";
import { addEndpointKeys } from "./endpoint-keys.js";
import { addLocal } from "./endpoint-local.js";
import { addEndpointTrust } from "./endpoint-trust.js";
import { pageOf } from "./functions.js";

export function addEndpoint(program: Command, context: Context): void {
  const endpoint = program
    .command("endpoint")
    .alias("endpoints")
    .description("places that run tasks, and the agent on this machine");
  addRemote(endpoint, context);
  addSharing(endpoint, context);
  addLocal(endpoint, context);
  addEndpointTrust(endpoint, context);
  addEndpointKeys(endpoint, context);
}

function addRemote(endpoint: Command, { output }: Context): void {
  endpoint
    .command("create <name>")
    .description("make an endpoint; prints what to run on the machine that shall be it")
    .option("--renew", "it exists: only make a new enrolment code")
    .action((name: string, options: { renew?: boolean }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const made = options.renew
          ? await farloom.endpoints.newCode(name, { signal })
          : await farloom.endpoints.create(name, { signal });
        output.result(made, () =>
          [
            `Endpoint ${output.style("bold", made.name)} is there. On the machine that shall be it:`,
            "",
            `  ${output.style("bold", made.command ?? "")}`,
            "",
            "It checks that machine, enrols it, starts the agent, and sees to it that it comes back.",
            `The code is good once, until ${made.enrolmentExpiresAt ?? "soon"}.`,
          ].join("\n"),
        );
      }),
    );

  endpoint
    .command("list")
    .description("your endpoints")
    .option("--limit <n>", "at most so many", wholeNumber, 100)
    .action((options: { limit: number }, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const items = await take(
          farloom.endpoints.all({ limit: pageOf(options.limit), signal }),
          options.limit,
        );
        output.list(
          items,
          ["NAME", "STATE", "HOST", "RUNTIMES", "WORKERS", "QUEUED", "RUNNING"],
          (item) => {
            const { host, runtimes, workers } = infoOf(item);
            return [item.name, stateOf(output, item), host, runtimes, workers, item.queued, item.leased];
          },
          "No endpoints yet. Make one: farloom endpoint create NAME",
        );
      }),
    );

  endpoint
    .command("show <name>")
    .description("one endpoint, by name or id")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const item = await farloom.endpoints.get(name, { signal });
        const { host, runtimes, workers } = infoOf(item);
        output.result(item, () =>
          output.fields([
            ["name", item.name],
            ["id", item.id],
            ["state", stateOf(output, item)],
            ["host", host],
            ["runtimes", runtimes],
            ["workers", workers],
            ["isolation", isolationText(item)],
            ["queued", item.queued],
            ["with the agent", item.leased],
            ["connected", item.connectedAt && ago(item.connectedAt)],
            ["made", item.createdAt],
          ]),
        );
      }),
    );

  endpoint
    .command("delete <name>")
    .description("remove an endpoint; its open tasks end")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.endpoints.delete(name, { signal });
        output.result({ deleted: name }, () => `Deleted ${name}.`);
      }),
    );
}

interface ShareFlags {
  readonly person?: string;
  readonly team?: string;
  readonly allow?: AccessLevel;
  readonly deny?: AccessLevel;
}

function addSharing(endpoint: Command, { output }: Context): void {
  const level = (flags: string, text: string) =>
    new Option(flags, text).choices(["view", "invoke", "manage"]);
  const show = (access: EndpointAccess): void =>
    output.result(access, () => {
      const rows = access.entries.map((e) => [e.person ?? `team ${e.team}`, e.allow ?? "", e.deny ?? ""]);
      const who =
        rows.length === 0 ? "Shared with nobody." : output.table(["WHO", "ALLOWED", "DENIED"], rows);
      const what = access.functions.length === 0 ? "all functions" : access.functions.join(", ");
      return `${who}\nRuns ${what}.`;
    });

  endpoint
    .command("access <name>")
    .description("who may do what with an endpoint, and which functions it runs")
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => show(await farloom.endpoints.access(name, { signal }))),
    );

  endpoint
    .command("share <name>")
    .description(
      "say what a person, or the members of a team, may do; neither --allow nor --deny: nothing more",
    )
    .option("--person <name>", "whom")
    .option("--team <name>", "or which team, by name or owner/name")
    .addOption(level("--allow <level>", "view, invoke (includes view) or manage (includes both)"))
    .addOption(level("--deny <level>", "this and what is above it; wins over whatever allows it"))
    .action((name: string, flags: ShareFlags, command: Command) =>
      withClient(command, async (farloom, signal) => {
        const { person, team, allow, deny } = flags;
        const entry = {
          ...(person && { person }),
          ...(team && { team }),
          ...(allow && { allow }),
          ...(deny && { deny }),
        };
        show(await farloom.endpoints.share(name, entry, { signal }));
      }),
    );

  endpoint
    .command("functions <name> [refs...]")
    .description("run these functions alone, by id, name or owner/name, with * for any letters; none: all")
    .action((name: string, refs: string[], _options: object, command: Command) =>
      withClient(command, async (farloom, signal) =>
        show(await farloom.endpoints.allowFunctions(name, refs, { signal })),
      ),
    );
}

function infoOf(item: EndpointInfo): { host: string; runtimes: string; workers: string } {
  const info = (item.agentInfo ?? {}) as {
    host?: string;
    runtimes?: Record<string, string>;
    workers?: number;
  };
  const runtimes = Object.entries(info.runtimes ?? {}).map(runtimeText);
  return {
    host: info.host ?? "",
    runtimes: runtimes.join(", "),
    workers: info.workers === undefined ? "" : String(info.workers),
  };
}

/** The level that it runs at, and the others that its machine could do. */
export function isolationText(item: EndpointInfo): string | undefined {
  const { isolation } = (item.agentInfo ?? {}) as {
    isolation?: { level: string; offers?: string[]; network?: boolean | string };
  };
  if (isolation === undefined) return item.agentInfo ? "none" : undefined;
  const { level, offers = [], network } = isolation;
  const others = offers.filter((one) => one !== level);
  const net =
    network === true ? "network" : network === "functions" ? "network where asked for" : "no network";
  const isBoxed = level !== "none" && level !== "limits";
  return `${level}${isBoxed ? `, ${net}` : ""}${others.length > 0 ? ` (it can do ${others.join(", ")})` : ""}`;
}

/** Commands have no version that would say anything. */
export function runtimeText([name, version]: readonly [string, string]): string {
  return name === "command" ? "commands" : `${name} ${version}`.trim();
}

function stateOf(output: Output, item: EndpointInfo): string {
  if (item.connected) return output.style("green", "connected");
  return item.enrolled === false ? output.style("yellow", "not enrolled") : output.style("red", "away");
}
