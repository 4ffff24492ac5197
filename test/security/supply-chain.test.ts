/** What Farloom is built from: named exactly, checked against a digest, and not run by being installed. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const EXACT = /^(npm:[^@]+@|)\d+\.\d+\.\d+(-[\w.]+)?$/;

interface Manifest {
  readonly name: string;
  readonly dependencies?: Record<string, string>;
  readonly devDependencies?: Record<string, string>;
  readonly optionalDependencies?: Record<string, string>;
}
interface Locked {
  readonly integrity?: string;
  readonly link?: boolean;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly libc?: readonly string[];
  readonly cpu?: readonly string[];
}

const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");
const tracked = (pattern: string): string[] =>
  execFileSync("git", ["ls-files", pattern], { cwd: ROOT, encoding: "utf8" }).split("\n").filter(Boolean);

/** Whatever is no package of this repository and not exactly one version. */
function loose({ name, dependencies, devDependencies, optionalDependencies }: Manifest): string[] {
  return Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })
    .filter(([dependency, range]) => !dependency.startsWith("@farloom/") && !EXACT.test(range))
    .map(([dependency, range]) => `${name}: ${dependency} ${range}`);
}

/** A native part that npm installs on other systems alone: not every registry has those, to tell their digests. */
const isOfOtherSystem = ({ optional, os, libc, cpu }: Locked): boolean =>
  optional === true &&
  (os?.includes("linux") === false || libc?.includes("glibc") === false || cpu?.includes("arm") === true);

/** Whatever would be installed on a 64-bit Linux without a strong digest to hold it against. */
const unchecked = (packages: Record<string, Locked>): string[] =>
  Object.entries(packages)
    .filter(([path, locked]) => path.includes("node_modules/") && !locked.link && !isOfOtherSystem(locked))
    .filter(([, { integrity }]) => !integrity?.startsWith("sha512-"))
    .map(([path]) => path);

describe("npm's packages", () => {
  it("are each one exact version", () => {
    const manifests = tracked("*package.json").map((path) => JSON.parse(read(path)) as Manifest);
    expect(manifests.length).toBeGreaterThan(5);
    expect(manifests.flatMap(loose)).toEqual([]);
    expect(loose({ name: "a", dependencies: { b: "^1.0.0" } })).toEqual(["a: b ^1.0.0"]);
  });

  it("are held against a SHA-512 each", () => {
    const { packages } = JSON.parse(read("package-lock.json")) as { packages: Record<string, Locked> };
    expect(Object.keys(packages).length).toBeGreaterThan(300);
    expect(unchecked(packages)).toEqual([]);
    expect(unchecked({ "node_modules/a": { integrity: "sha1-abc" } })).toEqual(["node_modules/a"]);
  });

  it("run nothing of theirs as they are installed", () => {
    expect(read(".npmrc").split("\n")).toContain("ignore-scripts=true");
  });
});

describe("Python's packages of the tests", () => {
  it("are each one exact version", () => {
    const lines = tracked("python/requirements*.txt").flatMap((path) => read(path).split("\n"));
    const wanted = lines.map((line) => line.replace(/#.*/, "").trim()).filter(Boolean);
    expect(wanted.length).toBeGreaterThan(10);
    expect(wanted.filter((line) => !/^[\w.-]+(\[[\w,]+\])?==[\w.]+( ?;.*)?$/.test(line))).toEqual([]);
  });
});
