/** What the checks read of other programs, and what they say of a folder. Recorded outputs are marked as such. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { inspectJournal } from "../journal/inspect.js";
import { checkLines } from "./check.js";
import { checkStateFolder, fileSystemAt } from "./disks.js";
import { checkGpus, checkPythons, readPartitions } from "./programs.js";
import { checkService, clockCheck } from "./service.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-checks-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it("a failed check shows its cure below it", () => {
  const checks = [
    { name: "a", state: "ok", detail: "good" },
    { name: "b", state: "failed", detail: "bad", cure: "mend it" },
  ] as const;
  expect(checkLines(checks)).toBe("✓ a: good\n✗ b: bad\n    → mend it\n");
});

describe("the clock", () => {
  const now = Date.parse("2026-01-01T00:00:10.500Z");

  it("agrees within a few seconds, whole seconds and the way of the answer counted in", () => {
    expect(clockCheck("Thu, 01 Jan 2026 00:00:10 GMT", 0, now)).toMatchObject({
      state: "ok",
      facts: { skewMs: 0 },
    });
    expect(clockCheck("Thu, 01 Jan 2026 00:00:06 GMT", 8_000, now)).toMatchObject({
      state: "ok",
      facts: { skewMs: 0 },
    });
  });

  it("that is wrong is told by how much, and in which direction", () => {
    const behind = clockCheck("Thu, 01 Jan 2026 01:00:10 GMT", 0, now);
    expect(behind).toMatchObject({ state: "warning", detail: "3600 s behind the service's" });
    expect(behind.cure).toContain("NTP");
    expect(clockCheck("Wed, 31 Dec 2025 23:59:10 GMT", 0, now).detail).toBe("60 s ahead of the service's");
    expect(clockCheck(undefined, 0, now).state).toBe("skip");
  });
});

it("a service that is not there fails with a cure, and nothing behind it is judged", async () => {
  const checks = await checkService("http://127.0.0.1:1");
  expect(checks.map((one) => one.state)).toEqual(["failed", "skip", "skip"]);
  expect(checks[0]).toMatchObject({
    detail: expect.stringMatching(/127\.0\.0\.1:1 cannot be reached directly/),
    cure: expect.stringMatching(/nothing listens/),
  });
});

describe("Pythons", () => {
  const fake = (name: string, version: string): void => {
    writeFileSync(join(dir, name), `#!/bin/sh\necho ${version}\n`);
    chmodSync(join(dir, name), 0o755);
  };

  it("are all found, with their versions; the chosen one must be new enough", async () => {
    fake("python3.12", "3.12.1");
    fake("python3.6", "3.6.8");
    fake("python3-config", "no");
    const env = { PATH: `${dir}:/nowhere:/usr/bin:/bin` };
    const good = await checkPythons(join(dir, "python3.12"), env);
    expect(good).toMatchObject({ state: "ok", detail: expect.stringMatching(/^3\.12\.1 /) });
    expect((good.facts as { pythons: unknown[] }).pythons.slice(0, 2)).toEqual([
      { path: join(dir, "python3.12"), version: "3.12.1" },
      { path: join(dir, "python3.6"), version: "3.6.8" },
    ]);
    expect(await checkPythons(join(dir, "python3.6"), env)).toMatchObject({
      state: "failed",
      cure: expect.stringMatching(/3\.8 or newer/),
    });
    expect(await checkPythons("python9", env)).toMatchObject({
      state: "failed",
      cure: expect.stringMatching(/name one/),
    });
    expect(await checkPythons("python9", { PATH: "/nowhere" })).toMatchObject({ state: "warning" });
  });
});

it("GPUs are those that the agent would find, and where it has them from", async () => {
  expect(await checkGpus({ PATH: "", CUDA_VISIBLE_DEVICES: "0,GPU-5a1c" })).toMatchObject({
    state: "ok",
    detail: "2 × GPU; told by CUDA_VISIBLE_DEVICES",
  });
  expect(await checkGpus({ PATH: "" })).toMatchObject({ state: "skip" });
});

it("a partition's nodes of several kinds are counted together, and what scontrol adds is told", () => {
  const sinfo =
    "cpu*|up|2-00:00:00|100|128|256000|(null)\ncpu*|up|2-00:00:00|4|128|512000|(null)\ngpu|down|infinite|2|64|256000|gpu:a100:4\n";
  const scontrol =
    "PartitionName=cpu AllowAccounts=ALL AllowQos=normal,high MaxNodes=UNLIMITED MaxTime=2-00:00:00\nPartitionName=gpu AllowAccounts=lab MaxNodes=4\n";
  expect(readPartitions(sinfo, scontrol)).toEqual([
    {
      name: "cpu",
      isDefault: true,
      isUp: true,
      nodes: 104,
      coresPerNode: "128",
      memoryMb: "256000",
      gres: "",
      timeLimit: "2-00:00:00",
      allowQos: "normal,high",
    },
    {
      name: "gpu",
      isDefault: false,
      isUp: false,
      nodes: 2,
      coresPerNode: "64",
      memoryMb: "256000",
      gres: "gpu:a100:4",
      timeLimit: "infinite",
      maxNodes: "4",
      allowAccounts: "lab",
    },
  ]);
});

describe("the state folder", () => {
  it("lies on the deepest mount above it, the last one of several", () => {
    const mounts = [
      "/dev/sda1 / ext4 rw 0 0",
      "server:/home /home nfs4 rw 0 0",
      "scratch /home/my\\040data lustre rw 0 0",
      "auto /proj autofs rw 0 0",
      "gpfs1 /proj gpfs rw 0 0",
    ].join("\n");
    expect(fileSystemAt("/home/ann/.farloom", mounts)).toEqual({ kind: "nfs4", point: "/home" });
    expect(fileSystemAt("/home/my data/x", mounts)?.kind).toBe("lustre");
    expect(fileSystemAt("/homework", mounts)?.kind).toBe("ext4");
    expect(fileSystemAt("/proj/x", mounts)?.kind).toBe("gpfs");
    expect(fileSystemAt("/x", "")).toBeUndefined();
  });

  it("is tried for what the agent does there, and left as it was", async () => {
    const state = join(dir, "a".repeat(60), "b".repeat(60), "state");
    const [folder, permissions] = await checkStateFolder(state, false);
    expect(folder).toMatchObject({ name: "state folder", facts: { syncMs: expect.any(Number) } });
    expect(folder?.state).not.toBe("failed");
    expect(permissions).toMatchObject({ name: "permissions", state: "ok" });
    expect(inspectJournal(join(state, "journal"))).toMatchObject({ segments: 0, damaged: false });
  });

  it("that others can read is refused, and so is one whose parent anybody may change", async () => {
    const state = join(dir, "open", "state");
    mkdirSync(state, { recursive: true, mode: 0o755 });
    chmodSync(state, 0o755);
    expect((await checkStateFolder(state, false)).at(-1)).toMatchObject({
      state: "failed",
      cure: expect.stringMatching(/chmod 700/),
    });
    chmodSync(state, 0o700);
    chmodSync(join(dir, "open"), 0o777);
    expect((await checkStateFolder(state, false)).at(-1)).toMatchObject({
      state: "failed",
      cure: expect.stringMatching(/chmod go-w/),
    });
  });

  it("that compute nodes may not see is warned of where there is a Slurm", async () => {
    const [folder] = await checkStateFolder(join(dir, "state"), true);
    expect(folder).toMatchObject({
      state: "warning",
      detail: expect.stringMatching(/compute nodes may not see it|reboot empties it/),
    });
  });
});
