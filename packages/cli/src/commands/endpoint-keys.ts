/** `farloom endpoint rekey` and `revoke`: another key for the agent here, and none for an agent anywhere. */
import type { Command } from "commander";
import { type Context, withClient } from "../context.js";
import { CliError, CONFLICT, FAILED, NOT_FOUND } from "../exit-codes.js";
import { agentStateDir, agentStatus } from "../local/agent.js";
import { ask } from "../local/apps.js";

export function addEndpointKeys(endpoint: Command, { output }: Context): void {
  endpoint
    .command("rekey")
    .description("give the agent on this machine another key, signed by the one before; it must be stopped")
    .option("--state-dir <dir>", "the agent's folder (default: ~/.farloom/agent)")
    .action(async (flags: { stateDir?: string }) => {
      const stateDir = agentStateDir(flags.stateDir);
      const { running, identity } = await agentStatus(stateDir);
      if (running)
        throw new CliError(
          "the agent runs",
          CONFLICT,
          "farloom endpoint stop, then rekey, then farloom endpoint start; tasks that run go on",
        );
      if (identity === undefined) throw new CliError(`no endpoint is enrolled in ${stateDir}`, NOT_FOUND);
      const answer = await ask("endpoint-agent", ["rekey", "--state-dir", stateDir]);
      if (answer.code !== 0) throw new CliError(answer.stderr.trim() || "the service refused it", FAILED);
      output.result({ rekeyed: identity.name }, () => `Endpoint ${identity.name} has another key now.`);
    });

  endpoint
    .command("revoke <name>")
    .description(
      "take an endpoint from its agent at once, e.g. where its machine was broken into; tasks wait",
    )
    .action((name: string, _options: object, command: Command) =>
      withClient(command, async (farloom, signal) => {
        await farloom.rest.send({
          method: "POST",
          path: `/v1/endpoints/${encodeURIComponent(name)}/revoke`,
          json: {},
          signal,
        });
        output.result(
          { revoked: name },
          () =>
            `No agent speaks for ${name} any more. For a new one: farloom endpoint create ${name} --renew`,
        );
      }),
    );
}
