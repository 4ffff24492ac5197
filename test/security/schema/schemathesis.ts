// schemathesis, from PyPI in a Python of its own: it reads the API page, makes requests up, and holds every reply to what the
// page says. `npm test` brings it; where it is not there, `whyNoSchemathesis` says so and the tests that need it skip.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Things } from "../access-things.js";

const CACHE = join(import.meta.dirname, "../../../node_modules/.cache/schemathesis/bin");
const PROGRAM = join(CACHE, "st");
const PINNED = /^schemathesis==(.+)$/m.exec(
  readFileSync(join(import.meta.dirname, "requirements.txt"), "utf8"),
)![1]!;

const found = spawnSync(PROGRAM, ["--version"], { encoding: "utf8" }).stdout ?? "";
export const whyNoSchemathesis = found.includes(PINNED)
  ? undefined
  : `schemathesis ${PINNED} is not installed: npm test brings it where the package index can be reached`;

/** What is held: a reply's status, media type, headers and shape are on the page, and nothing is told to whom it is not for. */
const CHECKS = [
  "not_a_server_error",
  "status_code_conformance",
  "content_type_conformance",
  "response_headers_conformance",
  "response_schema_conformance",
  "use_after_free",
  "tells_nothing_of_others",
  "lets_nobody_in",
];

/** Who asks, in turn with the others. */
export interface Caller {
  readonly name: string;
  /** Null: nobody's. */
  readonly credential: string | null;
  readonly own: Things;
  readonly foreign: Things;
  /** Texts that no reply to this caller may have. */
  readonly secret: readonly string[];
}

export interface SchemaRun {
  readonly url: string;
  readonly callers: readonly Caller[];
  readonly seed: number;
  readonly phases: readonly string[];
  /** Made-up requests of each operation, at most. */
  readonly examples: number;
}

export interface SchemaReport {
  readonly passed: boolean;
  readonly cases: number;
  readonly operations: number;
  /** What it wrote: every failure, with the request as a curl command. */
  readonly text: string;
}

/** Runs it to its end. Rejects where it could not run. */
export async function runSchemathesis(run: SchemaRun): Promise<SchemaReport> {
  const folder = mkdtempSync(join(tmpdir(), "farloom-schema-"));
  const { url, callers, seed, phases, examples } = run;
  // Credentials go by a file: every process can read a command line.
  const callersFile = join(folder, "callers.json");
  writeFileSync(callersFile, JSON.stringify(callers), { mode: 0o600 });
  const args = ["run", `${url}/openapi.json`, `--checks=${CHECKS.join(",")}`, `--phases=${phases.join(",")}`];
  args.push(`--max-examples=${examples}`, `--seed=${seed}`, "--generation-database=none", "--no-shrink");
  args.push("--continue-on-failure", "--warnings=off", "--no-color", "--suppress-health-check=all");
  try {
    const { status, text } = await output(PROGRAM, args, {
      PATH: process.env.PATH ?? "",
      HOME: folder,
      PYTHONPATH: import.meta.dirname,
      PYTHONDONTWRITEBYTECODE: "1",
      SCHEMATHESIS_HOOKS: "hooks",
      FARLOOM_SCHEMA_CALLERS: callersFile,
    });
    const cases = Number(/^ {2}(\d+) generated/m.exec(text)?.[1] ?? 0);
    const operations = Number(/^ {2}Tested: (\d+)/m.exec(text)?.[1] ?? 0);
    if (cases === 0 || (status !== 0 && status !== 1))
      throw new Error(`schemathesis ended with ${status}\n${text}`);
    return { passed: status === 0, cases, operations, text };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function output(
  command: string,
  args: readonly string[],
  env: Record<string, string>,
): Promise<{ status: number | null; text: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env, cwd: env.HOME, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (more: string) => {
        text = (text + more).slice(-200_000);
      });
    child.once("error", reject);
    child.once("close", (status) => resolve({ status, text }));
  });
}
