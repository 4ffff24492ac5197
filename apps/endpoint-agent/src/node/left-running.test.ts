import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { command, NodeHarness, python } from "../../../../test/support/node-harness.js";

const TEST_MS = 60_000;

/** Whether the process is there and has not ended. */
function isAlive(pid: unknown): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${String(pid)}/status`, "utf8"));
  } catch {
    return false;
  }
}

describe.skipIf(process.platform !== "linux")(
  "what a task leaves running, without isolation (skipped: Linux)",
  () => {
    let harness: NodeHarness;
    beforeAll(async () => {
      harness = await new NodeHarness().start();
    }, TEST_MS);
    afterAll(() => harness?.[Symbol.asyncDispose](), TEST_MS);

    const NEXT = python("def next_one():\n    import os\n    return os.getpid()\n");

    it(
      "is gone before the next task begins, whatever session or parent it has, and the worker stays",
      async () => {
        const worker = (await harness.call(NEXT)).value;
        const leave = python(
          `def leave():
    import os, subprocess
    child = subprocess.Popen(["sleep", "600"])
    away = subprocess.Popen(["sleep", "600"], start_new_session=True)
    daemon = subprocess.check_output(["sh", "-c", "setsid env -i /bin/sleep 600 >/dev/null 2>&1 & echo $!"], text=True)
    return [child.pid, away.pid, int(daemon)]
`,
        );
        const left = (await harness.call(leave)).value as number[];
        expect((await harness.call(NEXT)).value).toBe(worker);
        expect(left.filter(isAlive)).toEqual([]);
      },
      TEST_MS,
    );

    it(
      "is gone after a command too",
      async () => {
        const run = command({ argv: ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"] });
        const { stdout } = (await harness.call(run)).value as { stdout: string };
        await harness.call(command({ argv: ["true"] }));
        expect(isAlive(Number(stdout))).toBe(false);
      },
      TEST_MS,
    );
  },
);
