/** The switches of @farloom/protocol/testing, and that its lists and the sources say the same. */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { CRASH_POINTS } from "./crash-point.js";
import { PLANTED_BUGS } from "./planted.js";

const ROOT = join(import.meta.dirname, "../../../..");
const BUILT = join(ROOT, "packages/protocol/dist/testing/index.js");
const PLACES = ["apps/web-service/src", "apps/endpoint-agent/src", "packages/sdk/src"];

/** Each starts a few processes, on machines that do other things too. */
const LIMIT_MS = 60_000;
let home: string;

vi.setConfig({ testTimeout: LIMIT_MS });

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "farloom-testing-"));
});

afterAll(() => {
  rmSync(home, { recursive: true, force: true });
});

/** Every string literal that is given to these functions in our sources, tests aside. */
function callsOf(pattern: RegExp): string[] {
  const found: string[] = [];
  for (const place of PLACES) {
    for (const name of readdirSync(join(ROOT, place), { recursive: true, encoding: "utf8" })) {
      if (!/(?<!\.test)\.(ts|py)$/.test(name) || /generated|test_/.test(name)) continue;
      const text = readFileSync(join(ROOT, place, name), "utf8");
      for (const match of text.matchAll(pattern)) found.push(match[1]!);
    }
  }
  return found.sort();
}

/** Runs a few lines that import the built module; how the process ended, and what it wrote. */
function runWith(env: Record<string, string>, lines: string): SpawnSyncReturns<string> {
  const script = `import { crashPoint, planted } from ${JSON.stringify(BUILT)};\n${lines}`;
  return spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    env: { PATH: process.env.PATH ?? "", ...env },
    encoding: "utf8",
  });
}

const THREE_PASSINGS = `
  for (let i = 1; i <= 3; i++) { crashPoint("agent.result.sent"); console.log(i); }
  crashPoint("agent.ack.recorded");`;

it("every crash point stands in the sources exactly once, and is in the list", () => {
  expect(callsOf(/crash_?[pP]oint\(\s*"([^"]+)"/g)).toEqual([...CRASH_POINTS].sort());
});

it("every planted bug stands in the sources, and is in the list", () => {
  expect([...new Set(callsOf(/planted\(\s*"([^"]+)"/g))]).toEqual(Object.keys(PLANTED_BUGS).sort());
});

it("a process dies as from kill -9 at the passing that it was told, and nowhere else", () => {
  const second = runWith({ FARLOOM_CRASH_AT: "agent.result.sent:2" }, THREE_PASSINGS);
  expect(second).toMatchObject({ signal: "SIGKILL", stdout: "1\n" });
  const fourth = runWith({ FARLOOM_CRASH_AT: "agent.result.sent:4" }, THREE_PASSINGS);
  expect(fourth).toMatchObject({ status: 0, stdout: "1\n2\n3\n" });
  expect(runWith({}, THREE_PASSINGS)).toMatchObject({ status: 0, stdout: "1\n2\n3\n", stderr: "" });
});

it("an order in a file kills one process, which takes the file away", () => {
  const file = join(home, "order");
  writeFileSync(file, "agent.result.sent:3:a");
  const env = { FARLOOM_CRASH_AT: `@${file}` };
  expect(runWith(env, THREE_PASSINGS)).toMatchObject({ signal: "SIGKILL", stdout: "1\n2\n" });
  expect(existsSync(file)).toBe(false);
  expect(runWith(env, THREE_PASSINGS)).toMatchObject({ status: 0, stdout: "1\n2\n3\n" });
});

it("planted bugs are refused where the process is not for tests alone, and are said aloud where it is", () => {
  const look = 'console.log(planted("attempt-not-raised"), planted("results-swapped"))';
  const refused = runWith({ FARLOOM_PLANT: "attempt-not-raised" }, look);
  expect(refused.status).not.toBe(0);
  expect(refused.stderr).toContain("FARLOOM_TEST_ONLY");
  const taken = runWith({ FARLOOM_PLANT: "attempt-not-raised", FARLOOM_TEST_ONLY: "1" }, look);
  expect(taken).toMatchObject({ status: 0, stdout: "true false\n" });
  expect(taken.stderr).toContain("ON PURPOSE");
  expect(runWith({ FARLOOM_PLANT: "no-such-bug", FARLOOM_TEST_ONLY: "1" }, look).status).not.toBe(0);
  expect(runWith({}, look)).toMatchObject({ status: 0, stdout: "false false\n", stderr: "" });
});
