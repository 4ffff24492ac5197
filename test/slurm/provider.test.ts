// The provider of Slurm on a real cluster of four nodes: what each fate of a job is told as, and that a block is one job.
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { BATCH_SCRIPT } from "../../apps/endpoint-agent/src/blocks/slurm/sbatch-arguments.js";
import { checkSlurm, type SlurmPartition } from "../../apps/endpoint-agent/src/checks/programs.js";
import {
  becomes,
  blockRequest,
  jobsNamed,
  newEndpoint,
  nodesOf,
  slurmProvider,
} from "../support/slurm/blocks.js";
import { SlurmCluster, slurmMissing } from "../support/slurm/cluster.js";

const title = slurmMissing === undefined ? "" : ` (skipped: ${slurmMissing} is not installed)`;

describe.skipIf(slurmMissing !== undefined)(`blocks on a Slurm of four nodes${title}`, () => {
  let cluster: SlurmCluster;

  beforeAll(async () => {
    cluster = await SlurmCluster.start();
  });
  afterAll(() => cluster?.close());
  afterEach(async () => {
    await cluster.run("scancel", "--user", String(process.getuid?.()));
    await cluster.untilIdle();
  });

  const request = (...given: Parameters<typeof blockRequest> extends [string, ...infer R] ? R : never) =>
    blockRequest(cluster.home, ...given);
  const provider = (
    ...given: Parameters<typeof slurmProvider> extends [SlurmCluster, ...infer R] ? R : never
  ) => slurmProvider(cluster, ...given);

  it("a block of two nodes starts the node program once on each; cancelled, it ends with all its processes", async () => {
    const slurm = provider();
    const asked = request("stay", { nodes: 2, workersPerNode: 4 });
    const id = await slurm.submit(asked);
    const status = await becomes(slurm, id, { state: "running" });
    await expect.poll(() => nodesOf(asked), { timeout: 30_000 }).toEqual(status.nodes!.map((n) => `${n}.0`));
    expect(status.nodes).toHaveLength(2);
    expect(status.jobId).toMatch(/^\d+$/);
    await slurm.cancel([id]);
    await slurm.cancel([id, id]);
    await becomes(slurm, id, { state: "ended", detail: `job ${status.jobId} is CANCELLED` });
    await expect
      .poll(() => cluster.processesOf(`SLURM_JOB_ID=${status.jobId}`), { timeout: 30_000 })
      .toEqual([]);
    await slurm.cancel([id]);
    expect((await slurm.status([id]))[0]!.state).toBe("ended");
  });

  it("the checks before an enrolment tell of its partitions, and their limits", async () => {
    const check = await checkSlurm(cluster.env);
    const { partitions } = check.facts as { partitions: SlurmPartition[] };
    expect(check).toMatchObject({ name: "Slurm", state: "ok" });
    expect(partitions.map(({ name, timeLimit }) => [name, timeLimit])).toEqual([
      ["main", "1:00:00"],
      ["short", "1:00"],
      ["scavenge", "1:00:00"],
    ]);
    expect(partitions[0]).toMatchObject({ isDefault: true, isUp: true, nodes: 4, coresPerNode: "4" });
    expect(check.detail).toContain("main (default): 4 nodes of 4 cores, at most 1:00:00; short: ");
  });

  it("a block that waits tells Slurm's reason and when it is expected to begin, and what will never do", async () => {
    const slurm = provider({ exclusive: true });
    const first = await slurm.submit(request("stay", { nodes: 4, walltimeMs: 20 * 60_000 }));
    await becomes(slurm, first, { state: "running" });
    const second = await slurm.submit(request("stay", { nodes: 1 }));
    const waiting = await becomes(slurm, second, { state: "pending", reason: "Resources" });
    await expect
      .poll(async () => (await slurm.status([second]))[0]!.estimatedStartMs, { timeout: 30_000 })
      .toBeGreaterThan(Date.now() + 15 * 60_000);
    expect(waiting.detail).toBe(`job ${waiting.jobId} waits: Resources`);
    const never = await slurm.submit(request("stay", { nodes: 9 }));
    const hopeless = await becomes(slurm, never, { state: "pending", reason: "PartitionNodeLimit" });
    expect(hopeless.detail).toContain("does not allow so many nodes");
    await slurm.cancel([second, never]);
    await becomes(slurm, second, { state: "ended" });
    await becomes(slurm, never, { state: "ended" });
  });

  it("node programs that end well end the block; one that fails fails it, with Slurm's reason and its last words", async () => {
    const slurm = provider();
    const [well, badly] = await Promise.all([
      slurm.submit(request("succeed")),
      slurm.submit(request("fail")),
    ]);
    await becomes(slurm, well, { state: "ended" });
    const failed = await becomes(slurm, badly, { state: "failed", reason: "NonZeroExitCode" });
    expect(failed.detail).toMatch(
      /^job \d+ is FAILED \(NonZeroExitCode\); its log ends: .*there is no node$/s,
    );
  });

  it("a scancel by somebody else ends the block", async () => {
    const slurm = provider();
    const id = await slurm.submit(request("stay"));
    const { jobId } = await becomes(slurm, id, { state: "running" });
    await cluster.run("scancel", jobId!);
    await becomes(slurm, id, { state: "ended", detail: `job ${jobId} is CANCELLED` });
  });

  it("what Slurm refuses rejects at once, with its words, and leaves no job", async () => {
    const endpointId = newEndpoint();
    const refused = provider({ partition: "nosuch" }, { endpointId }).submit(request("stay", { id: "b1" }));
    await expect(refused).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("nosuch"),
    });
    expect(await jobsNamed(cluster, `farloom-${endpointId}-b1`)).toEqual([]);
    const without = provider({}, { env: { PATH: cluster.home } }).submit(request("stay"));
    await expect(without).rejects.toMatchObject({
      kind: "missing",
      message: expect.stringContaining("login node"),
    });
  });

  it("Unicode in options reaches Slurm as it is, and the batch script stays the same bytes", async () => {
    const comment = `wörd $(touch x) 'q' "d" \`b\` ; | & 漢字 🧵 %j \\n`;
    const slurm = provider({ scheduler_options: [`--comment=${comment}`, "--nice=5"] });
    const id = await slurm.submit(request("stay"));
    const { jobId } = await becomes(slurm, id, { state: "running" });
    expect(await cluster.run("scontrol", "show", "job", jobId!)).toContain(`Comment=${comment}`);
    const script = await cluster.run("scontrol", "write", "batch_script", jobId!, "-");
    expect(script).toBe(readFileSync(BATCH_SCRIPT, "utf8").trim());
  });

  it("however many blocks there are and however often one asks, one squeue looks for all", async () => {
    const { env, calls } = countingSqueue();
    const slurm = provider({}, { env, lookEveryMs: 10_000 });
    const ids = await Promise.all(Array.from({ length: 20 }, () => slurm.submit(request("stay"))));
    for (let i = 0; i < 50; i++) await slurm.status(ids);
    expect(calls()).toBe(1);
    // An event asks anew, a hundred events of one cause once.
    await Promise.all(ids.flatMap(() => [slurm.status(ids, true), slurm.status(ids, true)]));
    expect(calls()).toBe(2);
    const states = await slurm.status(ids);
    expect(new Set(states.map(({ jobId }) => jobId)).size).toBe(20);
  });

  /** The real squeue, behind a script that leaves a mark for each call. */
  function countingSqueue() {
    const folder = mkdtempSync(join(cluster.home, "count-"));
    const marks = join(folder, "marks");
    const real = cluster.env.PATH!;
    const text = `#!/bin/sh\necho >> "${marks}"\nPATH='${real}' exec squeue "$@"\n`;
    writeFileSync(join(folder, "squeue"), text, { mode: 0o755 });
    writeFileSync(marks, "");
    const env = { ...cluster.env, PATH: `${folder}:${real}` };
    return { env, calls: () => readFileSync(marks, "utf8").length };
  }
});
