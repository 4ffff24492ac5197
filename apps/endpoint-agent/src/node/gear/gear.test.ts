/** Real workers with GPUs that are declared: what they see is the variables that CUDA and ROCm read. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Call, command, NodeHarness, node, python } from "../../../../../test/support/node-harness.js";
import { readGearConfig } from "./gear-config.js";
import { NodeGear } from "./node-gear.js";

vi.setConfig({ testTimeout: 60_000 });

let dir: string;
let h: NodeHarness;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "fl-g-"));
});

afterEach(async () => {
  await h[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

async function start(options: Record<string, unknown>, workers = 4): Promise<void> {
  const gear = await NodeGear.open(readGearConfig({ limit_memory: "off", ...options }), process.env);
  h = await new NodeHarness({ workers, gear }).start();
}

/** Writes when it had which devices, and lets others come meanwhile. */
const EVIDENCE = `
import os, time
def run(log, name, ms):
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    cores = sorted(os.sched_getaffinity(0))
    def say(what):
        with open(log, "a") as f:
            f.write("%s %s [%s] %s\\n" % (what, name, gpus, ",".join(map(str, cores))))
    say("+")
    time.sleep(ms / 1000)
    say("-")
    return [gpus, os.environ.get("ROCR_VISIBLE_DEVICES"), os.environ.get("HIP_VISIBLE_DEVICES"), os.getpid(), cores]
`;
const needing = (gpus: number, more: { cores?: number } = {}) =>
  python(EVIDENCE, { resources: { gpus, ...more } });

interface Seen {
  readonly gpus: string;
  readonly hip: string;
  readonly pid: number;
  readonly cores: number[];
}

async function seen(...calls: { gpus: number; ms?: number }[]): Promise<Seen[]> {
  const log = join(dir, "log");
  const sent: Call[] = calls.map(({ gpus, ms = 1 }, i) => ({
    fn: needing(gpus),
    args: [log, String(i), ms],
  }));
  return (await h.ends(h.send(...sent), 50_000)).map((end) => {
    expect(end.detail.error, JSON.stringify(end.detail)).toBeUndefined();
    const [gpus, , hip, pid, cores] = end.value as [string, string, string, number, number[]];
    return { gpus, hip, pid, cores };
  });
}

/** The most that was in use of each device at any time, by what the tasks wrote themselves. */
function mostInUse(shareOf: (name: string) => number): Map<string, number> {
  const now = new Map<string, number>();
  const most = new Map<string, number>();
  for (const line of readFileSync(join(dir, "log"), "utf8").trim().split("\n")) {
    const [, what, name, gpus] = /^([+-]) (\S+) \[([^\]]*)\]/.exec(line)!;
    for (const id of gpus!.split(",").filter(Boolean)) {
      const share = Math.min(1, shareOf(name!));
      now.set(id, (now.get(id) ?? 0) + (what === "+" ? share : -share));
      most.set(id, Math.max(most.get(id) ?? 0, now.get(id)!));
    }
  }
  return most;
}

describe("GPUs", () => {
  it("each task has those that it asked for, to itself; one that asks for none sees none", async () => {
    await start({ gpus: 2 });
    const [a, b, none] = await seen({ gpus: 1, ms: 400 }, { gpus: 1, ms: 400 }, { gpus: 0 });
    expect([a!.gpus, b!.gpus].sort()).toEqual(["0", "1"]);
    expect(none).toMatchObject({ gpus: "", hip: "-1" });
    const js = node("export function main() { return process.env.CUDA_VISIBLE_DEVICES }", {
      resources: { gpus: 2 },
    });
    expect((await h.call(js)).value, "idle workers with one device each made room").toBe("0,1");
    const shell = command({ argv: ["sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]"] }, { resources: {} });
    expect((await h.call(shell)).value).toMatchObject({ stdout: "[]\n" });
  });

  it("a worker keeps its devices, and the next task that needs the same goes to it", async () => {
    await start({ gpus: 2 });
    const [first] = await seen({ gpus: 1 });
    const [second] = await seen({ gpus: 1 });
    expect(second).toEqual(first);
    const [both] = await seen({ gpus: 2 });
    expect(both).toMatchObject({ gpus: "0,1", hip: "0,1" });
    expect(h.pids).not.toContain(first!.pid);
  });

  it("whatever is asked for in whatever order, no share of a device is given twice, and everything runs", async () => {
    await start({ gpus: 2, gpu_slots: 4 }, 6);
    const shares = [0.25, 1, 0.5, 2, 0.25, 0.25, 0, 1, 0.75, 2, 0.25, 0.5, 0, 1, 0.25, 2, 0.5, 0.25];
    await seen(...shares.map((gpus, i) => ({ gpus, ms: 10 + ((i * 37) % 60) })));
    const most = mostInUse((name) => shares[Number(name)]!);
    expect([...most.keys()].sort()).toEqual(["0", "1"]);
    for (const [id, used] of most) expect(used, `device ${id}`).toBeLessThanOrEqual(1 + 1e-9);
  });

  it("a large need that waits is not passed for ever by small ones", async () => {
    await start({ gpus: 2 });
    const log = join(dir, "log");
    const small = (ms: number): Call => ({ fn: needing(1), args: [log, "small", ms] });
    h.send(small(300), small(300));
    await h.until(() => h.pids.length > 0);
    const [large] = h.send({ fn: needing(2), args: [log, "large", 1] });
    const later = h.send(...Array.from({ length: 12 }, () => small(100)));
    await h.ends([large!]);
    expect(later.filter((key) => h.outcomes.has(key)).length).toBeLessThan(later.length);
    await h.ends(later, 40_000);
    for (const used of mostInUse(() => 1).values()) expect(used).toBe(1);
  });

  it("those of a worker that dies are given out again", async () => {
    await start({ gpus: 1 });
    const end = await h.call(
      python("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGKILL)", { resources: { gpus: 1 } }),
    );
    expect(end.reason).toBe("worker_died");
    expect((await seen({ gpus: 1 }))[0]!.gpus).toBe("0");
  });

  it("a need that the node can never meet is answered, with what there is", async () => {
    await start({ gpus: 1 });
    const end = await h.call(needing(2), ["", "", 1]);
    expect([end.state, end.reason]).toEqual(["FAILED", "environment"]);
    expect(end.detail.error).toMatchObject({
      type: "ResourcesMissing",
      message: expect.stringContaining("asks for 2 GPUs; this endpoint has 1 (gpus in agent.toml)"),
    });
  });

  it("with show_gpus tasks that ask for none see the node's own", async () => {
    const gear = await NodeGear.open(readGearConfig({ gpus: 1, show_gpus: true }), {});
    h = await new NodeHarness({
      workers: 1,
      gear,
      env: { ...process.env, CUDA_VISIBLE_DEVICES: "5" },
    }).start();
    expect((await seen({ gpus: 0 }))[0]!.gpus).toBe("5");
  });

  it("of a worker that outlives its agent stay its own", async () => {
    await start({ gpus: 1 });
    const [{ pid }] = (await seen({ gpus: 1 })) as [Seen];
    await h.manager.close({ leaveWorkers: true });
    const { stateDir } = h;
    const gear = await NodeGear.open(readGearConfig({ gpus: 1, limit_memory: "off" }), {});
    h = await new NodeHarness({ workers: 2, gear, stateDir }).start();
    const share = python(EVIDENCE, { resources: { gpus: 1 } });
    const end = await h.call(share, [join(dir, "log"), "0", 1]);
    expect((end.value as unknown[])[3], "the same worker, as there is one device").toBe(pid);
    rmSync(stateDir, { recursive: true, force: true });
  });
});

const cores = Number(execFileSync("nproc", { encoding: "utf8" }));

describe("pinning and limits", () => {
  it.skipIf(cores < 2)("with pin_cores every task has cores of its own (needs 2 cores)", async () => {
    await start({ pin_cores: true });
    const [a, b] = await seen({ gpus: 0, ms: 300 }, { gpus: 0, ms: 300 });
    expect(a!.cores).toHaveLength(1);
    expect(b!.cores).toHaveLength(1);
    expect(a!.cores).not.toEqual(b!.cores);
    const end = await h.call(needing(0, { cores: 2 }), [join(dir, "log"), "x", 1]);
    expect((end.value as unknown[])[4], "workers of one core each made room").toHaveLength(2);
    const tooMany = await h.call(needing(0, { cores: 4096 }), ["", "", 1]);
    expect(tooMany.detail.error?.message).toContain(
      "asks for 4096 cores; this endpoint has workers pinned to",
    );
  });

  it("with limit_memory = rlimit a function gets no more than it asked for, and others are not limited", async () => {
    await start({ limit_memory: "rlimit" });
    const code = "def f(mb):\n    return len(bytearray(mb << 20)) >> 20\n";
    const small = python(code, { resources: { memoryMb: 400 } });
    expect((await h.call(small, [100])).value).toBe(100);
    expect((await h.call(small, [600])).detail.error?.type).toBe("MemoryError");
    expect((await h.call(python(code), [600])).value).toBe(600);
  });

  it("says what is in force, and what is not and why", async () => {
    const { info } = await NodeGear.open(readGearConfig({ limit_memory: "off", gpus: ["3"] }), {});
    h = new NodeHarness();
    expect(info).toEqual({
      gpus: [{ id: "3" }],
      gpusFrom: "gpus in agent.toml",
      gpuSlots: 1,
      cores: "not pinned: pin_cores is not set",
      memory: "not limited: limit_memory is off",
    });
    const pinned = (await NodeGear.open(readGearConfig({ pin_cores: true, limit_memory: "rlimit" }), {}))
      .info;
    expect(pinned.cores).toMatch(/^pinned to cores \d/);
    expect(pinned.memory).toBe("limited by rlimit");
  });
});

it("a call over whole nodes is told which it has, and its programs start by the launcher's words", async () => {
  // A launcher that does nothing but say in a variable how it was called.
  await start({ mpi_launcher: ["env", "CALLED={ranks} on {hosts}"] }, 1);
  const options = { whole: { nodes: ["n1", "n2"] } };
  const resources = { nodes: 2, ranksPerNode: 3 };
  const code = `
import os, subprocess
def f():
    from farloom_worker_context import task
    said = subprocess.run([*task.mpi_prefix, "sh", "-c", "echo $CALLED"], capture_output=True, text=True).stdout
    names = ("FARLOOM_NODES", "FARLOOM_RANKS", "FARLOOM_MPI_PREFIX")
    return [task.nodes, task.ranks, said.strip(), [os.environ.get(name) for name in names]]
`;
  expect((await h.call(python(code, { resources }), [], { options })).value).toEqual([
    ["n1", "n2"],
    6,
    "6 on n1,n2",
    ["n1,n2", "6", "env 'CALLED=6 on n1,n2'"],
  ]);
  expect((await h.call(python(code))).value, "the next one has none").toEqual([
    null,
    null,
    "",
    [null, null, null],
  ]);
  const spec = { argv: ["{mpi_prefix}", "sh", "-c", "echo $CALLED"] };
  expect((await h.call(command(spec, { resources }), [], { options })).value).toMatchObject({
    stdout: "6 on n1,n2\n",
  });
  expect((await h.call(command(spec), [], { options })).value, "whatever came from above").toMatchObject({
    stdout: "\n",
  });
  const js = node(
    "export function main() { const { nodes, ranks, mpiPrefix } = farloom.task; return [nodes, ranks, mpiPrefix] }",
    {
      resources,
    },
  );
  expect((await h.call(js, [], { options })).value).toEqual([["n1", "n2"], 6, ["env", "CALLED=6 on n1,n2"]]);
});

it("keeps no more workers than twice its places, and ends those that have been idle longest", async () => {
  const interpreter =
    process.env.FARLOOM_TEST_PYTHON ??
    execFileSync("sh", ["-c", "command -v python3"], { encoding: "utf8" }).trim();
  const names = ["default", "a", "b", "c", "d", "e"];
  h = await new NodeHarness({
    workers: 2,
    runtimes: { python: Object.fromEntries(names.map((name) => [name, interpreter])) },
  }).start();
  const code = "import os\ndef f():\n    return os.getpid()\n";
  const pidOf = async (name: string) =>
    (await h.call(python(code, name === "default" ? {} : { env: { interpreter: name } }))).value as number;
  const first = await pidOf("a");
  for (const name of ["b", "c", "d", "e", "default"]) {
    await pidOf(name);
    expect(h.pids.length).toBeLessThanOrEqual(4);
  }
  expect(h.pids).not.toContain(first);
  const warm = await pidOf("e");
  expect(await pidOf("e"), "a warm one comes first").toBe(warm);
});
