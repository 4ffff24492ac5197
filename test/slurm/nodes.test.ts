// The provider of Slurm when nodes die, jobs are begun anew, and time is up: each ends as Slurm says, or goes on.
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { becomes, blockRequest, nodesOf, slurmProvider } from "../support/slurm/blocks.js";
import { SlurmCluster, slurmMissing } from "../support/slurm/cluster.js";

/** Tests that run beside each other have no `expect.poll`. */
const PATIENCE = { timeout: 60_000 };
const title = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;

describe.skipIf(slurmMissing !== undefined)(`blocks whose nodes and time go${title}`, () => {
  let cluster: SlurmCluster;

  beforeAll(async () => {
    cluster = await SlurmCluster.start({ nodes: 7 });
  });
  afterAll(() => cluster?.close());

  const stay = (more = {}) => blockRequest(cluster.home, "stay", more);

  it.concurrent("a block ends with its walltime", async () => {
    const slurm = slurmProvider(cluster, { scheduler_options: ["--nodelist=n2"] });
    const id = await slurm.submit(stay({ walltimeMs: 60_000 }));
    const { jobId } = await becomes(slurm, id, { state: "running" });
    // Whole minutes are the least that can be asked for; an operator can do better. Slurm looks twice a minute.
    await cluster.run("scontrol", "update", `JobId=${jobId}`, "EndTime=now+1");
    const detail = expect.stringContaining("TIMEOUT") as string;
    await becomes(slurm, id, { state: "ended", reason: "TimeLimit", detail });
  });

  it.concurrent("a node that dies fails its block, and with requeue begins it anew elsewhere", async () => {
    const goesOn = slurmProvider(cluster, { requeue: true, scheduler_options: ["--exclude=n2,n3,n4,n6,n7"] });
    const asked = stay();
    const moved = await goesOn.submit(asked);
    const { nodes, jobId } = await becomes(goesOn, moved, { state: "running" });
    const [node] = nodes!;
    const ends = slurmProvider(cluster, { scheduler_options: [`--nodelist=${node}`] });
    const dead = await ends.submit(stay());
    await becomes(ends, dead, { state: "running", nodes: [node!] });
    await cluster.crashNode(node!);
    await becomes(ends, dead, { state: "failed", detail: expect.stringContaining("NODE_FAIL") as string });
    expect(await becomes(goesOn, moved, { state: "running", restarts: 1 })).toMatchObject({ jobId });
    await vi.waitFor(
      () => expect(nodesOf(asked)).toEqual([`${node}.0`, expect.stringMatching(/\.1$/)]),
      PATIENCE,
    );
    cluster.startNode(node!);
    await goesOn.cancel([moved]);
  });

  it.concurrent("a node of a block that dies takes no other with it", async () => {
    const slurm = slurmProvider(cluster, { scheduler_options: ["--nodelist=n6,n7"] });
    const asked = stay({ nodes: 2 });
    const id = await slurm.submit(asked);
    const { jobId } = await becomes(slurm, id, { state: "running", nodes: ["n6", "n7"] });
    await vi.waitFor(() => expect(nodesOf(asked)).toHaveLength(2), PATIENCE);
    await cluster.crashNode("n7");
    await cluster.until("Slurm has seen it", async () =>
      (await cluster.run("sinfo", "--noheader", "--nodes=n7", "--partition=main", "--format=%T")).startsWith(
        "down",
      ),
    );
    expect(await becomes(slurm, id, { state: "running", nodes: ["n6"] })).toMatchObject({ jobId });
    expect(
      cluster.processesOf(`SLURM_JOB_ID=${jobId}`).filter(({ command }) => command.startsWith("sleep")),
    ).toHaveLength(1);
    await slurm.cancel([id]);
    await becomes(slurm, id, { state: "ended" });
  });

  it.concurrent("an operator's requeue begins a block anew under the same number, and says how often", async () => {
    const slurm = slurmProvider(cluster, { requeue: true, scheduler_options: ["--nodelist=n2"] });
    const asked = stay();
    const id = await slurm.submit(asked);
    const { jobId } = await becomes(slurm, id, { state: "running" });
    await vi.waitFor(() => expect(nodesOf(asked)).toHaveLength(1), PATIENCE);
    await cluster.run("scontrol", "requeue", jobId!);
    const again = await becomes(slurm, id, { state: "running", restarts: 1 });
    expect(again).toMatchObject({ jobId, detail: expect.stringContaining("begun anew 1 time") });
    await vi.waitFor(() => expect(nodesOf(asked).at(-1)).toMatch(/\.1$/), PATIENCE);
    await slurm.cancel([id]);
  });

  it.concurrent("a preempted block ends; with requeue it waits and begins anew", async () => {
    const on = (node: string) => ({
      partition: "scavenge",
      exclusive: true,
      scheduler_options: [`--nodelist=${node}`],
    });
    const ends = slurmProvider(cluster, on("n3"));
    const waits = slurmProvider(cluster, { ...on("n4"), requeue: true });
    const [gone, again] = [await ends.submit(stay()), await waits.submit(stay())];
    await becomes(ends, gone, { state: "running" });
    await becomes(waits, again, { state: "running" });
    const strong = slurmProvider(cluster, { exclusive: true, scheduler_options: ["--nodelist=n3,n4"] });
    const first = await strong.submit(stay({ nodes: 2 }));
    await becomes(ends, gone, { state: "ended", detail: expect.stringContaining("PREEMPTED") as string });
    await becomes(waits, again, { state: "pending" });
    await strong.cancel([first]);
    await becomes(waits, again, { state: "running", restarts: 1 });
    await waits.cancel([again]);
  });
});
