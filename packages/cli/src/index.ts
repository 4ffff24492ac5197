/** The `farloom` command: arguments in, exit code out. */
import { CommanderError } from "commander";
import { exitCodeOf, USAGE } from "./exit-codes.js";
import { Output } from "./output.js";
import { buildProgram } from "./program.js";

/** Runs one command line. Resolves with the exit code; everything it started has ended or is detached. */
export async function main(argv: readonly string[]): Promise<number> {
  const json = argv.includes("--json");
  const output = new Output({ json });
  // A reader that has enough (`farloom tasks list | head`) is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
  const result: { code: number } = { code: 0 };
  const program = buildProgram(output, result);
  try {
    await program.parseAsync(argv, { from: "user" });
    return result.code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    output.error(error);
    return exitCodeOf(error);
  }
}
