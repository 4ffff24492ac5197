/** Workers in namespaces are workers: every runtime, large values, the next agent, one submitter each, a network if asked. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CODEC_REFERENCE, decodeReference, encodeReference } from "@farloom/protocol";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { readIsolationConfig } from "../../apps/endpoint-agent/src/isolation/config.js";
import { type Prepared, prepareIsolation } from "../../apps/endpoint-agent/src/isolation/probe.js";
import { command, NodeHarness, node, PYTHON, python } from "../support/node-harness.js";
import { whyNot } from "./levels.js";

const TEST_MS = 60_000;
/** Tells workers apart: the kernel gives the number of a namespace that is gone to the next one. */
const WORKER = python(
  "def worker():\n    import builtins, uuid\n    if not hasattr(builtins, 'who'):\n        builtins.who = str(uuid.uuid4())\n    return builtins.who\n",
);
const CONNECT = (network?: boolean) =>
  python(
    "def reach(port):\n    import socket\n    socket.create_connection(('127.0.0.1', port), 2).close()\n",
    {
      env: network === undefined ? {} : { network },
    },
  );

const reason = whyNot();

describe.skipIf(reason !== undefined)(
  `workers in namespaces${reason === undefined ? "" : ` (skipped: ${reason})`}`,
  () => {
    let boxed: Prepared;
    let asked: Prepared;
    let harness: NodeHarness | undefined;

    beforeAll(async () => {
      const prepare = (network: unknown, limits = {}) =>
        prepareIsolation(
          readIsolationConfig({ isolation: { level: "namespaces", network, limits } }),
          PYTHON,
        );
      [boxed, asked] = await Promise.all([prepare(false, { disk_mb: 16 }), prepare("functions")]);
    }, TEST_MS);
    afterEach(() => harness?.[Symbol.asyncDispose](), TEST_MS);

    const open = async ({ sandbox }: Prepared = boxed) => {
      harness = new NodeHarness({ sandbox });
      return harness.start();
    };

    it(
      "run Python, Node and commands, and end what each leaves behind",
      async () => {
        const fabric = await open();
        const home = python(
          "def home():\n    import os, tempfile\n    return [os.environ['HOME'], tempfile.gettempdir()]\n",
        );
        expect((await fabric.call(home)).value).toEqual(["/tmp", "/tmp"]);
        const leave = node(
          `import { spawn } from "node:child_process";
           export function main() { spawn("sleep", ["60"], { detached: true }).unref(); return process.pid; }`,
        );
        const look = node(
          `import { readdirSync } from "node:fs";
           export function main() { return readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)).length; }`,
        );
        expect((await fabric.call(leave)).state).toBe("SUCCEEDED");
        // The sandbox's first process, and the worker.
        expect((await fabric.call(look)).value).toBe(2);
        const told = await fabric.call(command({ argv: ["sh", "-c", "sleep 60 & cat /proc/1/comm"] }));
        expect(told.value).toMatchObject({ stdout: "bwrap\n" });
      },
      TEST_MS,
    );

    it(
      "take and give large values by files that they alone see",
      async () => {
        const fabric = await open();
        const payload = Buffer.from(JSON.stringify([["y".repeat(300_000)], {}]));
        const digest = createHash("sha256").update(payload).digest();
        const store = join(fabric.stateDir, "payloads");
        mkdirSync(store, { recursive: true });
        writeFileSync(join(store, digest.toString("hex")), payload);
        const raw = encodeReference(digest, payload.length);
        const double = python("def double(x):\n    return x + x\n");
        const end = await fabric.call(double, [], { raw, rawCodec: 1 | CODEC_REFERENCE });
        expect([end.state, end.detail]).toEqual(["SUCCEEDED", {}]);
        const result = readFileSync(join(store, decodeReference(end.bytes)!.digest.toString("hex")));
        expect(JSON.parse(result.toString())).toHaveLength(600_000);
        const seen = python("def seen(x):\n    import os\n    return os.listdir('/farloom/payloads')\n");
        const others = await fabric.call(seen, [], { raw, rawCodec: 1 | CODEC_REFERENCE });
        expect(others.value).toEqual([]);
        // A damaged file is found out, and goes, so that another try fetches it anew.
        writeFileSync(join(store, digest.toString("hex")), Buffer.alloc(payload.length));
        const damaged = await fabric.call(double, [], { raw, rawCodec: 1 | CODEC_REFERENCE });
        expect(damaged.reason).toBe("payload_corrupt");
        expect(existsSync(join(store, digest.toString("hex")))).toBe(false);
      },
      TEST_MS,
    );

    it(
      "hand in no file under a digest that is not its own",
      async () => {
        const fabric = await open();
        const lie = python(
          `def lie(honest):
    import os
    rename = os.rename
    def changing(old, new):
        rename(old, new)
        with open(new, "r+b") as file:
            file.write(b"X")
    if not honest:
        os.rename = changing
    return "y" * 300_000
`,
        );
        const honest = await fabric.call(lie, [true]);
        expect([honest.state, honest.codec & CODEC_REFERENCE]).toEqual(["SUCCEEDED", CODEC_REFERENCE]);
        const end = await fabric.call(lie, [false]);
        expect([end.state, end.reason]).toEqual(["FAILED", "payload_corrupt"]);
        expect(end.detail.error?.message).toContain("the result is refused: its file has SHA-256");
        const store = join(fabric.stateDir, "payloads");
        const name = decodeReference(honest.bytes)!.digest.toString("hex");
        expect(
          createHash("sha256")
            .update(readFileSync(join(store, name)))
            .digest("hex"),
        ).toBe(name);
      },
      TEST_MS,
    );

    it(
      "serve one submitter each, and stay warm for them",
      async () => {
        const fabric = await open(boxed);
        const of = async (submitter?: string) =>
          (await fabric.call(WORKER, [], submitter === undefined ? {} : { options: { submitter } })).value;
        const ann = "0190b6f0-0000-7000-8000-000000000001";
        const bob = "0190b6f0-0000-7000-8000-000000000002";
        const [mine, hers, his] = [await of(), await of(ann), await of(bob)];
        expect(new Set([mine, hers, his]).size).toBe(3);
        expect([await of(), await of(ann), await of(bob)]).toEqual([mine, hers, his]);
      },
      TEST_MS,
    );

    it(
      "have a network only where the endpoint leaves that to functions and the function asks",
      async () => {
        const server = createServer((socket) => socket.destroy());
        await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
        const { port } = server.address() as { port: number };
        try {
          const fabric = await open(asked);
          expect((await fabric.call(CONNECT(true), [port])).state).toBe("SUCCEEDED");
          expect((await fabric.call(CONNECT(), [port])).state).toBe("FAILED");
          await fabric[Symbol.asyncDispose]();
          const closed = await open(boxed);
          expect((await closed.call(CONNECT(true), [port])).state).toBe("FAILED");
        } finally {
          server.close();
        }
      },
      TEST_MS,
    );

    it(
      "outlive their agent, and find the next one by the door",
      async () => {
        const stateDir = mkdtempSync(join(tmpdir(), "fl-box-"));
        try {
          const first = await new NodeHarness({ stateDir, sandbox: boxed.sandbox }).start();
          const before = (await first.call(WORKER)).value;
          await first.manager.close({ leaveWorkers: true });
          const second = await new NodeHarness({ stateDir, sandbox: boxed.sandbox }).start();
          expect((await second.call(WORKER)).value).toBe(before);
          await second.manager.close({ leaveWorkers: true });
          // Under other rules, at its level or another, it would run tasks under some that are not in force any more.
          const third = await new NodeHarness({ stateDir, sandbox: asked.sandbox }).start();
          const after = (await third.call(WORKER)).value;
          expect(after).not.toBe(before);
          await third.manager.close({ leaveWorkers: true });
          await using fourth = await new NodeHarness({ stateDir }).start();
          expect([before, after]).not.toContain((await fourth.call(WORKER)).value);
        } finally {
          rmSync(stateDir, { recursive: true, force: true });
        }
      },
      TEST_MS,
    );

    it(
      "are ended where a task fills its folder, and say how they died",
      async () => {
        const fabric = await open();
        const fill = python(
          "def fill():\n    import time\n    for n in range(5):\n        open(str(n), 'wb').write(b'1' * 2**23)\n    time.sleep(30)\n",
        );
        const full = await fabric.call(fill);
        expect([full.state, full.detail.error?.type]).toEqual(["FAILED", "DiskLimit"]);
        const die = python("def die():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)\n");
        const dead = await fabric.call(die);
        expect([dead.reason, dead.detail.signal]).toEqual(["worker_died", "SIGSEGV"]);
      },
      TEST_MS,
    );
  },
);
