import { expect, it } from "vitest";
import { gearFields } from "./gear-fields.js";

it("tells what there is, what is in force, and nothing of what an older agent does not say", () => {
  const gear = {
    gpusFrom: "nvidia-smi",
    gpuSlots: 4,
    cores: "not pinned: pin_cores is not set",
    memory: "limited by rlimit",
  };
  const gpus = [{ id: "GPU-1", name: "NVIDIA H200" }, { id: "GPU-2", name: "NVIDIA H200" }, { id: "3" }];
  const pythons = {
    default: { version: "3.11.2", program: "p" },
    torch: { version: "3.12.1", program: "q" },
  };
  expect(gearFields({ pythons, gear: { ...gear, gpus } })).toEqual([
    ["pythons", "default 3.11.2, torch 3.12.1"],
    ["GPUs", "2 × NVIDIA H200, device 3, 4 shares each (nvidia-smi)"],
    ["cores", "not pinned: pin_cores is not set"],
    ["memory", "limited by rlimit"],
  ]);
  expect(gearFields({ gear: { ...gear, gpus: [] } })[1]).toEqual(["GPUs", "none (nvidia-smi)"]);
  expect(gearFields(undefined).map(([, value]) => value)).toEqual([
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});
