import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { localCapacity, measureCapacity } from "../node/capacity.js";
import { readBlocksConfig } from "./blocks-config.js";
import { type BlockParameters, readParameters, writeParameters } from "./parameters.js";

describe("the table [blocks]", () => {
  it("counts only where a provider is named", () => {
    expect(readBlocksConfig({}, 4)).toBeUndefined();
    expect(readBlocksConfig({ provider: "local", blocks: { max_blocks: -1 } }, 4)).toBeUndefined();
  });

  it("has defaults that follow from what is given", () => {
    const config = readBlocksConfig(
      { provider: "process", blocks: { min_blocks: 1, max_blocks: 3, walltime_seconds: 600 } },
      8,
    );
    expect(config).toMatchObject({
      workersPerNode: 8,
      initBlocks: 1,
      prefetch: 2,
      walltimeMs: 600_000,
      drainBeforeMs: 60_000,
      address: "127.0.0.1",
    });
    expect(readBlocksConfig({ provider: "x" }, 1)).toMatchObject({ walltimeMs: undefined, drainBeforeMs: 0 });
  });

  it.each([
    ["00:30:00", 1_800_000],
    ["1-12:00:30", 129_630_000],
    ["100:00:00", 360_000_000],
    [90, 90_000],
    [0, undefined],
  ])("reads walltime %j as batch systems write it, or in seconds", (walltime, walltimeMs) => {
    expect(readBlocksConfig({ provider: "x", blocks: { walltime } }, 1)?.walltimeMs).toBe(walltimeMs);
  });

  it.each([
    [{ walltime: "30:00" }, /walltime .* is '30:00', not a time such as "00:30:00"/],
    [{ walltime: "00:60:00" }, /walltime/],
    [{ walltime: "31-00:00:00" }, /30 days/],
    [{ walltime: -1 }, /walltime/],
    [{ walltime: "00:30:00", walltime_seconds: 60 }, /both walltime and walltime_seconds/],
    [{ max_blocks: 0 }, /max_blocks .* is '0', not a whole number from 1 to 1024/],
    [{ min_blocks: 2 }, /min_blocks .* from 0 to 1/],
    [{ idle_seconds: "soon" }, /idle_seconds .* is 'soon'/],
    [{ nodes: 2 }, /has no option 'nodes'; there are address, callback/],
    [{ callback: ["a b"] }, /callback/],
    [{ worker_init: 7 }, /worker_init/],
  ])("says of %j what is wrong with it", (blocks, message) => {
    expect(() => readBlocksConfig({ provider: "process", blocks }, 2)).toThrow(message);
  });
});

describe("a block's parameters", () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "farloom-parameters-"));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const parameters: BlockParameters = {
    version: 1,
    block: "b1",
    secret: "s",
    addresses: [{ host: "h", port: 1 }],
    fingerprint: "0".repeat(64),
    workersPerNode: 1,
    prefetch: 1,
    workerInit: "module load 'ä\u{1f980}'\n",
    python: "python3",
    killGraceMs: 1,
    recycle: { tasks: 0, memoryKb: 0 },
    payloadsDir: "/p",
    giveUpMs: 1,
    logLevel: "info",
  };

  it("come back as they were written, and nobody else can read them", () => {
    const path = join(dir, "b1.json");
    writeParameters(path, parameters);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readParameters(path)).toEqual(parameters);
    chmodSync(path, 0o640);
    expect(() => readParameters(path)).toThrow(/others can read/);
  });

  it("are refused where they make no sense, or are of another version", () => {
    const path = join(dir, "b1.json");
    for (const change of [{ fingerprint: "ab" }, { addresses: [] }, { workersPerNode: 0 }, { secret: 1 }]) {
      writeFileSync(path, JSON.stringify({ ...parameters, ...change }), { mode: 0o600 });
      expect(() => readParameters(path), JSON.stringify(change)).toThrow(/not what an agent writes/);
    }
    writeFileSync(path, JSON.stringify({ ...parameters, version: 2 }));
    expect(() => readParameters(path)).toThrow(/version 2/);
  });
});

it("a node's capacity is what the batch system gave, and otherwise what the machine has", () => {
  const env = { SLURM_MEM_PER_NODE: "2048", SLURMD_NODENAME: "c1" };
  expect(measureCapacity(3, env, { gpus: 2, gpuSlots: 4 })).toMatchObject({
    places: 3,
    memoryMb: 2048,
    gpus: 2,
    gpuSlots: 4,
    host: "c1",
  });
  const machine = measureCapacity(1, {});
  expect(machine.cores).toBeGreaterThanOrEqual(1);
  expect(machine.memoryMb).toBeGreaterThan(100);
  expect(localCapacity(4096, {}, {})).toMatchObject({ alone: true, cores: 4096 });
});
