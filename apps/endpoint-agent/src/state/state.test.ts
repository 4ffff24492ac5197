import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  lchownSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { FakeService } from "../../../../test/support/fake-service.js";
import { resolveConfig } from "../config.js";
import { enroll } from "../enrolment.js";
import { processStart, readBootId } from "./boot-id.js";
import { acquireLock, lockHolder } from "./lock.js";
import { openStateDir } from "./state-dir.js";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "farloom-state-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe("the state folder", () => {
  it("is made for its user alone, and refused where others can read it", () => {
    const root = join(dir, "state");
    openStateDir(root);
    expect(statSync(root).mode & 0o777).toBe(0o700);
    chmodSync(root, 0o750);
    expect(() => openStateDir(root)).toThrow(/mode 750.*chmod 700/);
  });

  const isRoot = process.getuid?.() === 0;
  const strange = (path: string): void => lchownSync(path, 65_534, 65_534);
  const REFUSED: readonly (readonly [string, boolean, (root: string) => void, RegExp])[] = [
    ["belongs to somebody else", true, (root) => strange(root), /belongs to user 65534/],
    ["is somebody else's link", true, (root) => linkTo(root), /belongs to user 65534.*Remove it/],
    ["may be replaced by anybody", false, () => chmodSync(dir, 0o777), /all may write in .*chmod go-w/],
    [
      "has a key that others read",
      false,
      (root) => put(root, "private-key.pem", 0o640),
      /others can read it.*chmod 600/,
    ],
    [
      "has an identity that others write",
      false,
      (root) => put(root, "identity.json", 0o660),
      /others can write it/,
    ],
    ["has a configuration that others write", false, (root) => put(root, "agent.toml", 0o602), /chmod go-w/],
    [
      "has a configuration of somebody else's",
      true,
      (root) => {
        put(root, "agent.toml", 0o600);
        strange(join(root, "agent.toml"));
      },
      /agent.toml: it belongs to user 65534/,
    ],
  ];
  function put(root: string, name: string, mode: number): void {
    writeFileSync(join(root, name), "");
    chmodSync(join(root, name), mode);
  }
  function linkTo(root: string): void {
    renameSync(root, `${root}.real`);
    symlinkSync(`${root}.real`, root);
    strange(root);
  }
  for (const [what, needsRoot, make, message] of REFUSED)
    it.runIf(isRoot || !needsRoot)(`is refused where it ${what}`, () => {
      const root = join(dir, "state");
      openStateDir(root);
      make(root);
      expect(() => openStateDir(root)).toThrow(message);
      expect(() => openStateDir(root)).toThrow(expect.objectContaining({ code: "STATE_UNSAFE" }));
    });

  it("closes a configuration of one's own that others can read, and lets one link it", () => {
    const root = join(dir, "state");
    openStateDir(root);
    put(root, "agent.toml", 0o644);
    openStateDir(root);
    expect(statSync(join(root, "agent.toml")).mode & 0o777).toBe(0o600);
    symlinkSync(root, join(dir, "link"));
    expect(openStateDir(join(dir, "link")).root).toBe(join(dir, "link"));
  });
});

describe("the lock", () => {
  const path = () => join(dir, "agent.lock");

  it("is held by one process, and given back", () => {
    const lock = acquireLock(path());
    expect(() => acquireLock(path())).toThrow(`process ${process.pid}`);
    lock.release();
    expect(existsSync(path())).toBe(false);
    acquireLock(path()).release();
  });

  it("is taken over from a process that was killed with kill -9", async () => {
    const child = spawn("sleep", ["60"]);
    const start = processStart(child.pid!);
    const mine = acquireLock(path());
    const text = JSON.stringify({ ...mine, pid: child.pid, start });
    mine.release();
    writeFileSync(path(), text);
    expect(lockHolder(path())?.pid).toBe(child.pid);
    expect(() => acquireLock(path())).toThrow(/an agent runs/);
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(lockHolder(path())).toBeUndefined();
    acquireLock(path()).release();
  });

  it("is stale where the pid belongs to another process by now, or another boot", () => {
    const { host } = acquireLock(path());
    writeFileSync(path(), JSON.stringify({ pid: process.pid, start: "1", host, bootId: readBootId() }));
    acquireLock(path()).release();
    const start = processStart(process.pid);
    writeFileSync(path(), JSON.stringify({ pid: process.pid, start, host, bootId: "another" }));
    acquireLock(path()).release();
  });

  it("is never called stale where it belongs to another host", () => {
    writeFileSync(path(), JSON.stringify({ pid: 1, start: "1", host: "login-2", bootId: "x" }));
    expect(() => acquireLock(path())).toThrow(/on login-2/);
  });
});

describe("enrolment", () => {
  it("keeps the private key to itself, and tells the raw public key", async () => {
    const service = await FakeService.start();
    try {
      const stateDir = join(dir, "state");
      await expect(enroll({ serviceUrl: service.url, code: "bad", stateDir })).rejects.toMatchObject({
        code: "ENROLMENT_CODE_INVALID",
        status: 401,
      });
      const identity = await enroll({ serviceUrl: `${service.url}/`, code: "good-code", stateDir });
      expect(identity).toEqual({
        serviceUrl: service.url,
        endpointId: service.endpointId,
        name: "cluster",
        owner: "ada",
      });
      expect(service.publicKey).toHaveLength(32);
      expect(statSync(join(stateDir, "private-key.pem")).mode & 0o777).toBe(0o600);
      expect(readFileSync(join(stateDir, "identity.json"), "utf8")).not.toContain("PRIVATE");
      await expect(enroll({ serviceUrl: service.url, code: "good-code", stateDir })).rejects.toThrow(
        /enrolled already/,
      );
    } finally {
      await service.close();
    }
  });
});

describe("configuration", () => {
  it("goes option, environment, agent.toml, default", () => {
    openStateDir(dir);
    writeFileSync(join(dir, "agent.toml"), 'workers = 3\npython = "python3.11"\nlog_level = "debug"\n');
    const config = resolveConfig({ stateDir: dir, workers: 5 }, { FARLOOM_AGENT_PYTHON: "/opt/python" });
    expect(config).toMatchObject({ workers: 5, python: "/opt/python", logLevel: "debug", killGraceMs: 5000 });
    expect(Object.isFrozen(config)).toBe(true);
  });

  it("keeps leases for a minute while the agent is away, or as long as is asked for; 0 is for ever", () => {
    expect(resolveConfig({ stateDir: dir }, {}).reclaimMs).toBe(60_000);
    expect(resolveConfig({ stateDir: dir }, { FARLOOM_AGENT_RECLAIM_MS: "0" }).reclaimMs).toBe(0);
    const { recycleTasks, recycleMemoryMb } = resolveConfig({ stateDir: dir, workers: 2 }, {});
    expect(recycleTasks).toBe(0);
    expect(recycleMemoryMb).toBeGreaterThanOrEqual(512);
    expect(recycleMemoryMb).toBeLessThanOrEqual(Math.max(512, totalmem() / 4 / 1024 ** 2));
    expect(resolveConfig({ stateDir: dir }, { FARLOOM_AGENT_RECYCLE_MEMORY_MB: "0" }).recycleMemoryMb).toBe(
      0,
    );
    expect(() => resolveConfig({ stateDir: dir, reclaimMs: -1 }, {})).toThrow("option reclaimMs is '-1'");
  });

  it("runs all functions, or those of a list whose entries are ids or names with their owner", () => {
    const allowed = (value: string) =>
      resolveConfig({ stateDir: dir }, { FARLOOM_AGENT_ALLOW_FUNCTIONS: value }).allowFunctions;
    expect(allowed("")).toEqual([]);
    expect(allowed(`ann/f, ${"ab".repeat(32)}`)).toEqual(["ann/f", "ab".repeat(32)]);
    expect(() => allowed("f")).toThrow(/FARLOOM_AGENT_ALLOW_FUNCTIONS: "f" is neither an id/);
    openStateDir(dir);
    writeFileSync(join(dir, "agent.toml"), 'allow_functions = ["ann/*"]\n');
    expect(allowed("")).toEqual(["ann/*"]);
    writeFileSync(join(dir, "agent.toml"), "allow_functions = []\n");
    expect(() => allowed("")).toThrow("allow_functions in agent.toml names no function");
  });

  it("gives a forged boot to tests alone that ask for it by name", () => {
    expect(readBootId({ FARLOOM_TEST_BOOT_ID: "another" })).toBe("another");
    expect(readBootId({})).toBe(readBootId({ FARLOOM_TEST_BOOT_ID: "" }));
  });

  it("names where a wrong value came from", () => {
    expect(() => resolveConfig({ stateDir: dir }, { FARLOOM_AGENT_WORKERS: "many" })).toThrow(
      "FARLOOM_AGENT_WORKERS is 'many', not a whole number from 1 to 1024",
    );
    writeFileSync(join(dir, "agent.toml"), "workers = 0\n");
    expect(() => resolveConfig({ stateDir: dir }, {})).toThrow("workers in agent.toml is '0'");
    writeFileSync(join(dir, "agent.toml"), "workers = \n");
    expect(() => resolveConfig({ stateDir: dir }, {})).toThrow(/agent.toml is not TOML/);
    expect(() => resolveConfig({ serviceUrl: "ftp://x" }, {})).toThrow(/not of the form/);
  });
});
