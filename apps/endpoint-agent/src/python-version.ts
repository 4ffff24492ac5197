/** Which Python an interpreter is, asked of the interpreter itself. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const PROBE = "import sys;print('%d.%d.%d'%sys.version_info[:3])";
const PROBE_TIMEOUT_MS = 10_000;

type Environment = Readonly<Record<string, string | undefined>>;

/** `3.11.2`, or undefined where the interpreter does not run. A name without a path is looked for in `env`. */
export function pythonVersion(python: string, env: Environment = process.env): Promise<string | undefined> {
  return printed(python, ["-I", "-S", "-c", PROBE], env);
}

/** What a program prints, without white space around it; undefined where it fails or takes too long. */
export async function printed(
  program: string,
  args: readonly string[],
  env: Environment = process.env,
): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(program, args, {
      timeout: PROBE_TIMEOUT_MS,
      env: { ...env },
    });
    return stdout.trim();
  } catch {
    return undefined;
  }
}
