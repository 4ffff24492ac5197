import { expect, it } from "vitest";
import { readGearConfig } from "./gear-config.js";
import { launcherPrefix, ranksOf, withoutStepOptions } from "./launcher.js";

const hosts = ["n1", "n3"];

it("in a job of Slurm it is srun, with everything said that the surrounding step has said otherwise", () => {
  const words = launcherPrefix(
    [],
    { hosts, resources: { nodes: 2, ranks: 8, cores: 2 } },
    { SLURM_JOB_ID: "7" },
  );
  expect(words.join(" ")).toBe(
    "srun --overlap --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=2 --nodelist=n1,n3",
  );
});

it("elsewhere it is mpiexec, and with mpi_launcher what that says, each word a word", () => {
  const call = { hosts, resources: { nodes: 2, ranksPerNode: 3 } };
  expect(launcherPrefix([], call, {})).toEqual(["mpiexec", "-n", "6", "-hosts", "n1,n3"]);
  const { mpiLauncher } = readGearConfig({ mpi_launcher: ["my run", "{ranks_per_node}x{nodes}", "{cores}"] });
  expect(launcherPrefix(mpiLauncher, call, { SLURM_JOB_ID: "7" })).toEqual(["my run", "3x2", "1"]);
  expect(() => readGearConfig({ mpi_launcher: ["run", "{rank}"] })).toThrow(
    /there is no \{rank\}; there are \{nodes\}, \{ranks\}/,
  );
});

it.each([
  [{ nodes: 2 }, 2],
  [{ nodes: 2, ranksPerNode: 4 }, 8],
  [{ nodes: 3, ranks: 7 }, 7],
])("%j has %d ranks", (resources, ranks) => {
  expect(ranksOf(resources)).toBe(ranks);
});

it("workers do not see what the step of their node was told alone", () => {
  const env = {
    SLURM_LABELIO: "1",
    SLURM_CPU_BIND_TYPE: "none",
    SLURM_NTASKS_PER_NODE: "1",
    SLURM_JOB_ID: "7",
  };
  expect(withoutStepOptions(env)).toEqual({ SLURM_JOB_ID: "7" });
});
