// The provider of Slurm while the controller is away, slow or forgetful: what is told of each block, and never two jobs for one, none forgotten.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { becomes, blockRequest, jobsNamed, newEndpoint, slurmProvider } from "../support/slurm/blocks.js";
import { SlurmCluster, slurmMissing } from "../support/slurm/cluster.js";

const title = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;

describe.skipIf(slurmMissing !== undefined)(`blocks while the controller breaks${title}`, () => {
  let cluster: SlurmCluster;

  beforeAll(async () => {
    cluster = await SlurmCluster.start();
  });
  afterAll(() => cluster?.close());

  /** So that what one test leaves is no other's trouble. */
  afterEach(async () => {
    cluster.thawController();
    await cluster.run("scancel", "--user", String(process.getuid?.()));
    await cluster.untilIdle();
  });

  const stay = (more = {}) => blockRequest(cluster.home, "stay", more);

  it("a controller that is away makes blocks unknown, not ended; what was cancelled meanwhile is, once it is back", async () => {
    const slurm = slurmProvider(cluster);
    const [kept, unwanted] = [await slurm.submit(stay()), await slurm.submit(stay())];
    await becomes(slurm, kept, { state: "running" });
    await becomes(slurm, unwanted, { state: "running" });
    await cluster.stopController();
    const away = await becomes(slurm, kept, { state: "unknown" });
    expect(away.detail).toContain("Unable to contact slurm controller");
    await expect(slurm.cancel([unwanted])).rejects.toMatchObject({ kind: "away" });
    await expect(slurm.submit(stay())).rejects.toMatchObject({ kind: "away" });
    await cluster.startController();
    await becomes(slurm, kept, { state: "running" });
    await becomes(slurm, unwanted, { state: "ended" });
    await slurm.cancel([kept]);
    await becomes(slurm, kept, { state: "ended" });
  });

  it("a submission that nobody answered is found again, and is one job", async () => {
    const endpointId = newEndpoint();
    const slurm = slurmProvider(cluster, {}, { endpointId, sbatchLimitMs: 500 });
    cluster.freezeController();
    // Taken by the socket, not by the controller: sbatch is given up, and the job is made all the same.
    const submitted = slurm.submit(stay({ id: "b1" }));
    await sleep(1_500);
    cluster.thawController();
    expect(await submitted).toBe("b1");
    await becomes(slurm, "b1", { state: "running" });
    expect(await jobsNamed(cluster, `farloom-${endpointId}-b1`)).toHaveLength(1);
    await slurm.cancel(["b1"]);
  });

  it("a submission that died with the controller is repeated once it is certain that there is no job", async () => {
    const endpointId = newEndpoint();
    const slurm = slurmProvider(cluster, {}, { endpointId, searchMs: 60_000 });
    cluster.freezeController();
    const submitted = slurm.submit(stay({ id: "b1" }));
    // sbatch has sent its request, and waits.
    await sleep(1_000);
    await cluster.killController();
    await cluster.startController();
    await submitted;
    await becomes(slurm, "b1", { state: "running" });
    expect(await jobsNamed(cluster, `farloom-${endpointId}-b1`)).toHaveLength(1);
    await slurm.cancel(["b1"]);
  });

  it("while nobody can tell whether a submission was taken it is unknown; cancelled then, it never runs", async () => {
    const endpointId = newEndpoint();
    const slurm = slurmProvider(cluster, {}, { endpointId, sbatchLimitMs: 500, searchMs: 500 });
    cluster.freezeController();
    const id = await slurm.submit(stay());
    expect((await slurm.status([id]))[0]).toMatchObject({ state: "unknown" });
    await expect(slurm.cancel([id])).rejects.toThrow();
    cluster.thawController();
    await becomes(slurm, id, { state: "ended" });
    const jobs = await jobsNamed(cluster, `farloom-${endpointId}-${id}`);
    expect(jobs).toEqual([expect.stringContaining("CANCELLED")]);
  });

  it("a second job under a block's name is cancelled, and the first stays the block", async () => {
    const endpointId = newEndpoint();
    const slurm = slurmProvider(cluster, {}, { endpointId });
    const id = await slurm.submit(stay());
    const { jobId } = await becomes(slurm, id, { state: "running" });
    const name = `farloom-${endpointId}-${id}`;
    await cluster.run("sbatch", `--job-name=${name}`, "--output=/dev/null", "--wrap=sleep 600");
    await slurm.status([id], true);
    await cluster.until("one is left", async () => {
      await slurm.status([id]);
      return (await jobsNamed(cluster, name)).filter((job) => job.endsWith("CANCELLED")).length === 1;
    });
    expect(await becomes(slurm, id, { state: "running" })).toMatchObject({ jobId });
    await slurm.cancel([id]);
  });

  it("an agent that starts anew finds the blocks of its endpoint, and those alone", async () => {
    const endpointId = newEndpoint();
    const before = slurmProvider(cluster, {}, { endpointId });
    const other = slurmProvider(cluster);
    const [id, foreign] = [await before.submit(stay()), await other.submit(stay())];
    const { jobId } = await becomes(before, id, { state: "running" });
    const after = slurmProvider(cluster, {}, { endpointId });
    expect(await after.list()).toMatchObject([{ id, state: "running", jobId }]);
    expect(await after.status([id, "never", "a,b"])).toMatchObject([
      { state: "running" },
      { state: "unknown" },
      { state: "unknown", detail: "no block on Slurm has such an id" },
    ]);
    await after.cancel([id]);
    await becomes(after, id, { state: "ended" });
    expect(await after.list()).toEqual([]);
    await becomes(other, foreign, { state: "running" });
    await other.cancel([foreign]);
  });

  it("a job that Slurm has forgotten is over only once Slurm has said so", async () => {
    const slurm = slurmProvider(cluster);
    const id = await slurm.submit(stay());
    const { jobId } = await becomes(slurm, id, { state: "running" });
    await cluster.killController();
    await becomes(slurm, id, { state: "unknown" });
    await cluster.startController({ forgetful: true });
    const gone = await becomes(slurm, id, { state: "ended" });
    expect(gone.detail).toBe(
      `Slurm no longer knows job ${jobId}, so it is over; how it ended is not recorded`,
    );
  });
});
