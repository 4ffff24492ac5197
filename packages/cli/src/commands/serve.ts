/** `farloom serve`: the service alone, for endpoints on other machines. */
import { homedir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { writeWhole } from "../config-file.js";
import type { Context } from "../context.js";
import { FAILED } from "../exit-codes.js";
import { claim, type RunningService, startService } from "../local/fabric.js";
import { openState } from "../local/state.js";
import { untilTold } from "../local/until-told.js";
import type { Output } from "../output.js";
import { portNumber } from "../values.js";

interface ServeFlags {
  stateDir: string;
  port?: number;
  host: string;
  readyFile?: string;
  logLevel: string;
}

export function addServe(program: Command, { output, result }: Context): void {
  const stateDir = join(process.env.XDG_STATE_HOME || join(homedir(), ".local", "state"), "farloom");
  program
    .command("serve")
    .description("the service alone; endpoints dial in from anywhere")
    .option("--state-dir <dir>", "where database, keys and logs are", stateDir)
    .option("--port <n>", "its port (default: as last time, or 8722, or the next free one)", portNumber)
    .option("--host <address>", "address to listen on; anything but loopback lets others in", "127.0.0.1")
    .option("--ready-file <file>", "written when it is up: JSON with url and apiKeyFile")
    .option("--log-level <level>", "of the log in the state folder", "info")
    .addHelpText(
      "after",
      "\nPostgreSQL and Redis of your own: DATABASE_URL (FARLOOM_TENANT_DATABASE_URL), REDIS_URL. Behind a proxy: FARLOOM_PUBLIC_URL.",
    )
    .action(async (flags: ServeFlags) => {
      result.code = await serve(flags, output);
    });
}

async function serve(flags: ServeFlags, output: Output): Promise<number> {
  const state = openState(flags.stateDir);
  const lock = claim(state);
  const told = untilTold();
  let service: RunningService | undefined;
  try {
    service = await told.orStopped(
      startService({
        state,
        host: flags.host,
        port: flags.port,
        logLevel: flags.logLevel,
        tell: (part, { level, text }) => {
          if (!told.stopping) output.note(`${level} ${part}: ${text}`);
        },
        onGivenUp: (message) => told.fail(message),
      }),
    );
    if (service === undefined) return 0;
    lock.tell(service.url);
    const ready = { url: service.url, apiKeyFile: state.apiKeyFile };
    if (flags.readyFile) writeWhole(flags.readyFile, `${JSON.stringify(ready)}\n`);
    if (output.json) output.jsonLine(ready);
    else
      output.say(
        [
          "",
          `${output.style("bold", "The Farloom service runs")} at ${output.style("cyan", ready.url)} (API page ${ready.url}/docs).`,
          `Log in ${state.logs}. Ctrl-C stops it; nothing is lost.`,
          "",
          "Use it from here:            " +
            output.style("bold", `farloom login --url ${ready.url} --key - < ${ready.apiKeyFile}`),
          `Then make an endpoint:       ${output.style("bold", "farloom endpoint create NAME")}`,
          "and run what that prints on the machine that shall be the endpoint.",
          ...(service.firstAdminToken === undefined
            ? []
            : [
                "",
                `To log in by browser, make the first account at ${ready.url}/setup`,
                // What is no terminal may be kept, as a journal is.
                process.stdout.isTTY
                  ? `with this one-time token:    ${service.firstAdminToken}`
                  : `with the one-time token in:  ${join(state.service, "first-admin-token")}`,
              ]),
          "",
        ].join("\n"),
      );
    const failure = await told.stopped;
    if (failure !== undefined) output.error(new Error(failure));
    return failure === undefined ? 0 : FAILED;
  } finally {
    await service?.part.stop();
    await told.settled();
    lock.release();
    told.dispose();
  }
}
