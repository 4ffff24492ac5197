/** Where the programs are that this command starts, and how they are run. */
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { CliError, INTERNAL } from "../exit-codes.js";

const require = createRequire(import.meta.url);

export type App = "web-service" | "endpoint-agent";

/** The app's main.js. */
export function mainOf(app: App): string {
  try {
    return require.resolve(`@farloom/${app}/main`);
  } catch (error) {
    throw new CliError(
      `@farloom/${app} is not installed or not built (${(error as Error).message.split("\n")[0]})`,
      INTERNAL,
      "in a checkout: npm run build",
    );
  }
}

export interface Answer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs an app's command to its end. `input` goes to its standard input: secrets travel there, not in arguments. */
export function ask(
  app: App,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; input?: string } = {},
): Promise<Answer> {
  const child = spawn(process.execPath, [mainOf(app), ...args], {
    stdio: "pipe",
    env: { ...process.env, ...options.env },
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  child.stdin.on("error", () => {});
  child.stdin.end(options.input ?? "");
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}
