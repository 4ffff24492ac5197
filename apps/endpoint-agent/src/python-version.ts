/** Which Python an interpreter is, asked of the interpreter itself. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const PROBE = "import sys;print('%d.%d.%d'%sys.version_info[:3])";
const PROBE_TIMEOUT_MS = 10_000;

/** `3.11.2`, or undefined where the interpreter does not run. */
export function pythonVersion(python: string): Promise<string | undefined> {
  return printed(python, ["-I", "-S", "-c", PROBE]);
}

/** What a program prints, without white space around it; undefined where it fails or takes too long. */
export async function printed(program: string, args: readonly string[]): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(program, args, { timeout: PROBE_TIMEOUT_MS });
    return stdout.trim();
  } catch {
    return undefined;
  }
}
