/**
 * The single file on a host that has nothing but a libc, a shell and a Python: a Debian made by mmdebstrap, entered by
 * chroot. The service is a fake one outside, on the loopback interface that both share.
 */
import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { TERMINAL_STATES } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { defineFunction, FakeService } from "../support/fake-service.js";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
/** Made once: a minute, and 200 MB. */
const ROOT = join(REPOSITORY, "node_modules/.cache/agent-binary/bookworm");
const BINARY = join(REPOSITORY, `dist/farloom-endpoint-agent-${process.platform}-${process.arch}`);
const has = (program: string): boolean => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
const isPossible = process.getuid?.() === 0 && ["mmdebstrap", "chroot", "unshare"].every(has);

describe.skipIf(!isPossible)("the single file in a bare Debian (skipped: needs mmdebstrap and root)", () => {
  let service: FakeService;
  let running: (() => Promise<void>) | undefined;

  beforeAll(async () => {
    execFileSync(process.execPath, [join(REPOSITORY, "scripts/agent-binary/build.mjs")], {
      stdio: "inherit",
    });
    if (!existsSync(ROOT)) {
      const aside = `${ROOT}.new`;
      rmSync(aside, { recursive: true, force: true });
      mkdirSync(join(ROOT, ".."), { recursive: true });
      execFileSync("mmdebstrap", ["--variant=minbase", "--include=python3", "bookworm", aside], {
        stdio: "inherit",
      });
      renameSync(aside, ROOT);
    }
    copyFileSync(BINARY, join(ROOT, "usr/local/bin/farloom-endpoint-agent"));
    rmSync(join(ROOT, "root/.farloom"), { recursive: true, force: true });
    service = await FakeService.start();
  });
  afterAll(async () => {
    await running?.();
    await service?.close();
  });

  /** A shell in there, with a /proc and a /dev. */
  const inside = (script: string): readonly [string, string[]] => [
    "unshare",
    [
      "--mount",
      "--pid",
      "--fork",
      "--kill-child",
      "sh",
      "-c",
      `mount -t proc proc ${ROOT}/proc && mount --rbind /dev ${ROOT}/dev && exec chroot ${ROOT} /usr/bin/env -i HOME=/root PATH=/usr/local/bin:/usr/bin:/bin CODE=good-code URL=${service.url} sh -c '${script}'`,
    ],
  ];
  const said = async (script: string): Promise<string> =>
    (await promisify(execFile)(...inside(script), { encoding: "utf8" })).stdout;

  it("says its version where there is no Node", async () => {
    expect(await said("command -v node || farloom-endpoint-agent --version")).toMatch(
      /^farloom-endpoint-agent\/\d+\.\d+\.\d+\n$/,
    );
    expect(await said("farloom-endpoint-agent --help")).toContain("farloom-endpoint-agent setup");
  });

  /** An agent in there, until the next one or the end. */
  const begin = async (options: string): Promise<void> => {
    await running?.();
    const agent = spawn(...inside(`exec farloom-endpoint-agent run --workers 1 --stop-workers ${options}`), {
      stdio: ["ignore", "ignore", "inherit"],
    });
    const ended = new Promise((resolve) => agent.once("exit", resolve));
    running = async () => {
      // unshare ends all of its processes with itself.
      agent.kill("SIGKILL");
      await ended;
    };
  };

  it("checks, enrols, and runs functions in Python and JavaScript, with its workers unpacked into its state folder", async () => {
    const told = await said(
      'FARLOOM_ENROLMENT_CODE=$CODE farloom-endpoint-agent setup --service "$URL" --survive none',
    );
    expect(told).toMatch(/✓ program: .* in one file\n✓ service: /);
    expect(told).toContain("This machine is endpoint cluster.");
    await begin("");
    await service.until(
      () => service.connected && service.roomTasks > 0,
      "the agent is connected, with credit",
      60_000,
    );
    const python = defineFunction({
      entry: "f",
      code: Buffer.from("import sys\ndef f(x): return [sys.version_info[0], x + 1]\n"),
    });
    const node = defineFunction({
      runtime: "node",
      entry: "f",
      code: Buffer.from("export const f = (x) => [process.versions.node.length > 0, x + 2];\n"),
    });
    for (const [def, expected] of [
      [python, [3, 42]],
      [node, [true, 43]],
    ] as const) {
      service.def = def;
      const [key] = service.sendTasks([{ args: Buffer.from("[[41],{}]") }]);
      await service.until(() => service.resultOf(key!) !== undefined, `the result of ${def.runtime}`, 60_000);
      const result = service.resultOf(key!)!;
      expect([result.state, JSON.parse(result.data.toString())]).toEqual([
        TERMINAL_STATES.SUCCEEDED,
        expected,
      ]);
    }
    expect(readFileSync(join(ROOT, "root/.farloom/agent/identity.json"), "utf8")).toContain("cluster");
    // Nodes of blocks are this file too, started as `EXECUTABLE SCRIPT node`.
    const connections = service.hellos.length;
    await begin("--provider process");
    await service.until(
      () => service.hellos.length > connections && service.connected && service.roomTasks > 0,
      "the next agent",
      60_000,
    );
    service.def = python;
    const [key] = service.sendTasks([{ args: Buffer.from("[[1],{}]") }]);
    await service.until(() => service.resultOf(key!) !== undefined, "the result of a node", 60_000);
    expect(service.resultOf(key!)!.state).toBe(TERMINAL_STATES.SUCCEEDED);
  });
});
