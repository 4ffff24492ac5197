import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isolationSuffices } from "@farloom/protocol";
import { parse as parseToml } from "smol-toml";
import { describe, expect, it } from "vitest";
import { FLOOD_BYTES, OutputWatch, readKept, readLeftover } from "../node/worker-files.js";
import { shownOf } from "./bubblewrap.js";
import { allowedEnvironment, isSecretName, withoutSecrets } from "./clean-environment.js";
import { NO_ISOLATION, readIsolationConfig } from "./config.js";
import { containerCommand, containerVariables } from "./container.js";
import { boxedLane, partsOfLane } from "./lanes.js";
import { prepareIsolation } from "./probe.js";

const read = (toml: string) => readIsolationConfig(parseToml(toml));

describe("isolation in agent.toml", () => {
  it("is a level, or a table; without it there is none", () => {
    expect(read("")).toEqual(NO_ISOLATION);
    expect(read('isolation = "limits"').level).toBe("limits");
    const config = read(`[isolation]
      level = "namespaces"
      network = "functions"
      read_only = ["/software"]
      limits = { processes = 10, disk_mb = 5 }`);
    expect(config).toMatchObject({ level: "namespaces", network: "functions", readOnly: ["/software"] });
    expect(config.limits).toEqual({ processes: 10, fileMb: 0, memoryMb: 0, diskMb: 5 });
  });

  it("gives way to a level that is said elsewhere, and keeps the rest of the table", () => {
    const file = parseToml('[isolation]\nlevel = "limits"\nnetwork = true');
    const config = readIsolationConfig(file, { value: "namespaces", from: "FARLOOM_AGENT_ISOLATION" });
    expect([config.level, config.network]).toEqual(["namespaces", true]);
  });

  it("is refused where a word is not known: a misspelt bound would be none", () => {
    expect(() => read('isolation = "jail"')).toThrow(
      "isolation in agent.toml is 'jail', not one of none, limits",
    );
    expect(() => read("[isolation]\nlevel = 'limits'\nlimits = { proceses = 1 }")).toThrow(
      "isolation.limits.proceses in agent.toml is not known",
    );
    expect(() => read("[isolation]\nnetwork = 'yes'")).toThrow("isolation.network");
    expect(() => read("[isolation]\nread_only = ['software']")).toThrow("not a full path");
    expect(() => read("[isolation]\nlimits = { disk_mb = -1 }")).toThrow("isolation.limits.disk_mb");
    expect(() => readIsolationConfig({}, { value: "x", from: "option isolation" })).toThrow(
      "option isolation",
    );
  });
});

describe("a worker's environment", () => {
  const env = {
    PATH: "/bin",
    OMP_NUM_THREADS: "4",
    SLURM_JOB_ID: "1",
    LAB: "here",
    AWS_SECRET_ACCESS_KEY: "s",
    GITHUB_TOKEN: "s",
    FARLOOM_API_KEY: "s",
    SSH_AUTH_SOCK: "s",
    SLURM_JWT_TOKEN: "s",
  };

  it("holds no secret at any level", () => {
    expect(withoutSecrets(env)).toEqual({
      PATH: "/bin",
      OMP_NUM_THREADS: "4",
      SLURM_JOB_ID: "1",
      LAB: "here",
    });
  });

  it("is what the list allows from limits on, and what the endpoint names", () => {
    expect(allowedEnvironment(env, [])).toEqual({ PATH: "/bin", OMP_NUM_THREADS: "4", SLURM_JOB_ID: "1" });
    expect(allowedEnvironment(env, ["LAB", "GITHUB_*"])).toMatchObject({ LAB: "here", GITHUB_TOKEN: "s" });
  });

  it("knows secrets by their names, and no more than those", () => {
    for (const name of [
      "DB_PASSWORD",
      "api_key",
      "MY_SECRET_1",
      "GOOGLE_APPLICATION_CREDENTIALS",
      "PGPASSWORD",
    ])
      expect(isSecretName(name), name).toBe(true);
    for (const name of ["PATH", "KEYBOARD", "PASSENGERS", "MONKEY", "TOKENIZERS_PARALLELISM"])
      expect(isSecretName(name), name).toBe(false);
  });
});

describe("levels", () => {
  it("suffice for themselves and what is below; an unknown one is met by nothing", () => {
    expect(isolationSuffices("namespaces", "limits")).toBe(true);
    expect(isolationSuffices("namespaces", "namespaces")).toBe(true);
    expect(isolationSuffices("limits", "namespaces")).toBe(false);
    expect(isolationSuffices(undefined, undefined)).toBe(true);
    expect(isolationSuffices(undefined, "limits")).toBe(false);
    expect(isolationSuffices("user", "vault")).toBe(false);
  });

  it("that cannot be had end the start, with the reason, the cure and what can", async () => {
    const config = readIsolationConfig({ isolation: { level: "container" } });
    await expect(prepareIsolation(config, "python3")).rejects.toThrow(
      /isolation level container: no image is configured\. Name one: .* It can do: none, limits/,
    );
    const other = readIsolationConfig({
      isolation: { level: "container", image: "x.sif", runner: "apptainer" },
    });
    await expect(prepareIsolation(other, "python3")).rejects.toMatchObject({ code: "ISOLATION_IMPOSSIBLE" });
  });
});

describe("the interpreter of sandboxed workers", () => {
  it("is the one of the environment that workers get, as worker_init may have brought another", async () => {
    const dir = mkdtempSync(join(tmpdir(), "farloom-python-"));
    try {
      const python = execFileSync("python3", ["-c", "import sys; print(sys.executable)"]).toString().trim();
      symlinkSync(python, join(dir, "brought"));
      const env = { ...process.env, PATH: `${dir}:${process.env.PATH}` };
      const config = readIsolationConfig({ isolation: "limits" });
      const { sandbox } = await prepareIsolation(config, "brought", { all: false, env });
      const program = { command: "brought", args: [], env, runtime: "python" } as const;
      const places = { socketPath: "/s", payloadsDir: "/p" };
      expect(sandbox!.confine(program, dir, { network: false }, places).args).toContain(join(dir, "brought"));
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});

describe("an installation that a sandbox shows", () => {
  it("is never one that the user's home lies in", () => {
    expect(shownOf("/opt/node", "/home/me")).toEqual(["/opt/node"]);
    expect(shownOf("/home/me/.nvm/v20", "/home/me")).toEqual(["/home/me/.nvm/v20"]);
    expect(shownOf("/home/me", "/home/me")).toEqual(["/home/me/bin", "/home/me/lib", "/home/me/lib64"]);
    expect(shownOf("/home", "/home/me")).not.toContain("/home");
  });
});

describe("a boxed worker's lane", () => {
  it("says submitter and network ahead of the program, which may be called anything", () => {
    const name = boxedLane("python:box:1:x:default", false, "0190b6f0-0000-7000-8000-000000000001");
    expect(partsOfLane(name)).toEqual({ program: "python:box:1:x:default", network: false });
    expect(partsOfLane(boxedLane("node", true))).toEqual({ program: "node", network: true });
    expect(boxedLane("node", false, "a:b")).toBe("box:0:unknown:node");
    expect(boxedLane("node", false, "ab")).not.toBe(boxedLane("node", false));
  });
});

describe("a container's command line", () => {
  const view = {
    network: false,
    own: {
      worker: "/s/run/p-1",
      args: "/s/run/p-1.args",
      payloads: "/s/run/p-1.payloads",
      door: "/s/run/door",
    },
    program: "/lib/worker",
    variables: ["PATH", "FARLOOM_WORKER"],
  };
  const config = readIsolationConfig({
    isolation: { level: "container", image: "tools.sif", limits: { processes: 9, memory_mb: 64 } },
  });

  it("of Apptainer shows its own folders alone, and has no network", () => {
    const line = containerCommand(config, view).join(" ");
    expect(line).toMatch(/^apptainer exec --containall --no-home .*--net --network none .* tools\.sif$/);
    expect(line).toContain("--bind /s/run/p-1.args:/farloom/args:ro");
    expect(line).not.toContain("/s/payloads");
    expect(containerVariables("apptainer", { A: "1" })).toEqual({ APPTAINERENV_A: "1" });
  });

  it("of Podman bounds it too; values of variables stand in no argv", () => {
    const line = containerCommand({ ...config, runner: "podman" }, view).join(" ");
    expect(line).toMatch(/^podman run --rm .*--read-only .*--network none .*--pids-limit 9 --memory 64m/);
    expect(line).toContain("--env PATH --env FARLOOM_WORKER");
    expect(containerVariables("podman", { A: "1" })).toEqual({ A: "1" });
  });
});

describe("a worker's folder", () => {
  it("is read as a stranger's: links, pipes and endless files are nothing", () => {
    const parent = mkdtempSync(join(tmpdir(), "farloom-stranger-"));
    try {
      const dir = join(parent, "worker");
      mkdirSync(dir);
      const secret = join(parent, "key");
      writeFileSync(secret, "PRIVATE".repeat(300_000));
      for (const name of ["stdout", "stderr", "results", "kept", "cuts"])
        symlinkSync(secret, join(dir, name));
      const watch = new OutputWatch(dir);
      expect(watch.check()).toBe(false);
      expect(watch.last()).toEqual({});
      expect(readLeftover(dir)).toEqual({ running: undefined, results: [] });
      expect(readKept(dir)).toEqual([]);
    } finally {
      rmSync(parent, { recursive: true, force: true });
    }
  });

  it("is written as a stranger's: a flood writes over no file that a link leads to, and a folder stops nobody", () => {
    const parent = mkdtempSync(join(tmpdir(), "farloom-stranger-"));
    try {
      const dir = join(parent, "worker");
      mkdirSync(dir);
      const key = join(parent, "key");
      writeFileSync(key, "PRIVATE");
      writeFileSync(join(dir, "stdout"), "x".repeat(FLOOD_BYTES + 1));
      symlinkSync(key, join(dir, "cuts"));
      const watch = new OutputWatch(dir);
      expect(watch.check()).toBe(true);
      expect(readFileSync(key, "utf8")).toBe("PRIVATE");
      expect(new OutputWatch(dir).cutBytes("stdout")).toBe(FLOOD_BYTES + 1);
      rmSync(join(dir, "cuts"));
      mkdirSync(join(dir, "cuts"));
      expect(watch.merge(undefined)).toMatchObject({ stdoutBytes: FLOOD_BYTES + 1 });
      rmSync(join(dir, "cuts"), { recursive: true });
      execFileSync("mkfifo", [join(dir, "cuts")]);
      expect(new OutputWatch(dir).cutBytes("stdout")).toBe(0);
    } finally {
      rmSync(parent, { recursive: true, force: true });
    }
  });
});
