// Tasks over whole nodes on a real cluster: an agent whose block is one job of four nodes, and srun inside of that job.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type FunctionDefinition, functionDigest, type IdKey, TERMINAL_STATES } from "@farloom/protocol";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { enrolledStateDir } from "../support/agent.js";
import { defineFunction, FakeService } from "../support/fake-service.js";
import { SlurmCluster, slurmMissing } from "../support/slurm/cluster.js";

const MAIN = createRequire(import.meta.url).resolve("@farloom/endpoint-agent/main");
const WAIT_MS = 120_000;
const title = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;

/** Ranks that say where they are; and small tasks that say where they ran, and when, by the machine's one clock. */
const CODE = `
import os, subprocess, time
def parallel():
    from farloom_worker_context import task
    began = time.monotonic_ns()
    say = "hostname; echo $SLURMD_NODENAME.$SLURM_PROCID"
    lines = subprocess.run([*task.mpi_prefix, "sh", "-c", say], check=True, capture_output=True, text=True).stdout.split()
    time.sleep(0.5)
    return {
        "ranks": sorted(line for line in lines if line.startswith("n") and "." in line),
        "hosts": len(lines) - sum("." in line and line.startswith("n") for line in lines),
        "nodes": task.nodes, "count": task.ranks, "prefix": os.environ["FARLOOM_MPI_PREFIX"],
        "here": os.environ["SLURMD_NODENAME"], "span": [began, time.monotonic_ns()],
    }
def small():
    began = time.monotonic_ns()
    time.sleep(0.05)
    return [os.environ["SLURMD_NODENAME"], began, time.monotonic_ns(), "FARLOOM_MPI_PREFIX" in os.environ]
`;

describe.skipIf(slurmMissing !== undefined)(`tasks over whole nodes${title}`, () => {
  let cluster: SlurmCluster;
  let service: FakeService;
  let stateDir: string;
  let agent: ChildProcess;

  beforeAll(async () => {
    cluster = await SlurmCluster.start({ nodes: 4 });
    service = await FakeService.start();
    service.def = defineFunction({ entry: "small", code: Buffer.from(CODE) });
    ({ stateDir } = await enrolledStateDir(service));
    const tmp = join(stateDir, "..", "tmp");
    mkdirSync(tmp);
    const blocks =
      "nodes_per_block = 4\nworkers_per_node = 2\ninit_blocks = 1\nstatus_seconds = 0.5\nprefetch = 0";
    writeFileSync(join(stateDir, "agent.toml"), `provider = "slurm"\n[blocks]\n${blocks}\n`);
    agent = spawn(
      process.execPath,
      [MAIN, "run", "--state-dir", stateDir, "--drain-ms", "200", "--stop-workers"],
      {
        stdio: ["ignore", "inherit", process.env.FARLOOM_TEST_LOG ? "inherit" : "ignore"],
        env: { ...cluster.env, TMPDIR: tmp },
      },
    );
    await service.until(() => service.connected && service.roomTasks > 0, "the agent is connected", WAIT_MS);
  }, WAIT_MS);

  afterAll(async () => {
    if (agent?.exitCode === null) {
      agent.kill("SIGTERM");
      await once(agent, "exit");
    }
    await service?.close();
    await cluster?.close();
    if (stateDir) rmSync(join(stateDir, ".."), { recursive: true, force: true });
  }, WAIT_MS);

  const resultValue = (key: IdKey): unknown => {
    const result = service.resultOf(key)!;
    const text = result.data.toString();
    expect(result.state, text).toBe(TERMINAL_STATES.SUCCEEDED);
    return JSON.parse(text);
  };

  it("srun reaches exactly the nodes that the task has, and nothing else runs there meanwhile", async () => {
    const [small, parallel] = ["small", "parallel"].map((entry) =>
      defineFunction({
        entry,
        code: Buffer.from(CODE),
        ...(entry === "parallel" && { resources: { nodes: 2, ranksPerNode: 2 } }),
      }),
    ) as [FunctionDefinition, FunctionDefinition];
    const submit = (def: FunctionDefinition, n: number) => {
      service.def = def;
      return service.sendTasks(Array.from({ length: n }, () => ({ args: Buffer.from("[[],{}]") })));
    };
    const before = submit(small, 60);
    const large = submit(parallel, 2);
    const after = submit(small, 60);
    const shell: Omit<FunctionDefinition, "digest"> = {
      ...parallel,
      runtime: "command",
      code: Buffer.alloc(0),
      entry: "",
      command: { argv: ["{mpi_prefix}", "sh", "-c", "echo $SLURMD_NODENAME"] },
      resources: { nodes: 3 },
    };
    const [command] = submit({ ...shell, digest: functionDigest(shell) }, 1);
    const all = [...before, ...large, ...after, command!];
    await service.until(() => all.every((key) => service.resultOf(key)), "all results", WAIT_MS);

    const runs = [...before, ...after].map((key) => resultValue(key) as [string, number, number, boolean]);
    expect(new Set(runs.map(([node]) => node)), "small tasks use all nodes").toEqual(new Set(cluster.nodes));
    expect(runs.some(([, , , hasPrefix]) => hasPrefix)).toBe(false);
    for (const key of large) {
      const value = resultValue(key) as Record<string, unknown> & { nodes: string[]; span: [number, number] };
      expect(value.nodes).toHaveLength(2);
      expect(value).toMatchObject({ count: 4, hosts: 4, here: value.nodes[0] });
      expect((value.ranks as string[]).map((rank) => rank.split(".")[0])).toEqual(
        value.nodes.flatMap((node) => [node, node]).sort(),
      );
      expect(value.prefix).toContain(`--ntasks=4 --ntasks-per-node=2 --cpus-per-task=1`);
      const beside = runs.filter(
        ([node, began, ended]) =>
          value.nodes.includes(node) && began < value.span[1] && ended > value.span[0],
      );
      expect(beside).toEqual([]);
    }
    const said = (resultValue(command!) as { stdout: string }).stdout.trim().split("\n").sort();
    expect(said, "three nodes, one rank on each").toHaveLength(3);
    expect(new Set(said).size).toBe(3);
  }, 180_000);
});
