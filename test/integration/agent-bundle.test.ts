/** What the single file is made of: the agent in a few files, run by this Node from another place than the repository. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { FakeService } from "../support/fake-service.js";

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "farloom-bundle-"));
  const { bundleAgent } = (await import("../../scripts/agent-binary/bundle.mjs" as string)) as {
    bundleAgent(folder: string): Promise<string[]>;
  };
  await bundleAgent(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const agent = (...args: string[]): string =>
  execFileSync(process.execPath, [join(folder, "dist/main.js"), ...args], { encoding: "utf8", cwd: folder });

it("holds every file that a program reads beside itself", () => {
  for (const file of [
    "src/workers/python/farloom_worker.py",
    "src/blocks/slurm/block.sh",
    "dist/workers/node/main.js",
  ])
    expect(existsSync(join(folder, file)), file).toBe(true);
  expect(
    readdirSync(folder, { recursive: true }).filter((name) =>
      /node_modules|\.ts$|fixtures/.test(String(name)),
    ),
  ).toEqual([]);
});

it("says its version and its commands, and finds its templates", () => {
  expect(agent("--version")).toMatch(/^farloom-endpoint-agent\/\d/);
  expect(agent("--help")).toContain("Options of setup");
  expect(agent("configure", "--list", "--state-dir", join(folder, "state"))).toContain("Perlmutter");
});

it("runs a task in a worker of its own", async () => {
  const service = await FakeService.start();
  try {
    const stateDir = join(folder, "state");
    agent("enroll", "--service", service.url, "--code", "good-code", "--state-dir", stateDir);
    agent("start", "--workers", "1", "--state-dir", stateDir);
    await service.until(() => service.connected && service.roomTasks > 0, "credit", 30_000);
    service.sendTasks([{}]);
    await service.until(() => service.results.length === 1, "the result", 30_000);
  } finally {
    agent("uninstall", "--within", "1s", "--state-dir", join(folder, "state"));
    await service.close();
  }
}, 90_000);
