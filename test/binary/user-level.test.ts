/**
 * The single file at isolation level `user`: its workers are another user's processes, and read what they are made of from
 * the files that it unpacked for root.
 */
import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { TERMINAL_STATES } from "@farloom/protocol";
import { expect, it } from "vitest";
import { defineFunction, FakeService } from "../support/fake-service.js";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
const BINARY = join(REPOSITORY, `dist/farloom-endpoint-agent-${process.platform}-${process.arch}`);
const NOBODY = "65534";
const isPossible = process.getuid?.() === 0 && spawnSync("bwrap", ["--version"]).error === undefined;

it.skipIf(!isPossible)(
  "workers of another user run from what the single file unpacked, and can read nothing else of it (skipped: needs root and bwrap)",
  async () => {
    execFileSync(process.execPath, [join(REPOSITORY, "scripts/agent-binary/build.mjs")], {
      stdio: "inherit",
    });
    const parent = mkdtempSync(join(tmpdir(), "farloom-user-"));
    const binary = join(parent, "farloom-endpoint-agent");
    execFileSync("cp", [BINARY, binary]);
    chmodSync(parent, 0o755);
    const stateDir = join(parent, "state");
    mkdirSync(stateDir, { mode: 0o700 });
    writeFileSync(join(stateDir, "agent.toml"), `[isolation]\nlevel = "user"\nuser = "${NOBODY}"\n`);
    const service = await FakeService.start();
    const enroll = ["enroll", "--service", service.url, "--state-dir", stateDir];
    await promisify(execFile)(binary, enroll, {
      env: { ...process.env, FARLOOM_ENROLMENT_CODE: "good-code" },
    });
    const agent = spawn(binary, ["run", "--workers", "1", "--stop-workers", "--state-dir", stateDir], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    const ended = new Promise((resolve) => agent.once("exit", resolve));
    try {
      await service.until(() => service.connected && service.roomTasks > 0, "connected, with credit", 60_000);
      const program = join(stateDir, "program");
      const place = join(program, readdirSync(program)[0]!);
      const look = `import os
def f():
    seen = []
    for folder, _, files in os.walk(${JSON.stringify(place)}):
        seen += [os.path.join(folder, name) for name in files]
    def readable(path):
        try:
            open(path).close()
            return True
        except OSError:
            return False
    own = [${JSON.stringify(place)} + name for name in ("/src/workers/python/farloom_worker.py", "/dist/workers/node/main.js", "/dist/bundle/main.js", "/src/blocks/slurm/block.sh")]
    return [os.getuid(), seen, [readable(path) for path in own]]
`;
      const call = async (def: ReturnType<typeof defineFunction>) => {
        service.def = def;
        const [key] = service.sendTasks([{ args: Buffer.from("[[],{}]") }]);
        await service.until(
          () => service.resultOf(key!) !== undefined,
          `the result of ${def.runtime}`,
          60_000,
        );
        const { state, data, detail } = service.resultOf(key!)!;
        expect([state, detail?.error]).toEqual([TERMINAL_STATES.SUCCEEDED, undefined]);
        return JSON.parse(data.toString()) as unknown;
      };
      const python = await call(defineFunction({ code: Buffer.from(look) }));
      expect(python).toEqual([Number(NOBODY), [], [true, true, false, false]]);
      const node = defineFunction({
        runtime: "node",
        code: Buffer.from("export const f = () => process.getuid();\n"),
      });
      expect(await call(node)).toBe(Number(NOBODY));
      // Outside of the sandbox nobody else comes that far.
      expect(statSync(program).mode & 0o777).toBe(0o700);
    } finally {
      agent.kill("SIGTERM");
      await ended;
      await service.close();
      rmSync(parent, { recursive: true, force: true });
    }
  },
  180_000,
);
