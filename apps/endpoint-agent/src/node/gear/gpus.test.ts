/**
 * What tools print, put down here, as the machine of this test need not have such devices: nvidia-smi's as its manual
 * gives the format, rocm-smi's as public reports show it.
 */
import { describe, expect, it } from "vitest";
import { readGearConfig } from "./gear-config.js";
import {
  discoverGpus,
  gpusOfEnvironment,
  parseNvidiaSmi,
  parseRocmSmi,
  parseVisible,
  visibleDevices,
} from "./gpus.js";

const ids = (list: { gpus: readonly { id: string }[] } | undefined) => list?.gpus.map(({ id }) => id);

describe("what nvidia-smi lists", () => {
  it("is named by UUID, as CUDA numbers devices in another order", () => {
    const text = `0, GPU-5a1cb0f2-9d3e-51a8-8a39-0c7b3d1f2a44, NVIDIA H200, 143771
1, GPU-0b9f7a65-23c1-4d0e-6f8a-1e2d3c4b5a69, NVIDIA H200, 143771
`;
    expect(parseNvidiaSmi(text)).toEqual([
      { id: "GPU-5a1cb0f2-9d3e-51a8-8a39-0c7b3d1f2a44", name: "NVIDIA H200", memoryMb: 143_771 },
      { id: "GPU-0b9f7a65-23c1-4d0e-6f8a-1e2d3c4b5a69", name: "NVIDIA H200", memoryMb: 143_771 },
    ]);
  });

  it.each([
    ["no device", "No devices were found\n"],
    [
      "no driver",
      "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n",
    ],
    ["nothing", ""],
  ])("is empty where it says that there is %s", (_what, text) => {
    expect(parseNvidiaSmi(text)).toEqual([]);
  });

  it("keeps a device whose memory it cannot tell", () => {
    expect(parseNvidiaSmi("0, GPU-aa, Some, Name, [N/A]")).toEqual([{ id: "GPU-aa", name: "Some, Name" }]);
  });
});

describe("what rocm-smi lists", () => {
  it("is read with the names of either version, in the order of their numbers", () => {
    const newer = `{
  "card0": {
    "GPU use (%)": "0",
    "VRAM Total Memory (B)": "21458059264",
    "VRAM Total Used Memory (B)": "27856896",
    "Card Series": "Radeon RX 7900 XT",
    "Card Model": "0x744c",
    "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
    "Card SKU": "D70401XT",
    "Node ID": "1",
    "GUID": "26967",
    "GFX Version": "gfx1100"
  }
}`;
    expect(parseRocmSmi(newer)).toEqual([{ id: "0", name: "Radeon RX 7900 XT", memoryMb: 20_464 }]);
    const older =
      'WARNING: AMD GPU device(s) is/are in a low-power state\n{"card10": {"Card series": "Arcturus GL-XL [AMD Instinct MI100]", "Card model": "0x0c34"}, "card2": {"Card series": "Arcturus GL-XL [AMD Instinct MI100]"}, "system": {"Driver version": "4.18.0-348.12.2.el8_5.x86_64"}}';
    expect(parseRocmSmi(older).map(({ id }) => id)).toEqual(["2", "10"]);
  });

  it.each(["", "no JSON", "[]", '{"card0": 3}', "{"])("is empty for %j", (text) => {
    expect(parseRocmSmi(text)).toEqual([]);
  });
});

describe("what the environment leaves visible", () => {
  it.each<[Record<string, string>, string[] | undefined]>([
    [{}, undefined],
    [{ CUDA_VISIBLE_DEVICES: "" }, []],
    [{ CUDA_VISIBLE_DEVICES: "NoDevFiles" }, []],
    [{ CUDA_VISIBLE_DEVICES: "0,3" }, ["0", "3"]],
    [{ CUDA_VISIBLE_DEVICES: "1,-1,2" }, ["1"]],
    [{ CUDA_VISIBLE_DEVICES: "MIG-6a0e/1,GPU-8f3" }, ["MIG-6a0e/1", "GPU-8f3"]],
    // Slurm with ConstrainDevices numbers anew what the job sees.
    [{ SLURM_JOB_ID: "7", SLURM_JOB_GPUS: "4,5", CUDA_VISIBLE_DEVICES: "0,1" }, ["0", "1"]],
    [{ SLURM_JOB_ID: "7", SLURM_STEP_GPUS: "2", SLURM_JOB_GPUS: "2,3" }, ["2"]],
    [{ SLURM_JOB_ID: "7", SLURM_JOB_GPUS: "0-3" }, ["0", "1", "2", "3"]],
    [{ SLURM_JOB_ID: "7", SLURM_GPUS_ON_NODE: "2" }, ["0", "1"]],
    [{ SLURM_JOB_ID: "7" }, []],
    [{ ROCR_VISIBLE_DEVICES: "4,5,6", HIP_VISIBLE_DEVICES: "0,2" }, ["4", "6"]],
  ])("%j: %j", (env, expected) => {
    expect(ids(gpusOfEnvironment(env))).toEqual(expected);
  });

  it("names no device twice, and no more than 256", () => {
    expect(parseVisible("1,1")).toEqual(["1"]);
    expect(parseVisible("0-9999")).toHaveLength(256);
  });
});

it("what is declared comes before everything that could be found", async () => {
  const env = { CUDA_VISIBLE_DEVICES: "7" };
  expect(ids(await discoverGpus(readGearConfig({ gpus: 2 }).gpus, env))).toEqual(["0", "1"]);
  expect(ids(await discoverGpus(readGearConfig({ gpus: [3, "GPU-ab"] }).gpus, env))).toEqual(["3", "GPU-ab"]);
  expect(ids(await discoverGpus(readGearConfig({}).gpus, env))).toEqual(["7"]);
});

it.each([
  [{ gpus: -1 }, /gpus is -1, not a number from 0 to 256/],
  [{ gpus: ["0", "x;y"] }, /"x;y" is no device number or UUID/],
  [{ gpus: [1, 1] }, /stands there twice/],
  [{ gpu_slots: 0 }, /gpu_slots is 0, not a whole number from 1 to 64/],
  [{ pin_cores: "perhaps" }, /pin_cores is "perhaps", not true or false/],
  [{ limit_memory: "hard" }, /not one of auto, cgroup, rlimit, off/],
])("options that make no sense are refused by name: %j", (file, message) => {
  expect(() => readGearConfig(file)).toThrow(message);
});

it("a worker sees its devices by every vendor's variable, HIP's counted within ROCr's", () => {
  expect(visibleDevices(["2", "5"], "any")).toEqual({
    CUDA_VISIBLE_DEVICES: "2,5",
    ROCR_VISIBLE_DEVICES: "2,5",
    HIP_VISIBLE_DEVICES: "0,1",
  });
  expect(visibleDevices(["2"], "amd")).toMatchObject({
    CUDA_VISIBLE_DEVICES: "0",
    ROCR_VISIBLE_DEVICES: "2",
  });
  expect(visibleDevices([], "nvidia")).toEqual({
    CUDA_VISIBLE_DEVICES: "",
    ROCR_VISIBLE_DEVICES: "",
    HIP_VISIBLE_DEVICES: "-1",
  });
});
