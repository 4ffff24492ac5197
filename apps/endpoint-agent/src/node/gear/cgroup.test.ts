/** A folder stands for the delegated part of the tree: on this machine none can be had. What the kernel makes of it is not seen. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { WorkerCgroups } from "./cgroup.js";

let root: string;
const own = "/user.slice/farloom.service";

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "fl-cg-"));
  mkdirSync(join(root, own), { recursive: true });
  writeFileSync(join(root, own, "cgroup.controllers"), "cpu memory pids\n");
  for (const file of ["cgroup.procs", "cgroup.subtree_control"]) writeFileSync(join(root, own, file), "");
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

it("moves the agent into a leaf, and gives each worker a cgroup with its limit, until it is gone", () => {
  const cgroups = WorkerCgroups.open({ root, self: `0::${own}\n`, isAskedFor: true });
  if (typeof cgroups === "string") throw new Error(cgroups);
  expect(readFileSync(join(root, own, "farloom-agent", "cgroup.procs"), "utf8")).toBe(String(process.pid));
  expect(readFileSync(join(root, own, "cgroup.subtree_control"), "utf8")).toBe("+memory");
  const procs = cgroups.make("python-1", 512);
  const dir = join(root, own, "farloom-worker-python-1");
  expect(procs).toBe(join(dir, "cgroup.procs"));
  expect(readFileSync(join(dir, "memory.max"), "utf8")).toBe(String(512 * 1024 ** 2));
  // The kernel's files are no obstacle to rmdir, as these are.
  rmSync(dir, { recursive: true });
  mkdirSync(dir);
  cgroups.drop("python-1");
  expect(existsSync(dir)).toBe(false);
  cgroups.drop("python-1");
});

it("an agent that was moved before finds its part again", () => {
  mkdirSync(join(root, own, "farloom-agent"));
  mkdirSync(join(root, own, "farloom-worker-old"));
  const again = WorkerCgroups.open({ root, self: `0::${own}/farloom-agent\n`, isAskedFor: true });
  expect(again).toBeInstanceOf(WorkerCgroups);
  expect(existsSync(join(root, own, "farloom-worker-old"))).toBe(false);
});

it("says why it cannot, and changes nothing", () => {
  expect(WorkerCgroups.open({ root, self: "12:memory:/x\n" })).toBe("this machine has no cgroup v2");
  writeFileSync(join(root, own, "cgroup.controllers"), "cpu\n");
  expect(WorkerCgroups.open({ root, self: `0::${own}\n`, isAskedFor: true })).toBe(
    "its cgroup has no memory controller",
  );
  expect(WorkerCgroups.open({ root, self: "0::/nothing\n", isAskedFor: true })).toMatch(
    /was not handed over/,
  );
  expect(existsSync(join(root, own, "farloom-agent"))).toBe(false);
});
