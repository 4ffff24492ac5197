import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { IsolationInfo } from "@farloom/protocol";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { readAgentInfo } from "./agent-info.js";
import { resolveConfig } from "./config.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-info-"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true, force: true });
});

/** What an agent says of itself whose runner is this script, in the place of a Podman that this machine may not have. */
async function told(runner: string) {
  writeFileSync(join(dir, "podman"), `#!/bin/sh\n${runner}\n`, { mode: 0o755 });
  vi.stubEnv("PATH", `${dir}:${process.env.PATH}`);
  writeFileSync(
    join(dir, "agent.toml"),
    '[isolation]\nlevel = "container"\nrunner = "podman"\nimage = "lab/tools"\n[environments.here]\npython = "python3"\n',
    { mode: 0o600 },
  );
  const isolation: IsolationInfo = { level: "container", offers: ["container"], network: false };
  return readAgentInfo(resolveConfig({ stateDir: dir }, {}), "boot", isolation);
}

it("of workers in containers tells the image's Python, and none of the machine's", async () => {
  // Everything behind the image's name is what runs in it.
  const info = await told(
    `while [ "$1" != lab/tools ]; do shift; done; [ "$2" = python3 ] && echo '{"version": "3.9.7", "packages": {"cloudpickle": "3.0.0"}}'`,
  );
  expect(info.pythons).toEqual({
    default: {
      version: "3.9.7",
      program: "podman … lab/tools python3",
      cloudpickle: "3.0.0",
      packages: { cloudpickle: "3.0.0" },
    },
  });
  expect(info.runtimes).toEqual({ python: "3.9.7", command: "1" });
});

it("of workers in containers tells nothing where the image does not say it", async () => {
  const info = await told("exit 125");
  expect([info.pythons, info.runtimes]).toEqual([undefined, {}]);
});
