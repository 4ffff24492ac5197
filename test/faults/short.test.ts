/**
 * A short campaign, as a part of the tests: the whole program, a handful of faults, thousands of tasks. The long one is
 * `npm run faults -- --minutes 10`.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const LEAST_TASKS = 2_000;
const KINDS = [
  "service.kill",
  "agent.kill",
  "worker.kill",
  "client.kill",
  "net.agent.cut",
  "net.client.reset",
  "net.postgres.lose-commit",
  "postgres.terminate",
];
const LIMIT_MS = 170_000;

interface CampaignReport {
  readonly status: number;
  readonly faults: number;
  readonly kinds: number;
  readonly tasks: number;
  readonly found: readonly unknown[];
  readonly floor_missed: readonly string[];
  /** Processes of the fabric that nobody ended. */
  readonly ended: readonly unknown[];
}

function campaign(args: readonly string[]): Promise<CampaignReport> {
  return new Promise((resolve, reject) => {
    const program = join(ROOT, "scripts/faults.mjs");
    execFile(process.execPath, [program, "--json", ...args], { cwd: ROOT }, (error, stdout, stderr) => {
      try {
        resolve({ status: Number(error?.code ?? 0), ...JSON.parse(stdout) });
      } catch {
        reject(new Error(`the campaign gave no report\n${stderr.slice(-4_000)}`));
      }
    });
  });
}

describe("a short campaign", () => {
  it(
    "breaks services, agents, workers, clients and links, and no guarantee",
    async () => {
      const report = await campaign([
        ...[
          "--minutes",
          "0.4",
          "--seed",
          "1",
          "--rate",
          "150",
          "--every",
          "2500",
          "--least",
          `${LEAST_TASKS}`,
        ],
        ...["--only", KINDS.join(",")],
      ]);
      expect(report.found).toEqual([]);
      expect(report.ended).toEqual([]);
      expect(report.floor_missed).toEqual([]);
      expect(report.kinds).toBeGreaterThanOrEqual(6);
      expect(report.tasks).toBeGreaterThanOrEqual(LEAST_TASKS);
      expect(report.status).toBe(0);
    },
    LIMIT_MS,
  );
});
