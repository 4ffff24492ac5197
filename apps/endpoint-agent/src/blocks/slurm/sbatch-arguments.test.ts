/** Whatever Unicode stands in options: it arrives as one argument, and never in the script or before a shell. */
import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { OptionError, readOptions } from "../options.js";
import { BATCH_SCRIPT, sbatchArguments } from "./sbatch-arguments.js";
import { runSlurm, slurmEnvironment } from "./slurm-command.js";
import { SLURM_OPTIONS } from "./slurm-options.js";

const folder = mkdtempSync(join(tmpdir(), "fl-sbatch-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const request = {
  nodes: 2,
  workersPerNode: 4,
  command: ["/opt/node", "node.js"],
  parametersFile: "/p/parameters",
};
const options = (given: Record<string, unknown>) => readOptions(SLURM_OPTIONS, given, "[slurm]");
const argumentsOf = (given: Record<string, unknown>, more = {}) =>
  sbatchArguments({
    name: "farloom-e-b",
    logDir: "/log",
    request: { ...request, ...more },
    options: options(given),
  });

describe("arguments of sbatch", () => {
  it("each option is one argument, the script and what it runs come last", () => {
    const given = {
      partition: "gpu",
      account: "lab",
      qos: "high",
      constraint: "a100&ssd",
      cores_per_node: 16,
      mem_per_node: "64G",
      gpus_per_node: "a100:4",
      exclusive: true,
      requeue: true,
      scheduler_options: ["--reservation=school"],
    };
    expect(argumentsOf(given, { walltimeMs: 90_500 })).toEqual([
      "--parsable",
      "--job-name=farloom-e-b",
      "--nodes=2",
      "--ntasks-per-node=1",
      "--cpus-per-task=16",
      "--mem=65536M",
      "--gpus-per-node=a100:4",
      "--time=2",
      "--partition=gpu",
      "--account=lab",
      "--qos=high",
      "--constraint=a100&ssd",
      "--output=/log/farloom-e-b.log",
      "--open-mode=append",
      "--chdir=/log",
      "--export=ALL",
      "--no-kill",
      "--exclusive",
      "--requeue",
      "--reservation=school",
      BATCH_SCRIPT,
      "/opt/node",
      "node.js",
      "/p/parameters",
    ]);
  });

  it("no text of an option reaches the script or a shell: a program gets it as it was written, or it is refused", {
    timeout: 60_000,
  }, async () => {
    // In the place of sbatch: what the kernel hands to a program, and the bytes of the script that it would submit.
    const seen = join(folder, "seen");
    const program = join(folder, "sbatch");
    writeFileSync(program, `#!/bin/sh\nprintf '%s\\0' "$@" > '${seen}'\n`);
    chmodSync(program, 0o755);
    const script = readFileSync(BATCH_SCRIPT);
    const harmful = fc.constantFrom(
      "$(touch pwned)",
      "`id`",
      "'; id; '",
      '"',
      "\\",
      "-rf",
      "--wrap=id",
      "%j",
      "|&;<>*?~#!",
    );
    const text = fc.oneof(
      fc.string({ unit: "binary", minLength: 1 }),
      harmful,
      fc.string({ unit: "grapheme", minLength: 1 }),
    );
    const names = ["partition", "account", "qos", "constraint"] as const;
    const some = fc.record({ name: fc.constantFrom(...names), text, comment: text });
    await fc.assert(
      fc.asyncProperty(some, async ({ name, text, comment }) => {
        let args: string[];
        try {
          args = argumentsOf({ [name]: text, scheduler_options: [`--comment=${comment}`] });
        } catch (error) {
          expect(error).toBeInstanceOf(OptionError);
          return;
        }
        await runSlurm(program, args, { env: { PATH: process.env.PATH } });
        const got = readFileSync(seen, "utf8").split("\0").slice(0, -1);
        expect(got).toEqual(args);
        expect(got).toContain(`--${name}=${text}`);
        expect(got).toContain(`--comment=${comment}`);
        // All that comes before the script begins with --, so that nothing else can be taken for it.
        const at = got.indexOf(BATCH_SCRIPT);
        expect(got.slice(0, at).every((argument) => argument.startsWith("--"))).toBe(true);
        expect(got.slice(at)).toEqual([BATCH_SCRIPT, ...request.command, request.parametersFile]);
        expect(readFileSync(BATCH_SCRIPT).equals(script)).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  it("the batch script is a program of sh, and hands its arguments on as they are", () => {
    const odd = ["a b", "$(id)", "ü'\"\\", ""];
    const env = { SLURM_JOB_ID: "1", SLURM_JOB_NODELIST: "n1", PATH: process.env.PATH };
    const printed = execFileSync("/bin/sh", [BATCH_SCRIPT, "/usr/bin/printf", "[%s]", ...odd], {
      env,
      encoding: "utf8",
    });
    expect(printed).toBe(
      `farloom: job 1 on n1, begun anew 0 times\n${odd.map((text) => `[${text}]`).join("")}`,
    );
  });

  it("a job inherits the agent's environment without what would change Slurm's programs, or is the agent's own", () => {
    const env = {
      HOME: "/h",
      SLURM_CONF: "/c",
      SLURM_JOB_ID: "1",
      SBATCH_PARTITION: "x",
      FARLOOM_API_KEY: "k",
      NO: undefined,
    };
    expect(slurmEnvironment(env)).toEqual({ HOME: "/h", SLURM_CONF: "/c" });
  });
});

describe("options of the provider slurm", () => {
  it.each([
    [{ partiton: "gpu" }, /there is no option "partiton"; there are partition, account/],
    [{ partition: "" }, /partition is "", not text on one line/],
    [{ account: "a\nb" }, /account is/],
    [{ account: "\ud800" }, /account is/],
    [{ gpus_per_node: "many" }, /gpus_per_node is "many", not a number of GPUs/],
    [{ mem_per_node: "lots" }, /mem_per_node is "lots", not an amount such as '16G'/],
    [{ cores_per_node: 0 }, /cores_per_node is 0, not a whole number from 1 to 4096/],
    [{ exclusive: "perhaps" }, /exclusive is "perhaps", not true or false/],
    [{ scheduler_options: ["#SBATCH --gres=gpu:1"] }, /without '#SBATCH'/],
    [{ scheduler_options: ["--job-name=x"] }, /blocks are found by their names/],
    [{ scheduler_options: ["--job=x"] }, /may read it as --job-name/],
    [{ scheduler_options: ["--wrap=id"] }, /batch script is always the same/],
    [{ scheduler_options: ["-A lab"] }, /write it as --name=value/],
  ])("%j is refused, and the error says what may stand there", (given, message) => {
    expect(() => options(given)).toThrow(message);
  });

  it("values are read as users write them", () => {
    expect(options({ cores_per_node: "16", exclusive: "true" })).toMatchObject({
      coresPerNode: 16,
      exclusive: true,
    });
    expect(options({ mem_per_node: 4 }).memPerNode).toBe(4096);
    expect(options({ mem_per_node: "800M" }).memPerNode).toBe(800);
    expect(options({})).toMatchObject({
      exclusive: false,
      requeue: false,
      schedulerOptions: [],
    });
  });
});
