/** What the single file is made of: the agent in a few files, run by this Node from another place than the repository. */
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
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

const env = { ...process.env, FARLOOM_ENROLMENT_CODE: "good-code" };

/** What a command prints; this process goes on meanwhile, as the service is in it. */
const agent = async (...args: string[]): Promise<string> => {
  const all = [join(folder, "dist/bundle/main.js"), ...args];
  return (await promisify(execFile)(process.execPath, all, { encoding: "utf8", cwd: folder, env })).stdout;
};

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

it("says its version and its commands, and finds its templates", async () => {
  expect(await agent("--version")).toMatch(/^farloom-endpoint-agent\/\d/);
  expect(await agent("--help")).toContain("Options of setup");
  expect(await agent("configure", "--list", "--state-dir", join(folder, "state"))).toContain("Perlmutter");
});

it("runs a task in a worker of its own", async () => {
  const service = await FakeService.start();
  try {
    const stateDir = join(folder, "state");
    await agent("enroll", "--service", service.url, "--state-dir", stateDir);
    // Isolation too, which looks for our packages where there are none.
    await agent("start", "--workers", "1", "--isolation", "limits", "--state-dir", stateDir);
    await service.until(() => service.connected && service.roomTasks > 0, "credit", 30_000);
    service.sendTasks([{}]);
    await service.until(() => service.results.length === 1, "the result", 30_000);
  } finally {
    await agent("uninstall", "--within", "1s", "--state-dir", join(folder, "state"));
    await service.close();
  }
}, 90_000);
