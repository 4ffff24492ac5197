/** The command tree. Each file of commands/ adds its own; this is their list. */
import { createRequire } from "node:module";
import { Command } from "commander";
import { addAccounts } from "./commands/accounts.js";
import { addAudit } from "./commands/audit.js";
import { addCompletion } from "./commands/completion.js";
import { addDev } from "./commands/dev.js";
import { addDoctor } from "./commands/doctor.js";
import { addEndpoint } from "./commands/endpoint.js";
import { addFunctions } from "./commands/functions.js";
import { addKeys } from "./commands/keys.js";
import { addLogin } from "./commands/login.js";
import { addObjects } from "./commands/objects.js";
import { addRun } from "./commands/run.js";
import { addSecrets } from "./commands/secrets.js";
import { addServe } from "./commands/serve.js";
import { addTasks } from "./commands/tasks.js";
import { addTeams } from "./commands/teams.js";
import { addWebhooks } from "./commands/webhooks.js";
import type { Context } from "./context.js";
import type { Output } from "./output.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };

const AFTER = `
Begin:
  $ farloom dev                          everything on this machine, in one terminal
  $ farloom run hello.py World           registers the file's function and calls it

Environment: FARLOOM_URL, FARLOOM_API_KEY, FARLOOM_ENDPOINT, FARLOOM_CONFIG, NO_COLOR
Exit codes:  0 done, 1 a task failed, 2 usage, 3 not found, 4 not authenticated, 5 unreachable,
             6 cancelled, timed out or lost, 7 conflict, 70 internal`;

export function buildProgram(output: Output, result: { code: number }): Command {
  const context: Context = { output, result };
  const program = new Command("farloom")
    .description("Register functions once, run them anywhere.")
    .version(version, "-V, --version")
    .option("--url <url>", "the service's address (default: FARLOOM_URL, then what login wrote)")
    .option("--json", "results as JSON")
    .addHelpText("after", AFTER)
    .showSuggestionAfterError()
    .configureHelp({ sortSubcommands: false, showGlobalOptions: true })
    .exitOverride();
  for (const add of [
    addDev,
    addRun,
    addFunctions,
    addTasks,
    addEndpoint,
    addObjects,
    addServe,
    addLogin,
    addAccounts,
    addKeys,
    addSecrets,
    addTeams,
    addWebhooks,
    addAudit,
    addDoctor,
  ]) {
    add(program, context);
  }
  addCompletion(program, context);
  settle(program);
  return program;
}

/** --json and --url may stand before or after the command's name; errors of usage end every command alike. */
function settle(command: Command): void {
  for (const child of command.commands) {
    child.exitOverride().showSuggestionAfterError().configureHelp({ sortSubcommands: false });
    const has = (flag: string) => child.options.some((option) => option.long === flag);
    if (!has("--json")) child.option("--json", "results as JSON");
    if (!has("--url")) child.option("--url <url>", "the service's address");
    settle(child);
  }
}
